"""The engine: one sub-topology on one partition. Records go in, one at a time; what they made comes out in one piece.

No I/O, no thread and no clock in here: reads go to the state store through the `StoreView` that is passed in, writes
stay in an overlay, and `take` hands over what is to be appended and kept (`streams.processing.output`). One cycle of
whoever runs a task:

    process(record) ...           any number of records, of any source topic, in the order that he chose
    output = take()               append output and input offsets in one transaction
    released(), or a new task     after the rows are in the store; or, when the transaction failed, throw the task away

Between `take` and `released` the task may go on: it sees what it has written, wherever that is by now. Invariant: the
same records in the same order from the same stores give the same output, so that a batch whose transaction was
aborted is simply done again by a new task. (Wall-clock punctuations and users' functions may break that; nothing here
does.)
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from streams.errors import ProcessingFailed, SerdeUnavailable
from streams.processing.compile import PartitionCount, compile_nodes
from streams.processing.context import TaskState
from streams.processing.errors import QUARANTINE, SKIP, STOP, ErrorPolicy, quarantined
from streams.processing.output import OutputRecord, TaskOutput
from streams.processing.stores import StoreView, open_store, overlay_of, times_of
from streams.records import Record
from streams.stores.overlay import OverlayStore
from streams.stores.sessions import SessionStore
from streams.stores.typed import KeyValueStore
from streams.stores.windows import WindowStore
from streams.topology.nodes import Process
from streams.topology.stores import StoreSpec
from streams.topology.subtopology import SubTopology

__all__ = ["StoreView", "SubTopologyTask", "TaskCounters"]

_STREAM_TIME = "stream-time"
_time_of = Struct(">q").unpack_from  # of a row, which begins with it
_new = tuple.__new__  # what a named tuple's constructor does, at a third of its price


@dataclass(slots=True)
class TaskCounters:
    """What a task did since it was made. `dropped` is by reason."""

    processed: int = 0
    skipped: int = 0
    quarantined: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


class SubTopologyTask:
    """Runs one sub-topology on one partition (see the module). One thread.

    `stores` are the stores as operators see them, writes that are not taken yet included.
    """

    def __init__(
        self,
        subtopology: SubTopology,
        partition: int,
        *,
        view: StoreView,
        partition_count: PartitionCount,
        now_ms: Callable[[], int],
        policy: ErrorPolicy | None = None,
        global_stores: Mapping[str, Any] | None = None,
        stream_time_ms: int = -1,
    ) -> None:
        """*view*: the stores as committed. *global_stores*: those of the task of the global sub-topology. *now_ms*:
        the wall clock, for punctuations. *stream_time_ms*: where a task without a store of times goes on; else it
        knows."""
        self.subtopology = subtopology
        self.partition = partition
        self._policy = ErrorPolicy() if policy is None else policy
        self._undoes = self._policy.undoes
        self._partition_count = partition_count
        self._overlays = {name: overlay_of(view, name) for name in subtopology.stores}
        self._changelogs = {name: subtopology.changelog_of(name) for name in subtopology.stores}
        self.stores: dict[str, Any] = {}
        self._state = TaskState(stores=self.stores, global_stores=global_stores or {}, now_ms=now_ms)
        self._record = self._state.record
        self._due = self._state.stream_time.due
        self.counters = TaskCounters(dropped=self._state.dropped)
        self._records: list[OutputRecord] = []
        self._sealed: list[list[OverlayStore]] = []
        self._times: KeyValueStore[str, int] | None = None
        self._open_stores(stream_time_ms, view)
        self._entries = compile_nodes(
            subtopology,
            self._state,
            emit=self._records.append,
            partition_count=partition_count,
            guard=self._guard if self._policy.on_processing == SKIP else None,
        )

    def process(self, record: Record) -> None:
        """Process one record of a source topic. Raises ProcessingFailed when it cannot be and the policy is to stop:
        the task is then of no more use. KeyError: the topic is none of the sources."""
        topic, partition, offset, timestamp_ms, key_bytes, value_bytes, headers = record
        load_key, load_value, time_of, process = self._entries[topic]
        current = self._record
        current.topic, current.partition, current.offset = topic, partition, offset
        current.key, current.value, current.headers = key_bytes, value_bytes, headers
        self.counters.processed += 1
        try:
            key = None if key_bytes is None else load_key(key_bytes)
            value = None if value_bytes is None else load_value(value_bytes)
            if time_of is not None:
                timestamp_ms = time_of(record)
            if not isinstance(timestamp_ms, int) or timestamp_ms < 0:
                raise ValueError(f"the timestamp is {timestamp_ms!r}")  # noqa: TRY301 - refused as a serde's errors are
        except SerdeUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - a user's serde or extractor may raise anything
            self._refuse(record, error, "deserialization", self._policy.on_deserialization)
            return
        current.timestamp_ms = timestamp_ms
        if timestamp_ms > current.stream_time_ms:
            current.stream_time_ms = timestamp_ms
        if self._undoes:
            self._process_or_undo(record, process, key, value, timestamp_ms)
        else:
            try:
                process(key, value, timestamp_ms)
            except SerdeUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - a user's function may raise anything
                self._refuse(record, error, "processing", STOP)
        if self._due and self._due[0][0] <= current.stream_time_ms:
            self._punctuate(self._state.stream_time.run, current.stream_time_ms)

    def refuse(self, record: Record, error: Exception) -> None:
        """Do not process *record*, because the log does not take what comes of it: *error*. The policy is that of
        processing. Raises ProcessingFailed when it is to stop."""
        self.counters.processed += 1
        self._refuse(record, error, "production", self._policy.on_processing)

    def punctuate(self) -> bool:
        """Run the wall-clock punctuations that are due, and return whether there were any. Raises ProcessingFailed when
        one fails."""
        now_ms = self._state.now_ms()
        if not self._state.wall_clock.is_due(now_ms):
            return False
        self._punctuate(self._state.wall_clock.run, now_ms)
        return True

    @property
    def next_punctuation_ms(self) -> int | None:
        """When the next wall-clock punctuation is due, Unix ms; None: there is none."""
        return self._state.wall_clock.next_ms()

    @property
    def stream_time_ms(self) -> int:
        """The greatest timestamp so far; -1 before any."""
        return self._record.stream_time_ms

    def take(self) -> TaskOutput:
        """Return what was made since the last call. The task goes on seeing it; call `released` once the rows are in
        the state store, once for each `take` that was not empty."""
        self._keep_times()
        changes: list[OutputRecord] = []
        written = [overlay for overlay in self._overlays.values() if overlay.written]
        for overlay in written:
            changelog, spec = self._changelogs[overlay.name], self.subtopology.stores[overlay.name]
            if changelog is not None and spec.source_topic is None:
                changes += self._changes(changelog, spec, overlay.written)
        rows = {overlay.name: overlay.written for overlay in written}  # which nobody changes once they are sealed
        for overlay in written:
            overlay.seal()
        output = TaskOutput(self._records[:], changes, rows, self._expired())
        self._records.clear()
        if not output.is_empty:
            self._sealed.append(written)
        return output

    def released(self) -> None:
        """The rows of the oldest `take` that was not empty are in the state store."""
        for overlay in self._sealed.pop(0):
            overlay.release()

    def close(self) -> None:
        """End the task: processors are closed. What was not taken is lost. Raises what a processor's close raises."""
        for close in self._state.closers:
            close()
        self._state.closers.clear()

    def _open_stores(self, stream_time_ms: int, view: StoreView) -> None:
        state, record = self._state, self._record
        state.kept_times = times_of(self.subtopology, view)
        times = self.subtopology.times_store
        for name, spec in self.subtopology.stores.items():
            store = open_store(spec, self._overlays[name], record, state.moment)
            if name == times:
                self._times = store
            else:
                self.stores[name] = store
        kept_ms = state.moment(_STREAM_TIME).value if self._times is not None else -1
        record.stream_time_ms = max(stream_time_ms, kept_ms)

    def _keep_times(self) -> None:
        """Put the times that have changed into their store."""
        if self._times is None:
            return
        self._state.moment(_STREAM_TIME).value = self._record.stream_time_ms
        for moment in self._state.moments.values():
            if moment.value != moment.kept:
                self._times.put(moment.name, moment.value, max(0, moment.value))
                moment.kept = moment.value

    def _changes(self, changelog: str, spec: StoreSpec, rows: Mapping[bytes, bytes | None]) -> Iterator[OutputRecord]:
        """Return the records that make *rows*."""
        partition, now_ms, key_at = self.partition, self._record.timestamp_ms, spec.segment_bytes
        for key, row in rows.items():
            timestamp_ms, value = (now_ms, None) if row is None else (_time_of(row)[0], row[8:])
            yield _new(OutputRecord, (changelog, partition, key[key_at:], value, (), timestamp_ms))

    def _expired(self) -> dict[str, bytes]:
        return {
            name: store.expired_before()
            for name, store in self.stores.items()
            if isinstance(store, WindowStore | SessionStore)
        }

    def _process_or_undo(self, record: Record, process: Callable[..., None], *arguments: Any) -> None:
        """Process, and leave no trace of a record that failed half-way."""
        overlays, made = self._overlays.values(), len(self._records)
        for overlay in overlays:
            overlay.mark()
        try:
            process(*arguments)
        except SerdeUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            del self._records[made:]
            has_undone = [overlay.undo() for overlay in overlays]
            if any(has_undone):
                for rollback in self._state.rollbacks:
                    rollback()
            self._refuse(record, error, "processing", self._policy.on_processing)

    def _guard(self, process: Process) -> Process:
        """Return *process* with its errors counted and forgotten."""

        def guarded(*arguments: Any) -> None:
            try:
                process(*arguments)
            except SerdeUnavailable:
                raise
            except Exception:  # noqa: BLE001 - a user's function may raise anything
                self.counters.skipped += 1
                self._state.drop("failed-processing")

        return guarded

    def _refuse(self, record: Record, error: Exception, stage: str, choice: str) -> None:
        if choice == STOP:
            raise ProcessingFailed(
                stage,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                reason=f"{type(error).__name__}: {error}",
            ) from error
        if choice == QUARANTINE:
            self.counters.quarantined += 1
            topic = self._policy.quarantine_topic or f"{self.subtopology.application_id}-quarantine"
            partition = record.partition % self._partition_count(topic)
            self._records.append(quarantined(record, error, topic=topic, partition=partition))
        else:
            self.counters.skipped += 1
            self._state.drop(f"failed-{stage}")

    def _punctuate(self, run: Callable[[int], None], now_ms: int) -> None:
        """Run punctuations: their records have no place in a topic, and no headers."""
        current = self._record
        current.topic, current.partition, current.offset = "", self.partition, -1
        current.key, current.value, current.headers = None, None, ()
        current.timestamp_ms = max(0, current.stream_time_ms)
        try:
            run(now_ms)
        except SerdeUnavailable:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ProcessingFailed(
                "punctuation", topic="no record", partition=self.partition, offset=-1, reason=reason
            ) from error
