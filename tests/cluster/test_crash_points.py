"""A node that dies at chosen points of its work: while a write is on its way, and while a partition changes hands."""

import asyncio

import pytest

from tests.cluster.conftest import NewNodes
from tests.cluster.run import Run
from tests.support.cluster import Nodes, wait_for
from tests.support.faulty_service import POINTS, crash_file

LAUNCHER = "tests.support.faulty_service"
#: These are met by whoever starts.
WHEN_STARTING = ("ownership is told", "before the fence", "while it restores")
WHEN_ANOTHER_JOINS = ("ownership is taken",)

pytestmark = pytest.mark.cluster


async def die_at(run: Run, name: str) -> None:
    """Let an owner die at the point *name*, and return when it is back."""
    nodes = run.nodes
    victim, _, _ = await run.choose_owner(is_greatest=name in WHEN_ANOTHER_JOINS)  # who will have to give up something
    service = nodes[victim]
    if name in WHEN_STARTING:
        await asyncio.to_thread(nodes.terminate, victim)
        crash_file(service.state_dir).write_text(name)
        nodes.restart(victim)
    else:
        await run.pause(0.2)
        crash_file(service.state_dir).write_text(name)
    if name in WHEN_ANOTHER_JOINS:
        nodes.add("d", module=LAUNCHER, arguments=("crash-points",))
    await asyncio.to_thread(
        wait_for, lambda: not service.is_running, timeout_s=30, what=f"{victim} dies at: {name}\n{service.tail()}"
    )
    assert service.exit_code == -9, service.tail()
    if name in WHEN_ANOTHER_JOINS:
        await asyncio.to_thread(nodes.terminate, "d")
    service.close()
    nodes.restart(victim)
    await run.settled()
    await run.progress(20)


async def deaths(nodes: Nodes, *, rounds: int) -> None:
    for name in ("a", "b", "c"):
        nodes.add(name, module=LAUNCHER, arguments=("crash-points",))
    nodes.wait_until_settled()
    async with Run(nodes) as run:
        for _ in range(rounds):
            for name in POINTS:
                print(f"dies: {name}", flush=True)
                await die_at(run, name)
        await run.finish(least=20 * rounds * len(POINTS))


@pytest.mark.timeout(300)
def test_a_node_that_dies_at_named_points(new_nodes: NewNodes) -> None:
    """Nothing acknowledged is lost, nothing is applied twice, outcomes are told rightly."""
    asyncio.run(deaths(new_nodes(), rounds=1))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_deaths_at_named_points(new_nodes: NewNodes) -> None:
    """Each ten times."""
    asyncio.run(deaths(new_nodes(), rounds=10))
