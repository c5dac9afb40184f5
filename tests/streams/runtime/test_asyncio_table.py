"""The fenced table on an event loop: one answer for each command, also from a stream thread that is stuck."""

import asyncio
import threading

from streams.clock import Deadline, SystemClock
from streams.runtime.asyncio_table import AsyncTable
from streams.runtime.commands import Decided, Unknown
from streams.runtime.table import FencedTable
from tests.streams.runtime.rig import Put


def make_table() -> tuple[FencedTable, AsyncTable]:
    table = FencedTable(clock=SystemClock(), max_queued=100, wakeup=lambda: None)
    return table, AsyncTable(table, SystemClock())


def test_outcomes_reach_their_own_callers() -> None:
    """Many commands wait at once; each gets the outcome that was noted for it, from another thread."""
    table, asynchronous = make_table()

    def answer_all() -> None:
        for number, pending in enumerate(table.take(10)):
            table.answer(pending, Decided(number, {}))
        table.flush()

    async def run() -> list[object]:
        deadline = Deadline.after(10, SystemClock())
        calls = [asyncio.ensure_future(asynchronous.execute(Put(b"k", b"v"), deadline)) for _ in range(10)]
        await asyncio.sleep(0)
        await asyncio.to_thread(answer_all)
        return [outcome.result for outcome in await asyncio.gather(*calls)]

    assert asyncio.run(run()) == list(range(10))


def test_a_stuck_stream_thread_means_an_unknown_outcome_soon_after_the_deadline() -> None:
    """Nobody drains the table, yet the caller is told."""
    _, asynchronous = make_table()
    put = Put(b"k", b"v")

    async def run() -> object:
        return await asyncio.wait_for(asynchronous.execute(put, Deadline.after(0.01, SystemClock())), 10)

    assert asyncio.run(run()) == Unknown(put.event_id)


def test_a_cancelled_caller_disturbs_nobody() -> None:
    """His outcome comes to nothing; the next one's arrives."""
    table, asynchronous = make_table()
    is_answered = threading.Event()

    def answer_all() -> None:
        for pending in table.take(10):
            table.answer(pending, Decided(pending.command.value, {}))
        table.flush()
        is_answered.set()

    async def run() -> object:
        deadline = Deadline.after(10, SystemClock())
        gone = asyncio.ensure_future(asynchronous.execute(Put(b"k", b"1"), deadline))
        stays = asyncio.ensure_future(asynchronous.execute(Put(b"k", b"2"), deadline))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.to_thread(answer_all)
        return (await stays).result

    assert asyncio.run(run()) == b"2"
    assert is_answered.is_set()
