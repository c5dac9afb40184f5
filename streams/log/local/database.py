"""The one place of the embedded log that calls RocksDB (rocksdict in raw mode). Knows rows, not records or offsets.

Three column families: the default one holds records, `meta` the topics and how far each partition is cleaned, `keys`
what the cleaner knows of the last record of each key. Invariants: whoever calls `write` calls `sync` before the next
`write`, so that a power failure tears the last batch at most; and a scan that did not end soundly raises.
"""

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    CompactOptions,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from streams.clock import Clock, Deadline
from streams.errors import LogDamaged, LogError, LogUnavailable
from streams.log.local.wal import is_tail_torn, wal_files

META = "meta"
KEYS = "keys"

#: Refusals of the system, which say nothing about the bytes. rocksdict hands on no more than RocksDB's message, which
#: ends with the system's own text for the error number.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EIO)
_STALL_LIMIT_S = 5.0
_STALL_PAUSE_S = 0.002
#: Asked for before a database that refused a write is opened again: opening it writes a memtable's worth.
_PROBE_BYTES = 8 << 20
_CACHE_BYTES = 8 << 20

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class Database:
    """An open database. `write` and `sync` belong to the holder of the commit lock; any thread may read."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        """Open or create. Raises LogDamaged, LogUnavailable when the system refuses, or whatever RocksDB says."""
        self._directory = directory
        self._clock = clock
        self._is_closing = threading.Event()
        self._cache = Cache(_CACHE_BYTES)
        self._writing = WriteOptions()
        # A write holds the GIL. RocksDB would slow it down by sleeping; this way it says so, and we sleep without.
        self._writing.no_slowdown = True
        # An iterator keeps the database open, and with it RocksDB's lock: none may be alive when it is opened again.
        self._use = threading.Lock()
        self._compaction = threading.Lock()
        self._families: dict[str, Any] = {}
        self._handles: dict[str, Any] = {}
        self._records: Any = None
        self._open()

    def write(self, batch: "Batch") -> None:
        """Write *batch*; it is not durable before `sync`. Raises when nothing of it is in the database now."""
        deadline = Deadline.after(_STALL_LIMIT_S, self._clock)
        while not self._is_written(batch):
            if self._is_closing.wait(_STALL_PAUSE_S) or deadline.has_passed(self._clock):
                raise LogUnavailable(f"{self._directory}: writing stalled for {_STALL_LIMIT_S:.0f} s")

    def _is_written(self, batch: "Batch") -> bool:
        """Write *batch*; False: RocksDB is behind with its own work, so nothing was written, and later it may be."""
        try:
            # Made anew for each attempt: a batch is used up by a write that failed as well.
            self._records.write(batch.raw(self._handles), self._writing)
        except Exception as error:
            if "Write stall" in str(error):
                return False
            raise self._translated(error) from error
        return True

    def sync(self) -> None:
        """Make all that was written durable (fdatasync; without the GIL). After an error that is not known."""
        try:
            self._records.flush_wal(True)
        except Exception as error:
            raise self._translated(error) from error

    def get(self, family: str, key: bytes) -> bytes | None:
        """Return one row of `meta` or `keys`."""
        row: bytes | None = self._call(lambda: self._families[family].get(key))
        return row

    def rows(self, family: str, lower: bytes, upper: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return the rows of `meta` or `keys` with lower <= key < upper, at most *limit*."""

        def read(iterator: Any) -> list[tuple[bytes, bytes]]:
            found: list[tuple[bytes, bytes]] = []
            while iterator.valid() and len(found) < limit:
                found.append((iterator.key(), iterator.value()))
                iterator.next()
            return found

        return self._call(lambda: _scan(self._families[family], lower, upper, read))

    def scan(self, lower: bytes, upper: bytes, read: Callable[[Any], _T]) -> _T:
        """Return what *read* makes of an iterator over the records with lower <= key < upper.

        Raises LogDamaged when the iterator did not end soundly: it stops at a damaged block as at the end.
        """
        return self._call(lambda: _scan(self._records, lower, upper, read))

    def last_key(self, lower: bytes, upper: bytes) -> bytes | None:
        """Return the greatest key of a record with lower <= key < upper. One seek, whatever lies between."""

        def find() -> bytes | None:
            iterator = self._records.iter()
            iterator.seek_for_prev(upper)
            if iterator.valid() and iterator.key() == upper:
                iterator.prev()
            key = iterator.key() if iterator.valid() else None
            iterator.status()
            return key if key is not None and key >= lower else None

        return self._call(find)

    def compact(self) -> None:
        """Rewrite the files without what was deleted. Takes its time, without the GIL; `close` ends it early."""
        with self._compaction, contextlib.suppress(Exception):  # it only saves space; whoever reads meets damage
            for family in (self._families.get(KEYS), self._families.get(META), self._records):
                if family is not None:
                    family.flush()  # frees the WAL, which all families hold on to
                    # Also what lies at the bottom already: deleted keys hide there, and their bytes have to go.
                    family.compact_range(None, None, _rewriting())

    def size_bytes(self) -> int:
        """Return the bytes of all files, WAL and info log included."""
        total = 0
        for entry in os.scandir(self._directory):
            with contextlib.suppress(FileNotFoundError):  # compaction deletes files at any time
                total += entry.stat().st_size
        return total

    def reopen(self) -> None:
        """Close and open again, which is how RocksDB forgets an error of the disk.

        What it reads from the WAL while opening it writes to new files and syncs, so what is found then is durable.
        Raises LogUnavailable, with the old database still open for reading, when the disk has no room.
        """
        self._probe()
        self._cancel_compaction()
        with self._compaction, self._use:
            self._close()
            try:
                self._open()
            except Exception:
                # Reads go on from what is there, while writing waits for the next attempt.
                with contextlib.suppress(Exception):
                    self._open(is_read_only=True)
                raise

    def close(self) -> None:
        """Close. Idempotent; also when the disk refuses. Reads fail with LogUnavailable from now on."""
        self._is_closing.set()
        self._cancel_compaction()
        with self._compaction, self._use:
            self._close()

    def _cancel_compaction(self) -> None:
        """End a compaction early, so that nobody waits for it. The database has to be closed after this."""
        with contextlib.suppress(Exception):
            self._records.cancel_all_background(False)

    def _close(self) -> None:
        # Each handle holds RocksDB's lock, so all of them are closed.
        for database in (*self._families.values(), self._records):
            with contextlib.suppress(Exception):
                database.close()
        self._families.clear()
        self._handles.clear()  # they hold the database as well
        self._records = None

    def _call(self, function: Callable[[], _T]) -> _T:
        with self._use:
            if self._records is None:
                raise LogUnavailable(f"{self._directory} is closed")
            try:
                return function()
            except LogError:
                raise
            except Exception as error:
                raise self._translated(error) from error

    def _open(self, *, is_read_only: bool = False) -> None:
        is_new = not any(self._directory.iterdir())
        if not is_new and not wal_files(self._directory):
            raise LogDamaged(f"{self._directory} has lost its write-ahead log (*.log): restore it from a backup")
        access = AccessType.read_only(False) if is_read_only else AccessType.read_write()
        try:
            self._records = self._opened(DBRecoveryMode.tolerate_corrupted_tail_records(), access, is_new)
        except Exception as error:
            if "Corruption" not in str(error) or not is_tail_torn(self._directory):
                raise self._translated(error) from error
            # The last batch alone is torn. It was never synced, so never acknowledged, and RocksDB may drop it.
            logger.warning("the last, unacknowledged batch of %s is torn and was dropped", self._directory)
            self._records = self._opened(DBRecoveryMode.point_in_time(), access, is_new)
        self._families = {name: self._records.get_column_family(name) for name in (META, KEYS)}
        self._handles = {name: self._records.get_column_family_handle(name) for name in (META, KEYS)}

    def _opened(self, recovery: DBRecoveryMode, access: AccessType, is_new: bool) -> Any:
        records = _options(self._cache, is_new=is_new, write_buffer_bytes=_WRITE_BUFFER_BYTES)
        records.set_wal_recovery_mode(recovery)
        families = {
            META: _options(self._cache, is_new=is_new, write_buffer_bytes=1 << 18),
            KEYS: _options(self._cache, is_new=is_new, write_buffer_bytes=1 << 20),
        }
        return Rdict(str(self._directory), records, families, access)

    def _probe(self) -> None:
        """Raise LogUnavailable unless the disk takes as much as opening again may write."""
        path = self._directory.parent / "probe"
        try:
            with path.open("wb") as file:
                file.write(bytes(_PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise LogUnavailable(f"the disk of {self._directory} takes no writes: {error.strerror}") from error
        finally:
            path.unlink(missing_ok=True)

    def _translated(self, error: Exception) -> LogError:
        message = str(error)
        if any(message.endswith(os.strerror(code)) for code in _REFUSALS):
            return LogUnavailable(message)
        if "Corruption" in message or "No such file" in message:
            return LogDamaged(f"{self._directory} is damaged ({message}): stop, and restore it from a backup")
        return LogUnavailable(message)


class Batch:
    """Changes that are written together, in any order. One thread."""

    __slots__ = ("_changes", "_deleted", "_records", "delete_record")

    def __init__(self) -> None:
        self._records: list[tuple[bytes, bytes]] = []
        self._deleted: list[bytes] = []
        self._changes: list[tuple[str, bytes, bytes | None]] = []
        self.delete_record = self._deleted.append

    def put_record(self, key: bytes, row: bytes) -> None:
        self._records.append((key, row))

    def put(self, family: str, key: bytes, value: bytes) -> None:
        self._changes.append((family, key, value))

    def delete(self, family: str, key: bytes) -> None:
        self._changes.append((family, key, None))

    def raw(self, handles: Mapping[str, Any]) -> WriteBatch:
        """Return the changes as RocksDB takes them, once."""
        raw = WriteBatch(raw_mode=True)
        put, delete = raw.put, raw.delete
        for key, row in self._records:
            put(key, row)
        for key in self._deleted:
            delete(key)
        for family, key, value in self._changes:
            if value is None:
                delete(key, handles[family])
            else:
                put(key, value, handles[family])
        return raw


#: Small: a write into a small memtable is faster, and less has to be read again at start.
_WRITE_BUFFER_BYTES = 4 << 20


def _options(cache: Cache, *, is_new: bool, write_buffer_bytes: int) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_bloom_filter(10, False)
    options = Options(raw_mode=True)
    # Only an empty directory is filled: RocksDB would make a new database beside the files of one that lost CURRENT.
    options.create_if_missing(is_new)
    options.create_missing_column_families(is_new)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())  # the names of headers repeat in every record
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_write_buffer_size(write_buffer_bytes)
    options.set_max_total_wal_size(16 << 20)
    options.set_paranoid_checks(True)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 << 20)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def _rewriting() -> CompactOptions:
    options = CompactOptions()
    options.set_bottommost_level_compaction(BottommostLevelCompaction.force_optimized())
    return options


def _scan(family: Any, lower: bytes, upper: bytes, read: Callable[[Any], _T]) -> _T:
    reading = ReadOptions()
    reading.set_iterate_upper_bound(upper)
    iterator = family.iter(reading)
    iterator.seek(lower)
    result = read(iterator)
    iterator.status()
    return result
