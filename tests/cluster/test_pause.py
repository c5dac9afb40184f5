"""SIGSTOP of an owner for longer than its session: it wakes up as a zombie, and has to notice before it acts."""

import asyncio
import time

import pytest

from tests.cluster.conftest import Figures, NewNodes
from tests.cluster.run import Run
from tests.support.history import Kind, Operation, Outcome
from tests.support.load import Caller

PAUSE_SESSIONS = 2.5
READERS = 8

pytestmark = pytest.mark.cluster


async def pause_an_owner(run: Run) -> float:
    """Freeze an owner, let others take over and write, send it reads and writes, and thaw it. Returns the longest time
    for which one of its partitions could not be read."""
    nodes = run.nodes
    victim, owned, others = await run.choose_owner()
    probes = await run.watch(owned, through=others)
    await run.pause(0.5)  # The load has reads and writes at the victim at any moment: those are in flight.
    epoch = nodes.view(others[0]).epoch
    frozen_ns = time.monotonic_ns()
    nodes[victim].freeze()
    try:
        await probes.until_answered(frozen_ns, is_write=True, timeout_s=nodes.session_s + 20.0)
        assert nodes.view(others[0]).epoch > epoch
        gap_s = probes.longest_gap_s(frozen_ns)
        await asyncio.sleep(max(0.0, PAUSE_SESSIONS * nodes.session_s - (time.monotonic_ns() - frozen_ns) / 1e9))
        waiting, conditional = ask_the_sleeper(run, victim, [probes.uid_of(partition) for partition in sorted(owned)])
        await asyncio.sleep(0.3)  # They have been sent: the kernel took them for the frozen process.
        assert not any(task.done() for task in waiting), "the frozen node answered"
    finally:
        nodes[victim].thaw()
    await asyncio.gather(*waiting)
    done = [op for op in conditional if op.outcome is Outcome.OK]
    assert not done, f"written under the version of before the pause: {done}"
    await probes.stop()
    await run.settled()
    return gap_s


def ask_the_sleeper(run: Run, victim: str, uids: list[str]) -> tuple[list[asyncio.Task[None]], list[Operation]]:
    """Send *victim* reads of profiles that have changed since it was frozen, unconditional writes, and writes under
    version 1. Return the tasks, and the conditional writes."""
    address = [run.nodes[victim].address]
    operations, conditional = [], []
    for number in range(READERS):
        uid = uids[number % len(uids)]
        operations.append(Operation(2000 + number, Kind.GET, 0, uid=uid))
        operations.append(Operation(2100 + number, Kind.PATCH, 0, uid=uid, mark=f"awake {uid} {number}"))
        mark = f"zombie {uid} {number}"
        conditional.append(Operation(2200 + number, Kind.PATCH, 0, uid=uid, mark=mark, if_match=1))
    tasks = [asyncio.create_task(run.load.perform(Caller(address, 0), op)) for op in operations + conditional]
    return tasks, conditional


async def pauses(new_nodes: NewNodes, figures: Figures, *, rounds: int) -> None:
    nodes = new_nodes().start("a", "b", "c")
    async with Run(nodes, clients=16) as run:
        gaps = []
        for _ in range(rounds):
            gaps.append(round(await pause_an_owner(run), 3))
            await run.progress()
        await run.finish(least=rounds * 60)
    figures("longest read gap after SIGSTOP of an owner, s", gaps=gaps)


def test_an_owner_that_sleeps_longer_than_its_session(new_nodes: NewNodes, figures: Figures) -> None:
    """It commits nothing under the old ownership, and answers no read from the time before; all promises hold."""
    asyncio.run(pauses(new_nodes, figures, rounds=1))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_pauses(new_nodes: NewNodes, figures: Figures) -> None:
    """The same, ten times."""
    asyncio.run(pauses(new_nodes, figures, rounds=10))
