"""The bookkeeping of a write section: one group of commands, the view it is decided on, held batches.

No I/O and no waiting here. Owned by the stream thread.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from streams.clock import Deadline
from streams.log.base import LogWriter, Ownership
from streams.records import Headers, ProducerRecord, RecordBatch, TopicPartition, place_of
from streams.runtime.commands import EVENT_ID
from streams.runtime.table import Pending
from streams.runtime.task import StreamTask
from streams.topology.graph import Topology

OverlayKey = tuple[str, int, bytes]
Overlay = dict[OverlayKey, bytes | None]

_RECORD_BYTES, _HEADER_BYTES = 128, 8  # beside its bytes: framing, and more of it in memory until it is applied


class Flights:
    """What may be in the log and is not applied here yet: another node can have shown it already. The stream thread
    replaces `now` whole; any thread looks."""

    __slots__ = ("_doubts", "now")

    def __init__(self) -> None:
        self.now: Sequence[Overlay] = ()
        self._doubts: list[Group] = []

    def note(self, overlays: Sequence[Overlay], group: "Group | None", *, unready: Collection[int]) -> None:
        """These are committed and not applied, and *group* is about to be appended, or was. What was in doubt is
        applied by now, if it was written, unless it is of an *unready* partition."""
        if self._doubts:
            self._doubts = [one for one in self._doubts if any(at.partition in unready for at in one.partitions)]
        doubts = [one.overlay for one in self._doubts]
        now = [*doubts, *overlays, *([group.overlay] if group is not None else ())]
        if now or self.now:
            self.now = now

    def doubt(self, group: "Group") -> None:
        """What *group* has written, if it has, is not awaited any more."""
        if group not in self._doubts:
            self._doubts.append(group)


class GroupView:
    """The state a command is decided on: the rows that are applied, covered by what is committed or decided since."""

    def __init__(self, tasks: Mapping[int, StreamTask], topology: Topology, below: Sequence[Overlay]) -> None:
        """*below*: the overlays of committed groups that are not applied yet, oldest first."""
        self._tasks = tasks
        self.tables = {table.topic: table for table in topology.tables}
        self._below = tuple(reversed(below))
        self.overlay: Overlay = {}
        self.is_overlay_read = False
        #: Whose store failed, when `get` has raised.
        self.failed_partition: int | None = None

    def get(self, store: str, partition: int, key: bytes) -> bytes | None:
        """See `streams.runtime.commands.View`. Raises StoreDamaged or OSError when the store fails."""
        place = (store, partition, key)
        for overlay in (self.overlay, *self._below):
            if place in overlay:
                self.is_overlay_read = True
                return overlay[place]
        task = self._tasks[partition]
        try:
            return task.getters[store](key)
        except Exception as error:
            self.failed_partition = partition
            raise task.store.explain(error) from error

    def covers(self, partition: int) -> bool:
        """Say whether anything of *partition* is committed or decided and not applied yet."""
        return any(key[1] == partition for overlay in (self.overlay, *self._below) for key in overlay)

    def cover(self, records: Iterable[ProducerRecord]) -> None:
        """Put *records* over the state, by the very function that will materialise them once they are read back: what
        that would quarantine is found here, before it is written. Records of other topics are nobody's rows."""
        tables, overlay = self.tables, self.overlay
        for record in records:
            table = tables.get(record[0])
            if table is not None:
                key, row = table.materialise(record)
                overlay[(table.store, record[1], key)] = row


class Group:
    """Commands that are appended together, and what their callers will be told."""

    def __init__(self, view: GroupView) -> None:
        self.view = view
        self.records: list[ProducerRecord] = []
        #: (pending, result, the records that it writes)
        self.members: list[tuple[Pending, Any, Sequence[ProducerRecord]]] = []
        self.append: Future[Mapping[TopicPartition, int]] | None = None
        self.ownership: Ownership | None = None
        #: Once committed: each partition written, and the offset after the group's last record in it.
        self.targets: Mapping[TopicPartition, int] = {}
        #: Of these: what has to be applied here before the callers are answered.
        self.awaited: Mapping[TopicPartition, int] = {}
        #: Every partition of a table that the group writes.
        self.partitions: set[TopicPartition] = set()
        self.size_bytes = 0
        #: It has one command alone, so that whatever becomes of it is nobody else's.
        self.is_solo = False
        self.begun_at = 0.0
        self.committed_at = 0.0

    @property
    def overlay(self) -> Overlay:
        """The rows as they will be once the group is applied."""
        return self.view.overlay

    @property
    def pendings(self) -> list[Pending]:
        """The commands of all members."""
        return [pending for pending, _, _ in self.members]

    def positions_of(self, records: Sequence[ProducerRecord]) -> Mapping[TopicPartition, int]:
        """Return where a member's *records* can be seen from: the group's end in each partition that it writes, which
        lies at or behind the records themselves."""
        written = set(map(place_of, records))
        places = [place for place in self.partitions if place in written]
        return {place: self.targets[place] for place in places}

    def evidence_in(self, places: Collection[TopicPartition]) -> list[ProducerRecord]:
        """Return the records that are for *places* and say of which event they are."""
        named = [record for record in self.records if any(name == EVENT_ID for name, _ in record.headers)]
        return [record for record in named if TopicPartition(record[0], record[1]) in places]

    def add(self, pending: Pending, records: Sequence[ProducerRecord], result: Any) -> None:
        """Make *pending* a member that writes *records*."""
        self.view.cover(records)
        self.records += records
        self.members.append((pending, result, records))
        tables, size_bytes = self.view.tables, len(records) * _RECORD_BYTES
        for topic, partition in set(map(place_of, records)):
            if topic in tables:
                self.partitions.add(TopicPartition(topic, partition))
        for _, _, key, value, headers, _ in records:
            size_bytes += len(key or b"") + len(value or b"")
            for name, content in headers:
                size_bytes += len(name) + len(content) + _HEADER_BYTES
        self.size_bytes += size_bytes


class Held:
    """Batches that were read and wait until all records of their group are there."""

    def __init__(self) -> None:
        self._batches: dict[TopicPartition, list[RecordBatch]] = {}
        #: Event ids (`ce_id`) of the records read while an append was under way: the evidence of its outcome.
        self.events: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self._batches)

    def add(self, batches: Iterable[RecordBatch], *, note_events: bool) -> None:
        """Take *batches*, in the order in which they were read."""
        for batch in batches:
            self._batches.setdefault(TopicPartition(batch.topic, batch.partition), []).append(batch)
            if note_events:
                for record in batch.records:
                    if record.headers:
                        self.events.update(value for name, value in record.headers if name == EVENT_ID)

    def has_event(self, headers: Headers) -> bool:
        """Say whether a record of the event that *headers* name was read."""
        return any(name == EVENT_ID and value in self.events for name, value in headers)

    def has_any(self, task: int) -> bool:
        """Say whether anything is held for *task*."""
        return any(place.partition == task for place in self._batches)

    def drop(self, task: int) -> None:
        """Forget what is held for *task*: it will be read again from the task's own position."""
        for place in [place for place in self._batches if place.partition == task]:
            del self._batches[place]

    def has_all(self, targets: Mapping[TopicPartition, int], position: Callable[[TopicPartition], int]) -> bool:
        """Say whether every target offset was read, be it held here or applied already (*position*)."""
        for partition, end in targets.items():
            held = self._batches.get(partition)
            if (held[-1].next_offset if held else position(partition)) < end:
                return False
        return True

    def take_until(self, targets: Mapping[TopicPartition, int]) -> list[RecordBatch]:
        """Remove and return what lies before *targets*, cutting a batch in two where it reaches beyond."""
        taken: list[RecordBatch] = []
        for partition, end in targets.items():
            held = self._batches.pop(partition, [])
            rest: list[RecordBatch] = []
            for batch in held:
                if rest:
                    rest.append(batch)
                elif batch.next_offset <= end or not batch.records or batch.records[-1].offset < end:
                    taken.append(batch)  # What lies behind its last record are transaction markers.
                else:
                    head, tail = _cut(batch, end)
                    taken.append(head)
                    rest.append(tail)
            if rest:
                self._batches[partition] = rest
        return taken

    def take_except(self, blocked: frozenset[TopicPartition]) -> list[RecordBatch]:
        """Remove and return the batches of all partitions but *blocked*."""
        taken: list[RecordBatch] = []
        for partition in [partition for partition in self._batches if partition not in blocked]:
            taken += self._batches.pop(partition)
        return taken


def append_with(
    writer: LogWriter,
    records: Sequence[ProducerRecord],
    ownership: Ownership,
    positions: Mapping[int, int],
    deadline: Deadline,
) -> Future[Mapping[TopicPartition, int]]:
    """Append *records*; what *writer* raises at once is in the future as well: it is the fault of one group, and must
    not end the thread of all tasks."""
    try:
        return writer.append(records, ownership=ownership, positions=positions, deadline=deadline)
    except Exception as bug:  # noqa: BLE001 - it belongs to whoever looks at the future
        failed: Future[Mapping[TopicPartition, int]] = Future()
        failed.set_exception(bug)
        return failed


def _cut(batch: RecordBatch, end: int) -> tuple[RecordBatch, RecordBatch]:
    head = [record for record in batch.records if record.offset < end]
    tail = batch.records[len(head) :]
    return batch._replace(records=head, next_offset=end), batch._replace(records=tail)
