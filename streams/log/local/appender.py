"""Appends groups of records to the database: group commit, and what follows when the disk refuses.

The invariant: a record is published only after the sync that covers it, and one that was reported as not appended is
never published, not after a restart of the database either. Three states:

    HEALTHY  --a write failed-->   REFUSED   nothing of it may stay; the next append (at most once a second) recovers
    HEALTHY  --a sync failed-->    UNKNOWN   it may be on disk or not; only `settle` recovers, and says where the end is
    either   --recovered-->        HEALTHY

To recover is to open the database anew. A sync that failed is never tried again on the same files: the system may
have dropped the pages and would report success (PostgreSQL wiki, "Fsync Errors").
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import Enum

from streams.clock import Clock
from streams.errors import Fenced, LogDamaged, LogError, LogUnavailable, OutcomeUnknown
from streams.log.local.commits import Commits
from streams.log.local.database import META, Batch, Database
from streams.log.local.format import Codec, offset_of, parse_cleaning, record_key
from streams.log.local.partition import Partition
from streams.records import ProducerRecord, Record, TopicPartition

_RECOVERY_INTERVAL_S = 1.0

logger = logging.getLogger(__name__)


class _State(Enum):
    HEALTHY = "healthy"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Appender:
    """The one way into the database. Any thread may call; *partitions* and *published* are shared with the log."""

    def __init__(
        self,
        database: Database,
        commits: Commits,
        codec: Codec,
        partitions: Mapping[TopicPartition, Partition],
        published: threading.Condition,
        clock: Clock,
    ) -> None:
        self._database = database
        self._commits = commits
        self._codec = codec
        self._partitions = partitions
        self._published = published
        self._clock = clock
        self._commit_lock = threading.Lock()
        self._waiting: deque[_Group] = deque()
        self._state = _State.HEALTHY
        self._fault: Exception | None = None
        self._recover_at = 0.0
        self._writers: dict[Hashable, object] = {}  # scope to who may append there

    def append(
        self, records: Sequence[ProducerRecord], *, writer: object, scope: Hashable = None
    ) -> dict[TopicPartition, int]:
        """Append *records* whole and durably; return the offsets after the last record of each partition.

        Groups of several threads that come while a sync is under way share the next one. *writer* None: whoever it is,
        no fence is asked. Raises LogUnavailable, RecordTooLarge and Fenced (*writer* did not call `settle` last in its
        *scope*): nothing was appended; OutcomeUnknown (call `settle`); LogDamaged.
        """
        now_ms = self._clock.time_ms()
        row_of = self._codec.row
        group = _Group(records, [row_of(record, now_ms) for record in records], now_ms, writer, scope)
        self._waiting.append(group)
        with self._commit_lock:
            if not group.is_done:  # else the holder before us took it along
                self._commit_waiting()
        if group.error is not None:
            raise group.error
        return group.ends

    def settle(self, writer: object, *, scope: Hashable = None) -> None:
        """Make *writer* the one of *scope* that may append, with nothing of any other under way or undecided.

        Raises LogUnavailable when the outcome of an earlier append cannot be found out now, LogDamaged.
        """
        with self._commit_lock:
            if self._state is not _State.HEALTHY:
                self._recover()
            self._writers[scope] = writer

    def commit(self, batch: Batch, then: Callable[[], None] = lambda: None) -> None:
        """Write and sync changes that append nothing, such as the cleaner's; *then* is called before anything else is
        appended. Raises LogError: it is not known whether they were made, but if so, then all of them."""
        with self._commit_lock:
            self._check_state()
            try:
                self._write(batch)
            except OutcomeUnknown:
                self._state = _State.REFUSED  # no append is in doubt, so the next one may recover
                raise
            then()

    @property
    def fault(self) -> Exception | None:
        """The error for which nothing can be appended now; None: all is well. Any thread."""
        return self._fault

    def _commit_waiting(self) -> None:
        groups: list[_Group] = []
        while self._waiting:
            groups.append(self._waiting.popleft())
        appended: dict[Partition, tuple[list[Record], list[bytes]]] = {}
        try:
            self._check_state()
            batch = Batch()
            for group in groups:
                if group.writer is None or group.writer is self._writers.get(group.scope):
                    self._add(group, batch, appended)
                else:
                    group.error = Fenced("another writer of this process has taken over")
            if appended:
                self._write(batch)
        except Exception as error:  # noqa: BLE001  each group's own thread raises it
            for group in groups:
                group.error = group.error or error
        else:
            for partition, (records, rows) in appended.items():
                partition.extend(records, sum(map(len, rows)))
            with self._published:
                self._published.notify_all()
        for group in groups:
            group.is_done = True

    def _add(self, group: "_Group", batch: Batch, appended: dict[Partition, tuple[list[Record], list[bytes]]]) -> None:
        """Give offsets to the records of *group* and put them into *batch*. About 2 us a record, rows included."""
        partitions, put, new, now_ms = self._partitions, batch.put_record, tuple.__new__, group.timestamp_ms
        for record, row in zip(group.records, group.rows, strict=True):
            topic, number, key, value, headers, own_ms = record
            partition = partitions[record[:2]]  # type: ignore[index]  # a TopicPartition equals its plain tuple
            if partition not in appended:
                appended[partition] = [], []
            records, rows = appended[partition]
            offset = partition.end + len(records)
            put(partition.prefix + offset.to_bytes(8, "big"), row)
            at_ms = now_ms if own_ms is None else own_ms
            records.append(new(Record, (topic, number, offset, at_ms, key, value, headers)))
            rows.append(row)
            group.ends[partition.at] = offset + 1

    def _write(self, batch: Batch) -> None:
        # The worst is assumed first: an exception of any kind in between must not leave the state HEALTHY.
        self._state = _State.UNKNOWN
        number = self._commits.number(batch)
        try:
            self._database.write(batch)
        except LogError as error:
            self._latch(_State.REFUSED, error)
            raise
        try:
            self._database.sync()
        except LogError as error:
            self._latch(_State.UNKNOWN, error)
            raise OutcomeUnknown(f"the disk failed while syncing: {error}") from error
        self._commits.acknowledge(number)
        self._state = _State.HEALTHY

    def _latch(self, state: _State, error: Exception) -> None:
        self._state = state
        self._fault = error
        self._recover_at = self._clock.monotonic() + _RECOVERY_INTERVAL_S
        logger.error("the log takes no appends (%s): %s", state.value, error)

    def _check_state(self) -> None:
        """Raise LogUnavailable unless appends are possible, after an attempt at recovery when one is due."""
        if self._state is _State.HEALTHY:
            return
        if self._state is _State.UNKNOWN:
            raise LogUnavailable(f"the outcome of an earlier append is not known yet: {self._fault}")
        if self._clock.monotonic() < self._recover_at:
            raise LogUnavailable(str(self._fault))
        self._recover()

    def _recover(self) -> None:
        """Open the database anew and bring disk and memory together. Raises LogUnavailable: the state stays."""
        self._recover_at = self._clock.monotonic() + _RECOVERY_INTERVAL_S
        self._database.reopen()
        self._commits.load(self._database)
        found = {partition: end_on_disk(self._database, partition) for partition in self._partitions.values()}
        for partition, end in found.items():
            if end < partition.end:
                self._fault = LogDamaged(f"{partition.at} has lost acknowledged records: restore it from a backup")
                raise self._fault
        if self._state is _State.REFUSED:
            self._remove_refused(found)
            found = {partition: partition.end for partition in found}
        for partition, end in found.items():
            partition.forget_tail(end)  # it may hold what the cleaner removed in a commit whose outcome was unknown
        self._state = _State.HEALTHY
        self._fault = None
        with self._published:
            self._published.notify_all()
        logger.info("the log takes appends again")

    def _remove_refused(self, found: Mapping[Partition, int]) -> None:
        """Delete what was reported as not appended, should a part of it have reached the disk."""
        batch = Batch()
        for partition, end in found.items():
            for offset in range(partition.end, end):
                batch.delete_record(record_key(partition.prefix, offset))
        # Written also when there is nothing to delete: it shows that writing works before appends are let in.
        number = self._commits.number(batch)
        self._database.write(batch)
        self._database.sync()
        self._commits.acknowledge(number)


class _Group:
    """One call of `append` while it waits. `timestamp_ms` is in its rows."""

    __slots__ = ("ends", "error", "is_done", "records", "rows", "scope", "timestamp_ms", "writer")

    def __init__(
        self,
        records: Sequence[ProducerRecord],
        rows: Sequence[bytes],
        timestamp_ms: int,
        writer: object,
        scope: Hashable,
    ) -> None:
        self.records = records
        self.rows = rows
        self.timestamp_ms = timestamp_ms
        self.writer = writer
        self.scope = scope
        self.ends: dict[TopicPartition, int] = {}
        self.error: Exception | None = None
        self.is_done = False


def end_on_disk(database: Database, partition: Partition) -> int:
    """Return the offset after the last record that the database has, or had before it was cleaned away."""
    last = database.last_key(partition.prefix, partition.upper)
    stored = parse_cleaning(database.get(META, partition.prefix)).end
    return max(stored, 0 if last is None else offset_of(last) + 1)
