"""The engine: what a task hands over is complete, and a batch that failed can be done again."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from streams.clock import SystemClock
from streams.dsl import Processor, ProcessorRecord, StreamsBuilder, hopping, join_windows, session, tumbling
from streams.errors import ProcessingFailed, TopologyError
from streams.processing import (
    QUARANTINE,
    SKIP,
    ErrorPolicy,
    OutputRecord,
    SubTopologyTask,
    TaskStoreView,
    committed_store,
)
from streams.records import Record
from streams.stores.base import StoreFactory, StoreIdentity, TaskStore
from streams.stores.memory import MemoryStoreFactory
from streams.stores.rocksdb import RocksStoreFactory
from streams.topology.stores import StoreKind
from streams.topology.subtopology import ProcessorTopology, SubTopology

_MAX_UNRELEASED = 3


class Rig:
    """A task over a store in memory, and what a runtime does around it."""

    def __init__(
        self, subtopology: SubTopology, policy: ErrorPolicy | None = None, factory: StoreFactory | None = None
    ) -> None:
        self.subtopology = subtopology
        self.policy = policy
        factory = factory or MemoryStoreFactory(max_age_ms=None, clock=SystemClock())
        self.store: TaskStore = factory.open(0, tuple(subtopology.stores), StoreIdentity({}, 1, 1))
        self.changes: list[OutputRecord] = []
        self.task = self.begin()

    def begin(self) -> SubTopologyTask:
        """Make a task from the store."""
        return SubTopologyTask(
            self.subtopology,
            0,
            view=TaskStoreView(self.store),
            partition_count=lambda _: 1,
            now_ms=lambda: 0,
            policy=self.policy,
        )

    def keep(self, rows: Any) -> None:
        """Put rows into the store."""
        batch = self.store.batch()
        for name, key, row in rows:
            if row is None:
                batch.delete(name, key)
            else:
                batch.put(name, key, row)
        self.store.commit(batch, {})

    def rows(self) -> dict[str, list[tuple[bytes, bytes]]]:
        """Return everything that is in the store."""
        return {name: self.store.scan(name) for name in self.subtopology.stores}


def everything() -> ProcessorTopology:
    """A topology of one sub-topology that keeps state in every way that there is."""
    builder = StreamsBuilder("everything")
    clicks = builder.stream("clicks", key=str, value=int)
    views = builder.stream("views", key=str, value=int)
    users = builder.table("users", key=str, value=str)
    grouped = clicks.group_by_key()
    grouped.count(store="count").filter(lambda _, n: n % 2 == 0).to_stream().to("even")
    grouped.windowed_by(hopping(20, advance_ms=10, grace_ms=5)).reduce(lambda a, b: (a or 0) + (b or 0)).suppress(
        until_window_closes=True
    ).to_stream().to("sums")
    grouped.windowed_by(session(4)).count().to_stream().to("sessions")
    grouped.count().suppress(time_limit_ms=7).to_stream().to("slow")
    clicks.outer_join(views, lambda a, b: f"{a}/{b}", windows=join_windows(5, grace_ms=3), value=str).to("both")
    clicks.left_join(users, lambda n, user: f"{n}:{user}", value=str).to("named")
    return builder.build()


def records(random_: random.Random, count: int) -> list[Record]:
    """Random records of the three topics, out of order and with nulls."""
    offsets: Counter[str] = Counter()
    found = []
    for number in range(count):
        topic = random_.choice(["clicks", "clicks", "views", "users"])
        key = random_.choice([None, b"a", b"ab", b"b", b"\xc3\xa9"])
        value: bytes | None = b"name%d" % number if topic == "users" else number.to_bytes(8, "big")
        if random_.random() < 0.1:
            value = None
        time_ms = max(0, number + random_.randint(-15, 3))
        found.append(Record(topic, 0, offsets[topic], time_ms, key, value, ()))
        offsets[topic] += 1
    return found


def straight(
    subtopology: SubTopology, given: list[Record], factory: StoreFactory | None = None
) -> tuple[list[OutputRecord], Rig]:
    """Run record by record, each kept before the next."""
    rig = Rig(subtopology, factory=factory)
    made = []
    for record in given:
        rig.task.process(record)
        output = rig.task.take()
        made += output.records
        rig.changes += output.changes
        rig.keep(output.rows)
        if not output.is_empty:
            rig.task.released()
    return made, rig


@pytest.mark.parametrize("seed", range(12))
def test_batches_aborted_repeated_and_pipelined_give_what_single_records_give(seed: int) -> None:
    """Whatever a runtime does within the rules of the seam, outputs and stores are those of the simplest run."""
    random_ = random.Random(seed)
    (subtopology,) = everything().subtopologies
    given = records(random_, 300)
    wanted, plain = straight(subtopology, given)
    rig = Rig(subtopology)
    made: list[OutputRecord] = []
    waiting: list[Any] = []  # taken and committed to the log, not yet in the store
    position = 0
    while position < len(given):
        batch = given[position : position + random_.randint(1, 20)]
        for record in batch:
            rig.task.process(record)
        output = rig.task.take()
        if random_.random() < 0.3:  # the transaction failed: what was committed reaches the store, then begin anew
            for earlier in waiting:
                rig.keep(earlier.rows)
            waiting.clear()
            rig.task = rig.begin()
            continue
        position += len(batch)
        made += output.records
        if not output.is_empty:
            waiting.append(output)
        while waiting and (len(waiting) > _MAX_UNRELEASED or random_.random() < 0.5):
            rig.keep(waiting.pop(0).rows)
            rig.task.released()
    for earlier in waiting:
        rig.keep(earlier.rows)
    assert made == wanted, f"seed {seed}"
    assert rig.rows() == plain.rows(), f"seed {seed}"


@pytest.mark.parametrize("seed", range(4))
def test_changes_make_the_same_stores_as_rows(seed: int) -> None:
    """A standby that applies the changelogs has what the task has."""
    (subtopology,) = everything().subtopologies
    given = records(random.Random(seed), 300)
    _, rig = straight(subtopology, given)
    standby = Rig(subtopology)
    state = subtopology.state
    # A changelog has offsets of its own; what the log adds to a record is its place and its timestamp.
    log = [
        Record(c.topic, c.partition, n, c.timestamp_ms, c.key, c.value, c.headers) for n, c in enumerate(rig.changes)
    ]
    for record in (*log, *(record for record in given if record.topic == "users" and record.key is not None)):
        table = state.table_of(record.topic)
        standby.keep([(table.store, *table.materialise(record))])
    assert standby.rows() == rig.rows(), f"seed {seed}"


def test_the_engine_does_not_know_which_store_it_has(tmp_path: Path) -> None:
    """On RocksDB everything is as in memory."""
    (subtopology,) = everything().subtopologies
    given = records(random.Random(3), 300)
    factory = RocksStoreFactory(tmp_path, cache_bytes=1 << 20, max_age_ms=None, clock=SystemClock())
    made, on_disk = straight(subtopology, given, factory)
    wanted, in_memory = straight(subtopology, given)
    assert made == wanted
    assert on_disk.rows() == in_memory.rows()
    on_disk.store.close()


def test_a_query_sees_what_is_committed_and_nothing_else() -> None:
    """Stores opened over the committed rows have what the task's have, times of retention included."""
    (subtopology,) = everything().subtopologies
    _, rig = straight(subtopology, records(random.Random(7), 300))
    view = TaskStoreView(rig.store)
    assert list(committed_store(subtopology, "count", view).all()) == list(rig.task.stores["count"].all())
    for name, store in rig.task.stores.items():
        if store.spec.kind is StoreKind.WINDOW:
            assert list(committed_store(subtopology, name, view).fetch_all()) == list(store.fetch_all())
        elif store.spec.kind is StoreKind.SESSION:
            assert list(committed_store(subtopology, name, view).all()) == list(store.all())
    rig.task.stores["count"].put("a", 99)
    assert committed_store(subtopology, "count", view).get("a") != 99
    with pytest.raises(KeyError):
        committed_store(subtopology, "nowhere", view)


def test_one_change_for_a_key_however_often_it_was_written() -> None:
    """A batch of a thousand updates of one key is one row and one record of the changelog."""
    builder = StreamsBuilder("count")
    builder.stream("in", key=str, value=str).group_by_key().count(store="counts").to_stream().to("out")
    (subtopology,) = builder.build().subtopologies
    rig = Rig(subtopology)
    for number in range(1000):
        rig.task.process(Record("in", 0, number, 5, b"k", b"v", ()))
    output = rig.task.take()
    assert len(output.records) == 1000
    (change,) = output.changes
    assert change == OutputRecord("count-counts-changelog", 0, b"k", (1000).to_bytes(8, "big"), (), 5)
    assert [row.store for row in output.rows] == ["counts"]


def failing_at_three() -> SubTopology:
    """Each number is counted and sent twice; three fails between the two."""
    builder = StreamsBuilder("failing")

    def check(_: Any, value: int) -> None:
        if value == 3:
            raise RuntimeError("three")

    numbers = builder.stream("in", key=str, value=int)
    numbers.group_by_key().count(store="before").to_stream().to("before-out")
    numbers.peek(check).group_by_key().count(store="after").to_stream().to("after-out")
    return builder.build().subtopologies[0]


def numbers(*values: int) -> list[Record]:
    """Records with these values."""
    return [Record("in", 0, n, n, b"k", value.to_bytes(8, "big"), ()) for n, value in enumerate(values)]


def counts(output: Any, topic: str) -> list[int]:
    """Return the counts that were sent to *topic*."""
    return [int.from_bytes(record.value, "big") for record in output.records if record.topic == topic]


def test_a_failed_record_stops_the_task_unless_told_otherwise() -> None:
    """The error names the place, and its cause is what was raised."""
    rig = Rig(failing_at_three())
    good, bad = numbers(1, 3)
    rig.task.process(good)
    with pytest.raises(ProcessingFailed, match=r"in-0 offset 1.*three") as caught:
        rig.task.process(bad)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert (caught.value.stage, caught.value.topic, caught.value.offset) == ("processing", "in", 1)


def test_skip_loses_only_what_the_operator_was_given() -> None:
    """What was done before and beside the failure stays."""
    rig = Rig(failing_at_three(), ErrorPolicy(on_processing=SKIP))
    for record in numbers(1, 3, 5):
        rig.task.process(record)
    output = rig.task.take()
    assert counts(output, "before-out") == [1, 2, 3]
    assert counts(output, "after-out") == [1, 2]
    assert rig.task.counters.skipped == 1


def test_quarantine_undoes_the_whole_record_and_keeps_its_bytes() -> None:
    """Neither store nor topic shows it, and it lies in the quarantine topic with its place and reason."""
    rig = Rig(failing_at_three(), ErrorPolicy(on_processing=QUARANTINE))
    given = numbers(1, 3, 5)
    for record in given:
        rig.task.process(record)
    output = rig.task.take()
    assert counts(output, "before-out") == [1, 2]
    assert counts(output, "after-out") == [1, 2]
    (kept,) = (record for record in output.records if record.topic == "failing-quarantine")
    assert (kept.key, kept.value, kept.timestamp_ms) == (given[1].key, given[1].value, given[1].timestamp_ms)
    headers = dict(kept.headers)
    assert headers["__streams.errors.topic"] == b"in"
    assert headers["__streams.errors.offset"] == b"1"
    assert headers["__streams.errors.exception"] == b"RuntimeError"


@pytest.mark.parametrize("seed", range(6))
def test_quarantined_records_leave_no_trace_in_any_store(seed: int) -> None:
    """Stores and outputs are those of a run in which the refused records never were, suppression included."""
    random_ = random.Random(seed)
    given = records(random_, 200)
    # Times are what remains of a refused record, so here it has none of its own: the same as the one before.
    bad = {n for n in range(1, len(given), 2) if random_.random() < 0.2 and given[n].key is not None}

    def build(refused: set[int]) -> SubTopology:
        builder = StreamsBuilder("traces")
        clicks = builder.stream("clicks", "views", "users", key=str, value=bytes)
        grouped = clicks.group_by_key()
        grouped.count().suppress(time_limit_ms=4).to_stream().to("slow")
        grouped.windowed_by(tumbling(10)).count().suppress(until_window_closes=True).to_stream().to("final")

        def refuse(_: Any, value: bytes) -> None:
            if value is not None and int.from_bytes(value, "big") in refused:
                raise RuntimeError("refused")

        clicks.peek(refuse).to("last")
        return builder.build().subtopologies[0]

    numbered = [
        record._replace(value=n.to_bytes(4, "big"), timestamp_ms=n // 2, topic="clicks", offset=n)
        for n, record in enumerate(given)
    ]
    with_bad, without = Rig(build(bad), ErrorPolicy(on_processing=QUARANTINE)), Rig(build(set()))
    made: dict[int, list[OutputRecord]] = {0: [], 1: []}
    for n, record in enumerate(numbered):
        with_bad.task.process(record)
        if n not in bad:
            without.task.process(record)
    for which, rig in enumerate((with_bad, without)):
        output = rig.task.take()
        made[which] = [record for record in output.records if not record.topic.endswith("quarantine")]
        rig.keep(output.rows)
    assert made[0] == made[1], f"seed {seed}"
    assert with_bad.rows() == without.rows(), f"seed {seed}"


def test_unreadable_records_follow_their_own_policy() -> None:
    """What is not of the serde, and a timestamp before the epoch, are refused before anything is processed."""
    builder = StreamsBuilder("reading")
    builder.stream("in", key=str, value=int).to("out")
    (subtopology,) = builder.build().subtopologies
    bad = [Record("in", 0, 0, 5, b"k", b"short", ()), Record("in", 0, 1, -1, b"k", bytes(8), ())]
    for record in bad:
        with pytest.raises(ProcessingFailed, match="deserialization"):
            Rig(subtopology).task.process(record)
    rig = Rig(subtopology, ErrorPolicy(on_deserialization=QUARANTINE))
    for record in bad:
        rig.task.process(record)
    output = rig.task.take()
    assert [(record.topic, record.value) for record in output.records] == [
        ("reading-quarantine", b"short"),
        ("reading-quarantine", bytes(8)),
    ]


class Peeker(Processor[str, str, str, str]):
    """Asks for a store that it may not have."""

    def process(self, record: ProcessorRecord[str, str]) -> None:
        self.context.store("counts")


def test_a_store_that_was_not_named_is_refused_with_advice() -> None:
    """The message says which stores there are, and what to do."""
    builder = StreamsBuilder("peeking")
    stream = builder.stream("in", key=str, value=str)
    stream.group_by_key().count(store="counts")
    stream.process(Peeker)
    rig = Rig(builder.build().subtopologies[0])
    with pytest.raises(ProcessingFailed, match=r"'counts'.*stores=") as caught:
        rig.task.process(Record("in", 0, 0, 5, b"k", b"v", ()))
    assert isinstance(caught.value.__cause__, TopologyError)


class _Text:
    """A serde of a user who forgets to encode."""

    def serialize(self, value: Any) -> Any:
        return str(value)

    def deserialize(self, data: bytes) -> Any:
        return data.decode()


@pytest.mark.parametrize("fault", ["key", "value", "partition", "negative", "time"])
def test_what_no_log_takes_is_the_fault_of_its_record(fault: str) -> None:
    """Found in the log, it would come back for ever, and hold up the other tasks."""
    builder = StreamsBuilder("bad")
    stream = builder.stream("in", key=str, value=str, timestamp=(lambda _: 1.5) if fault == "time" else None)  # type: ignore[arg-type, return-value]
    stream.to(
        "out",
        key=_Text() if fault == "key" else str,
        value=_Text() if fault == "value" else str,
        partitioner={"partition": lambda *_: 1, "negative": lambda *_: -1}.get(fault),
    )
    (subtopology,) = builder.build().subtopologies
    with pytest.raises(ProcessingFailed):
        Rig(subtopology).task.process(Record("in", 0, 0, 0, b"k", b"v", ()))
    rig = Rig(subtopology, ErrorPolicy(on_deserialization=SKIP, on_processing=SKIP))
    rig.task.process(Record("in", 0, 0, 0, b"k", b"v", ()))
    assert rig.task.counters.skipped == 1
    assert rig.task.take().is_empty
