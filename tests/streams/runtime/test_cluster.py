"""A node among others: views, what it follows, replicas and their age, refusal, what it keeps through a rebalance."""

import asyncio
from typing import Any

import pytest

from streams.clock import Deadline, SystemClock
from streams.cluster import NOWHERE, OBSERVER, ClusterView, Placement
from streams.errors import ConfigError, LeaseExpired, LogUnavailable, NotOwner, Restoring, Unavailable
from streams.log.base import Ownership
from streams.records import ProducerRecord, TopicPartition
from streams.runtime.commands import Decided, Unknown
from streams.runtime.states import TaskState
from streams.runtime.views import Views
from streams.stores.memory import MemoryStoreFactory
from streams.testing import FakeClock, Fault, GroupMembership, MemoryGroup, MemoryLog
from tests.streams.runtime.rig import PARTITIONS, ROWS, Put, Rig

EVERYTHING = frozenset(range(PARTITIONS))


class Group:
    """Nodes on one log, all driven together."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = MemoryLog(clock=self.clock, group=MemoryGroup(clock=self.clock, session_timeout_s=3.0))
        self.rigs: list[Rig] = []

    def add(self, name: str, *, stores: MemoryStoreFactory | None = None, **config: Any) -> Rig:
        rig = Rig(log=self.log, stores=stores, clock=self.clock, node_id=name, num_standby_replicas=1, **config)
        assert rig.thread.bootstrap()
        self.rigs.append(rig)
        return rig

    def rounds(self, count: int = 8, *, seconds: float = 0.2) -> None:
        for _ in range(count):
            self.clock.advance(seconds)
            for rig in self.rigs:
                self.member(rig).step()
                rig.turn(2)

    @staticmethod
    def member(rig: Rig) -> GroupMembership:
        membership = rig.thread.membership
        assert isinstance(membership, GroupMembership)
        return membership

    def owner(self, partition: int) -> Rig:
        (rig,) = (rig for rig in self.rigs if rig.node.owns(partition))
        return rig


@pytest.fixture
def group() -> Group:
    group = Group()
    for name in ("n1", "n2"):
        group.add(name)
    group.rounds()
    return group


def test_each_node_knows_the_map_and_its_own_part(group: Group) -> None:
    """Owner, standby and everybody's view agree."""
    assert len({rig.node.view.epoch for rig in group.rigs} - {NOWHERE.epoch}) == 1
    for partition in range(PARTITIONS):
        owner = group.owner(partition)
        assert [rig.node.role_of(partition) for rig in group.rigs].count("owner") == 1
        for rig in group.rigs:
            info = rig.node.view.owner_of(partition)
            assert info is not None
            assert info == owner.node.info


def test_a_follower_answers_replicas_only_and_says_how_old_they_are(group: Group) -> None:
    """It may not answer as the owner does, nor say that it is restoring: the partition is another node's."""
    owner = group.owner(0)
    follower = next(rig for rig in group.rigs if rig is not owner)
    put = owner.submit(Put(b"k", b"v"))
    group.rounds(2, seconds=0.0)
    assert isinstance(owner.outcome(put), Decided)
    with pytest.raises(NotOwner):
        follower.node.reader("rows.store", 0)
    replica = follower.node.replica("rows.store", 0)
    assert replica.get(b"k") == b"v"
    with pytest.raises(LeaseExpired):
        replica.check_lease()
    group.clock.advance(0.2)
    group.rounds(1, seconds=0.0)
    assert 0 < replica.staleness_ms() <= 1
    group.log.is_reachable = False
    group.clock.advance(1.5)
    follower.turn()
    assert 1450 <= replica.staleness_ms() <= 1550
    assert follower.thread.tasks[0].state is TaskState.STANDBY


def test_a_follower_takes_over_without_reading_anything_again(group: Group) -> None:
    """Its store holds what was written; only the fence and the rest are left."""
    owner = group.owner(0)
    put = owner.submit(Put(b"k", b"v"))
    group.rounds(2)
    assert isinstance(owner.outcome(put), Decided)
    heir = next(rig for rig in group.rigs if rig is not owner)
    applied = heir.node.metrics.records_applied
    group.rigs.remove(owner)
    group.rounds(20, seconds=0.3)
    assert heir.node.reader("rows.store", 0).get(b"k") == b"v"
    assert heir.node.metrics.records_applied == applied
    assert heir.node.health().is_ready


def test_what_a_node_keeps_goes_on_while_another_joins(group: Group) -> None:
    """Reads never stop; a write waits for no more than the fence."""
    keeper = group.owner(0)
    group.add("n3")
    for _ in range(40):
        group.rounds(1, seconds=0.05)
        if keeper.node.owns(0) and keeper.node.view.owner_of(0) == keeper.node.info:
            keeper.node.reader("rows.store", 0).check_lease()
    assert sorted(len(rig.thread.owned) for rig in group.rigs) == [1, 1, 1]


def test_a_newcomer_warms_up_before_it_owns(group: Group) -> None:
    """It is far behind: until it has caught up the old owners keep their partitions."""
    group.log.put(*(ProducerRecord(ROWS, p, b"%d" % n, b"v") for n in range(12_000) for p in range(PARTITIONS)))
    group.rounds(30, seconds=0.05)
    newcomer = group.add("n3")
    group.member(newcomer).step()
    seen = set()
    for _ in range(60):
        group.rounds(1, seconds=0.1)
        place = [p for p in newcomer.node.view.placements if "n3" in p.warming]
        seen.add((bool(place), bool(newcomer.thread.owned)))
        assert not any(p.owner is None for p in place)
    assert (True, False) in seen
    assert newcomer.thread.owned


def test_one_partition_that_restores_keeps_nobody_else_waiting() -> None:
    """The section opens for each partition when that one is ready."""
    rig = Rig().start()
    rig.log.membership.lose()
    rig.turn()
    rig.log.withhold(TopicPartition(ROWS, 1))
    rig.log.put(ProducerRecord(ROWS, 1, b"k", b"theirs"))
    rig.log.membership.assign(generation=2)
    ready, waiting = rig.submit(Put(b"k", b"v")), rig.submit(Put(b"k", b"v", places=((ROWS, 1),)))
    rig.turn(4)
    assert isinstance(rig.outcome(ready), Decided)
    assert rig.outcome(waiting) is None
    with pytest.raises(Restoring):
        rig.get(b"k", partition=1)
    rig.log.release()
    rig.turn(4)
    assert isinstance(rig.outcome(waiting), Decided)


def test_a_refused_node_gives_up_with_the_reason(group: Group) -> None:
    """Other settings than the rest: it may not take part, and says why."""
    stranger = group.add("n3", shared_settings={"partitions": "7"})
    with pytest.raises(ConfigError, match="partitions"):
        group.rounds(20)
    assert not stranger.thread.owned


def test_an_observer_follows_everything_and_owns_nothing(group: Group) -> None:
    """It answers replicas of all partitions, and refuses every command."""
    observer = group.add("o1", role=OBSERVER)
    group.rounds()
    assert observer.thread.tasks.keys() == EVERYTHING
    assert observer.node.health().is_ready
    assert observer.node.role_of(0) == "observer"
    put = observer.submit(Put(b"k", b"v"))
    observer.turn(2)
    assert isinstance(getattr(observer.outcome(put), "error", None), NotOwner)
    assert "o1" not in observer.node.view.nodes


def test_state_that_nobody_wants_is_removed_after_a_while() -> None:
    """Not at once, since it may come back; and not because everything was lost."""
    rig = Rig(state_cleanup_delay_s=60.0).start()
    rig.log.membership.lose()
    rig.clock.advance(1000)
    rig.turn(2)
    rig.clock.advance(1000)
    rig.turn(2)
    assert rig.stores.tasks() == sorted(EVERYTHING)
    rig.log.membership.assign(generation=2, partitions=frozenset({1}))
    rig.clock.advance(0.1)
    rig.turn(3)
    rig.clock.advance(59)
    rig.turn()
    assert rig.stores.tasks() == sorted(EVERYTHING)
    rig.clock.advance(2)
    rig.turn()
    assert rig.stores.tasks() == [1]
    with pytest.raises(NotOwner):
        rig.node.replica("rows.store", 0)


def test_tasks_on_disk_are_followed_before_the_node_joins() -> None:
    """So the group knows how far the node is when it divides."""
    rig = Rig().start()
    rig.submit(Put(b"k", b"v"))
    rig.turn(2)
    rig.thread.close()
    again = Rig(log=rig.log, stores=rig.stores)
    rig.log.membership.is_automatic = False
    assert again.thread.bootstrap()
    assert rig.log.membership.member.positions() == {0: 1, 1: 0, 2: 0}
    assert again.node.replica("rows.store", 0).get(b"k") == b"v"


def test_a_reader_does_not_outlive_its_tenure() -> None:
    """The group takes the partition away and gives it back before the stream thread has heard of either."""
    rig = Rig().start()
    reader = rig.node.reader("rows.store", 0)
    reader.check_lease()
    rig.log.membership.lose()
    rig.log.membership.lease_until = float("inf")
    rig.log.membership.assign(generation=2)
    with pytest.raises(LeaseExpired):
        reader.check_lease()
    with pytest.raises(LeaseExpired):
        rig.node.reader("rows.store", 0).check_lease()
    rig.turn(4)
    rig.node.reader("rows.store", 0).check_lease()


def test_a_key_whose_write_is_under_way_is_not_read_under_the_lease() -> None:
    """From before it can be in the log, where a copy may read it, until it is applied here; other keys are not held
    up."""
    rig = Rig().start()
    rig.log.faults.append(Fault.PENDING)
    put = rig.submit(Put(b"k", b"v"))
    rig.turn()
    reader = rig.node.reader("rows.store", 0)
    with pytest.raises(LeaseExpired, match="under way"):
        reader.check_settled(b"k")
    reader.check_settled(b"other")
    rig.node.reader("rows.store", 1).check_settled(b"k")
    rig.log.complete()
    rig.turn(3)
    assert isinstance(rig.outcome(put), Decided)
    reader.check_settled(b"k")


def test_a_write_of_unknown_outcome_keeps_its_key_from_being_read_until_the_log_has_told() -> None:
    """Its caller has gone; what became of it is not known before the barrier is applied."""
    rig = Rig().start()
    rig.log.faults.append(Fault.UNKNOWN_LATE)
    put = rig.submit(Put(b"k", b"v"), seconds=1.0)
    rig.log.fence_faults.append(LogUnavailable("chosen"))
    rig.turn(2)
    rig.clock.advance(2.0)
    with pytest.raises(LeaseExpired, match="under way"):
        rig.node.reader("rows.store", 0).check_settled(b"k")
    rig.turn(6)
    assert isinstance(rig.outcome(put), Unknown)
    rig.node.reader("rows.store", 0).check_settled(b"k")
    assert rig.get(b"k") == b"v"


def test_a_newer_view_wakes_who_waits_for_it() -> None:
    """An older one changes nothing, whoever offers it."""
    clock = SystemClock()
    views = Views(clock)
    newer, older = (ClusterView(epoch=epoch, nodes={}, placements=()) for epoch in (5, 3))

    async def run() -> None:
        waiter = asyncio.create_task(views.wait(-1, Deadline.after(5, clock)))
        await asyncio.sleep(0)
        views.offer(newer)
        assert await waiter is newer
        views.offer(older)
        assert views.newest is newer
        assert await views.wait(4, Deadline.after(5, clock)) is newer
        with pytest.raises(Unavailable):
            await views.wait(5, Deadline.after(0.01, clock))

    asyncio.run(run())


def test_a_group_that_is_counted_anew_has_the_newest_map() -> None:
    """Kafka forgets a group that was empty for a week. An observer that was there all the time must not keep its old
    map for as many generations as there were before; nor take it back from a peer that has not looked yet."""
    views = Views(FakeClock())
    old, new = (ClusterView(epoch, {}, ()) for epoch in (57, 1))
    views.offer_own(old)
    views.offer_own(new)
    assert views.newest is new
    views.offer(old)
    assert views.newest is new
    later = ClusterView(2, {}, ())
    views.offer_own(later)
    assert views.newest is later


def test_an_own_map_that_is_late_does_not_replace_a_newer_one_of_a_peer() -> None:
    """The epochs of one group alone say which map is newer."""
    views = Views(FakeClock())
    views.offer_own(ClusterView(4, {}, ()))
    views.offer(ClusterView(6, {}, ()))
    views.offer_own(ClusterView(5, {}, ()))
    assert views.newest.epoch == 6
    emptied = ClusterView(5, {}, (Placement(None),))
    views.offer_own(emptied)
    assert views.newest is emptied


def test_a_barrier_is_for_what_is_followed_here() -> None:
    """Of anything else this node can prove nothing, and does not pretend to until the deadline."""
    rig = Rig().start()
    rig.log.membership.assign(generation=2, partitions=frozenset({0}))
    rig.turn(3)

    async def run() -> None:
        await rig.node.barrier((0,), Deadline.after(5, rig.clock))
        del rig.thread.tasks[2]
        with pytest.raises(NotOwner):
            await rig.node.barrier((2,), Deadline.after(5, rig.clock))

    asyncio.run(run())


def test_an_ownership_of_nothing_is_a_place_in_the_group(group: Group) -> None:
    """More nodes than partitions: the rest is ready to forward, and closes nothing."""
    for name in ("n3", "n4"):
        group.add(name)
    group.rounds(20)
    idle = [rig for rig in group.rigs if not rig.thread.owned]
    assert len(idle) == 1
    assert idle[0].node.health().is_ready
    assert isinstance(group.member(idle[0]).current, Ownership)
