"""The stream thread: ownership, restore, quarantine, damage and disk errors, turn by turn."""

import dataclasses
import threading

import pytest

from streams.errors import LogError, NotOwner, Restoring, StoreDamaged
from streams.records import ProducerRecord, TopicPartition
from streams.runtime.commands import Decided, Refused
from streams.runtime.events import Revoked
from streams.runtime.states import TaskState
from streams.stores.memory import MemoryStoreFactory
from streams.testing import Fault
from tests.streams.runtime.rig import INDEX, PARTITIONS, ROWS, Put, Rig


def test_a_task_answers_only_after_it_has_applied_the_barrier() -> None:
    """Before that even `no such key` would be a guess."""
    rig = Rig()
    assert rig.thread.bootstrap()
    rig.log.put(ProducerRecord(ROWS, 0, b"k", b"v"))
    with pytest.raises((Restoring, NotOwner)):
        rig.get(b"k")
    rig.turn(3)
    assert rig.get(b"k") == b"v"
    assert rig.node.health().is_ready


def test_a_restart_goes_on_at_the_stored_position_and_reads_nothing_twice() -> None:
    """The position comes from the store, so the rows of the first run are still there and none is applied again."""
    rig = Rig().start()
    rig.submit(Put(b"k", b"v"))
    rig.turn(2)
    rig.thread.close()
    again = Rig(log=rig.log, stores=rig.stores).start()
    assert again.get(b"k") == b"v"
    assert again.node.metrics.records_applied == 0


def test_a_poison_record_is_quarantined_and_the_partition_goes_on() -> None:
    """It leaves a trace with its place and reason, keeps the last good row, and stops nobody."""
    rig = Rig().start()
    rig.log.put(
        ProducerRecord(ROWS, 0, b"k", b"good"),
        ProducerRecord(ROWS, 0, b"k", b"poison"),
        ProducerRecord(ROWS, 0, None, b"x"),
        ProducerRecord(ROWS, 0, b"z", b"after"),
    )
    rig.turn()
    assert (rig.get(b"k"), rig.get(b"z")) == (b"good", b"after")
    entries = rig.node.quarantine(10)
    assert {(entry.topic, entry.partition, entry.offset, entry.reason) for entry in entries} == {
        (ROWS, 0, 1, "wrong-shape"),
        (ROWS, 0, 2, "no-key"),
    }
    assert rig.node.metrics.poison == {(ROWS, "wrong-shape"): 1, (ROWS, "no-key"): 1}


def test_reported_damage_rebuilds_the_task_and_serves_nothing_meanwhile() -> None:
    """The rebuilt task must come as far as it was before it answers again."""
    rig = Rig().start()
    rig.submit(Put(b"k", b"v"))
    rig.turn(2)
    rig.log.withhold(TopicPartition(ROWS, 0))
    rig.log._withheld[TopicPartition(ROWS, 0)] = 0
    rig.node.reader("rows.store", 0).report_damage(StoreDamaged("flipped bit"))
    with pytest.raises(Restoring):
        rig.get(b"k")
    rig.turn(3)
    with pytest.raises(Restoring):
        rig.get(b"k")
    rig.log.release()
    rig.turn(2)
    assert rig.get(b"k") == b"v"
    assert rig.node.health().tasks[0].rebuilds == 1


def test_damage_met_by_a_decision_rebuilds_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is refused as restoring, and a repetition succeeds on the rebuilt rows."""
    rig = Rig().start()
    rig.submit(Put(b"k", b"v"))
    rig.turn(2)

    def damaged(key: bytes) -> bytes:
        raise StoreDamaged("flipped bit")

    task = rig.thread.tasks[0]
    task.getters = {**task.getters, "rows.store": damaged}
    put = rig.submit(Put(b"k", b"w", expected=b"v"))
    rig.turn(3)
    outcome = rig.outcome(put)
    assert isinstance(outcome, Refused)
    assert isinstance(outcome.error, Restoring)
    again = rig.submit(Put(b"k", b"w", expected=b"v"))
    rig.turn(3)
    assert isinstance(rig.outcome(again), Decided)
    assert rig.get(b"k") == b"w"


def test_a_position_beyond_the_log_rebuilds_the_task() -> None:
    """A store that knows more than the log belongs to another history."""
    rig = Rig().start()
    for n in range(5):
        rig.submit(Put(b"%d" % n, b"v"))
    rig.turn(3)
    rig.thread.close()
    del rig.log._records[TopicPartition(ROWS, 0)][2:]
    again = Rig(log=rig.log, stores=rig.stores).start(turns=6)
    assert again.node.health().tasks[0].rebuilds == 1
    assert [again.get(b"%d" % n) for n in range(3)] == [b"v", b"v", None]


def test_another_topic_of_the_same_name_wipes_the_store() -> None:
    """Rows of the old topic must not show through."""
    rig = Rig().start()
    rig.submit(Put(b"k", b"v"))
    rig.turn(2)
    rig.thread.close()
    fresh = Rig(stores=rig.stores).start()
    assert fresh.get(b"k") is None


def test_a_full_disk_stops_nothing_but_writes_and_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read while the store refused is read again once it works."""
    rig = Rig().start()
    store = rig.thread.tasks[0].store
    commit = store.commit

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "commit", full)
    put = rig.submit(Put(b"k", b"v"))
    rig.turn(3)
    assert rig.outcome(put) is None
    assert rig.get(b"other") is None
    monkeypatch.setattr(store, "commit", commit)
    rig.clock.advance(2)
    rig.turn(3)
    assert isinstance(rig.outcome(put), Decided)
    assert rig.get(b"k") == b"v"


def test_lost_partitions_answer_nothing_until_they_are_owned_again() -> None:
    """Another owner may have written meanwhile: only the next barrier tells."""
    rig = Rig().start()
    rig.log.membership.lose()
    rig.turn()
    with pytest.raises(NotOwner):
        rig.get(b"k")
    rig.log.put(ProducerRecord(ROWS, 0, b"k", b"theirs"))
    rig.log.membership.assign(generation=5)
    rig.turn(3)
    assert rig.get(b"k") == b"theirs"


def test_a_revocation_waits_for_the_append_in_flight() -> None:
    """The next owner must not start while ours may still commit under the old generation."""
    rig = Rig().start()
    rig.log.faults.append(Fault.PENDING)
    rig.submit(Put(b"k", b"v"))
    rig.turn()
    revoked = threading.Thread(target=rig.log.membership.revoke)
    revoked.start()
    while not rig.thread._events:
        pass
    rig.turn(2)
    assert revoked.is_alive()
    rig.log.complete()
    rig.turn(2)
    revoked.join(5)
    assert not revoked.is_alive()


def test_a_revocation_does_not_wait_for_appends_that_begin_after_it() -> None:
    """Writes to the partitions that are kept go on and on: the group waits for the one append in flight."""
    rig = Rig().start()
    revoked = Revoked(frozenset({0}))
    for number in range(4):
        rig.log.faults.append(Fault.PENDING)
        rig.submit(Put(b"%d" % number, b"v", places=((ROWS, 1),)))
        rig.turn()
        if number == 1:
            rig.thread.post(revoked)
        rig.log.complete()
    assert revoked.is_released.is_set()


def test_a_write_to_a_partition_that_moved_meanwhile_is_answered_only_after_it_was_read() -> None:
    """Its transaction is decided and its markers are not in the partition yet: a strict read elsewhere would miss it.
    Later writes to other partitions do not wait for that."""
    rig = Rig().start()
    rig.log.faults.append(Fault.PENDING)
    put = rig.submit(Put(b"k", b"v"))
    rig.turn()
    rig.thread.post(Revoked(frozenset({0})))
    rig.turn()
    rig.log.withhold(TopicPartition(ROWS, 0))
    rig.log.complete()
    others = [rig.submit(Put(b"%d" % number, b"v", places=((ROWS, 1),))) for number in range(3)]
    for _ in others:
        rig.turn(3)
    assert rig.outcome(put) is None
    assert all(isinstance(rig.outcome(other), Decided) for other in others)
    assert not rig.thread.is_idle
    rig.log.release()
    rig.turn(2)
    assert isinstance(rig.outcome(put), Decided)
    assert rig.thread.is_idle


def test_topics_with_different_partition_counts_are_refused() -> None:
    """Co-partitioning is what makes one task own a key in all topics."""
    rig = Rig()
    rig.thread._topics = [
        spec if spec.name == ROWS else type(spec)(INDEX, spec.config, partitions=PARTITIONS + 1)
        for spec in rig.thread._topics
    ]
    with pytest.raises(LogError):
        rig.thread.bootstrap()


def test_a_node_that_never_reached_its_log_can_be_closed() -> None:
    """It stops like any other."""
    rig = Rig()
    rig.log.is_reachable = False
    assert not rig.thread.bootstrap()
    rig.thread.close()


def test_an_unreachable_log_is_tried_again() -> None:
    """A node may be started before its broker."""
    rig = Rig()
    rig.log.is_reachable = False
    assert not rig.thread.bootstrap()
    assert not rig.node.health().is_ready
    rig.log.is_reachable = True
    rig.start()
    assert rig.node.health().is_ready


def test_a_long_batch_is_applied_in_chunks_with_the_same_result() -> None:
    """Chunks bound the time the interpreter's lock is held; nothing is lost at their edges."""
    rig = Rig().start()
    rig.log.put(*(ProducerRecord(ROWS, 0, b"%d" % n, b"v") for n in range(1700)))
    rig.turn(2)
    assert all(rig.get(b"%d" % n) == b"v" for n in range(1700))
    assert rig.thread.tasks[0].positions[ROWS] == 1700


def test_rows_that_have_expired_are_swept_away() -> None:
    """The log deletes by age without a word, so the store has to do it by the rows' own time."""
    rig = Rig().start()
    rig.submit(Put(b"k", b"v"))
    rig.turn(2)
    table = rig.thread.tasks[0]._topology._tables[ROWS]
    expires_at = rig.clock.time_ms() + 10_000
    rig.thread.tasks[0]._topology._tables[ROWS] = dataclasses.replace(table, expires_at_ms=lambda row: expires_at)
    for _ in range(PARTITIONS):
        rig.clock.advance(2)
        rig.turn()
    assert rig.get(b"k") == b"v"
    for _ in range(PARTITIONS):
        rig.clock.advance(2)
        rig.turn()
    assert rig.get(b"k") is None


def test_an_illegal_transition_is_a_bug_that_shows() -> None:
    """A closed task cannot come back to life."""
    rig = Rig().start()
    task = rig.thread.tasks[0]
    rig.thread.close()
    with pytest.raises(AssertionError):
        task.move_to(TaskState.ACTIVE)


def test_stop_in_threads_answers_everything_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loop, started and stopped: the accepted write is answered, and nothing stays alive."""
    from streams.clock import Deadline, SystemClock

    rig = Rig(stores=MemoryStoreFactory(max_age_ms=None, clock=SystemClock()))
    clock = SystemClock()
    for holder in (rig.thread, rig.node, rig.node.table):
        monkeypatch.setattr(holder, "_clock", clock)
    rig.node.start()
    outcome = rig.node.table.execute(Put(b"k", b"v"), Deadline.after(10, clock))
    assert isinstance(outcome, Decided)
    rig.node.stop(Deadline.after(10, clock))
    assert not rig.thread.is_alive
    assert not rig.fatal
