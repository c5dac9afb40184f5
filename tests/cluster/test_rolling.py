"""SIGTERM to each node in turn under load: who retries once sees nothing of it. And members that come and go."""

import asyncio
import time

import pytest

from tests.cluster.conftest import Figures, NewNodes
from tests.cluster.run import Run
from tests.support.cluster import PARTITIONS, Nodes, wait_for
from tests.support.history import Outcome

READ_LIMIT_S = 1.0

pytestmark = pytest.mark.cluster


async def restart_all(run: Run) -> tuple[float, float, float]:
    """Restart every member in turn; return the longest read gap and write gap of any partition, and what is allowed."""
    nodes = run.nodes
    await run.settled()
    probes = await run.watch(range(PARTITIONS), through=nodes.members)
    begun_ns = time.monotonic_ns()
    for name in list(nodes.members):
        assert await asyncio.to_thread(nodes.terminate, name) == 0, nodes[name].tail()
        nodes.restart(name)
        await run.settled()
        await run.progress(20)
    gaps = probes.longest_gap_s(begun_ns), probes.longest_gap_s(begun_ns, is_write=True)
    await probes.stop()
    return *gaps, run.allowed_s(READ_LIMIT_S, begun_ns)


async def rolling(new_nodes: NewNodes, figures: Figures, *, rounds: int) -> None:
    nodes = new_nodes().start("a", "b", "c")
    async with Run(nodes, retries=1, pause_s=0.02) as run:
        gaps = [await restart_all(run) for _ in range(rounds)]
        await run.finish()
        failed = run.load.failed
    reads, writes, allowed = ([round(one, 3) for one in some] for some in zip(*gaps, strict=True))
    retried = sum(op.attempts > 1 for op in run.load.operations)
    figures("rolling restart, s", read_gaps=reads, write_gaps=writes, retried=retried, failed=len(failed))
    assert not failed, (
        f"{len(failed)} requests failed in spite of a retry; {[(op.kind, op.outcome, op.detail) for op in failed[:10]]}"
    )
    assert all(read <= most for read, most in zip(reads, allowed, strict=True)), (reads, allowed)


def test_a_rolling_restart(new_nodes: NewNodes, figures: Figures) -> None:
    """No request fails that one retry, at the next node, does not cure; no partition is unreadable for a second."""
    asyncio.run(rolling(new_nodes, figures, rounds=1))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_rolling_restarts(new_nodes: NewNodes, figures: Figures) -> None:
    """The same, ten times."""
    asyncio.run(rolling(new_nodes, figures, rounds=10))


async def storm(new_nodes: NewNodes, figures: Figures, *, rounds: int) -> None:
    """A fourth member joins, and leaves or is killed as soon as it is in, again and again."""
    nodes: Nodes = new_nodes().start("a", "b", "c")
    async with Run(nodes, pause_s=0.02) as run:
        probes = await run.watch(range(PARTITIONS), through=["a", "b", "c"])
        before = len(run.load.operations)
        epoch, begun_ns = nodes.view("a").epoch, time.monotonic_ns()
        nodes.add("d")
        for number in range(rounds):
            if number:
                nodes.restart("d")
            await asyncio.to_thread(wait_for, lambda: "d" in nodes.view("a").nodes, timeout_s=30, what="d joins")
            await run.pause(1.0)  # It warms up, or it owns partitions already.
            if run.random.random() < 0.5:
                await asyncio.to_thread(nodes.kill, "d")
                await run.pause(nodes.session_s)
            else:
                await asyncio.to_thread(nodes.terminate, "d")
            await asyncio.to_thread(wait_for, lambda: "d" not in nodes.view("a").nodes, timeout_s=30, what="d is out")
        changes = nodes.view("a").epoch - epoch
        silent_s = max(probes.longest_gap_s(begun_ns, is_write=is_write) for is_write in (True, False))
        read_gap_s = probes.longest_gap_s(begun_ns)
        await probes.stop()
        operations = run.load.operations[before:]
        served = sum(
            op.outcome in (Outcome.OK, Outcome.NOT_FOUND, Outcome.CONFLICT, Outcome.MISMATCH) for op in operations
        )
        await run.settled()
        await run.progress()
        await run.finish()
    figures(
        "rebalance storm",
        rebalances=changes,
        served_share=round(served / len(operations), 3),
        longest_read_gap_s=round(read_gap_s, 2),
        longest_silence_s=round(silent_s, 2),
    )
    assert changes >= 2 * rounds, f"only {changes} rebalances: nothing was shown"
    assert served >= len(operations) / 2, run.load.summary()
    assert silent_s <= 30, silent_s


def test_a_rebalance_storm(new_nodes: NewNodes, figures: Figures) -> None:
    """Most requests are answered, no partition is silent for long, and all promises hold."""
    asyncio.run(storm(new_nodes, figures, rounds=4))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_long_rebalance_storm(new_nodes: NewNodes, figures: Figures) -> None:
    """The same, fifty times in a row."""
    asyncio.run(storm(new_nodes, figures, rounds=50))
