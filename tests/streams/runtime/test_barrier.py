"""The strict barrier: which look at the log proves something to whom."""

import asyncio
import threading

from streams.clock import Deadline, SystemClock
from streams.records import TopicPartition
from streams.runtime.barrier import Barrier
from streams.runtime.waiters import Waiters
from tests.streams.runtime.rig import ROWS, Rig


def test_nobody_joins_a_look_that_began_before_he_asked() -> None:
    """What was committed after the first look began is missing in its answer: the second caller needs another one; a
    third, who asks together with the second, shares it."""
    rig, clock = Rig().start(), SystemClock()
    go_on = threading.Event()
    looks: list[int] = []

    def look(_: Deadline) -> dict[TopicPartition, int]:
        looks.append(1)
        assert go_on.wait(5)
        return {TopicPartition(ROWS, 0): 0}

    async def scenario() -> None:
        barrier = Barrier(tasks=rig.thread.tasks, waiters=Waiters(), clock=clock, look=look)
        callers = [asyncio.create_task(barrier.strict([0], Deadline.after(5, clock)))]
        while not looks:
            await asyncio.sleep(0)
        callers += [asyncio.create_task(barrier.strict([0], Deadline.after(5, clock))) for _ in range(2)]
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*callers)

    asyncio.run(scenario())
    assert len(looks) == 2
