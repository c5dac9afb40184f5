"""The rig finds bugs: with each of them switched on in the real code the verdict is bad, without them it is good.

A checker that never fails proves nothing. Each bug runs once under load that is like that of the other tests; the
verdict must name a rule that the bug breaks.
"""

import asyncio
from typing import NamedTuple

import pytest

from tests.e2e.conftest import NewService, kafka_environment
from tests.e2e.test_kill import kill_rounds, seed_of_run
from tests.support.history import Outcome
from tests.support.load import Load
from tests.support.service import Service
from tests.support.verdict import Verdict, judge

LAUNCHER = "tests.support.buggy_service"
WRITES = 300
#: Shorter than a stalled append (see `slow_append`), so that outcomes become unknown.
IMPATIENT_S = 0.1


class Bug(NamedTuple):
    """*rules*: one of these must be named. *fault*: what it needs to show itself. *rounds*: kill -9 so many times."""

    name: str
    rules: set[str]
    fault: str = ""
    rounds: int = 0


BUGS = [
    Bug("acknowledge_before_apply", {"order", "search", "read"}, fault="slow_apply"),
    Bug("index_beside_the_row", {"search", "final", "verify"}),
    Bug("if_match_ignored", {"condition"}),
    Bug("email_not_checked", {"unique-email"}),
    Bug("claim_not_released", {"conflict"}),
    Bug("unknown_answered_as_not_written", {"not-written-visible"}, fault="slow_append"),
    Bug("requests_forgotten", {"not-written-visible", "applied-twice"}, fault="slow_append"),
    Bug("position_before_rows", {"verify", "final", "order", "read", "log-order"}, rounds=5),
    Bug("reads_from_a_cache", {"order"}),
    Bug("deletions_not_applied", {"order", "final", "log-order"}),
    Bug("decided_on_an_old_state", {"lost", "log-order", "condition", "unique-email"}),
]


def run(service: Service, *, fault: str = "", rounds: int = 0, others: tuple[Service, ...] = ()) -> Verdict:
    """Load *service* (and *others* beside it) and return the verdict. Prints seed and summary."""
    seed = seed_of_run()

    async def scenario() -> Verdict:
        if rounds:
            load = await kill_rounds(service, rounds=rounds, seed=seed, longest_s=0.3)
        else:
            load = Load(
                [service.address, *(other.address for other in others)],
                seed=seed,
                clients=24,
                emails=20,
                pause_s=0.002,
                request_timeout_s=IMPATIENT_S if fault == "slow_append" else None,
            )
            await load.run_until(WRITES)
        for other in others:
            await asyncio.to_thread(other.close)
        print(f"CHAOS_SEED={seed}; {load.summary()}")
        if fault == "slow_append":
            assert load.count(Outcome.UNKNOWN, Outcome.NOT_WRITTEN) >= 5, load.summary()
        return await judge(service, load, least_acknowledged=50)

    return asyncio.run(scenario())


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_is_found(new_service: NewService, bug: Bug) -> None:
    """The verdict on the service with the bug names a rule that the bug breaks."""
    names = ",".join(filter(None, (bug.name, bug.fault)))
    service = new_service(module=LAUNCHER, arguments=(names,)).start()
    verdict = run(service, fault=bug.fault, rounds=bug.rounds)
    print(sorted(verdict.rules()), len(verdict.violations))
    assert verdict.rules() & bug.rules, f"not found; instead: {verdict.violations[:5]}"


@pytest.mark.kafka
def test_two_writers_without_a_fence_are_found(new_service: NewService, broker: str) -> None:
    """Two nodes that both believe to own everything: versions are given twice, and reads go back."""
    settings = {**kafka_environment(broker), "PROFILES_PARTITIONS": "2"}
    first, second = (
        new_service(name, module=LAUNCHER, arguments=("no_fence",), **settings, PROFILES_NODE_ID=name).start()
        for name in ("first", "second")
    )
    verdict = run(first, others=(second,))
    print(sorted(verdict.rules()), len(verdict.violations))
    assert verdict.rules() & {"lost", "log-order", "order", "unique-email"}, verdict.violations[:5]


@pytest.mark.parametrize("fault", ["slow_append", "slow_apply"])
def test_a_fault_alone_is_no_bug(new_service: NewService, fault: str) -> None:
    """The right service under the same stalled appends (outcomes become unknown) and late stores: a good verdict."""
    service = new_service(module=LAUNCHER, arguments=(fault,)).start()
    run(service, fault=fault).assert_clean(f"{fault} alone")
