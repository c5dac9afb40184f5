"""The division of partitions: what holds for any members, and over random histories of a group."""

import os
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.assignment import CAUGHT_UP_RECORDS, Joining, assign
from streams.cluster import NodeInfo, refusal_key
from tests.streams.group_model import Group

#: How many histories are run (`ASSIGNMENT_HISTORIES` for more), each from its own seed.
HISTORIES = int(os.environ.get("ASSIGNMENT_HISTORIES", "800"))
FIRST_SEED = int(os.environ.get("ASSIGNMENT_SEED", "1"))


def test_random_histories_keep_every_promise() -> None:
    """Whatever joins, dies, wakes up, lags or is refused: never two owners, no storm, and balance in the end."""
    rounds = 0
    for seed in range(FIRST_SEED, FIRST_SEED + HISTORIES):
        group = Group(seed)
        try:
            group.history(steps=12)
        except Exception as error:
            raise AssertionError(f"run again with ASSIGNMENT_SEED={seed} ASSIGNMENT_HISTORIES=1") from error
        rounds += group.rounds
    print(f"{HISTORIES} histories from seed {FIRST_SEED}, {rounds} generations")
    assert rounds > HISTORIES


def member(name: str, **changes: object) -> Joining:
    info = {"node_id": name, "incarnation": "1", "address": f"http://{name}:1", "rack": ""}
    info |= {key: changes.pop(key) for key in list(changes) if key in info}
    return Joining(f"member-{name}{info['incarnation'][1:]}", NodeInfo(**info), **{"generation": 5, **changes})  # type: ignore[arg-type]


FAR = CAUGHT_UP_RECORDS * 10
numbers = st.integers(min_value=0, max_value=9)
members = st.lists(
    st.builds(
        Joining,
        member_id=st.uuids().map(str),
        info=st.builds(
            NodeInfo,
            node_id=st.sampled_from("abcdef"),
            incarnation=st.sampled_from("12"),
            address=st.sampled_from(["http://a:1", "http://b:1", "http://c:1", "http://d:1"]),
            rack=st.sampled_from(["", "r1", "r2"]),
        ),
        num_standby_replicas=st.integers(0, 5),
        settings=st.sampled_from([{}, {"format": "1"}, {"format": "2"}]),
        positions=st.dictionaries(numbers, st.integers(0, FAR), max_size=10),
        owned=st.frozensets(numbers, max_size=10),
        followed=st.frozensets(numbers, max_size=10),
        generation=st.integers(-1, 3),
        was_refused=st.booleans(),
    ),
    max_size=8,
)


@given(joining=members, partitions=st.integers(0, 8), seed=st.integers())
@settings(deadline=None)
def test_any_members_get_an_answer(joining: list[Joining], partitions: int, seed: int) -> None:
    """Also from contradictory claims there comes a map: whole, unambiguous, the same for each order of the members."""
    division = assign(joining, partitions, epoch=7)
    shuffled = random.Random(seed).sample(joining, len(joining))
    assert assign(shuffled, partitions, epoch=7) == division
    assert len(division.view.placements) == partitions
    assert set(division.owned) == {one.member_id for one in joining}
    for one in joining:
        given_to_it = division.owned[one.member_id]
        assert division.view.refusal_of(one.info) is None or not given_to_it or one.info in division.view.nodes.values()
        for other in joining:
            if other is not one:
                taken = given_to_it & other.owned - one.owned
                assert not {number for number in taken if other.generation >= 0}, "given away under its owner"
                assert not given_to_it & division.owned[other.member_id]
    if joining and partitions:
        assert division.view.nodes


def test_a_newcomer_that_is_far_behind_warms_up_first() -> None:
    """The old owner keeps it until the newcomer has caught up, then gives it up, then the newcomer has it."""
    old = member("a", owned=range(4), positions=dict.fromkeys(range(4), FAR))
    view = assign([old, member("b", generation=-1)], 4, epoch=6).view
    assert view.owned_by("a") == {0, 1, 2, 3}
    share = view.followed_by("b")
    assert share == {number for number, place in enumerate(view.placements) if tuple(place.warming) == ("b",)}
    assert len(share) == 2
    half_way = member("b", positions=dict.fromkeys(share, FAR // 2))
    assert assign([old, half_way], 4, epoch=7).view.followed_by("b") == share, "it goes on with what it began"
    warm = member("b", positions=dict.fromkeys(share, FAR - CAUGHT_UP_RECORDS))
    handing_over = assign([old, warm], 4, epoch=8)
    assert handing_over.owned["member-b"] == frozenset()
    assert handing_over.owned["member-a"] == {0, 1, 2, 3} - share
    kept = member("a", owned=handing_over.owned["member-a"], positions=old.positions, generation=8)
    assert assign([kept, warm], 4, epoch=9).view.owned_by("b") == share


def test_the_standby_takes_over_and_with_none_the_furthest() -> None:
    """The owner is gone: who is caught up owns at once; nobody is: the one with the most, whoever has fewer."""
    positions = {0: FAR, 1: FAR, 2: FAR}
    busy = member("a", owned=[0], positions=positions)
    idle = member("b", owned=[1], positions={1: FAR})
    assert assign([busy, idle], 3, epoch=6).view.owned_by("a") == {0, 2}
    behind = member("b", owned=[1], positions={1: FAR, 2: FAR - CAUGHT_UP_RECORDS - 1})
    assert assign([busy, behind], 3, epoch=6).view.owned_by("a") == {0, 2}
    assert assign([member("a", positions={0: 7}), member("b", positions={0: FAR})], 1, epoch=6).view.owned_by("b")
    assert assign([member("a"), member("b")], 2, epoch=6).view.owned_by("b"), "without any state they share"


def test_standbys_lie_in_other_racks_and_stay_where_they_are() -> None:
    """Another rack goes before anything else; a new node does not take standbys away from a balanced group."""
    racked = [member(name, rack=rack, num_standby_replicas=1) for name, rack in zip("abcd", "1122", strict=True)]
    view = assign(racked, 8, epoch=6).view
    for place in view.placements:
        assert view.nodes[place.owner or ""].rack != view.nodes[place.standbys[0]].rack
    again = [
        member(
            one.info.node_id,
            rack=one.info.rack,
            num_standby_replicas=1,
            owned=view.owned_by(one.info.node_id),
            followed=view.followed_by(one.info.node_id),
            positions=dict.fromkeys(range(8), FAR),
        )
        for one in racked
    ]
    assert assign(again, 8, epoch=7).view.placements == view.placements


def test_a_replaced_standby_stays_until_the_new_one_is_warm() -> None:
    """A better place for the copy costs no moment without a copy."""
    owner = member("a", rack="1", num_standby_replicas=1, owned=[0], positions={0: FAR})
    same_rack = member("b", rack="1", num_standby_replicas=1, followed=[0], positions={0: FAR})
    place = assign([owner, same_rack, member("c", rack="2")], 1, epoch=6).view.placements[0]
    assert (place.owner, tuple(place.standbys), tuple(place.warming)) == ("a", ("b",), ("c",))
    warm = member("c", rack="2", positions={0: FAR})
    place = assign([owner, same_rack, warm], 1, epoch=7).view.placements[0]
    assert (place.owner, tuple(place.standbys), tuple(place.warming)) == ("a", ("c",), ())


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (member("a", incarnation="0x", address="http://z:1", generation=-1), "another live process has the node id a"),
        (member("A", address="http://a:1", generation=-1), "node a has the same address"),
        (member("A", settings={"format": "2"}, generation=-1), "format is '2' here and None there"),
        (member("A", settings={"format": "2"}, was_refused=True), "format is '2' here and None there"),
        (member("A", settings={"A_SECRET": "2"}, was_refused=True), "differ from the cluster's: A_SECRET is another"),
    ],
    ids=["node id", "address", "settings", "again", "secret"],
)
def test_who_does_not_fit_is_refused_and_the_first_stays(second: Joining, reason: str) -> None:
    """The one that took part before goes on with everything; the other is told why it gets nothing."""
    division = assign([second, member("a", owned=[0], generation=3)], 2, epoch=6)
    assert division.view.owned_by("a") == {0, 1}
    assert reason in (division.view.refusal_of(second.info) or "")
    assert set(division.view.refused) == {refusal_key(second.info)}
    assert division.owned[second.member_id] == frozenset()


def test_an_old_claim_counts_when_nobody_has_a_later_one() -> None:
    """Who missed a generation keeps what it has; who slept while its partition was given away does not."""
    first, slept = member("a", owned=[0], generation=5), member("b", owned=[1], generation=4)
    assert assign([first, slept], 2, epoch=6).view.owned_by("b") == {1}
    slept = member("b", owned=[0], generation=4)
    assert assign([first, slept], 2, epoch=6).view.owned_by("a") == {0}
    twice = assign([first, member("b", owned=[0], generation=5)], 2, epoch=6).view
    assert twice.placements[0].owner is None, "one of two is wrong, and nobody knows which"


def test_what_a_refused_member_still_owns_is_not_given_away() -> None:
    """It has to give it up first, like anybody else."""
    refused = member("b", owned=[1], settings={"format": "2"}, generation=4)
    division = assign([member("a", owned=[0]), refused], 2, epoch=6)
    assert division.owned == {"member-a": {0}, "member-b": frozenset()}
    assert division.view.placements[1].owner is None


def test_a_large_group_is_divided_quickly() -> None:
    """1024 partitions over 32 members, one of them new: the join of a generation must not wait for it."""
    nodes = [member(f"n{number}", num_standby_replicas=2, rack=f"r{number % 3}") for number in range(31)]
    view = assign(nodes, 1024, epoch=6).view
    joining = [member("new", generation=-1, num_standby_replicas=2, rack="r1")]
    for one in nodes:
        own, follows = view.owned_by(one.info.node_id), view.followed_by(one.info.node_id)
        positions = dict.fromkeys(own | follows, FAR)
        joining.append(
            member(one.info.node_id, rack=one.info.rack, num_standby_replicas=2, owned=own, followed=follows,
                   positions=positions)
        )  # fmt: skip
    began = time.process_time()
    view = assign(joining, 1024, epoch=7).view
    taken_s = time.process_time() - began
    print(f"divided in {taken_s * 1000:.0f} ms")
    assert sum("new" in place.warming for place in view.placements) >= 32
    assert taken_s < 1.0
