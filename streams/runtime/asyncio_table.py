"""The fenced table for an event loop: submit a command, await its outcome.

Outcomes come in batches from the stream thread and cross to the loop with one wake-up for each batch. The table
answers every command by its deadline; a look at all that wait, twice a second, is for a stream thread that is stuck.
"""

import asyncio
from typing import Any

from streams.clock import Clock, Deadline
from streams.runtime.commands import Command, Outcome, Unknown
from streams.runtime.table import FencedTable

_GRACE_S = 0.5
_LOOK_INTERVAL_S = 0.5


class AsyncTable:
    """Belongs to one event loop, the one that runs when it is first used."""

    def __init__(self, table: FencedTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        # A timer for each command would cost as much as waking its caller.
        self._waiting: dict[asyncio.Future[Outcome], tuple[float, bytes]] = {}
        self._is_looking = False
        self._is_rousing = False

    async def execute(self, command: Command, deadline: Deadline) -> Outcome:
        """Return the outcome of *command*, a second after *deadline* at the latest. Raises Overloaded or Draining."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Outcome] = loop.create_future()
        self._table.enqueue(command, deadline, self, outcome)
        if not self._is_rousing:
            # After all that is ready in this round of the loop: requests that came together share one group, and the
            # stream thread is not woken for the first of them while the others still need the interpreter.
            self._is_rousing = True
            loop.call_soon(self._rouse)
        self._waiting[outcome] = deadline.at + _GRACE_S, command.event_id
        if not self._is_looking:
            self._is_looking = True
            loop.call_later(_LOOK_INTERVAL_S, self._look)
        try:
            return await outcome
        finally:
            del self._waiting[outcome]

    def deliver(self, outcomes: list[tuple[Any, Outcome]]) -> None:
        """Called by the stream thread; see `streams.runtime.table.Receiver`."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(_resolve_all, outcomes)

    def _rouse(self) -> None:
        self._is_rousing = False
        self._table.rouse()

    def _look(self) -> None:
        """Answer those whose time is over."""
        now = self._clock.monotonic()
        for outcome, (due, event_id) in self._waiting.items():
            if due <= now:
                _resolve(outcome, Unknown(event_id))
        self._is_looking = bool(self._waiting)
        if self._is_looking and self._loop is not None:
            self._loop.call_later(_LOOK_INTERVAL_S, self._look)


def _resolve_all(outcomes: list[tuple["asyncio.Future[Outcome]", Outcome]]) -> None:
    for future, outcome in outcomes:
        _resolve(future, outcome)


def _resolve(future: "asyncio.Future[Outcome]", outcome: Outcome) -> None:
    if not future.done():  # A caller that was cancelled takes no answer.
        future.set_result(outcome)
