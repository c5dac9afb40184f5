"""The rig finds what can be wrong with a cluster: with each of these bugs in the real code a promise is seen to break.

A checker that never fails proves nothing. Each bug runs under the fault that brings it out; the verdict must name a
rule that the bug breaks. Without bugs the same runs are those of the other files.
"""

import asyncio
import time
from typing import NamedTuple

import pytest

from tests.cluster.conftest import NewNodes
from tests.cluster.run import Run
from tests.cluster.test_pause import ask_the_sleeper
from tests.support.verdict import Verdict

LAUNCHER = "tests.support.buggy_service"
ATTEMPTS = 3

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]


class Bug(NamedTuple):
    """*rules*: one of these must be named. *scenario*: what befalls the nodes; *fault*: what slows them. *standbys*:
    none where the bug lies in what a new owner has to read first."""

    name: str
    rules: set[str]
    scenario: str = "load"
    fault: str = ""
    standbys: int = 1


BUGS = [
    Bug("zombie_not_fenced", {"lost", "log-order", "order", "condition", "read", "unique-email"}, "pause"),
    Bug("no_barrier_at_take_over", {"order", "read", "lost", "log-order", "search"}, "kill", "slow_apply", standbys=0),
    Bug("strict_without_barrier", {"order", "read", "search"}, fault="slow_apply"),
    Bug("lease_not_checked_after_the_read", {"order", "read", "search"}, "pause"),
    Bug("acknowledge_before_apply", {"order", "read", "search"}, fault="slow_apply"),
    Bug("position_not_waited_for", {"token"}, fault="slow_apply"),
    Bug("staleness_understated", {"order", "read"}, fault="slow_apply"),
    Bug("copies_answer_as_owners", {"order", "read", "search"}, fault="slow_apply"),
    Bug("forwarded_twice", {"conflict", "not-written-visible", "applied-twice", "condition", "read", "lost"}),
    Bug("lost_taken_as_not_sent", {"not-written-visible", "applied-twice", "conflict", "condition"}, "pause"),
    Bug("released_before_the_commit", {"search", "unique-email"}),
    Bug("never_held", {"unique-email", "search", "final"}),
    Bug("not_here_is_not_found", {"read", "order", "search"}, "kill", standbys=0),
]


async def under_load(run: Run) -> None:
    await run.progress(400)


async def under_kill(run: Run) -> None:
    """Kill an owner, let another one take over, and let the dead one come back."""
    victim, owned, others = await run.choose_owner()
    probes = await run.watch(owned, through=others)
    killed_ns = time.monotonic_ns()
    await asyncio.to_thread(run.nodes.kill, victim)
    await probes.until_answered(killed_ns, is_write=True, timeout_s=run.nodes.session_s + 30)
    run.nodes.restart(victim)
    await run.settled()
    await run.progress()


async def under_pause(run: Run) -> None:
    """Freeze an owner until it has been replaced, and send it reads and writes that it finds when it wakes up."""
    victim, owned, others = await run.choose_owner()
    probes = await run.watch(owned, through=others)
    frozen_ns = time.monotonic_ns()
    run.nodes[victim].freeze()
    try:
        await probes.until_answered(frozen_ns, is_write=True, timeout_s=run.nodes.session_s + 30)
        waiting, _ = ask_the_sleeper(run, victim, [probes.uid_of(partition) for partition in sorted(owned)])
        await asyncio.sleep(0.3)
    finally:
        run.nodes[victim].thaw()
    await asyncio.gather(*waiting)
    await run.progress()


SCENARIOS = {"load": under_load, "kill": under_kill, "pause": under_pause}


async def verdict_of(new_nodes: NewNodes, bug: Bug) -> Verdict:
    nodes = new_nodes(standbys=bug.standbys)
    names = ",".join(filter(None, (bug.name, bug.fault)))
    for name in ("a", "b", "c"):
        nodes.add(name, module=LAUNCHER, arguments=(names,))
    nodes.add("o", is_observer=True, module=LAUNCHER, arguments=(names,))
    nodes.wait_until_settled()
    async with Run(nodes, clients=24, emails=20, pause_s=0.002) as run:
        await SCENARIOS[bug.scenario](run)
        return await run.verdict(least=50)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_is_found(new_nodes: NewNodes, bug: Bug) -> None:
    """The verdict on the cluster with the bug names a rule that the bug breaks, at the latest at the third attempt."""
    for _ in range(ATTEMPTS):
        verdict = asyncio.run(verdict_of(new_nodes, bug))
        print(sorted(verdict.rules()), len(verdict.violations), flush=True)
        if verdict.rules() & bug.rules:
            return
    pytest.fail(f"not found; instead: {verdict.violations[:5]}")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_without_a_bug(new_nodes: NewNodes, scenario: str) -> None:
    """The right service, slowed down, under the same circumstances: a good verdict."""
    verdict = asyncio.run(verdict_of(new_nodes, Bug("", set(), scenario, "slow_apply")))
    verdict.assert_clean(scenario)
