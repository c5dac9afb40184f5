"""Feeds the tasks of one sub-topology: reads the input of those that are ready here, and has batches of it processed.

A thread of its own reads the source topics, from the positions that lie in the stores, into a bounded buffer for each
task, and submits batches to the write section of the node; what a batch takes is decided on the stream thread, when its
turn has come (`run.py`). Nothing here decides who owns what: a task is ready when the node serves its positions.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from streams.clock import Clock, Deadline
from streams.errors import (
    Draining,
    LogUnavailable,
    OffsetOutOfRange,
    Overloaded,
    ProcessingFailed,
    StoreDamaged,
    TopologyError,
    Unavailable,
)
from streams.log.base import Log
from streams.processing import ErrorPolicy, SubTopologyTask
from streams.processing.compile import PartitionCount
from streams.records import RecordBatch, TopicPartition
from streams.runtime.commands import Outcome
from streams.runtime.node import StreamsNode
from streams.runtime.processing.buffer import InputBuffer
from streams.runtime.processing.care import Care, FailedTask, ProcessingBounds, failed_tasks
from streams.runtime.processing.counters import ProcessingCounters
from streams.runtime.processing.positions import KEY, InputPosition, positions_store, require_own
from streams.runtime.processing.run import Batch, PartitionRun
from streams.runtime.processing.trouble import Lookout, Trouble
from streams.runtime.processing.view import WatchedView
from streams.topology.subtopology import SubTopology

logger = logging.getLogger(__name__)

_IDLE_S = 0.1  # between two looks at ownership and punctuations while nothing comes in
_FULL_S = 0.01
_SURE_S = 1.0  # a reader that had everything so short a time ago has no older record of that topic
_ENDS_TIMEOUT_S = 5.0
_HARD_LIMIT = 4  # times the bound of a buffer: a task that does not process is not read for beyond that

#: Makes the global stores by name; None while they are not complete.
GlobalStores = Callable[[], Mapping[str, Any] | None]


class Processing:
    """Runs one sub-topology. `start` and `stop` belong to its owner; `turn` to its thread, or to a test."""

    def __init__(
        self,
        subtopology: SubTopology,
        *,
        node: StreamsNode,
        log: Log,
        partition_count: PartitionCount,
        clock: Clock,
        policy: ErrorPolicy,
        bounds: ProcessingBounds | None = None,
        global_stores: GlobalStores = dict,
    ) -> None:
        """*node* must run `positions.state_of(subtopology)`."""
        self.subtopology = subtopology
        self.counters = ProcessingCounters()
        self._node = node
        self._log = log
        self._reader = log.open_reader()
        self._partition_count = partition_count
        self._clock = clock
        self._policy = policy
        self._bounds = bounds or ProcessingBounds()
        self._global_stores = global_stores
        self._store = positions_store(subtopology)
        self._timestamps = {
            topic: source.timestamp for source in subtopology.sources for topic in subtopology.topics_of(source)
        }
        self._resets = {
            topic: source.auto_offset_reset for source in subtopology.sources for topic in subtopology.topics_of(source)
        }
        self._trouble, self._start_trouble = Trouble(subtopology.index), Trouble(subtopology.index)
        self._lookout = Lookout(log, self._timestamps, clock)
        self._runs: dict[int, PartitionRun] = {}
        self._cares: dict[int, tuple[object, Care]] = {}  # with the tenure that it is of
        self._assigned: set[tuple[TopicPartition, PartitionRun]] = set()  # with the run that it is for
        self._read: frozenset[int] = frozenset()  # partitions of which something is assigned
        self._paused: dict[int, frozenset[str]] = {}
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._room = threading.Event()  # something was processed
        self._thread = threading.Thread(target=self._work, name=f"processing-{subtopology.index}", daemon=True)

    def start(self) -> None:
        """Begin in the background."""
        self._thread.start()

    def stop(self, deadline: Deadline) -> None:
        """Begin no batch any more, and close processors once those under way are decided. Idempotent."""
        self._is_stopping.set()
        self._reader.wakeup()
        self._room.set()
        if self._thread.is_alive():
            self._thread.join(deadline.remaining_s(self._clock))

    def close(self) -> None:
        """End all runs: after `stop`, and after the node has answered what was under way. Idempotent."""
        for run in list(self._runs.values()):
            run.end()
        self._reader.close()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs. Any thread."""
        return self._thread.is_alive()

    @property
    def failed(self) -> list[FailedTask]:
        """The tasks that do not go on here. Any thread."""
        cares = {partition: care for partition, (_, care) in dict(self._cares).items()}
        return failed_tasks(self.subtopology.index, cares)

    @property
    def troubles(self) -> list[str]:
        """Why input cannot be read, or its reading not begun; empty while all is well. Any thread."""
        return [trouble.reason for trouble in (self._trouble, self._start_trouble) if trouble.reason]

    def positions(self) -> dict[TopicPartition, int]:
        """Return how far the input of the tasks that are owned here is processed, as the stores say: 0 for one whose
        store cannot tell now. Any thread."""
        found: dict[TopicPartition, int] = {}
        for partition in self._node.thread.owned:
            offsets: Mapping[str, int] = {}
            try:
                row = self._node.replica(self._store, partition).get(KEY)
                offsets = {} if row is None else InputPosition.decode(row).offsets
            except Exception as error:  # noqa: BLE001 - the task may leave at any time; then it has no position here
                logger.debug("no position", extra={"task": partition, "reason": str(error)})
            topics = [topic for topic in self._timestamps if partition < self._partition_count(topic)]
            found |= {TopicPartition(topic, partition): offsets.get(topic, 0) for topic in topics}
        return found

    def reached(self) -> dict[TopicPartition, int]:
        """As `positions`, but beyond what holds no record, such as the end of a producer's transaction: where all that
        was read is processed and in the log, it is where reading goes on. No store has that. Any thread."""
        found = self.positions()
        for partition, run in self._runs.items():
            read = {TopicPartition(topic, partition): offset for topic, offset in run.idle_at().items()}
            found |= {place: max(offset, found[place]) for place, offset in read.items() if place in found}
        return found

    def deliver(self, outcomes: list[tuple[Any, Outcome]]) -> None:
        """See `streams.runtime.table.Receiver`: on the stream thread. What waits is submitted at once."""
        for batch, outcome in outcomes:
            run: PartitionRun = batch.run
            run.answered(batch, outcome)
            with self._lock:
                run.in_flight -= 1
            self._submit(run)
        self._room.set()

    def turn(self, timeout_s: float = 0.0) -> None:
        """Look who is ready, read, and submit; wait up to *timeout_s* for input."""
        self._follow_ownership()
        for batch in self._poll(timeout_s):
            run = self._runs.get(batch.partition)
            if run is not None and batch.topic in run.buffer.read:
                run.buffer.add(batch)
        for run in self._runs.values():
            self._submit(run)

    def step(self, timeout_s: float = 0.0) -> bool:
        """As `turn`; return False when it failed, which is told of: a bug, or a log that is damaged or cannot be
        asked. It is done again later."""
        try:
            self.turn(timeout_s)
            missing = self._lookout.look(self._is_quiet)
        except Exception as error:  # noqa: BLE001 - it is logged, once
            self._trouble.met(error)
            self._assigned = set()  # What was read and not kept is read again.
            return False
        if missing is None:
            self._trouble.over()
        else:
            self._trouble.met(missing)
        return True

    def _work(self) -> None:
        while not self._is_stopping.is_set():
            if not self.step(_IDLE_S):
                self._is_stopping.wait(1.0)

    def _is_quiet(self, since: float) -> bool:
        """Say whether of something that is read it is not known that all was read *since*."""
        return any(self._reader.caught_up_at(place) < since for place, _ in self._assigned)

    def _poll(self, timeout_s: float) -> list[RecordBatch]:
        self._look_for_older()
        reading = [run for partition, run in self._runs.items() if partition in self._read]
        if reading and all(self._is_full(run) and not run.buffer.is_starved for run in reading):
            self._room.clear()
            self._room.wait(min(timeout_s, _FULL_S))
            return []
        now_ms = self._clock.time_ms()
        for run in self._runs.values():
            if run.next_punctuation_ms is not None and run.care.failure is None:
                timeout_s = min(timeout_s, max(_FULL_S, (run.next_punctuation_ms - now_ms) / 1000))
            elif run.buffer.has_next:
                timeout_s = min(timeout_s, _FULL_S)  # It is under way, or waits for its next attempt.
        try:
            return self._reader.poll(timeout_s)
        except OffsetOutOfRange as error:
            self._lost(error)
            return []

    def _is_full(self, run: PartitionRun) -> bool:
        """Say whether as much as the bounds allow waits for *run*."""
        bounds = self._bounds
        return len(run.buffer) > bounds.buffered_records or run.buffer.size_bytes > bounds.buffered_bytes

    def _look_for_older(self) -> None:
        """Note which topics may have records that are older than those of the others."""
        if len(self._timestamps) < 2:
            return
        sure_at = self._clock.monotonic() - _SURE_S
        for partition, run in self._runs.items():
            run.buffer.unsure = frozenset(
                topic
                for topic in run.buffer.read  # the others do not have this partition
                if self._reader.caught_up_at(TopicPartition(topic, partition)) < sure_at
            )

    def _submit(self, run: PartitionRun) -> None:
        """Have the next batch of *run* decided, if there is something to do and room for it. Either thread."""
        while True:
            with self._lock:
                if (
                    self._is_stopping.is_set()
                    or run.in_flight >= self._bounds.batches_in_flight
                    or not run.is_due(self._clock.monotonic(), self._clock.time_ms())
                    or (run.in_flight and not run.buffer.has_next)
                ):
                    return
                run.in_flight += 1
            batch = Batch(run)
            try:
                deadline = Deadline.after(self._bounds.timeout_s, self._clock)
                self._node.table.submit(batch, deadline, self, batch)
            except (Overloaded, Draining):
                with self._lock:
                    run.in_flight -= 1
                return

    def _follow_ownership(self) -> None:
        """Begin the runs of tasks that have become ready, and end those of tasks that are not any more."""
        ready: dict[int, PartitionRun] = {}
        owned = self._node.thread.owned
        for partition in sorted(owned):
            run = self._runs.get(partition)
            task = self._node.thread.tasks.get(partition)
            is_same = run is not None and task is not None and run.begun_with == (task, task.store, task.tenure)
            if run is not None and is_same and not run.is_over:
                ready[partition] = run
            elif task is not None and (begun := self._begin(partition)) is not None:
                ready[partition] = begun
        for partition, run in self._runs.items():
            if ready.get(partition) is not run:
                run.end()
        for partition in self._cares.keys() - owned:
            del self._cares[partition]
        self._runs = ready
        self._assign()

    def _begin(self, partition: int) -> PartitionRun | None:
        """Return a run of *partition* if its task is ready."""
        task = self._node.thread.tasks[partition]
        tenure = task.tenure
        try:
            reader = self._node.reader(self._store, partition)
            row = reader.get(KEY)
        except Unavailable:
            return None
        except Exception as error:  # noqa: BLE001 - rocksdict's own; explained, and met again if it is more than a move
            if isinstance(task.store.explain(error), StoreDamaged):
                self._node.report_damage(partition, str(error))
            return None
        kept_tenure, care = self._cares.get(partition, (None, Care()))
        if kept_tenure is not tenure:
            care = Care()
        self._cares[partition] = (tenure, care)
        if care.failure is not None or tenure is None or self._global_stores() is None:
            return None
        offsets = {} if row is None else InputPosition.decode(row).offsets
        try:
            require_own(self.subtopology, offsets, task.store)
            starts = self._starts(partition, offsets, care)
        except TopologyError as error:
            care.failure = error
            logger.error("task stopped: %s", error, extra={"task": partition})  # noqa: TRY400 - it says it all
            return None
        except LogUnavailable as error:
            self._start_trouble.met(error)
            return None
        self._start_trouble.over()
        return PartitionRun(
            task,
            subtopology=self.subtopology,
            row=row,
            buffer=InputBuffer(starts, self._timestamps),
            keeps_start=any(topic in starts and topic not in offsets for topic in care.starts),
            care=care,
            make_engine=self._make_engine,
            bounds=self._bounds,
            clock=self._clock,
            counters=self.counters,
        )

    def _starts(self, partition: int, offsets: Mapping[str, int], care: Care) -> dict[str, int]:
        """Return where to begin each topic that has *partition*: where *offsets* say, else where its source says. The
        end of a topic is asked for once, and is the place from then on, whatever becomes of the first batch."""
        topics = [topic for topic in self._timestamps if partition < self._partition_count(topic)]
        latest = [topic for topic in topics if topic not in offsets and self._resets[topic] == "latest"]
        places = [TopicPartition(topic, partition) for topic in latest if topic not in care.starts]
        ends = self._log.end_offsets(places, Deadline.after(_ENDS_TIMEOUT_S, self._clock)) if places else {}
        care.starts.update({place.topic: end for place, end in ends.items()})
        return {topic: offsets.get(topic, care.starts.get(topic, 0)) for topic in topics}

    def _make_engine(self, view: WatchedView, partition: int, stream_time_ms: int) -> SubTopologyTask:
        return SubTopologyTask(
            self.subtopology,
            partition,
            view=view,
            partition_count=self._partition_count,
            now_ms=self._clock.time_ms,
            policy=self._policy,
            global_stores=self._global_stores(),
            stream_time_ms=stream_time_ms,
        )

    def _assign(self) -> None:
        """Have the reader read what there is room for. A new assignment costs a fetch, so a full task is read on for a
        while; but where a task waits for older records of one topic, the others make room for that one at once."""
        wanted: dict[TopicPartition, int] = {}
        for partition, run in self._runs.items():
            if run.care.failure is None:
                self._paused[partition] = paused = self._paused_topics(run, self._paused.get(partition, frozenset()))
                offsets = run.buffer.read
                wanted |= {TopicPartition(topic, partition): offsets[topic] for topic in offsets if topic not in paused}
        for partition in self._paused.keys() - self._runs.keys():
            del self._paused[partition]
        begun = {(place, self._runs[place.partition]) for place in wanted}
        if begun != self._assigned:
            self._assigned = begun
            self._read = frozenset(place.partition for place in wanted)
            self._reader.assign(wanted)

    def _paused_topics(self, run: PartitionRun, paused: frozenset[str]) -> frozenset[str]:
        """Return the topics of *run* that are not read for now; *paused* are those that were not until now."""
        buffer, bounds = run.buffer, self._bounds
        is_heavy = buffer.size_bytes > bounds.buffered_bytes * (1 if buffer.is_starved else _HARD_LIMIT)
        limit = bounds.buffered_records * (1 if buffer.is_starved else _HARD_LIMIT)
        return frozenset(
            topic
            for topic in buffer.read
            if (waiting := buffer.waiting(topic))
            and (is_heavy or waiting > (bounds.buffered_records // 2 if topic in paused else limit))
        )

    def _lost(self, error: OffsetOutOfRange) -> None:
        """What was to be read next is not there: removed by age before it was read, cut off with a leader that had not
        what its replicas had, or the topic was made anew. Raises LogUnavailable: the end is not known."""
        topic, partition, run = error.topic, error.partition, self._runs.get(error.partition)
        reset, at = self._resets[topic], 0
        if reset == "latest":
            place = TopicPartition(topic, partition)
            end = self._log.end_offsets([place], Deadline.after(_ENDS_TIMEOUT_S, self._clock))[place]
            at = end if end < error.offset else 0  # Where only its first records were removed, the others are read.
        self.counters.lost_positions += 1
        if reset == "none" and run is not None:
            why = "its topic was cut off, or made anew, and auto_offset_reset is none"
            run.fail(ProcessingFailed("reading", topic=topic, partition=partition, offset=error.offset, reason=why))
            return
        logger.error(
            "input lost: its topic was cut off before it was processed, or made anew; going on with what there is",
            extra={"topic": topic, "partition": partition, "offset": error.offset, "from_offset": at},
        )
        if run is not None:
            run.go_on_at(topic, at)
        self._assigned = set()
