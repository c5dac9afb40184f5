"""kill -9 at random moments under load: nothing acknowledged is lost, nothing "not written" appears, and the stores
equal the log. The seed is printed; `CHAOS_SEED` replays the clients' choices and the moments."""

import asyncio
import os
import random
import signal
from collections.abc import Mapping

import pytest

from tests.e2e.conftest import NewService, kafka_environment
from tests.support.history import Outcome
from tests.support.load import Load
from tests.support.service import Service
from tests.support.verdict import judge

LEAST_WRITES_PER_ROUND = 20


def seed_of_run() -> int:
    """`CHAOS_SEED`, or a random one."""
    return int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))


async def kill_rounds(service: Service, *, rounds: int, seed: int, longest_s: float = 0.8) -> Load:
    """Kill and restart *service* *rounds* times while clients go on; return what they saw.

    Every third time only gunicorn's worker is killed, and its arbiter must start another.
    """
    rng = random.Random(seed)
    load = Load([service.address], seed=seed)
    load.start()
    for number in range(rounds):
        before = load.count(Outcome.OK, is_write=True)
        while load.count(Outcome.OK, is_write=True) < before + LEAST_WRITES_PER_ROUND:
            await asyncio.sleep(0.02)
        await asyncio.sleep(rng.uniform(0, longest_s))
        if number % 3 == 2:
            (worker,) = service.worker_pids()
            os.kill(worker, signal.SIGKILL)
            while worker in service.worker_pids():
                await asyncio.sleep(0.005)
        else:
            await asyncio.to_thread(service.kill)
            await asyncio.to_thread(lambda: service.start(is_waited_for=False))
        await asyncio.to_thread(service.wait_until_ready)
    await load.stop()
    return load


def run_and_judge(service: Service, *, rounds: int) -> None:
    """The whole test: rounds, then the verdict."""
    seed = seed_of_run()
    print(f"CHAOS_SEED={seed}")

    async def scenario() -> None:
        load = await kill_rounds(service, rounds=rounds, seed=seed)
        verdict = await judge(service, load, least_acknowledged=rounds * LEAST_WRITES_PER_ROUND)
        print(load.summary())
        verdict.assert_clean(f"CHAOS_SEED={seed}; {load.summary()}")

    asyncio.run(scenario())


def test_kill_on_the_embedded_log(new_service: NewService) -> None:
    """Six rounds on the embedded log."""
    run_and_judge(new_service().start(), rounds=6)


@pytest.mark.kafka
def test_kill_on_kafka(new_service: NewService, broker: str) -> None:
    """Three rounds on Kafka."""
    run_and_judge(new_service(**kafka_environment(broker)).start(), rounds=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_many_times(new_service: NewService, log_environment: Mapping[str, str]) -> None:
    """`CHAOS_ROUNDS` (50) rounds on each log."""
    run_and_judge(new_service(**log_environment).start(), rounds=int(os.environ.get("CHAOS_ROUNDS", "50")))
