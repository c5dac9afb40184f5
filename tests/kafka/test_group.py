"""Several members on a real broker: who takes over, who warms up, who is refused, and what an observer sees.

Every node reports into one timeline; whatever happens, no partition may have two owners in it.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from kafka import KafkaConsumer
from kafka.coordinator.assignors.abstract import AbstractPartitionAssignor, RebalanceProtocol
from kafka.errors import NodeNotReadyError
from kafka.future import Future
from kafka.protocol.consumer.metadata import ConsumerProtocolSubscription

from streams.assignment import CAUGHT_UP_RECORDS
from streams.cluster import OBSERVER, ClusterView, LoneMember, NodeInfo
from streams.log.base import Ownership
from streams.log.kafka import KafkaLog
from tests.kafka.node import CLOCK, WAIT_S, Node, within

pytestmark = pytest.mark.kafka

OpenLog = Callable[..., KafkaLog]
PARTITIONS = 8
FAR = CAUGHT_UP_RECORDS * 10


@dataclass
class Timeline:
    """Who owns what at every moment, as told by the nodes themselves. Thread-safe."""

    owners: dict[int, str] = field(default_factory=dict)
    by_generation: dict[tuple[int, int], str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def owns(self, node: "Watched", ownership: Ownership) -> None:
        with self.lock:
            for partition in ownership.partitions:
                before = self.owners.get(partition, node.name)
                if before != node.name:
                    self.errors.append(f"{partition} went to {node.name} while {before} owned it: {ownership}")
                first = self.by_generation.setdefault((ownership.generation, partition), node.name)
                if first != node.name:
                    self.errors.append(f"{first} and {node.name} both own {partition} in {ownership.generation}")
                self.owners[partition] = node.name

    def drops(self, node: str, partitions: frozenset[int]) -> None:
        with self.lock:
            for partition in partitions:
                if self.owners.get(partition) == node:
                    del self.owners[partition]


class Watched(Node):
    """A node with a name, positions that a test sets, and a timeline. `may_revoke` holds up what is to be given up."""

    def __init__(self, open_log: OpenLog, broker: str, topic: str, timeline: Timeline, name: str, **info: str) -> None:
        self.name = name
        self.timeline = timeline
        self.positions: dict[int, int] = {}
        self.may_revoke = threading.Event()
        self.may_revoke.set()
        self.info = NodeInfo(**{"node_id": name, "incarnation": "1", "address": f"http://{name}:1", **info})
        member = LoneMember(self.info, num_standby_replicas=1, get_positions=lambda: dict(self.positions))
        log = open_log(broker, node_id=name, state_dir=None)  # Two processes of one name must not share one.
        super().__init__(log, [topic], partitions=PARTITIONS, member=member)
        self.join()

    def on_assigned(self, ownership: Ownership) -> None:
        self.timeline.owns(self, ownership)
        super().on_assigned(ownership)

    def on_revoked(self, partitions: frozenset[int]) -> None:
        super().on_revoked(partitions)
        self.may_revoke.wait(WAIT_S)
        self.timeline.drops(self.name, partitions)

    def on_lost(self, partitions: frozenset[int]) -> None:
        self.timeline.drops(self.name, partitions)
        super().on_lost(partitions)

    def wait_for(self, is_so: Callable[[ClusterView], bool]) -> ClusterView:
        """Return the first view of which *is_so* says yes."""
        with self._changed:
            assert self._changed.wait_for(lambda: is_so(self.view), WAIT_S), (self.name, self.view, self.reports)
            return self.view

    def catch_up(self, position: int = FAR) -> None:
        """Have applied everything that this node owns or follows."""
        followed = self.view.followed_by(self.name) | self.view.owned_by(self.name)
        self.positions = dict.fromkeys(followed, position)

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Let none of the member's requests reach a broker."""
        manager = self.membership._consumer._coordinator._manager
        send = manager.send
        manager.send = lambda *_, **__: Future().failure(NodeNotReadyError("cut off"))
        try:
            yield
        finally:
            manager.send = send


Start = Callable[..., Watched]


@pytest.fixture
def start(kafka_broker: str, open_log: OpenLog, prefix: str) -> Iterator[Start]:
    timeline = Timeline()
    yield lambda name, **info: Watched(open_log, kafka_broker, prefix + "t", timeline, name, **info)
    assert not timeline.errors


def shares(view: ClusterView) -> list[int]:
    return sorted(len(view.owned_by(name)) for name in view.nodes)


def test_the_standbys_of_a_node_that_is_cut_off_take_over_after_its_lease(start: Start) -> None:
    """Three nodes share the partitions; one is cut off: who followed owns, not before the lease has ended; and when
    the old owner is back, it learns that all is lost."""
    nodes = [start(name) for name in "abc"]
    for node in nodes:
        node.wait_for(lambda view: shares(view) == [2, 3, 3])
        node.catch_up()
    nodes[0].membership.rebalance()
    view = nodes[0].wait_for(lambda view: view.epoch > nodes[0].ownership.generation - 1 and shares(view) == [2, 3, 3])
    lost = nodes[2]
    standbys = {number: view.placements[number].standbys[0] for number in view.owned_by("c")}
    lost.timeline.drops("c", view.owned_by("c"))  # What it believes while it is cut off is worth its lease.
    with lost.cut_off():
        after = nodes[0].wait_for(lambda view: set(view.nodes) == {"a", "b"} and shares(view) == [4, 4])
        nodes[1].wait_until_owned(partitions=4)
        assert lost.membership.lease_until < CLOCK.monotonic(), "somebody owned while the old lease ran"
        taken = [after.placements[number].owner == standby for number, standby in standbys.items()]
        assert sum(taken) >= len(taken) - 1, "all but what would be more than a share"
    nodes[0].wait_for(lambda view: shares(view) == [2, 3, 3])
    lost.wait_for(lambda view: view.epoch > after.epoch)
    assert ("lost", view.owned_by("c")) in lost.reports


def test_a_newcomer_warms_up_and_gets_its_share_when_the_old_owner_has_let_go(start: Start) -> None:
    """First it follows, then it asks, then the owner gives up, and only when that has returned it owns."""
    old = start("a")
    alone = old.wait_until_owned()
    old.catch_up()
    new = start("b")
    share = new.wait_for(lambda view: "b" in view.nodes).followed_by("b")
    warming = {number for number, place in enumerate(new.view.placements) if "b" in place.warming}
    assert len(warming) == PARTITIONS // 2
    assert old.wait_until_owned(after_generation=alone.generation).generation == new.ownership.generation
    assert share == frozenset(range(PARTITIONS)), "it warms up what it is to own, and stands by for the rest"
    old.may_revoke.clear()
    new.catch_up()
    new.membership.rebalance()
    old.wait_for(lambda _: old.reports[-1] == ("revoked", warming))
    assert new.ownership.partitions == frozenset()
    assert old.timeline.owners == dict.fromkeys(range(PARTITIONS), "a")
    old.may_revoke.set()
    assert new.wait_until_owned(partitions=PARTITIONS // 2).partitions == warming
    assert all(tuple(place.followers) == ("b" if place.owner == "a" else "a",) for place in new.view.placements)


def test_a_second_process_with_a_node_id_is_refused(start: Start) -> None:
    """It owns nothing and is told why; the first goes on."""
    first = start("a")
    first.wait_until_owned()
    second = start("a", incarnation="2", address="http://elsewhere:1")
    view = second.wait_for(lambda view: view.refusal_of(second.info) is not None)
    assert view.refusal_of(first.info) is None
    assert second.wait_until_owned(partitions=0).generation == view.epoch
    second.membership.leave(within(5))
    first.wait_for(lambda view: view.epoch > second.ownership.generation and not view.refused)
    assert first.wait_until_owned().partitions == frozenset(range(PARTITIONS))
    assert [kind for kind, _ in first.reports if kind != "assigned"] == []


def test_an_observer_sees_the_map_and_that_it_is_gone(start: Start) -> None:
    """It is told the map that the members have, with its epoch, each time it changes; it is in it itself nowhere."""
    observer = start("o", role=OBSERVER)
    member = start("a")
    member.wait_until_owned()
    assert observer.wait_for(lambda view: view.owned_by("a") == frozenset(range(PARTITIONS))) == member.view
    assert (observer.membership.lease_until, observer.reports) == (0.0, [])
    member.positions = {0: 1}
    member.membership.rebalance()
    member.wait_until_owned(after_generation=observer.view.epoch)
    observer.membership.rebalance()
    observer.wait_for(lambda view: view.epoch == member.ownership.generation)
    assert set(observer.view.nodes) == {"a"}
    member.membership.leave(within(5))
    gone = observer.wait_for(lambda view: not view.nodes)
    assert [place.owner for place in gone.placements] == [None] * PARTITIONS


class RogueAssignor(AbstractPartitionAssignor):
    """What a member says that is no node of ours."""

    name = "streams"

    def supported_protocols(self) -> list[RebalanceProtocol]:
        return [RebalanceProtocol.COOPERATIVE]

    def metadata(self, topics: set[str]) -> ConsumerProtocolSubscription:
        return ConsumerProtocolSubscription(
            version=1, topics=sorted(topics), user_data=b"\x78\x9c\xff garbage", owned_partitions=[]
        )

    def assign(self, cluster: object, members: object) -> None:
        raise AssertionError("it never leads")

    def on_assignment(self, assignment: object, generation: int) -> None: ...


class WilderAssignor(RogueAssignor):
    """What a member says that speaks another language altogether."""

    def metadata(self, topics: set[str]) -> bytes:
        return b"\x00\x01\xff\xff"


@pytest.mark.parametrize("assignor", [RogueAssignor, WilderAssignor])
def test_a_rogue_member_stops_nobody(
    start: Start, kafka_broker: str, prefix: str, assignor: type[RogueAssignor]
) -> None:
    """Somebody joins the group and says garbage: it gets nothing, the others keep all and go on."""
    first = start("a")
    before = first.wait_until_owned()
    rogue = KafkaConsumer(
        bootstrap_servers=kafka_broker,
        group_id=prefix + "app",
        partition_assignment_strategy=(assignor,),
        enable_auto_commit=False,
    )

    def poll_until(is_so: Callable[[], bool]) -> None:
        give_up_at = CLOCK.monotonic() + WAIT_S
        while not is_so():
            assert CLOCK.monotonic() < give_up_at, first.reports
            with contextlib.suppress(Exception):  # It cannot decode that it was given nothing.
                rogue.poll(100)

    try:
        rogue.subscribe([prefix + "t"])
        poll_until(lambda: first.ownership.generation > before.generation)
        assert rogue.assignment() == set()
        assert bool(first.view.refused) == (assignor is RogueAssignor), "who cannot be read at all has no name"
        second = start("b")
        poll_until(lambda: shares(second.view) == [4, 4])
    finally:
        rogue.close(autocommit=False)
    assert first.wait_until_owned(partitions=PARTITIONS // 2).partitions < before.partitions
