"""Kill and freeze the replicator and the search server, kill the service, while profiles change: after quiet the index
holds what the log says, document by document, and searches find what they must.

The seed is printed; `CHAOS_SEED` replays what is asked and what befalls whom. All processes are real ones.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks import preload
from tests.e2e.conftest import kafka_environment
from tests.search.conftest import or_skip
from tests.search.rig import Rig, replicator, seed_of_run
from tests.support.churn import Churn
from tests.support.search_server import DISTRIBUTIONS, ELASTICSEARCH, OPENSEARCH, SearchServer
from tests.support.service import Service

NewRig = Callable[..., Rig]

pytestmark = [pytest.mark.search, pytest.mark.timeout(300)]

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "20"))
SERVERS = [ELASTICSEARCH.name, OPENSEARCH.name]


@pytest.fixture
def new_rig(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[NewRig]:
    """Starts everything of a test, with *profiles* that are there before the replicators begin:
    `new_rig(server, profiles=20_000, replicators=2, is_embedded=True, bug="...")`."""
    with ExitStack() as stack:

        def make(
            name: str,
            *,
            profiles: int,
            replicators: int = 1,
            is_embedded: bool = False,
            bug: str | None = None,
            clients: int = 8,
        ) -> Rig:
            seed = seed_of_run()
            print(f"CHAOS_SEED={seed}", flush=True)
            server = or_skip(lambda: SearchServer(tmp_path / "server", DISTRIBUTIONS[name]))
            stack.callback(server.close)
            server.start(is_waited_for=False)
            environment = {} if is_embedded else kafka_environment(request.getfixturevalue("broker"))
            service = Service(tmp_path / "service", environment=environment)
            stack.callback(service.close)
            sample = tmp_path / "sample.tsv"
            patient = {**service.environment, "PROFILES_SESSION_TIMEOUT_MS": "30000"}
            preload.fill(patient, sample, first=0, count=profiles)
            known = [tuple(line.split("\t")) for line in sample.read_text().splitlines()]
            service.start()
            server.wait_until_ready()
            source = f"http://127.0.0.1:{service.port}" if is_embedded else None
            copies = [
                replicator(tmp_path / f"replicator-{number}", service, server, bug=bug, source=source)
                for number in range(replicators)
            ]
            for one in copies:
                stack.callback(one.close)
                one.start(is_waited_for=False)
            churn = Churn(service.address, seed=seed, profiles=profiles, known=known, clients=clients)
            stack.callback(churn.stop)
            return Rig(service, server, copies, churn, seed)

        yield make


def run(rig: Rig, *, rounds: int, seconds: float, least: int) -> None:
    """All rounds, after a comparison of what was there before."""
    rig.compare(f"CHAOS_SEED={rig.seed}, before the rounds")
    for number in range(rounds):
        rig.round(number, seconds=seconds, least=least)


@pytest.mark.kafka
@pytest.mark.parametrize("server", SERVERS)
def test_a_round(new_rig: NewRig, server: str) -> None:
    """One short round on each kind of server, which every change to the product has to survive."""
    run(new_rig(server, profiles=3_000), rounds=1, seconds=8, least=300)


@pytest.mark.slow
@pytest.mark.timeout(150 * ROUNDS)
@pytest.mark.kafka
@pytest.mark.parametrize("server", SERVERS)
def test_many_rounds(new_rig: NewRig, server: str) -> None:
    """`CHAOS_ROUNDS` (20) rounds with 20,000 profiles on each kind of server."""
    run(new_rig(server, profiles=20_000), rounds=ROUNDS, seconds=12, least=1_000)


@pytest.mark.slow
@pytest.mark.timeout(150 * ROUNDS)
@pytest.mark.kafka
@pytest.mark.parametrize("server", SERVERS)
def test_two_replicators_of_one_name(new_rig: NewRig, server: str) -> None:
    """They divide the partitions, each is killed and frozen, and one that wakes up late does no harm."""
    run(new_rig(server, profiles=5_000, replicators=2), rounds=max(1, ROUNDS // 4), seconds=15, least=500)


@pytest.mark.slow
@pytest.mark.timeout(150 * ROUNDS)
@pytest.mark.parametrize("server", SERVERS)
def test_over_the_change_feed(new_rig: NewRig, server: str) -> None:
    """The same from the embedded log, which only the service can read: over HTTP."""
    run(new_rig(server, profiles=5_000, is_embedded=True), rounds=max(1, ROUNDS // 4), seconds=12, least=500)
