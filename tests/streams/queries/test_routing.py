"""The routing of a request as a table: what a node knows, and where the request goes."""

import pytest

from streams.cluster import NOWHERE, ClusterView, NodeInfo, Placement
from streams.queries.routing import Forward, Here, Local, Need, Refuse, Step, Wait, decide, decide_for_peer

NODES = {name: NodeInfo(name, "1", f"http://127.0.0.1:{port}") for port, name in enumerate("abcd", 8081)}
#: Partition 0: owned by a, followed by b and, still warming up, by c. Partition 1: nobody's, followed by b.
VIEW = ClusterView(3, NODES, (Placement("a", ("b",), ("c",)), Placement(None, ("b",))))

OWNER = Local("a", owns=True, follows=True)
STANDBY = Local("b", owns=False, follows=True)
STRANGER = Local("d", owns=False, follows=False)
OBSERVER = Local("o", owns=False, follows=True, is_observer=True)
LOST = Local("a", owns=False, follows=True)  # the map says that it owns, and it knows better

REPLICA = Here(is_replica=True)
STRICT_REPLICA = Here(is_replica=True, is_strict=True)
TO_OWNER = Forward("a")
TO_STANDBY = Forward("b", is_replica=True)
TO_WARMING = Forward("c", is_replica=True)

TABLE = [
    # need, this node, suspected, excluded, step
    (
        "owner answers everything",
        OWNER,
        "",
        "",
        {Need.WRITE: Here(), Need.OWNER: Here(), Need.STRICT: Here(), Need.STALE: Here()},
    ),
    ("a standby sends on what needs the owner", STANDBY, "", "", {Need.WRITE: TO_OWNER, Need.OWNER: TO_OWNER}),
    ("a standby answers what a copy may", STANDBY, "", "", {Need.STRICT: STRICT_REPLICA, Need.STALE: REPLICA}),
    ("a standby that failed asks the owner", STANDBY, "", "b", {Need.STRICT: TO_OWNER, Need.STALE: TO_OWNER}),
    ("a standby steps in for a suspected owner", STANDBY, "a", "", {Need.WRITE: Wait(), Need.OWNER: STRICT_REPLICA}),
    ("a standby steps in for a lost owner", STANDBY, "", "a", {Need.WRITE: Wait(), Need.OWNER: STRICT_REPLICA}),
    ("a stranger sends everything on", STRANGER, "", "", dict.fromkeys(Need, TO_OWNER)),
    (
        "a stranger finds the standby",
        STRANGER,
        "a",
        "",
        {Need.OWNER: TO_STANDBY, Need.STRICT: TO_STANDBY, Need.STALE: TO_STANDBY},
    ),
    ("a stranger waits to write", STRANGER, "a", "", {Need.WRITE: Wait()}),
    ("a stranger finds the one that warms up", STRANGER, "a", "b", {Need.OWNER: TO_WARMING}),
    ("a stranger waits when all are gone", STRANGER, "ac", "b", dict.fromkeys(Need, Wait())),
    (
        "an observer reads at home",
        OBSERVER,
        "abc",
        "",
        {Need.OWNER: STRICT_REPLICA, Need.STRICT: STRICT_REPLICA, Need.STALE: REPLICA},
    ),
    ("an observer sends writes on", OBSERVER, "", "", {Need.WRITE: TO_OWNER}),
    ("an observer without the log asks the owner", OBSERVER, "", "o", {Need.OWNER: TO_OWNER}),
    (
        "who is called owner and is not yet",
        LOST,
        "",
        "",
        {Need.WRITE: Wait(), Need.OWNER: STRICT_REPLICA, Need.STALE: REPLICA},
    ),
    ("an owner that cannot serve a read", OWNER, "", "a", {Need.OWNER: TO_STANDBY, Need.WRITE: Wait()}),
]


@pytest.mark.parametrize(
    ("local", "suspected", "excluded", "need", "step"),
    [
        pytest.param(local, suspected, excluded, need, step, id=f"{name}: {need.value}")
        for name, local, suspected, excluded, steps in TABLE
        for need, step in steps.items()
    ],
)
def test_request_goes_where_the_table_says(local: Local, suspected: str, excluded: str, need: Need, step: Step) -> None:
    """One row, one answer."""
    assert decide(VIEW, 0, need, local, is_suspected=suspected.__contains__, excluded=set(excluded)) == step


@pytest.mark.parametrize("need", Need)
def test_partition_without_an_owner_is_read_from_a_follower(need: Need) -> None:
    """A partition on the move can be read, and not written."""
    step = decide(VIEW, 1, need, STRANGER, is_suspected=lambda _: False, excluded=set())
    assert step == (Wait() if need is Need.WRITE else TO_STANDBY)


@pytest.mark.parametrize("partition", [0, 99])
def test_without_a_map_everything_waits(partition: int) -> None:
    """Also for a partition that the map does not have."""
    for view in (NOWHERE, ClusterView(1, {}, ())):
        assert decide(view, partition, Need.OWNER, STRANGER, is_suspected=lambda _: False, excluded=set()) == Wait()


@pytest.mark.parametrize("need", Need)
@pytest.mark.parametrize("is_replica", [False, True])
def test_forwarded_request_is_answered_or_refused(need: Need, is_replica: bool) -> None:
    """Never sent on; a copy answers only who asked for a copy, and never a write."""
    assert decide_for_peer(need, OWNER, is_replica=is_replica) == Here()
    is_allowed = is_replica and need is not Need.WRITE
    assert decide_for_peer(need, STANDBY, is_replica=is_replica) == (STRICT_REPLICA if is_allowed else Refuse())
    assert decide_for_peer(need, STRANGER, is_replica=is_replica) == Refuse()
