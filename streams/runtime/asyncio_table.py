"""The fenced table for an event loop: submit a command, await its outcome.

Outcomes come in batches from the stream thread and cross to the loop with one wake-up for each batch.
"""

import asyncio
from typing import Any

from streams.clock import Clock, Deadline
from streams.runtime.commands import Command, Outcome, Unknown
from streams.runtime.table import FencedTable

_GRACE_S = 0.5  # the table answers at the deadline itself; this is for a stream thread that is stuck


class AsyncTable:
    """Belongs to one event loop, the one that runs when it is first used."""

    def __init__(self, table: FencedTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None

    async def execute(self, command: Command, deadline: Deadline) -> Outcome:
        """Return the outcome of *command*, a little after *deadline* at the latest. Raises Overloaded or Draining."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Outcome] = loop.create_future()
        self._table.submit(command, deadline, self, outcome)
        timer = loop.call_later(
            deadline.remaining_s(self._clock) + _GRACE_S, _resolve, outcome, Unknown(command.event_id)
        )
        try:
            return await outcome
        finally:
            timer.cancel()

    def deliver(self, outcomes: list[tuple[Any, Outcome]]) -> None:
        """Called by the stream thread; see `streams.runtime.table.Receiver`."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(_resolve_all, outcomes)


def _resolve_all(outcomes: list[tuple["asyncio.Future[Outcome]", Outcome]]) -> None:
    for future, outcome in outcomes:
        _resolve(future, outcome)


def _resolve(future: "asyncio.Future[Outcome]", outcome: Outcome) -> None:
    if not future.done():  # A caller that was cancelled takes no answer.
        future.set_result(outcome)
