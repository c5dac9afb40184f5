"""What members and leader send each other: it comes back whole, and nothing that a stranger sends does harm."""

import json
import zlib
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.assignment import Joining, assign
from streams.cluster import ClusterView, LoneMember, NodeInfo
from streams.log.kafka.assignor import (
    GroupAssignor,
    NotUnderstoodError,
    decode_joining,
    decode_view,
    encode_joining,
    encode_view,
    view_of_assignment,
)

NODE = NodeInfo("a", "1", "http://a:1", "r1")
JOINING = Joining(
    member_id="m",
    info=NODE,
    num_standby_replicas=2,
    settings={"format": "1"},
    positions={0: 5, 7: 2**40},
    owned=frozenset({0}),
    followed=frozenset({7}),
    generation=3,
    was_refused=True,
)
numbers = st.integers(0, 2000)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=5,
)


class Said:
    """A member of a `JoinGroupResponse` after kafka-python has decoded it."""

    def __init__(self, member_id: str, data: bytes | None) -> None:
        self.member_id = member_id
        self.metadata = self
        self.user_data = data


class OneTopic:
    """The part of kafka-python's cluster metadata that an assignor looks at."""

    @staticmethod
    def partitions_for_topic(topic: str) -> set[int]:
        return {0, 1, 2, 3}


@given(
    positions=st.dictionaries(numbers, st.integers(0, 2**62)),
    owned=st.frozensets(numbers),
    generation=st.integers(-1, 2**31 - 1),
)
def test_what_a_member_says_arrives(positions: dict[int, int], owned: frozenset[int], generation: int) -> None:
    """All of it, exactly."""
    said = replace(JOINING, positions=positions, owned=owned, generation=generation)
    assert decode_joining("m", encode_joining(said, 1)) == said


@given(st.binary() | st.none() | st.binary().map(zlib.compress) | json_values.map(json.dumps).map(str.encode))
def test_no_bytes_do_harm(data: bytes | None) -> None:
    """Whatever is sent: a member is not understood, a map is none."""
    with pytest.raises(NotUnderstoodError):
        decode_joining("m", data)
    with pytest.raises(ValueError):
        decode_view(data)
    assert view_of_assignment(data or b"") is None


@given(name=st.sampled_from(sorted(json.loads(zlib.decompress(encode_joining(JOINING, 1))))), value=json_values)
def test_no_value_in_the_right_place_does_harm(name: str, value: object) -> None:
    """One part of what a member says is replaced by anything: it is understood, or refused."""
    document = json.loads(zlib.decompress(encode_joining(JOINING, 1)))
    document[name] = value
    try:
        said = decode_joining("m", zlib.compress(json.dumps(document).encode()))
    except NotUnderstoodError:
        return
    view = assign([said, replace(JOINING, member_id="n")], 3, epoch=1).view
    assert decode_view(encode_view(view)) == view


def test_what_is_too_large_is_not_unpacked() -> None:
    """A few kilobytes that unpack to gigabytes are refused."""
    with pytest.raises(NotUnderstoodError, match="too long"):
        decode_joining("m", zlib.compress(b" " * 50_000_000))


def test_another_version_of_the_protocol_is_refused_by_name() -> None:
    """A node of tomorrow says who it is: the map tells it why it must stop."""
    document = {"version": 2, "node": asdict(NODE), "something": "new"}
    tomorrow = Said("m2", zlib.compress(json.dumps(document).encode()))
    leader = GroupAssignor(LoneMember.named("b"), "t", generation=lambda: 9)
    members = [Said("m1", leader.metadata({"t"}).user_data), tomorrow, Said("m3", b"garbage")]
    assigned = leader.assign(OneTopic, members)
    view = decode_view(assigned["m2"].user_data)
    assert "version 2" in (view.refusal_of(NODE) or "")
    assert set(view.refused) == {"a/1", "m3"}
    assert {name: len(one.partitions()) for name, one in assigned.items()} == {"m1": 4, "m2": 0, "m3": 0}
    assert view.epoch == 9


def test_a_member_says_what_it_owns_now() -> None:
    """It claims what the last generation gave it, nothing after it was lost, and something new when it insists."""
    assignor = GroupAssignor(LoneMember.named("b"), "t", generation=lambda: 4)
    given = assignor.assign(OneTopic, [Said("m", assignor.metadata({"t"}).user_data)])["m"]
    assignor.on_assignment(given, 5)
    assert assignor.view.epoch == 5, "its own generation, whatever the leader believed"
    said = assignor.metadata({"t"}).user_data
    assert (decode_joining("m", said).owned, decode_joining("m", said).generation) == ({0, 1, 2, 3}, 5)
    assert assignor.metadata({"t"}).user_data == said
    assignor.insist()
    assert assignor.metadata({"t"}).user_data != said
    assignor.forget()
    assert decode_joining("m", assignor.metadata({"t"}).user_data).owned == frozenset()


def test_a_large_group_fits_into_the_broker_s_record() -> None:
    """1024 partitions, 32 members, two standbys: all that they say and get stays below a broker's 1 MB."""
    nodes = [NodeInfo(f"node-{n}", f"{n:032x}", f"http://10.0.0.{n}:8080", f"rack-{n % 3}") for n in range(32)]
    joining = [Joining(str(n), node, 2, {"format": "1"}) for n, node in enumerate(nodes)]
    view: ClusterView = assign(joining, 1024, epoch=1).view
    said = 0
    for one in joining:
        own, follows = view.owned_by(one.info.node_id), view.followed_by(one.info.node_id)
        positions = {partition: 10**9 + partition * 7919**2 % 10**8 for partition in own | follows}
        said += len(encode_joining(replace(one, positions=positions, owned=own, followed=follows), 1))
    size = said + len(nodes) * len(encode_view(view))
    print(f"{said} bytes said, {len(encode_view(view))} bytes to each member, {size} in all")
    assert size < 500_000
