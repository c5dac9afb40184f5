"""The input of a task, and its batches, turn by turn."""

from collections.abc import Sequence
from typing import Any

import pytest

from streams.application.topics import runnable
from streams.dsl import Processor, ProcessorContext, StreamsBuilder, tumbling
from streams.errors import LogDamaged, ProcessingFailed, RecordRefused
from streams.log.base import LogWriter, Membership, TopicInfo
from streams.processing import ErrorPolicy
from streams.records import ProducerRecord, Record, RecordBatch, TopicPartition
from streams.runtime.processing import ProcessingBounds
from streams.runtime.processing.buffer import InputBuffer
from streams.runtime.processing.positions import InputPosition
from streams.stores.memory import MemoryStoreFactory
from streams.testing import FakeClock, Fault, MemoryLog
from streams.topology.subtopology import ProcessorTopology
from tests.streams.runtime.processing_rig import ProcessingRig

TOPICS = {"in": 1, "out": 1}


def topology() -> ProcessorTopology:
    builder = StreamsBuilder("app")
    builder.stream("in", key=str, value=str).group_by_key().count(store="counts").to_stream().to("out")
    return runnable(builder.build(), None)


def rig(**bounds: int) -> ProcessingRig:
    return ProcessingRig(topology(), TOPICS, bounds=ProcessingBounds(**bounds)).start()


def put(rig: ProcessingRig, number: int, value: bytes = b"v") -> None:
    rig.log.put(*(ProducerRecord("in", 0, b"k", value, (), n) for n in range(number)))


def counted(rig: ProcessingRig) -> list[int]:
    return [int.from_bytes(record.value or b"", "big") for record in rig.log.dump("out")]


def batches(rig: ProcessingRig) -> list[int]:
    """How many records each batch in the log has processed."""
    ends = [InputPosition.decode(record.value or b"").offsets["in"] for record in rig.log.dump("app-0-positions")]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def record(topic: str, offset: int, at_ms: int, value: bytes = b"") -> Record:
    return Record(topic, 0, offset, at_ms, b"k", value, ())


def batch(topic: str, *records: Record, next_offset: int | None = None) -> RecordBatch:
    assert records or next_offset is not None
    return RecordBatch(topic, 0, records, records[-1].offset + 1 if next_offset is None else next_offset)


def test_of_two_topics_the_older_record_comes_first() -> None:
    """And of equals that of the topic named first; a topic of which nothing is known yet is waited for."""
    buffer = InputBuffer({"a": 0, "b": 5}, {"a": None, "b": None})
    buffer.unsure = frozenset(("a", "b"))
    buffer.add(batch("a", record("a", 0, 10), record("a", 1, 30)))
    assert not buffer.has_next
    assert buffer.next() is None
    buffer.add(batch("b", record("b", 5, 10), record("b", 6, 20)))
    order = []
    while (found := buffer.next()) is not None:
        order.append((found.topic, found.offset))
    assert order == [("a", 0), ("b", 5), ("b", 6)]
    buffer.unsure = frozenset("a")
    assert (buffer.next() or order)[0] == "a"


def test_what_is_given_back_is_taken_again_from_the_same_position() -> None:
    """Gaps count as read only when everything before them was taken; bytes are those that wait."""
    buffer = InputBuffer({"a": 3}, {"a": None})
    buffer.add(batch("a", record("a", 3, 0, b"123"), record("a", 5, 0, b"12"), next_offset=9))
    assert buffer.size_bytes == 7
    first = buffer.next()
    assert first is not None
    assert buffer.taken([first]) == {"a": 4}
    second = buffer.next()
    assert second is not None
    assert (buffer.taken([second]), buffer.size_bytes) == ({"a": 9}, 0)
    buffer.give_back([first, second], {"a": 3})
    assert (len(buffer), buffer.size_bytes) == (2, 7)
    assert (buffer.next(), buffer.next(), buffer.next()) == (first, second, None)


def test_a_batch_takes_what_has_come_by_its_turn_within_its_bounds() -> None:
    """By records, and by bytes."""
    node = rig(batch_records=4)
    put(node, 10)
    node.turn(12)
    assert (counted(node), batches(node)) == (list(range(1, 11)), [4, 4, 2])
    node = rig(batch_bytes=250)
    put(node, 6, b"x" * 99)
    node.turn(12)
    assert (counted(node), batches(node)) == (list(range(1, 7)), [3, 3])


def test_what_is_read_ahead_is_bounded() -> None:
    """A stream thread that stands still does not fill the memory: no more is read than the bounds and one read."""
    node = rig(buffered_records=100)
    put(node, 50_000)
    for _ in range(100):
        node.processing.turn()
    (run,) = node.processing._runs.values()
    assert 100 < len(run.buffer) <= 2_100
    node.turn(200)
    assert counted(node) == list(range(1, 50_001))


def test_a_topic_that_is_waited_for_finds_room() -> None:
    """However much of the other one has come: it is paused, and goes on when the order of times is known."""
    builder = StreamsBuilder("app")
    builder.stream("in", "late", key=str, value=str).map_values(lambda value: value).to("out")
    topics = {"in": 1, "late": 1, "out": 1}
    node = ProcessingRig(runnable(builder.build(), None), topics, bounds=ProcessingBounds(buffered_records=100)).start()
    node.log.put(ProducerRecord("late", 0, b"k", b"late", (), 5))
    node.log.withhold(TopicPartition("late", 0))
    node.log.put(ProducerRecord("late", 0, b"k", b"later", (), 7))
    put(node, 30_000)
    node.clock.advance(2.0)  # So long nobody could say that nothing has come.
    node.turn(30)
    assert len(node.log.dump("out")) == 7, "up to the time of what is known of the other topic"
    (run,) = node.processing._runs.values()
    assert len(run.buffer) <= 2_100
    node.log.release()
    node.turn(120)
    values = [record.value for record in node.log.dump("out")]
    assert len(values) == 30_002
    assert (values.index(b"late"), values.index(b"later")) == (6, 9)


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.UNKNOWN_LOST, Fault.UNKNOWN_WRITTEN, Fault.UNKNOWN_LATE])
def test_a_failed_append_costs_an_engine_and_nothing_else(fault: Fault) -> None:
    """Whatever became of it, each record counts once."""
    node = rig(batch_records=4)
    put(node, 10)
    node.log.faults += [fault, fault]
    for _ in range(80):
        node.clock.advance(0.3)
        node.turn()
    assert counted(node) == list(range(1, 11))
    assert not node.processing.failed


def test_what_the_log_gives_back_again_and_again_becomes_smaller() -> None:
    """A batch that takes longer than an append may take would come back for ever."""
    node = rig(batch_records=64, batches_in_flight=1)
    put(node, 64)
    node.log.faults += [Fault.UNAVAILABLE] * 4
    for _ in range(80):
        node.clock.advance(1.0)
        node.turn()
    assert counted(node) == list(range(1, 65))
    assert batches(node)[0] <= 16


def test_a_record_that_the_log_refuses_is_found_and_stops_its_task() -> None:
    """The batch is done again record by record; what comes before it is kept."""
    node = rig(batch_records=8, batches_in_flight=1)
    put(node, 8)
    node.log.faults.append(Fault.REFUSED)
    for _ in range(4):
        node.clock.advance(1.0)
        node.turn()
    assert batches(node)[:2] == [1, 1]
    node.log.faults.append(Fault.REFUSED)
    for _ in range(40):
        node.clock.advance(1.0)
        node.turn()
    (failed,) = node.processing.failed
    assert "RecordRefused" in failed.reason
    done = len(counted(node))
    assert 2 <= done < 8
    assert counted(node) == list(range(1, done + 1))


class Picky(MemoryLog):
    """Refuses the records of `out` with the value `bad`, each time they come: as *error* says."""

    error: type[Exception] = RecordRefused

    def open_writer(self, topics: Sequence[str], membership: Membership) -> LogWriter:
        writer = super().open_writer(topics, membership)
        append = writer.append

        def picky(group: Sequence[ProducerRecord], **options: Any) -> Any:
            if any(each.topic == "out" and each.value == b"bad" for each in group):
                raise self.error("a record is refused")
            return append(group, **options)

        writer.append = picky  # type: ignore[method-assign]
        return writer


def picky_rig(choice: str, error: type[Exception]) -> ProcessingRig:
    builder = StreamsBuilder("app")
    builder.stream("in", key=str, value=str).map_values(lambda value: value).to("out")
    clock = FakeClock()
    log = Picky(clock=clock)
    log.error = error
    topics = {**TOPICS, "app-quarantine": 1}
    policy = ErrorPolicy(on_processing=choice)
    node = ProcessingRig(runnable(builder.build(), None), topics, log=log, clock=clock, policy=policy).start()
    node.log.put(*(ProducerRecord("in", 0, b"k", value) for value in (b"a", b"bad", b"b", b"bad", b"c")))
    for _ in range(60):
        node.clock.advance(1.0)
        node.turn()
    return node


@pytest.mark.parametrize("error", [RecordRefused, TypeError], ids=["refused", "bug"])
@pytest.mark.parametrize("choice", ["skip", "quarantine"])
def test_a_record_that_cannot_be_written_is_treated_by_the_policy(choice: str, error: type[Exception]) -> None:
    """Whether the log refuses what comes of it or it cannot be put into the log's form: all else goes on."""
    node = picky_rig(choice, error)
    assert [each.value for each in node.log.dump("out")] == [b"a", b"b", b"c"]
    set_aside = node.log.dump("app-quarantine")
    assert [each.value for each in set_aside] == ([b"bad"] * 2 if choice == "quarantine" else [])
    assert [dict(each.headers)["__streams.errors.offset"] for each in set_aside] == [b"1", b"3"][: len(set_aside)]
    counters = node.processing.counters
    assert (counters.skipped, counters.quarantined) == ((2, 0) if choice == "skip" else (0, 2))
    assert counters.processed == 5
    assert not node.processing.failed


@pytest.mark.parametrize("error", [RecordRefused, TypeError], ids=["refused", "bug"])
def test_a_record_that_cannot_be_written_stops_its_task(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """It is named, in health and once in the log, and what comes before it is kept."""
    node = picky_rig("stop", error)
    assert [each.value for each in node.log.dump("out")] == [b"a"]
    (failed,) = node.processing.failed
    assert (failed.topic, failed.offset) == ("in", 1)
    assert "a record is refused" in failed.reason
    assert [each.levelname for each in caplog.records if each.message.startswith("task stopped")] == ["ERROR"]
    assert len([each for each in caplog.records if each.exc_info]) == (error is TypeError)


def test_what_comes_of_the_time_alone_is_no_record_s_fault() -> None:
    """Where the log refuses what a punctuation made, no record is set aside for it: the task stops."""

    class Ticking(Processor[str, str, str, str]):
        def init(self, context: ProcessorContext[str, str]) -> None:
            super().init(context)
            context.schedule(1_000, lambda _: context.forward("k", "bad"), time="wall_clock")

        def process(self, record: Any) -> None: ...

    builder = StreamsBuilder("app")
    builder.stream("in", key=str, value=str).process(Ticking).to("out", key=str, value=str)
    clock = FakeClock()
    node = ProcessingRig(
        runnable(builder.build(), None),
        {**TOPICS, "app-quarantine": 1},
        log=Picky(clock=clock),
        clock=clock,
        policy=ErrorPolicy(on_processing="quarantine"),
    ).start()
    for _ in range(20):
        put(node, 1)
        node.clock.advance(1.5)
        node.turn()
    assert not node.log.dump("app-quarantine")
    (failed,) = node.processing.failed
    assert (failed.topic, failed.offset) == ("", -1)


def test_a_failure_names_its_record_and_keeps_what_came_before() -> None:
    """Also in the middle of a batch: the records before it are processed by a new engine, and are in the log."""

    def check(value: str) -> str:
        if value == "bad":
            raise ValueError("as the test wants it")
        return value

    builder = StreamsBuilder("app")
    builder.stream("in", key=str, value=str).map_values(check).to("out")
    node = ProcessingRig(runnable(builder.build(), None), TOPICS).start()
    values = [b"a", b"b", b"bad", b"c"]
    node.log.put(*(ProducerRecord("in", 0, b"k", value) for value in values))
    for _ in range(10):
        node.clock.advance(1.0)
        node.turn()
    assert [each.value for each in node.log.dump("out")] == [b"a", b"b"]
    (failed,) = node.processing.failed
    assert (failed.topic, failed.offset) == ("in", 2)
    (care,) = (care for _, care in node.processing._cares.values())
    assert isinstance(care.failure, ProcessingFailed)


def from_the_latest(log: MemoryLog | None = None, stores: MemoryStoreFactory | None = None) -> ProcessingRig:
    builder = StreamsBuilder("app")
    stream = builder.stream("in", key=str, value=str, auto_offset_reset="latest")
    stream.map_values(lambda value: value).to("out")
    clock = FakeClock()
    rig = ProcessingRig(runnable(builder.build(), None), TOPICS, log=log or MemoryLog(clock=clock), stores=stores)
    if log is None:
        put(rig, 3, b"before")
    return rig


@pytest.mark.parametrize("has_stores", [True, False], ids=["stores kept", "stores lost"])
def test_where_the_latest_was_is_kept_before_anything_has_come(has_stores: bool) -> None:
    """An instance that has seen nothing and starts again goes on where it began."""
    node = from_the_latest().start().turn(6)
    assert batches(node) == [3], "one position, and no more of them while nothing comes"
    node.dies()
    put(node, 2, b"meanwhile")
    again = from_the_latest(node.log, node.stores if has_stores else None)
    again.start().turn(8)
    assert [each.value for each in again.log.dump("out")] == [b"meanwhile"] * 2


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.UNKNOWN_LOST, Fault.UNKNOWN_WRITTEN])
def test_the_latest_does_not_move_while_it_cannot_be_kept(fault: Fault) -> None:
    """What has come since the task was begun is processed, whatever became of its first position."""
    node = from_the_latest()
    node.log.faults += [fault, fault]
    node.start()
    put(node, 2, b"after")
    for _ in range(80):
        node.clock.advance(0.5)
        node.turn()
    assert [each.value for each in node.log.dump("out")] == [b"after"] * 2


def test_what_holds_no_record_is_no_lag() -> None:
    """All before it has to be in the log, though: neither what waits nor what is on its way is passed over."""
    node = rig(batch_records=4, batches_in_flight=1)
    place = TopicPartition("in", 0)
    (run,) = node.processing._runs.values()
    put(node, 4)
    assert node.turn(6).processing.positions() == {place: 4}
    run.buffer.add(batch("in", next_offset=5))
    assert (node.processing.positions(), node.processing.reached()) == ({place: 4}, {place: 5})
    run.buffer.add(batch("in", record("in", 5, 0), next_offset=7))
    assert node.processing.reached() == {place: 4}, "it waits"
    node.log.faults.append(Fault.PENDING)
    node.turn(2)
    assert (len(run.buffer), node.processing.reached()) == (0, {place: 4}), "it is on its way"
    with run.lock:
        assert node.processing.reached() == {place: 4}
    node.log.complete()
    node.turn(3)
    assert node.processing.reached() == {place: 7}


def test_input_that_cannot_be_read_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log once for each reason, and for as long as it lasts where health looks for it."""
    node = rig()
    caplog.set_level("INFO", "streams.runtime.processing.trouble")

    def damaged(_: float) -> list[RecordBatch]:
        raise LogDamaged("a block is not what was written")

    with monkeypatch.context() as patch:
        patch.setattr(node.processing._reader, "poll", damaged)
        assert [node.processing.step() for _ in range(3)] == [False] * 3
        assert node.processing.troubles == ["LogDamaged: a block is not what was written"]
    put(node, 2)
    assert node.processing.step()
    assert not node.processing.troubles
    assert [each.levelname for each in caplog.records] == ["ERROR", "INFO"]
    assert counted(node.turn(4)) == [1, 2]


def test_a_topic_that_is_gone_is_told_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A log says nothing of records of a topic that is not there; one that brings news is not asked for."""
    node = rig()
    asked: list[Sequence[str]] = []

    def describe(names: Sequence[str], _: object) -> dict[str, TopicInfo]:
        asked.append(names)
        return {}

    monkeypatch.setattr(node.log, "describe_topics", describe)
    for _ in range(30):
        node.clock.advance(1.0)
        node.processing.step()
    assert not asked, "all was read a moment ago"
    node.log.take_away(TopicPartition("in", 0))
    for _ in range(30):
        node.clock.advance(1.0)
        assert node.processing.step()
    assert node.processing.troubles == ["TopologyError: there is no topic in any more"]
    assert [each.levelname for each in caplog.records if "cannot be read" in each.message] == ["ERROR"]
    assert 2 <= len(asked) <= 3
    monkeypatch.undo()
    for _ in range(11):
        node.clock.advance(1.0)
        node.processing.step()
    assert not node.processing.troubles


def test_input_that_was_cut_off_before_it_was_read_is_told_of() -> None:
    """It goes on with what there is, and says so."""
    node = rig()
    put(node, 5)
    node.turn(6)
    assert counted(node) == [1, 2, 3, 4, 5]
    place = next(place for place in node.log._records if place.topic == "in")
    node.log._records[place] = []  # the topic was made anew
    node.processing._assigned = set()
    node.turn(2)
    assert node.processing.counters.lost_positions == 1
    put(node, 2)
    node.turn(8)
    assert counted(node)[-2:] == [6, 7]


@pytest.mark.parametrize(("reset", "again"), [("earliest", [b"0", b"1"]), ("latest", []), ("none", [])])
def test_where_the_log_was_cut_the_source_says_what_follows(reset: str, again: list[bytes]) -> None:
    """An unclean election takes away the newest records: those that are left were processed already."""
    builder = StreamsBuilder("app")
    stream = builder.stream("in", key=str, value=str, auto_offset_reset=reset)
    stream.map_values(lambda value: value).to("out")
    node = ProcessingRig(runnable(builder.build(), None), TOPICS).start()
    values = [b"%d" % number for number in range(5)]
    node.log.put(*(ProducerRecord("in", 0, b"k", value) for value in values))
    node.turn(6)
    place = TopicPartition("in", 0)
    del node.log._records[place][2:]
    node.processing._assigned = set()
    node.turn(4)
    if reset == "latest":
        assert node.processing.positions() == {place: 2}, "kept, so that a restart goes on there"
    node.log.put(ProducerRecord("in", 0, b"k", b"new"))
    node.turn(8)
    found = [each.value for each in node.log.dump("out")]
    assert found == values + again + ([b"new"] if reset != "none" else [])
    assert node.processing.counters.lost_positions == 1
    assert [(each.topic, each.offset) for each in node.processing.failed] == ([("in", 5)] if reset == "none" else [])
    assert node.processing.positions() == {place: 5 if reset == "none" else 3}


def test_a_topic_is_not_asked_for_partitions_that_it_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log may say to that that there is no such partition; and nobody need wait for what cannot come."""
    builder = StreamsBuilder("app")
    builder.stream("in", key=str, value=str).merge(builder.stream("few", key=str, value=str)).to("out")
    node = ProcessingRig(runnable(builder.build(), None), {"in": 2, "few": 1, "out": 1}).start()
    reader = node.processing._reader
    asked, known = reader.caught_up_at, {("in", 0), ("in", 1), ("few", 0)}

    def caught_up_at(place: TopicPartition) -> float:
        assert place in known
        return asked(place)

    monkeypatch.setattr(reader, "caught_up_at", caught_up_at)
    node.log.put(ProducerRecord("in", 1, b"k", b"v", (), 1))
    node.turn(6)
    assert [each.value for each in node.log.dump("out")] == [b"v"]


def windowed(retention_ms: int) -> ProcessorTopology:
    builder = StreamsBuilder("app")
    stream = builder.stream("in", key=str, value=str).group_by_key()
    stream.windowed_by(tumbling(60_000)).count(store="windows", retention_ms=retention_ms)
    return runnable(builder.build(), None)


def test_what_an_earlier_topology_calls_expired_removes_nothing_of_this_one() -> None:
    """It may name a store that is not there any more, and with another retention its keys mean other times."""
    clock = FakeClock()
    log = MemoryLog(clock=clock)
    before = ProcessingRig(windowed(3_600_000), TOPICS, log=log, clock=clock).start()
    log.put(*(ProducerRecord("in", 0, b"k", b"v", (), n * 3_600_000) for n in range(20)))
    before.turn(6)
    before.dies()
    (last,) = [InputPosition.decode(each.value or b"") for each in log.dump("app-0-positions")][-1:]
    assert set(last.expired) == {"windows"}
    after = ProcessingRig(windowed(36_000_000), TOPICS, log=log, clock=clock).start()
    rows = after.thread.tasks[0].store.scan("windows")
    after.dies()
    assert [int.from_bytes(row[8:], "big") for _, row in rows] == [1] * len(rows)
    assert len(rows) >= 10, "what lies within the longer retention is there"
    node = ProcessingRig(topology(), TOPICS, log=log, clock=clock).start()
    put(node, 2)
    node.turn(6)
    assert not node.fatal
    assert counted(node) == [1, 2]


def test_with_another_retention_windows_go_on_where_they_were() -> None:
    """Their rows lie elsewhere then: a store that was kept is made anew, or the windows would begin again."""
    clock = FakeClock()
    log, stores = MemoryLog(clock=clock), MemoryStoreFactory(max_age_ms=None, clock=clock)
    at_ms = 600 * 3_600_000
    for retention_ms in (3_600_000, 36_000_000, 3_600_000):
        node = ProcessingRig(windowed(retention_ms), TOPICS, log=log, clock=clock, stores=stores).start()
        log.put(ProducerRecord("in", 0, b"k", b"v", (), at_ms))
        node.turn(6)
        node.dies()
    assert [int.from_bytes(each.value or b"", "big") for each in log.dump("app-windows-changelog")] == [1, 2, 3]


def test_the_position_of_other_input_is_not_gone_on_from() -> None:
    """A sub-topology has a number, and another topology may give it to another one: then the task stops and says so,
    since it would begin its input anew, over stores that have it already."""
    node = rig()
    put(node, 3)
    node.turn(4)
    node.dies()
    builder = StreamsBuilder("app")
    builder.stream("other", key=str, value=str).group_by_key().count(store="counts").to_stream().to("out")
    changed = runnable(builder.build(), None)
    topics = {"other": 1, "out": 1}
    second = ProcessingRig(changed, topics, log=node.log, clock=node.clock, stores=node.stores).start()
    second.log.put(ProducerRecord("other", 0, b"k", b"v", (), 1))
    second.turn(4)
    (failed,) = second.processing.failed
    assert "reads other now, and its position is one of in" in failed.reason
    assert counted(second) == [1, 2, 3]


def test_stores_with_rows_and_no_position_are_another_topologys() -> None:
    """What was counted is not counted again from the beginning."""
    node = rig()
    put(node, 3)
    node.turn(4)
    changes = [ProducerRecord(one.topic, 0, one.key, one.value) for one in node.log.dump("app-counts-changelog")]
    second = ProcessingRig(topology(), TOPICS)
    second.log.put(*changes)
    second.start()
    put(second, 3)
    second.turn(4)
    (failed,) = second.processing.failed
    assert "store counts has rows, and sub-topology 0 no position" in failed.reason
    assert counted(second) == []


def test_a_function_that_does_not_return_holds_up_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its engine is left to it."""
    monkeypatch.setattr("streams.runtime.processing.run._PATIENCE_S", 0.01)
    node = rig()
    put(node, 1)
    node.turn(2)
    (run,) = node.processing._runs.values()
    with run.lock:
        node.processing.close()
    assert run.is_over
