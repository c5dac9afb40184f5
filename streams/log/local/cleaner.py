"""Compaction of the embedded log, with the meaning of Kafka's: the last record of each key stays, at its own offset.

Kafka's cleaner reads the clean part again on every pass. This one keeps, in the `keys` family, the offset of the last
clean record of each key, so a pass costs what is dirty and no more, and takes no memory for keys. Each step reads some
hundred records, and writes the deletions, the new offsets of the keys, and how far it came in one batch: after a crash
the next step begins where the last one ended, and a step that is done twice does nothing the second time.

Rows of `keys`: partition prefix, "k", hash of the key: offset of its last record. Partition prefix, "t", offset of a
tombstone: timestamp, hash of the key. Hashes (as in Kafka's cleaner, but of 128 bits), because RocksDB writes some keys
into its manifest, where an e-mail address would outlive its deletion.

What is never touched: records younger than `min.compaction.lag.ms`. Here that setting is cut to one second for what
every open reader of the partition has passed. On Kafka it gives remote readers time to see each record, above all to
find out whether an append in doubt was made; in one process the log knows what its readers have seen, and without the
cut the directory would hold ten minutes of a hot key's history. A reader that lags is given the full time.
"""

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from streams.clock import Clock
from streams.errors import LogError
from streams.log.local.appender import Appender
from streams.log.local.database import KEYS, META, Batch, Database
from streams.log.local.format import Cleaning, Outline, cleaning_row, outlines, parse_cleaning, record_key
from streams.log.local.partition import Partition

_INTERVAL_S = 1.0
#: Of one step: a batch holds the GIL while it is written, 1 to 2 us a row.
_STEP_RECORDS = 500
#: The rest after a step, as a multiple of what it took: requests get at least four fifths of the interpreter.
_REST = 4.0
#: Dirty records, or as many as are live if that is more, beyond which it rests the less the further it is behind: else
#: whoever writes faster than a rested cleaner removes would fill the disk.
_RESTED_BACKLOG = 100_000
#: So much must be dirty before the ratio counts: every pass costs an fsync.
_MINIMUM_DIRTY = 1_000
_LOCAL_LAG_MS = 1_000
#: More appends than this since the last look, and the log is busy: a partition then waits for a quieter moment, until
#: so many records are dirty. Cleaning takes the interpreter from the writers: a tenth of their rate was measured.
_BUSY_APPENDS = 200
_BUSY_MINIMUM_DIRTY = 20_000
#: A reader so far behind restores a store: it gets the machine for itself, but not for ever, should it hang.
_FAR_BEHIND_RECORDS = 10_000
_WAIT_FOR_READERS_S = 600.0
#: Between two looks for records that are too old, as on a broker (`log.retention.check.interval.ms`): what comes with a
#: time of long ago is not gone before anybody could read it.
_AGE_INTERVAL_S = 300.0
_COMPACTION_INTERVAL_S = 10.0
#: After this the bytes of what was removed leave the files, however few they are: they may be personal data.
_LONGEST_COMPACTION_INTERVAL_S = 86_400.0
_KEY, _TOMBSTONE, _AFTER_TOMBSTONES = b"k", b"t", b"u"

logger = logging.getLogger(__name__)


class Policy(NamedTuple):
    """A topic's settings, with Kafka's defaults. Times in ms; a retention of -1 is for ever."""

    is_compacted: bool
    is_deleted: bool
    delete_retention_ms: int
    min_compaction_lag_ms: int
    max_compaction_lag_ms: int
    min_cleanable_dirty_ratio: float
    retention_ms: int


class Work(NamedTuple):
    """A partition to look after. *passed*: every open reader of it has read what lies below. *unneeded*: nobody wants
    what lies below."""

    partition: Partition
    policy: Policy
    passed: int
    unneeded: int = 0


def policy_of(config: Mapping[str, str]) -> Policy:
    """Return the policy in *config*. Raises ValueError for a number that is none."""
    policy = config.get("cleanup.policy", "delete").split(",")
    return Policy(
        "compact" in policy,
        "delete" in policy,
        int(config.get("delete.retention.ms", 86_400_000)),
        int(config.get("min.compaction.lag.ms", 0)),
        int(config.get("max.compaction.lag.ms", 2**63 - 1)),
        float(config.get("min.cleanable.dirty.ratio", 0.5)),
        int(config.get("retention.ms", 604_800_000)),
    )


def rest_after(cleaning: Cleaning, end: int) -> float:
    """Return how long to rest after a step, as a multiple of what it took, in a partition that ends at *end*."""
    backlog = (end - cleaning.cleaned) / max(_RESTED_BACKLOG, cleaning.live)
    return _REST / max(1.0, backlog)


class Cleaner:
    """Cleans in a thread of its own, in steps that end within about a millisecond of the GIL. *work* says what."""

    def __init__(
        self, database: Database, appender: Appender, work: Callable[[], Sequence[Work]], clock: Clock
    ) -> None:
        self._database = database
        self._appender = appender
        self._work = work
        self._clock = clock
        self._cleanings: dict[Partition, Cleaning] = {}
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-cleaner", daemon=True)
        self._removed = 1  # since the files were rewritten; before the last start it may have been something
        self._compacted_at = self._aged_at = clock.monotonic()
        self._looks_at_age = False
        self._runs = 0
        self._removed_total = 0
        self._last_run_s = 0.0
        self._is_failing = False
        self._waits_since: float | None = None
        self._ends_total = 0  # of all partitions, at the last look
        self._minimum_dirty = _MINIMUM_DIRTY

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the step under way. Idempotent."""
        self._is_stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def clean(self, *, is_forced: bool) -> None:
        """Clean all partitions that are due, or with *is_forced* all. Blocks; any thread. Raises LogError."""
        with self._lock:
            began = self._clock.monotonic()
            works = self._work()
            if not is_forced and self._is_waiting(works, began):
                return
            self._looks_at_age = is_forced or began - self._aged_at >= _AGE_INTERVAL_S
            if self._looks_at_age:
                self._aged_at = began
            ends_total = sum(work.partition.end for work in works)
            is_busy = ends_total - self._ends_total > _BUSY_APPENDS
            self._ends_total = ends_total
            self._minimum_dirty = _BUSY_MINIMUM_DIRTY if is_busy else _MINIMUM_DIRTY
            removed = sum(self._clean(work, is_forced=is_forced) for work in works)
            if removed:
                self._runs += 1
                self._last_run_s = self._clock.monotonic() - began
                self._removed += removed
                self._removed_total += removed
            self._rewrite(is_forced=is_forced)

    def gauges(self) -> Mapping[str, float]:
        """Return counts since the start, the length of the last run in seconds, and the records in the log."""
        works = self._work()
        return {
            "log_records": sum(_records(self._cleaning(work.partition), work.partition.end) for work in works),
            "log_cleaner_runs": self._runs,
            "log_cleaner_removed_records": self._removed_total,
            "log_cleaner_last_run_seconds": self._last_run_s,
            "log_cleaner_is_failing": float(self._is_failing),
        }

    def _run(self) -> None:
        while not self._is_stopping.wait(_INTERVAL_S):
            try:
                self.clean(is_forced=False)
                self._is_failing = False
            except LogError as error:
                if not self._is_failing and not self._is_stopping.is_set():
                    logger.warning("cleaning the log failed and will be tried again: %s", error)
                self._is_failing = True

    def _is_waiting(self, works: Sequence[Work], now: float) -> bool:
        if sum(work.partition.end - work.passed for work in works) < _FAR_BEHIND_RECORDS:
            self._waits_since = None
            return False
        if self._waits_since is None:
            self._waits_since = now
        return now - self._waits_since < _WAIT_FOR_READERS_S

    def _clean(self, work: Work, *, is_forced: bool) -> int:
        removed = 0
        may_be_too_old = self._looks_at_age and work.policy.retention_ms >= 0
        for step, is_wanted in (
            (self._expire, work.policy.is_deleted and (may_be_too_old or work.unneeded > 0)),
            (self._compact, work.policy.is_compacted and (is_forced or self._is_due(work))),
            (self._remove_tombstones, work.policy.is_compacted),
        ):
            has_more = is_wanted
            while has_more and not self._is_stopping.is_set():
                began = self._clock.monotonic()
                has_more, count = step(work)
                removed += count
                if has_more and not is_forced:
                    rest = rest_after(self._cleaning(work.partition), work.partition.end)
                    self._is_stopping.wait(rest * (self._clock.monotonic() - began))
        return removed

    def _is_due(self, work: Work) -> bool:
        cleaning, policy = self._cleaning(work.partition), work.policy
        dirty = work.partition.end - cleaning.cleaned
        if dirty >= self._minimum_dirty and dirty >= policy.min_cleanable_dirty_ratio * (dirty + cleaning.live):
            return True
        if dirty == 0:
            return False
        oldest = self._read(work.partition, cleaning.cleaned, 1)
        return bool(oldest) and oldest[0].timestamp_ms + policy.max_compaction_lag_ms <= self._clock.time_ms()

    def _compact(self, work: Work) -> tuple[bool, int]:
        """Keep the last record of each key among the next dirty records. Returns whether there is more, and how many
        records were removed."""
        partition, policy = work.partition, work.policy
        cleaning = self._cleaning(partition)
        records = self._read(partition, cleaning.cleaned, _STEP_RECORDS)
        now_ms = self._clock.time_ms()
        youngest_ms = now_ms - min(policy.min_compaction_lag_ms, _LOCAL_LAG_MS)
        youngest_unread_ms = now_ms - policy.min_compaction_lag_ms
        last: dict[bytes, Outline] = {}
        superseded: list[int] = []
        cleaned = cleaning.cleaned
        for record in records:
            if record.timestamp_ms > (youngest_ms if record.offset < work.passed else youngest_unread_ms):
                break
            cleaned = record.offset + 1
            if record.key is None:  # nothing can supersede it, so it would stay for ever: Kafka removes it too
                superseded.append(record.offset)
                continue
            earlier = last.get(record.key)
            if earlier is not None:
                superseded.append(earlier.offset)
            last[record.key] = record
        if cleaned == cleaning.cleaned:
            return False, 0
        batch = Batch()
        live = cleaning.live
        for key, record in last.items():
            hashed = _hash(key)
            key_row = partition.prefix + _KEY + hashed
            offset = self._database.get(KEYS, key_row)
            if offset is None:
                live += 1
            else:
                superseded.append(int.from_bytes(offset, "big"))
            batch.put(KEYS, key_row, record.offset.to_bytes(8, "big"))
            if record.is_tombstone:
                mark = record_key(partition.prefix + _TOMBSTONE, record.offset)
                batch.put(KEYS, mark, record.timestamp_ms.to_bytes(8, "big") + hashed)
        for removed in superseded:
            batch.delete_record(record_key(partition.prefix, removed))
        self._commit(batch, partition, cleaning._replace(cleaned=cleaned, live=live))
        return len(records) == _STEP_RECORDS and cleaned == records[-1].offset + 1, len(superseded)

    def _remove_tombstones(self, work: Work) -> tuple[bool, int]:
        """Remove tombstones older than `delete.retention.ms`, which are the last record of their key."""
        partition = work.partition
        cleaning = self._cleaning(partition)
        lower, upper = partition.prefix + _TOMBSTONE, partition.prefix + _AFTER_TOMBSTONES
        oldest_ms = self._clock.time_ms() - work.policy.delete_retention_ms
        batch = Batch()
        seen = removed = 0
        for mark, row in self._database.rows(KEYS, lower, upper, _STEP_RECORDS):
            if int.from_bytes(row[:8], "big") > oldest_ms:
                break
            seen += 1
            batch.delete(KEYS, mark)
            offset, key_row = mark[-8:], partition.prefix + _KEY + row[8:]
            if self._database.get(KEYS, key_row) == offset:
                batch.delete(KEYS, key_row)
                batch.delete_record(partition.prefix + offset)
                removed += 1
        if seen:
            self._commit(batch, partition, cleaning._replace(live=cleaning.live - removed))
        return seen == _STEP_RECORDS, removed

    def _expire(self, work: Work) -> tuple[bool, int]:
        """Remove records from the beginning that are older than `retention.ms`, or unneeded, up to the first that is
        neither."""
        partition = work.partition
        cleaning = self._cleaning(partition)
        retention_ms = work.policy.retention_ms
        may_be_too_old = self._looks_at_age and retention_ms >= 0
        oldest_ms = self._clock.time_ms() - retention_ms if may_be_too_old else -math.inf
        batch = Batch()
        live, start, removed = cleaning.live, cleaning.start, 0
        oldest = self._read(partition, start, 1)
        if not oldest or (oldest[0].timestamp_ms >= oldest_ms and oldest[0].offset >= work.unneeded):
            return False, 0
        for record in self._read(partition, start, _STEP_RECORDS):
            if record.timestamp_ms >= oldest_ms and record.offset >= work.unneeded:
                break
            start = record.offset + 1
            removed += 1
            batch.delete_record(record_key(partition.prefix, record.offset))
            if record.offset < cleaning.cleaned:
                live -= 1
                if record.key is not None:
                    batch.delete(KEYS, partition.prefix + _KEY + _hash(record.key))
        if removed:
            cleaned = max(cleaning.cleaned, start)
            self._commit(batch, partition, cleaning._replace(start=start, cleaned=cleaned, live=live))
        return removed == _STEP_RECORDS, removed

    def _commit(self, batch: Batch, partition: Partition, cleaning: Cleaning) -> None:
        cleaning = cleaning._replace(end=partition.end)
        batch.put(META, partition.prefix, cleaning_row(cleaning))
        try:
            self._appender.commit(batch, lambda: partition.trim(cleaning.cleaned, cleaning.start))
        except LogError:
            self._cleanings.pop(partition, None)  # whether it was made is not known: read again what is on disk
            raise
        self._cleanings[partition] = cleaning

    def _cleaning(self, partition: Partition) -> Cleaning:
        cleaning = self._cleanings.get(partition)
        if cleaning is None:
            cleaning = self._cleanings[partition] = parse_cleaning(self._database.get(META, partition.prefix))
        return cleaning

    def _read(self, partition: Partition, offset: int, limit: int) -> list[Outline]:
        lower, upper = record_key(partition.prefix, offset), record_key(partition.prefix, partition.end)
        return self._database.scan(lower, upper, lambda rows: outlines(rows, limit))

    def _rewrite(self, *, is_forced: bool) -> None:
        """Give the space of what was removed back to the disk, when that is much beside what is left."""
        live = sum(cleaning.live for cleaning in self._cleanings.values())
        age_s = self._clock.monotonic() - self._compacted_at
        is_much = age_s >= _COMPACTION_INTERVAL_S and self._removed >= max(_MINIMUM_DIRTY, live // 2)
        if self._removed and (is_forced or is_much or age_s >= _LONGEST_COMPACTION_INTERVAL_S):
            self._database.compact()
            self._removed = 0
            self._compacted_at = self._clock.monotonic()


def _hash(key: bytes) -> bytes:
    return blake2b(key, digest_size=16).digest()


def _records(cleaning: Cleaning, end: int) -> int:
    return cleaning.live + end - cleaning.cleaned
