"""Histories of undisturbed clients are linearizable: each acknowledged write is seen by every later read and search."""

import asyncio
from collections.abc import Mapping

from tests.e2e.conftest import NewService
from tests.e2e.test_kill import seed_of_run
from tests.support.history import Outcome
from tests.support.load import Load
from tests.support.verdict import judge


def test_an_acknowledged_write_is_seen_by_every_later_read(
    new_service: NewService, log_environment: Mapping[str, str]
) -> None:
    """32 clients on few profiles and e-mails, without faults: no violation, and no answer but 2xx, 404, 409 and 412."""
    service = new_service(**log_environment).start()
    seed = seed_of_run()
    print(f"CHAOS_SEED={seed}")

    async def scenario() -> None:
        load = Load([service.address], seed=seed, clients=32, emails=20)
        await load.run_until(600)
        verdict = await judge(service, load, least_acknowledged=600)
        print(load.summary())
        verdict.assert_clean(f"CHAOS_SEED={seed}")
        assert not load.count(Outcome.UNKNOWN, Outcome.NOT_WRITTEN, Outcome.UNSERVED), load.summary()
        assert load.count(Outcome.MISMATCH) > 20
        assert load.count(Outcome.CONFLICT) > 20

    asyncio.run(scenario())
