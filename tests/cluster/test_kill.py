"""kill -9 of an owner under load: its keys are read again within a second, and written after the session's end."""

import asyncio
import os
import time

import pytest

from tests.cluster.conftest import Figures, NewNodes
from tests.cluster.run import Run, quantiles

READ_LIMIT_S = 1.0
WRITE_MARGIN_S = 2.0

pytestmark = pytest.mark.cluster


async def kill_and_restart(run: Run) -> tuple[float, float]:
    """Kill an owner; return the longest time for which one of its partitions could not be read, and the time until all
    could be written. Returns when it is back and the nodes have settled."""
    nodes = run.nodes
    victim, owned, others = await run.choose_owner()
    probes = await run.watch(owned, through=others)
    await run.pause(0.5)
    killed_ns = time.monotonic_ns()
    await asyncio.to_thread(nodes.kill, victim)
    limit_s = nodes.session_s + 20.0
    write_s = await probes.until_answered(killed_ns, is_write=True, timeout_s=limit_s)
    await probes.until_answered(killed_ns, is_write=False, timeout_s=limit_s)
    gap_s = probes.longest_gap_s(killed_ns)
    await probes.stop()
    assert victim not in nodes.view(others[0]).nodes, "the killed node is still a member: nothing was shown"
    nodes.restart(victim)
    await run.settled()
    return gap_s, write_s


async def kills(new_nodes: NewNodes, figures: Figures, *, rounds: int) -> tuple[list[float], list[float]]:
    """Kill so many owners, one after the other, under one history that is judged in the end."""
    nodes = new_nodes().start("a", "b", "c")
    gaps, writes = [], []
    async with Run(nodes) as run:
        for number in range(rounds):
            gap_s, write_s = await kill_and_restart(run)
            print(f"kill {number + 1}: reads after {gap_s:.2f} s, writes after {write_s:.2f} s", flush=True)
            gaps.append(gap_s)
            writes.append(write_s)
            await run.progress()
        await run.finish(least=rounds * 60)
    session_s = nodes.session_s
    figures("fail-over of reads after kill -9, s", **quantiles(gaps))
    figures(f"fail-over of writes after kill -9 with a session of {session_s} s, s", **quantiles(writes))
    assert max(writes) <= session_s + WRITE_MARGIN_S, writes
    return gaps, writes


def test_a_killed_owner(new_nodes: NewNodes, figures: Figures) -> None:
    """Three kills; the middle one of the read gaps keeps the limit, and none is far from it."""
    gaps, _ = asyncio.run(kills(new_nodes, figures, rounds=3))
    assert sorted(gaps)[1] <= READ_LIMIT_S, gaps
    assert max(gaps) <= 2 * READ_LIMIT_S, gaps


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_many_killed_owners(new_nodes: NewNodes, figures: Figures) -> None:
    """`CHAOS_ROUNDS` (30) kills; 95 of 100 read gaps keep the limit."""
    rounds = int(os.environ.get("CHAOS_ROUNDS", "30"))
    gaps, _ = asyncio.run(kills(new_nodes, figures, rounds=rounds))
    assert quantiles(gaps)["p95"] <= READ_LIMIT_S, gaps
