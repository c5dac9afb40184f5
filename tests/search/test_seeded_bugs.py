"""The rounds find what can be wrong with a replicator: with each of these bugs in the real code the index is seen to
differ from the log.

A checker that never fails proves nothing. Each bug runs under the rounds of `test_replication_rounds`, with a share of
work for a second replicator where it takes one that wakes up late; without bugs the same circumstances do no harm.
"""

from typing import NamedTuple

import pytest

from tests.search.conftest import NewRig
from tests.search.rig import Mismatch
from tests.support.search_server import ELASTICSEARCH, OPENSEARCH

pytestmark = [pytest.mark.search, pytest.mark.slow, pytest.mark.kafka, pytest.mark.timeout(2400)]

ROUNDS = 5
#: Few: what a late request spoils must have been changed meanwhile. Many: what was lost must not be changed once more.
FEW, MANY = 400, 4_000
#: The right replicator has no more than this to catch up with, even when its server has just been started.
QUIET_TIMEOUT_S = 40.0


class Bug(NamedTuple):
    """*kinds*: one of these differences must be found. *fault*: what it needs to show itself."""

    name: str
    kinds: set[str]
    fault: str = ""
    replicators: int = 1
    profiles: int = FEW


BUGS = [
    Bug("position_before_the_batch", {"lost", "alive", "differs"}, fault="slow_write", profiles=MANY),
    Bug("away_taken_as_done", {"lost", "alive", "differs"}, fault="slow_write", profiles=MANY),
    Bug("no_versions", {"alive", "differs"}, fault="slow_write", replicators=2),
    Bug("real_deletes", {"alive"}, fault="slow_write", replicators=2),
    Bug("deletes_left_out", {"alive"}),
    Bug("first_of_a_batch", {"lost", "alive", "differs"}),
]


@pytest.mark.parametrize("server", [ELASTICSEARCH.name, OPENSEARCH.name])
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_is_found(new_rig: NewRig, server: str, bug: Bug) -> None:
    """The index differs from the log, at the latest after some rounds."""
    names = ",".join(filter(None, (bug.name, bug.fault)))
    rig = new_rig(server, profiles=bug.profiles, replicators=bug.replicators, bug=names)
    rig.quiet_timeout_s = QUIET_TIMEOUT_S
    with pytest.raises(Mismatch) as caught:
        rig.run(rounds=ROUNDS, seconds=5, least=200)
    print(caught.value.kinds)
    assert caught.value.kinds & bug.kinds, str(caught.value)


@pytest.mark.parametrize("server", [ELASTICSEARCH.name, OPENSEARCH.name])
def test_a_fault_alone_is_no_bug(new_rig: NewRig, server: str) -> None:
    """Two right replicators whose requests stall, one of which wakes up late: the index is right."""
    rig = new_rig(server, profiles=FEW, replicators=2, bug="slow_write")
    rig.run(rounds=ROUNDS, seconds=5, least=200)
