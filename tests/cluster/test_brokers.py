"""Three brokers of which one dies, two die, or two freeze, under three nodes under load: what was acknowledged stays,
and nothing is acknowledged by fewer than two."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.cluster.conftest import Figures, NewBrokers, NewNodes
from tests.cluster.run import Run
from tests.support.broker import Cluster
from tests.support.history import Operation, Outcome

REQUEST_TIMEOUT_S = 3.0
GRACE_S = 2.0  # three brokers and three nodes share the cores of this machine
RECOVERY_S = 40.0
OUTAGE_S = 8.0

Scenario = Callable[[Run, Cluster], Awaitable[None]]

pytestmark = pytest.mark.cluster


def writes_done(run: Run, since_ns: int) -> list[Operation]:
    """The writes that were begun after *since_ns* and acknowledged."""
    return [op for op in run.load.operations if op.is_write and op.outcome is Outcome.OK and op.called_ns > since_ns]


async def until_written(run: Run, figures: Figures, name: str) -> None:
    """Wait until writes go on, and note how long that took."""
    since = time.monotonic()
    await run.progress(timeout_s=RECOVERY_S)
    figures(f"{name}, s", progress_after=round(time.monotonic() - since, 2))


async def a_broker_dies(run: Run, brokers: Cluster, figures: Figures) -> None:
    """kill -9 of one of three, whichever leads what; it comes back later."""
    victim = run.random.choice(brokers.ids)
    await run.pause(0.5)
    await asyncio.to_thread(brokers.kill, victim)
    await until_written(run, figures, "one of three brokers killed")
    await asyncio.to_thread(brokers.restart, victim)


async def two_brokers_die(run: Run, brokers: Cluster, figures: Figures) -> None:
    """kill -9 of two of three: no write can have two replicas, so none may be acknowledged."""
    victims = run.random.sample(brokers.ids, 2)
    for victim in victims:
        await asyncio.to_thread(brokers.kill, victim)
    # What was begun before may have reached two brokers while they lived.
    since_ns = time.monotonic_ns()
    answered = len(run.load.operations)
    await asyncio.sleep(OUTAGE_S)
    done = writes_done(run, since_ns)
    assert not done, f"acknowledged by one broker alone: {done[:3]}"
    refused = [op for op in run.load.operations[answered:] if op.is_write]
    assert len(refused) >= 10, "hardly a write was tried: nothing was shown"
    for victim in victims:
        brokers.restart(victim, is_waited_for=False)
    await asyncio.to_thread(brokers.wait_until_serving)
    await until_written(run, figures, "two of three brokers killed and restarted")


async def two_brokers_freeze(run: Run, brokers: Cluster, figures: Figures) -> None:
    """SIGSTOP of two of three, which then go on with what they were at as if nothing had been."""
    victims = run.random.sample(brokers.ids, 2)
    for victim in victims:
        brokers.freeze(victim)
    try:
        await asyncio.sleep(OUTAGE_S)
    finally:
        for victim in victims:
            brokers.thaw(victim)
    await until_written(run, figures, "two of three brokers frozen")


async def story(new_brokers: NewBrokers, new_nodes: NewNodes, figures: Figures, *, rounds: int) -> None:
    brokers = new_brokers(brokers=3)
    nodes = new_nodes(brokers.bootstrap_servers).start("a", "b", "c")
    workers = {name: service.worker_pids() for name, service in nodes.running.items()}
    async with Run(nodes, request_timeout_s=REQUEST_TIMEOUT_S) as run:
        for _ in range(rounds):
            for scenario in (a_broker_dies, two_brokers_die, two_brokers_freeze):
                print(scenario.__name__, flush=True)
                await scenario(run, brokers, figures)
                await run.settled()
        late = run.load.slowest_s
        assert {name: service.worker_pids() for name, service in nodes.running.items()} == workers
        await run.finish(least=180 * rounds)
    assert late < REQUEST_TIMEOUT_S + GRACE_S, f"an answer took {late:.1f} s: {run.load.summary()}"


@pytest.mark.timeout(300)
def test_brokers_that_die_and_freeze(new_brokers: NewBrokers, new_nodes: NewNodes, figures: Figures) -> None:
    """Nothing acknowledged is lost, no write is acknowledged without its replicas, each answer comes in time, and the
    nodes mend themselves."""
    asyncio.run(story(new_brokers, new_nodes, figures, rounds=1))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_brokers_that_die_and_freeze_many_times(new_brokers: NewBrokers, new_nodes: NewNodes, figures: Figures) -> None:
    """The same, ten times."""
    asyncio.run(story(new_brokers, new_nodes, figures, rounds=10))
