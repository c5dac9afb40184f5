"""Kill and freeze the replicator and the search server, kill the service, while profiles change: after quiet the index
holds what the log says, document by document, and searches find what they must.

The seed is printed; `CHAOS_SEED` replays what is asked and what befalls whom. All processes are real ones.
"""

import os

import pytest

from tests.search.conftest import NewRig
from tests.support.search_server import ELASTICSEARCH, OPENSEARCH

pytestmark = [pytest.mark.search, pytest.mark.timeout(900)]

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "20"))
SERVERS = [ELASTICSEARCH.name, OPENSEARCH.name]


@pytest.mark.kafka
@pytest.mark.parametrize("server", SERVERS)
def test_a_round(new_rig: NewRig, server: str) -> None:
    """One short round on each kind of server, which every change to the product has to survive."""
    new_rig(server, profiles=2_000).run(rounds=1, seconds=6, least=300)


@pytest.mark.slow
@pytest.mark.timeout(600 + 150 * ROUNDS)
@pytest.mark.kafka
@pytest.mark.parametrize("server", SERVERS)
def test_many_rounds(new_rig: NewRig, server: str) -> None:
    """`CHAOS_ROUNDS` (20) rounds with 20,000 profiles on each kind of server."""
    new_rig(server, profiles=20_000).run(rounds=ROUNDS, seconds=12, least=1_000)


@pytest.mark.slow
@pytest.mark.timeout(600 + 150 * ROUNDS)
@pytest.mark.kafka
@pytest.mark.parametrize("server", SERVERS)
def test_two_replicators_of_one_name(new_rig: NewRig, server: str) -> None:
    """They divide the partitions, each is killed and frozen, and one that wakes up late does no harm."""
    new_rig(server, profiles=5_000, replicators=2).run(rounds=max(1, ROUNDS // 4), seconds=15, least=500)


@pytest.mark.slow
@pytest.mark.timeout(600 + 150 * ROUNDS)
@pytest.mark.parametrize("server", SERVERS)
def test_over_the_change_feed(new_rig: NewRig, server: str) -> None:
    """The same from the embedded log, which only the service can read: over HTTP."""
    new_rig(server, profiles=5_000, is_embedded=True).run(rounds=max(1, ROUNDS // 4), seconds=12, least=500)
