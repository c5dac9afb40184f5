"""One partition of a sub-topology while this node owns it: its engine, its input, and its batches on their way.

A batch is a command of the write section. It is decided on the stream thread: the engine processes input, and what it
made, the changes of its stores and the new position of the input become one group of records, which is in the log as a
whole or not at all. The rows come into the store when the group is read back. Why each record counts once:

1. A batch is decided only on the position row that the engine has made, or was made from (`_row`). When another one is
   in force, something happened that this run does not know of: it ends, and a new one begins from the store.
2. A batch that is decided again was given back by the log: its records are taken again, by a new engine.
3. A new engine begins from the store only when the store has all that was decided before: nothing of its partition is
   on its way, and its position row is the one in force. Until then the batch waits.
4. Whoever is answered "unknown" ends the run. The next one meets rule 1 or 3 until the log has told.

`lock` is held by whoever works with the engine: the stream thread while it decides, the feeding thread when it ends the
run. All else belongs to the stream thread, but for what says otherwise.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from threading import Lock
from uuid import UUID, uuid4

from streams.clock import Backoff, Clock
from streams.errors import ProcessingFailed, RecordRefused, StreamsError
from streams.processing import SubTopologyTask, TaskOutput
from streams.records import ProducerRecord, Record
from streams.runtime.commands import Decided, Decision, Outcome, Refused, View
from streams.runtime.group import GroupView
from streams.runtime.local_rows import LocalRow
from streams.runtime.processing.buffer import InputBuffer
from streams.runtime.processing.care import Care, ProcessingBounds
from streams.runtime.processing.counters import BatchCounts, ProcessingCounters
from streams.runtime.processing.positions import KEY, InputPosition, positions_store
from streams.runtime.processing.view import WatchedView
from streams.runtime.task import StreamTask
from streams.topology.subtopology import SubTopology

logger = logging.getLogger(__name__)

_LOOK_AT_CLOCK_EVERY = 32  # records
_PATIENCE_S = 1.0  # more than a batch takes


class Result(Enum):
    """What came of deciding a batch."""

    WRITTEN = "it is in the log"
    NOTHING = "there was nothing to do"
    WAIT = "not now"


@dataclass(eq=False, slots=True)
class Batch:
    """A command. `records` None: not decided, or given back."""

    run: "PartitionRun"
    event_id: bytes = field(default_factory=lambda: uuid4().bytes)
    records: Sequence[Record] | None = None
    row_before: bytes | None = None
    position_before: Mapping[str, int] = field(default_factory=dict)
    engine: SubTopologyTask | None = None
    is_sealed: bool = False
    is_careful: bool = False  # it was to have one record alone
    has_punctuated: bool = False
    keeps_start: bool = False  # it is there for its position, if for nothing else
    attempts: int = 0  # that the log gave back
    counts: BatchCounts = field(default_factory=BatchCounts)

    @property
    def partitions(self) -> Sequence[int]:
        """See `streams.runtime.commands.Command`."""
        return (self.run.partition,)

    def decide(self, view: View) -> Decision:
        """Process what waits."""
        return self.run.decide(self, view)


MakeEngine = Callable[[WatchedView, int, int], SubTopologyTask]


class PartitionRun:
    """See the module."""

    def __init__(
        self,
        task: StreamTask,
        *,
        subtopology: SubTopology,
        row: bytes | None,
        buffer: InputBuffer,
        keeps_start: bool,
        care: Care,
        make_engine: MakeEngine,
        bounds: ProcessingBounds,
        clock: Clock,
        counters: ProcessingCounters,
    ) -> None:
        """*row*: of the position, as it is in the store now; *buffer* begins there. *keeps_start*: where it begins
        is to be in the log before anything has come. *make_engine*: of the committed
        stores, the partition, and the stream time where the task has no store of times."""
        self.partition = task.partition
        self.lock = Lock()
        self.buffer = buffer
        self.care = care
        #: What the task was when this began; with another one this is over.
        self.begun_with = (task, task.store, task.tenure)
        #: Replaced whole; any thread may look.
        self.is_over = False
        self.in_flight = 0  # the feeding thread's and the stream thread's, under the feeder's lock
        self.retry_at = 0.0
        self.next_punctuation_ms: int | None = 0  # as soon as possible: the engine has to be made
        self._task = task
        self._subtopology = subtopology
        self._store = positions_store(subtopology)
        self._row = row
        self._must_keep_start = keeps_start  # no batch that does it is on its way
        self._make_engine = make_engine
        self._bounds = bounds
        self._clock = clock
        self._counters = counters
        self._engine: SubTopologyTask | None = None
        self._view: WatchedView | None = None
        self._told_expired: dict[str, bytes] = {}
        self._counted = BatchCounts()
        self._decided: list[Batch] = []  # and not answered, in order
        self._failed_after = 0  # records of the last batch that failed, before the one that did
        self._backoff = Backoff(initial_s=0.1, maximum_s=5.0)

    def is_due(self, now_s: float, now_ms: int) -> bool:
        """Say whether a batch would have something to do. Any thread."""
        if self.is_over or self.care.failure is not None or now_s < self.retry_at:
            return False
        punctuation_ms = self.next_punctuation_ms
        return (
            self.buffer.has_next or self._must_keep_start or (punctuation_ms is not None and punctuation_ms <= now_ms)
        )

    def idle_at(self) -> Mapping[str, int]:
        """Return where reading goes on in the topics of which nothing waits, when no batch is on its way. Any thread;
        it waits for nobody, and returns nothing while a batch is being decided."""
        if self.is_over or not self.lock.acquire(blocking=False):
            return {}
        try:
            read = dict(self.buffer.read)  # before the look at what waits: what was read below it waits, or was taken
            return {topic: at for topic, at in read.items() if not self._decided and not self.buffer.waiting(topic)}
        finally:
            self.lock.release()

    def decide(self, batch: Batch, view: View) -> Decision:
        """See `streams.runtime.commands.Command.decide`; what is raised becomes the refusal of the batch."""
        assert isinstance(view, GroupView), "the write section decides, nobody else"
        with self.lock:
            self._failed_after = 0
            if batch.records is not None:
                self._is_given_back(batch)
            if self.is_over or self._task.is_closed or self._task.store is not self.begun_with[1]:
                self._end()
                return Decision((), Result.NOTHING)
            try:
                return self._decide(batch, view)
            except BaseException:
                self._drop_engine()
                self._take_back(batch)
                if self._view is not None and self._view.failure is not None:
                    view.failed_partition = self.partition
                raise

    def _decide(self, batch: Batch, view: GroupView) -> Decision:
        row = view.get(self._store, self.partition, KEY)
        if row != self._row:
            logger.info("input position overtaken", extra={"task": self.partition})
            self._end()
            return Decision((), Result.NOTHING)
        if self._engine is None:
            self._view = WatchedView(self._task.store)
            if view.covers(self.partition) or self._view.getter(self._store)(KEY) != row:
                return Decision((), Result.WAIT)
            self._engine = self._new_engine(self._view, row)
        engine = self._engine
        batch.row_before, batch.position_before, batch.engine = row, self.buffer.taken(()), engine
        records: list[Record] = []
        batch.records = records
        self._decided.append(batch)
        batch.is_careful = self.care.limit == 1
        batch.has_punctuated = engine.punctuate()
        if not (batch.has_punctuated and (batch.is_careful or self.care.is_apart)):
            self._process(engine, records)
        output = engine.take()
        self._check_store()
        self.next_punctuation_ms = engine.next_punctuation_ms
        if not records and output.is_empty and not self._must_keep_start:
            self._decided.remove(batch)
            return Decision((), Result.NOTHING)
        batch.is_sealed = not output.is_empty
        batch.counts = self._count(engine, output)
        return Decision(self._group(batch, output, engine), Result.WRITTEN)

    def _process(self, engine: SubTopologyTask, records: list[Record]) -> None:
        """Process what waits, and add it to *records*."""
        limit = self._bounds.batch_records if self.care.limit is None else self.care.limit
        end_at = self._clock.monotonic() + self._bounds.batch_ms / 1000
        buffer, view, now = self.buffer, self._view, self._clock.monotonic
        assert view is not None, "an engine has a view"
        take, process, add, refusal = buffer.next, engine.process, records.append, self.care.refusal
        end_bytes = buffer.taken_bytes + self._bounds.batch_bytes
        try:
            for number in range(limit):
                if (number and not number % _LOOK_AT_CLOCK_EVERY and now() >= end_at) or (record := take()) is None:
                    break
                add(record)
                if refusal is not None and refusal.is_of(record):
                    engine.refuse(record, refusal.error)
                else:
                    process(record)
                if buffer.taken_bytes >= end_bytes or view.failure is not None:
                    break
        finally:
            self._check_store()

    def _group(self, batch: Batch, output: TaskOutput, engine: SubTopologyTask) -> Sequence[ProducerRecord]:
        assert batch.records is not None
        expired = {store: key for store, key in output.expired.items() if self._told_expired.get(store) != key}
        self._told_expired.update(expired)
        offsets = self.buffer.taken(batch.records)
        segments_ms = {store: self._subtopology.stores[store].segment_ms for store in expired}
        position = InputPosition(batch.event_id, offsets, engine.stream_time_ms, expired, segments_ms)
        record = position.record(self._subtopology, self.partition)
        self._row = record.value
        self._task.local.expect(_header_of(batch), self._local_rows(output))
        batch.keeps_start, self._must_keep_start = self._must_keep_start, False
        # The engine's records have the fields of a ProducerRecord, in its order: nothing is copied.
        return [record, *output.changes, *output.records]  # type: ignore[list-item]

    def _local_rows(self, output: TaskOutput) -> Sequence[LocalRow]:
        """Return the rows of stores without a changelog: no record tells of them."""
        names = self._task.local.stores
        return [row for row in output.rows if row.store in names] if names else ()

    def _is_given_back(self, batch: Batch) -> None:
        """The log has not taken *batch*. When that happens again, it may be too much for one transaction."""
        count = len(batch.records or ())
        batch.attempts += 1
        if batch.attempts > 1 and count > 1:
            self.care.be_careful(count // 2, count)
        self._take_back(batch)

    def answered(self, batch: Batch, outcome: Outcome) -> None:
        """The fate of *batch* is known, or known not to be known. On the stream thread."""
        with self.lock:
            if isinstance(outcome, Decided):
                self._is_decided(batch, outcome.result)
                return
            if isinstance(outcome, Refused):
                self._is_refused(batch, outcome.error)
                return
            logger.warning("fate of a batch unknown", extra={"task": self.partition})
            self._end()

    def end(self) -> None:
        """Nothing is decided any more. Any thread. A user's function that does not return holds up nobody: its engine
        is left to it."""
        if self.lock.acquire(timeout=_PATIENCE_S):
            try:
                self._end()
            finally:
                self.lock.release()
        else:
            self.is_over = True
            logger.warning("a batch does not end: its processors are not closed", extra={"task": self.partition})

    def go_on_at(self, topic: str, offset: int) -> None:
        """Read *topic* from *offset* on, and keep that place. The feeding thread's."""
        with self.lock:
            self.buffer.restart(topic, offset)
            self._must_keep_start = True

    def fail(self, error: Exception) -> None:
        """The task does not go on here. The feeding thread's."""
        with self.lock:
            self._fail(error)

    def _is_decided(self, batch: Batch, result: Result) -> None:
        if result is Result.WAIT:
            self.retry_at = self._clock.monotonic() + 0.01
        if result is not Result.WRITTEN or batch.records is None:
            return
        self._backoff.reset()
        self.care.passed(len(batch.records))
        self._counters.add(batch.counts)
        if batch in self._decided:
            self._decided.remove(batch)
            if batch.is_sealed and batch.engine is self._engine is not None:
                self._engine.released()

    def _is_refused(self, batch: Batch, error: Exception) -> None:
        records = batch.records or ()
        count = len(records)
        if batch.records is not None:
            self._take_back(batch)
        self._drop_engine()
        self.retry_at = self._clock.monotonic() + self._backoff.next_s()
        if isinstance(error, ProcessingFailed):
            self._fail_at(error)
        elif isinstance(error, RecordRefused) and count:
            self._refuse_one(batch, records, error)
        elif isinstance(error, RecordRefused) or not _is_temporary(error):
            self._fail(error)

    def _refuse_one(self, batch: Batch, records: Sequence[Record], error: RecordRefused) -> None:
        """Find the record whose results the log refuses, and have it treated by the policy."""
        self.care.is_apart = self.care.is_apart or batch.has_punctuated
        if not batch.is_careful:
            self.care.be_careful(1, len(records))
        elif not self.care.refuse(records[0], error):
            self._fail(error)

    def _fail_at(self, error: ProcessingFailed) -> None:
        """Process what comes before the record that failed, and then fail."""
        if not self._failed_after:
            self._fail(error)
        else:
            self.care.be_careful(self._failed_after, self._failed_after)
            self.retry_at = 0.0

    def _fail(self, error: Exception) -> None:
        if self.care.failure is None:  # Else another batch that was on its way has told it.
            self.care.failure = error
            logger.error("task stopped: %s", error, extra={"task": self.partition})
        self._end()

    def _take_back(self, batch: Batch) -> None:
        """The records of *batch*, and of those decided on it, will be processed again, by a new engine."""
        if batch not in self._decided:
            batch.records = None
            return
        at = self._decided.index(batch)
        again, self._decided = self._decided[at:], self._decided[:at]
        records: list[Record] = []
        for each in again:
            assert each.records is not None
            records += each.records
            each.records = None
            self._task.local.forget(_header_of(each))
        self._failed_after = max(0, len(records) - 1)
        self.buffer.give_back(records, batch.position_before)
        self._row = batch.row_before
        self._must_keep_start = self._must_keep_start or any(each.keeps_start for each in again)
        self._counters.repeated += len(again)
        self._drop_engine()

    def _new_engine(self, view: WatchedView, row: bytes | None) -> SubTopologyTask:
        stream_time_ms = -1 if row is None else InputPosition.decode(row).stream_time_ms
        self._told_expired, self._counted = {}, BatchCounts()
        self._task.local.forget_all()  # Nothing is on its way (rule 3).
        return self._make_engine(view, self.partition, stream_time_ms)

    def _check_store(self) -> None:
        """Raise what the store has raised: a policy for records must not take it for a fault of one."""
        if self._view is not None and self._view.failure is not None:
            raise self._view.failure

    def _drop_engine(self) -> None:
        engine, self._engine = self._engine, None
        self.next_punctuation_ms = 0
        if engine is not None:
            try:
                engine.close()
            except Exception:
                logger.exception("a processor could not be closed", extra={"task": self.partition})

    def _end(self) -> None:
        self.is_over = True
        self._drop_engine()

    def _count(self, engine: SubTopologyTask, output: TaskOutput) -> BatchCounts:
        """Return what *engine* has counted since the last time."""
        now, before = engine.counters, self._counted
        dropped = dict(now.dropped)
        self._counted = BatchCounts(now.processed, now.skipped, now.quarantined, 0, dropped)
        return BatchCounts(
            now.processed - before.processed,
            now.skipped - before.skipped,
            now.quarantined - before.quarantined,
            len(output.records),
            {reason: number - before.dropped.get(reason, 0) for reason, number in dropped.items()},
        )


def _header_of(batch: Batch) -> bytes:
    """Return what the record of the position of *batch* has as `ce_id`."""
    return str(UUID(bytes=batch.event_id)).encode()


def _is_temporary(error: Exception) -> bool:
    """Say whether *error* says nothing of the records: of the log, the disk, a registry."""
    return isinstance(error, OSError) or (isinstance(error, StreamsError) and error.is_retriable)
