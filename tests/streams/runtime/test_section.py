"""The write section: what becomes of commands when appends succeed, fail, or end without a word."""

import pytest

from streams.errors import (
    Draining,
    GenerationPassed,
    LogUnavailable,
    NotOwner,
    NotWritten,
    Overloaded,
    RecordRefused,
    RecordTooLarge,
    Restoring,
)
from streams.records import ProducerRecord, TopicPartition
from streams.runtime.commands import Decided, Refused, Unknown
from streams.runtime.states import SectionState
from streams.testing import Fault
from tests.streams.runtime.rig import INDEX, ROWS, Put, Rig


@pytest.fixture
def rig() -> Rig:
    return Rig().start()


def is_put(outcome: object) -> bool:
    return isinstance(outcome, Decided) and outcome.result[0] == "put"


def test_a_write_is_answered_only_after_it_was_read_back_and_applied(rig: Rig) -> None:
    """Committed is not enough: as long as no reader sees the record, its caller waits."""
    rig.log.withhold(TopicPartition(ROWS, 0))
    put = rig.submit(Put(b"k", b"v"))
    rig.turn(3)
    assert rig.log.dump(ROWS)
    assert rig.outcome(put) is None
    rig.log.release()
    rig.turn()
    assert rig.outcome(put) == Decided(("put", b"v"), {TopicPartition(ROWS, 0): 1})
    assert rig.get(b"k") == b"v"


def test_of_many_conditional_writes_in_one_group_exactly_one_wins(rig: Rig) -> None:
    """Within a group each command sees what those before it decided."""
    puts = [rig.submit(Put(b"k", b"%d" % n, expected=None)) for n in range(64)]
    rig.turn(2)
    assert [is_put(rig.outcome(put)) for put in puts] == [True] + [False] * 63
    assert len(rig.log.dump(ROWS)) == 1


def test_a_refusal_that_leaned_on_an_undecided_group_waits_for_it(rig: Rig) -> None:
    """If the group is lost, the refusal that it caused must not have been told to anybody."""
    rig.log.faults.append(Fault.PENDING)
    winner = rig.submit(Put(b"k", b"1", expected=None))
    loser = rig.submit(Put(b"k", b"2", expected=None))
    rig.turn(2)
    assert rig.outcome(loser) is None
    rig.log.complete()
    rig.turn(2)
    assert is_put(rig.outcome(winner))
    assert rig.outcome(loser) == Decided(("refused", b"1"), {})


def test_the_next_group_is_decided_on_a_committed_one_that_is_not_applied_yet(rig: Rig) -> None:
    """Commit and read-back overlap, and no update is lost in between."""
    rig.log.withhold(TopicPartition(ROWS, 0))
    first = rig.submit(Put(b"k", b"1", expected=None))
    rig.turn(2)
    second = rig.submit(Put(b"k", b"2", expected=None))
    third = rig.submit(Put(b"k", b"3", expected=b"1"))
    rig.turn(2)
    assert rig.outcome(second) is None
    assert [record.value for record in rig.log.dump(ROWS)] == [b"1", b"3"]
    rig.log.release()
    rig.turn(2)
    assert is_put(rig.outcome(first))
    assert rig.outcome(second) == Decided(("refused", b"1"), {})
    assert is_put(rig.outcome(third))


@pytest.mark.parametrize("fault", [Fault.UNKNOWN_WRITTEN, Fault.UNKNOWN_LATE])
def test_an_unknown_outcome_that_was_written_is_found_in_the_log_and_not_written_again(rig: Rig, fault: Fault) -> None:
    """After a fence and its barrier the event id is there, so the caller gets the result, once."""
    rig.log.faults.append(fault)
    put = rig.submit(Put(b"k", b"v", expected=None))
    rig.turn(5)
    assert is_put(rig.outcome(put))
    assert len(rig.log.dump(ROWS)) == 1
    assert rig.get(b"k") == b"v"


def test_an_unknown_outcome_that_was_lost_is_decided_again(rig: Rig) -> None:
    """The fence proves that it never was and never will be written; the caller's deadline has not passed."""
    rig.log.faults.append(Fault.UNKNOWN_LOST)
    put = rig.submit(Put(b"k", b"v", expected=None))
    rig.turn(5)
    assert is_put(rig.outcome(put))
    assert put.decided == 2
    assert len(rig.log.dump(ROWS)) == 1


def test_an_unknown_outcome_is_told_as_unknown_at_the_deadline(rig: Rig) -> None:
    """As long as no fence succeeds nobody may claim either; and the answer is given once."""
    rig.log.faults.append(Fault.UNKNOWN_LATE)
    rig.log.fence_faults.extend([LogUnavailable("gone")] * 2)
    put = rig.submit(Put(b"k", b"v"), seconds=5)
    rig.turn(2)
    rig.clock.advance(5.1)
    rig.turn()
    assert rig.outcome(put) == Unknown(put.event_id)
    rig.clock.advance(2)
    rig.turn(5)
    assert rig.get(b"k") == b"v"


def test_nothing_is_decided_between_an_unknown_outcome_and_its_settlement(rig: Rig) -> None:
    """A command behind it must see whatever the log turns out to hold."""
    rig.log.faults.append(Fault.UNKNOWN_LATE)
    rig.submit(Put(b"k", b"1", expected=None))
    rig.turn()
    second = rig.submit(Put(b"k", b"2", expected=None))
    rig.turn(5)
    assert rig.outcome(second) == Decided(("refused", b"1"), {})


def test_a_refused_append_is_decided_again_inside_the_deadline(rig: Rig) -> None:
    """The log was away for a moment; nobody needs to know."""
    rig.log.faults.append(Fault.UNAVAILABLE)
    put = rig.submit(Put(b"k", b"v"))
    rig.turn(2)
    assert rig.outcome(put) is None
    rig.clock.advance(2)
    rig.turn(4)
    assert is_put(rig.outcome(put))


def test_a_command_that_was_never_appended_is_told_so_at_its_deadline(rig: Rig) -> None:
    """Not written means never: it is gone from the queue when it is said."""
    rig.log.faults.append(Fault.UNAVAILABLE)
    put = rig.submit(Put(b"k", b"v"), seconds=1)
    rig.turn()
    rig.clock.advance(1.5)
    rig.turn(6)
    outcome = rig.outcome(put)
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, NotWritten)
    assert not rig.log.dump(ROWS)


def test_a_new_generation_in_mid_flight_costs_the_caller_nothing_but_time(rig: Rig) -> None:
    """The append is refused by the fence, and decided again under the next ownership."""
    rig.log.faults.append(Fault.FENCED)
    put = rig.submit(Put(b"k", b"v"))
    rig.turn()
    rig.log.membership.assign(generation=2)
    rig.turn(5)
    assert is_put(rig.outcome(put))


def test_no_fence_is_begun_under_a_generation_that_has_passed(rig: Rig) -> None:
    """It could only fail, and the fence under the next ownership would have to wait for its end; but when the group
    says nothing for long, it is tried again."""
    rig.log.fence_faults.extend([GenerationPassed("gone on"), GenerationPassed("gone on"), LogUnavailable("away")])
    rig.log.membership.assign(generation=2)
    rig.turn(3)
    assert len(rig.log.fence_faults) == 2
    rig.clock.advance(0.3)
    rig.turn(3)
    assert len(rig.log.fence_faults) == 2
    rig.clock.advance(0.3)
    rig.turn(3)
    assert len(rig.log.fence_faults) == 1
    rig.log.fence_faults.clear()
    rig.log.membership.assign(generation=3)
    rig.turn(3)
    assert rig.thread.section_state is SectionState.OPEN


def test_commands_for_a_lost_partition_are_refused_at_once(rig: Rig) -> None:
    """Waiting for the next owner is for whoever can turn to it: the edge."""
    rig.log.fence_faults.append(LogUnavailable("gone"))
    rig.log.membership.assign(generation=2)
    waiting = rig.submit(Put(b"k", b"v"))
    rig.turn(3)
    assert rig.outcome(waiting) is None
    rig.log.membership.lose()
    late = rig.submit(Put(b"k", b"v"))
    rig.turn()
    for put in (waiting, late):
        outcome = rig.outcome(put)
        assert isinstance(outcome, Refused)
        assert isinstance(outcome.error, NotOwner)


def test_only_the_record_that_is_too_large_is_refused(rig: Rig) -> None:
    """The log refuses the whole group and does not say for whom; the others must get through."""
    rig.log.faults.extend([Fault.TOO_LARGE, Fault.TOO_LARGE])
    puts = [rig.submit(Put(b"%d" % n, b"v")) for n in range(3)]
    rig.turn(8)
    first = rig.outcome(puts[0])
    assert isinstance(first, Refused)
    assert isinstance(first.error, RecordTooLarge)
    assert all(is_put(rig.outcome(put)) for put in puts[1:])


def test_records_of_one_group_become_visible_together(rig: Rig) -> None:
    """Neither table shows its half while the other half was not read yet."""
    rig.log.withhold(TopicPartition(INDEX, 1))
    put = rig.submit(Put(b"k", b"v", places=((ROWS, 0), (INDEX, 1))))
    rig.turn(3)
    assert rig.outcome(put) is None
    assert rig.get(b"k") is None
    rig.log.release()
    rig.turn()
    assert rig.get(b"k") == rig.get(b"k", topic=INDEX, partition=1) == b"v"
    assert is_put(rig.outcome(put))


def test_what_was_read_before_the_append_was_confirmed_is_applied_at_once_when_it_is(rig: Rig) -> None:
    """The reader can be faster than the confirmation; the turn that hears of it needs nothing new from the log."""
    rig.log.faults.append(Fault.PENDING)
    put = rig.submit(Put(b"k", b"v"))
    rig.turn()
    assert rig.log.pending
    targets = rig.log.put(*rig.log._pending[0].group)
    rig.turn()
    assert rig.outcome(put) is None
    rig.log._pending[0].future.set_result(targets)
    waits = []
    rig.thread._poll = lambda _section, timeout_s: waits.append(rig.outcome(put)) or []
    rig.turn()
    assert is_put(waits[0]), "the caller waited for the next poll"


def test_a_refusal_does_not_wait_for_the_log(rig: Rig) -> None:
    """A command that writes nothing is answered before the turn waits for records."""
    put = rig.submit(Put(b"k", b"v", expected=b"other"))
    waits = []
    rig.thread._poll = lambda _section, timeout_s: waits.append(rig.outcome(put)) or []
    rig.turn()
    assert waits == [Decided(("refused", None), {})]


def test_a_full_queue_refuses_at_once() -> None:
    """Overload is told, not hidden in a growing queue."""
    rig = Rig(max_queued_commands=2).start()
    for _ in range(2):
        rig.submit(Put(b"k", b"v"))
    with pytest.raises(Overloaded):
        rig.submit(Put(b"k", b"v"))


def test_a_draining_table_answers_what_it_accepted_and_refuses_the_rest(rig: Rig) -> None:
    """Stopping loses no accepted command."""
    put = rig.submit(Put(b"k", b"v"))
    rig.node.table.start_draining()
    with pytest.raises(Draining):
        rig.submit(Put(b"k", b"w"))
    rig.turn(2)
    assert is_put(rig.outcome(put))


def test_a_bug_in_a_command_is_its_callers_alone(rig: Rig) -> None:
    """A command that raises is refused; those around it are decided."""

    class Broken(Put):
        def decide(self, view: object) -> None:
            raise ZeroDivisionError

    broken, put = rig.submit(Broken(b"a", b"v")), rig.submit(Put(b"b", b"v"))
    rig.turn(2)
    assert isinstance(rig.outcome(broken), Refused)
    assert is_put(rig.outcome(put))


def test_a_bug_of_an_append_is_told_once_and_met_by_nobody_else(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """The group is taken apart: whoever meets the bug again is refused, and is not decided for ever."""
    rig.log.faults += [Fault.BUG, Fault.BUG]
    broken, put = rig.submit(Put(b"a", b"v")), rig.submit(Put(b"b", b"v"))
    for _ in range(8):
        rig.clock.advance(0.5)
        rig.turn()
    outcome = rig.outcome(broken)
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, RecordRefused)
    assert isinstance(outcome.error.__cause__, TypeError)
    assert is_put(rig.outcome(put))
    assert broken.decided == 2
    assert [record.message for record in caplog.records if record.exc_info] == ["append failed"]


def test_what_a_writer_raises_at_once_ends_no_thread(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is no bytes has no length to look at: that is the command's fault, and no other's."""

    def append(*_: object, **__: object) -> None:
        raise TypeError("object of type 'int' has no len()")

    with monkeypatch.context() as patch:
        patch.setattr(rig.thread._writer, "append", append)
        broken = rig.submit(Put(b"a", b"v"))
        rig.turn(2)
    assert isinstance(rig.outcome(broken), Refused)
    put = rig.submit(Put(b"b", b"v"))
    for _ in range(4):
        rig.clock.advance(0.5)
        rig.turn()
    assert is_put(rig.outcome(put))


def test_commands_wait_for_the_barrier_and_are_refused_at_their_deadline(rig: Rig) -> None:
    """While the section is not open nothing is decided, and the reason is told."""
    rig.log.membership.lose()
    rig.turn()
    rig.log.withhold(TopicPartition(ROWS, 0))
    rig.log.put(ProducerRecord(ROWS, 0, b"k", b"theirs"))
    rig.log.membership.assign(generation=2)
    put = rig.submit(Put(b"k", b"v"), seconds=3)
    rig.turn(4)
    assert rig.thread.section_state is SectionState.OPEN
    assert rig.outcome(put) is None
    rig.clock.advance(3.1)
    rig.turn()
    outcome = rig.outcome(put)
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, Restoring)
