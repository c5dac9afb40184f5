"""Wall clocks that are hours apart, and one that jumps: nothing that is promised hangs on the time of day."""

import asyncio

import pytest

from tests.cluster.conftest import NewNodes
from tests.cluster.run import Run

LAUNCHER = "tests.support.faulty_service"

pytestmark = pytest.mark.cluster


async def wrong_clocks(new_nodes: NewNodes, *, rounds: int) -> None:
    nodes = new_nodes()
    nodes.add("a")
    nodes.add("b", module=LAUNCHER, arguments=("clock:jumping",))
    nodes.add("c", module=LAUNCHER, arguments=("clock:-3600",))
    nodes.add("o", is_observer=True, module=LAUNCHER, arguments=("clock:7200",))
    nodes.wait_until_settled()
    async with Run(nodes) as run:
        for _ in range(rounds):
            await asyncio.sleep(5)  # some jumps
            failed = len(run.load.failed)
            assert not failed, [(op.kind, op.outcome, op.detail) for op in run.load.failed]
            victim, _, _ = await run.choose_owner()
            await asyncio.to_thread(nodes.kill, victim)
            await asyncio.sleep(nodes.session_s)
            nodes.restart(victim)
            await run.settled()
            await run.progress()
            run.load.failed.clear()  # those of the kill
        await run.finish(least=100 * rounds)


def test_clocks_that_are_wrong_and_jump(new_nodes: NewNodes) -> None:
    """No request fails for a clock; with a kill and a take-over on top no promise is broken."""
    asyncio.run(wrong_clocks(new_nodes, rounds=1))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_clocks_that_are_wrong_for_long(new_nodes: NewNodes) -> None:
    """The same, ten times."""
    asyncio.run(wrong_clocks(new_nodes, rounds=10))
