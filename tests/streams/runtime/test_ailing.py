"""A partition that the log takes nothing for: it costs its own writes, and nobody else's."""

import asyncio

import pytest

from streams.clock import Deadline, SystemClock
from streams.errors import NotTaken, NotWritten, RecordRefused, Unavailable
from streams.records import TopicPartition
from streams.runtime.barrier import Barrier
from streams.runtime.commands import Decided, Refused, Unknown
from streams.runtime.states import SectionState, TaskState
from streams.runtime.waiters import Waiters
from streams.testing import Fault
from tests.streams.runtime.rig import INDEX, ROWS, Put, Rig


@pytest.fixture
def rig() -> Rig:
    return Rig().start()


def put_in(rig: Rig, partition: int, value: bytes = b"v", *, seconds: float = 10.0, topic: str = ROWS) -> Put:
    return rig.submit(Put(b"k", value, places=((topic, partition),)), seconds=seconds)


def is_put(rig: Rig, put: Put) -> bool:
    outcome = rig.outcome(put)
    return isinstance(outcome, Decided) and outcome.result[0] == "put"


def test_a_partition_without_a_leader_costs_only_its_own_writes(rig: Rig) -> None:
    """Those of one group that are for it are put aside, and the others are acknowledged; it comes back by itself."""
    rig.log.take_away(TopicPartition(INDEX, 0))
    ill = [put_in(rig, 0, topic=INDEX), put_in(rig, 0, b"w", topic=INDEX)]
    well = [put_in(rig, 1), put_in(rig, 2)]
    rig.turn(2)
    rig.clock.advance(0.1)
    rig.turn(4)
    assert all(is_put(rig, put) for put in well)
    assert [rig.outcome(put) for put in ill] == [None, None]
    assert rig.node.health().ailing_partitions == 1
    later = put_in(rig, 1, b"later")
    rig.turn(2)
    assert is_put(rig, later)
    rig.log.bring_back()
    rig.clock.advance(0.9)
    rig.turn(6)
    assert all(is_put(rig, put) for put in ill)
    assert rig.get(b"k", topic=INDEX) == b"w"
    assert rig.node.health().ailing_partitions == 0


def test_a_command_over_several_partitions_fails_as_a_whole(rig: Rig) -> None:
    """Nothing of it is written where that could be; when the outage lasts it is told so, and others do not wait."""
    rig.log.take_away(TopicPartition(ROWS, 0))
    both = rig.submit(Put(b"k", b"both", places=((ROWS, 0), (ROWS, 1))))
    rig.turn(2)
    rig.clock.advance(2.1)
    late = put_in(rig, 0)
    rig.turn(3)
    for put in (both, late):
        outcome = rig.outcome(put)
        assert isinstance(outcome, Refused)
        assert isinstance(outcome.error, NotTaken)
        assert outcome.error.partition == 0
    assert not rig.log.dump(ROWS)


def test_an_outage_is_waited_for_until_the_deadline(rig: Rig) -> None:
    """A caller with less patience than an election takes is told that nothing was written, and nothing is."""
    rig.log.take_away(TopicPartition(ROWS, 0))
    put = put_in(rig, 0, seconds=1)
    rig.turn(2)
    rig.clock.advance(0.5)
    rig.turn(2)
    assert rig.outcome(put) is None
    rig.clock.advance(0.6)
    rig.turn(2)
    outcome = rig.outcome(put)
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, NotTaken | NotWritten)
    rig.log.bring_back()
    rig.clock.advance(1)
    rig.turn(6)
    assert not rig.log.dump(ROWS)


def test_a_fence_does_not_fail_for_all_because_one_has_no_leader(rig: Rig) -> None:
    """A new generation is taken over but for that partition: its reads go on where they were, its writes wait, and it
    is ready once a look has shown its end."""
    rig.log.take_away(TopicPartition(ROWS, 0))
    rig.log.membership.assign(generation=2)
    rig.turn(4)
    assert rig.thread.section_state is SectionState.OPEN
    ill, well = put_in(rig, 0), put_in(rig, 1)
    rig.turn(2)
    assert is_put(rig, well)
    assert rig.outcome(ill) is None
    assert rig.get(b"k") is None, "plain reads go on under the lease"
    assert rig.thread.is_serving, "no other node, and no restart, could mend it"
    rig.log.bring_back()
    rig.clock.advance(1.1)
    rig.turn(6)
    assert is_put(rig, ill)


def test_a_partition_that_was_taken_over_without_a_leader_is_not_served_before_its_barrier() -> None:
    """Its new owner does not know what is in it: neither found nor missing may be said."""
    rig = Rig()
    rig.log.put()
    rig.start(0)
    rig.log.take_away(TopicPartition(INDEX, 0))
    rig.turn(4)
    states = {partition: task.state for partition, task in rig.thread.tasks.items()}
    assert states == {0: TaskState.RESTORING, 1: TaskState.ACTIVE, 2: TaskState.ACTIVE}
    rig.log.bring_back()
    rig.clock.advance(1.1)
    rig.turn(4)
    assert rig.thread.tasks[0].state is TaskState.ACTIVE


def test_a_record_that_the_log_refuses_is_its_own_command_s_fault(rig: Rig) -> None:
    """Its partition's commands go one by one until it is found; the others go on together meanwhile."""
    rig.log.faults.extend([Fault.REFUSED, Fault.REFUSED])
    bad, beside = put_in(rig, 0), put_in(rig, 0, b"w")
    well = [put_in(rig, 1, b"%d" % n) for n in range(3)]
    rig.turn(8)
    outcome = rig.outcome(bad)
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, RecordRefused)
    assert all(is_put(rig, put) for put in (beside, *well))
    assert len({record.offset for record in rig.log.dump(ROWS) if record.partition == 1}) == 3


@pytest.mark.parametrize(("fault", "is_written"), [(Fault.UNKNOWN_LATE, True), (Fault.UNKNOWN_LOST, False)])
def test_what_one_partition_shows_of_a_group_is_true_of_all(rig: Rig, fault: Fault, is_written: bool) -> None:
    """A group of unknown outcome over two partitions, of which one cannot be read: the other tells whether it was
    written. Who wrote to the one out of reach gets no answer that he could not see; and nobody else waits."""
    rig.log.faults.append(fault)
    far, near = put_in(rig, 0, seconds=5), put_in(rig, 1, seconds=5)
    rig.log.take_away(TopicPartition(ROWS, 0))
    rig.log._away.clear()  # the append itself is sent while there is a leader
    rig.turn(1)
    rig.log.take_away(TopicPartition(ROWS, 0))
    rig.turn(5)
    assert is_put(rig, near)
    if is_written:
        assert rig.outcome(far) == Unknown(far.event_id)
        with pytest.raises(Unavailable):
            rig.node.reader("rows.store", 0).check_settled(b"k")
    else:
        assert rig.outcome(far) is None, "it is decided again"
    other = put_in(rig, 2)
    rig.turn(2)
    assert is_put(rig, other)
    rig.log.bring_back()
    rig.clock.advance(1.1)
    rig.turn(6)
    assert rig.get(b"k") == b"v"
    rig.node.reader("rows.store", 0).check_settled(b"k")
    assert [record.value for record in rig.log.dump(ROWS) if record.partition == 0] == [b"v"]


def test_what_is_not_read_back_holds_up_nobody_for_long(rig: Rig) -> None:
    """A group is committed, and then one of its partitions loses its leader: after a moment the others are visible
    again, and its own caller is answered when it is."""
    rig.log.withhold(TopicPartition(ROWS, 0))
    far = put_in(rig, 0)
    rig.turn(2)
    near = put_in(rig, 1)
    rig.turn(2)
    assert rig.outcome(near) is None, "groups become visible in their order"
    rig.clock.advance(2.1)
    rig.turn(3)
    assert is_put(rig, near)
    assert rig.outcome(far) is None
    with pytest.raises(Unavailable):
        rig.node.reader("rows.store", 0).check_settled(b"k")
    rig.log.release()
    rig.turn(3)
    assert is_put(rig, far)
    rig.node.reader("rows.store", 0).check_settled(b"k")


def test_a_strict_read_waits_for_the_ends_of_its_own_partitions_alone() -> None:
    """A partition whose end cannot be learned fails who needs it at his deadline, and nobody else."""
    rig, clock = Rig().start(), SystemClock()
    looks: list[int] = []

    def look(_: Deadline) -> dict[TopicPartition, int]:
        looks.append(1)
        return {TopicPartition(ROWS, 1): 0, **({TopicPartition(ROWS, 2): 0} if len(looks) > 2 else {})}

    async def scenario() -> None:
        barrier = Barrier(tasks=rig.thread.tasks, waiters=Waiters(), clock=clock, look=look)
        await barrier.strict([1], Deadline.after(5, clock))
        assert len(looks) == 1
        await barrier.strict([1, 2], Deadline.after(5, clock))
        with pytest.raises(Unavailable):
            await barrier.strict([0, 1], Deadline.after(0.2, clock))

    asyncio.run(scenario())
