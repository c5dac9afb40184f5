"""State stores on RocksDB (rocksdict in raw mode): one database for each task, one column family for each store.

Nothing else in `streams` knows RocksDB besides the embedded log. The default column family holds what is not a row:
identity, positions, the time of the last catching up. Invariant: whatever a database claims as its positions, all rows
up to there are in it. Four things keep it:
- rows and positions are one WriteBatch, so the write-ahead log (WAL) has both or neither;
- `atomic_flush`: the column families reach their files together, so what survives the loss of the WAL (a restore
  writes without it; a power failure can lose its tail, since nothing is fsynced here) is an older consistent state
  (RocksDB wiki, "Atomic flush");
- a commit with WAL never follows one without before that one is flushed: replaying the WAL over lost rows would claim
  positions whose rows are gone;
- the last commits are numbered in the database: RocksDB replays a WAL also when the one before it is missing or short,
  so a gap in the numbers is damage.
The log is the truth. So damage is not repaired: it is reported, and the owner of the task wipes and rebuilds.
"""

import contextlib
import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DbClosedError,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

from streams.clock import Clock
from streams.errors import StoreClosed, StoreDamaged, StoreLocked, StoreMismatch
from streams.stores.base import Getter, StoreBatch, StoreIdentity
from streams.stores.directory import lock_holder, make_private
from streams.stores.metadata import COMMITS, commit_row, identity_row, state_row

_IDENTITY = b"identity"
_STATE = b"state"
#: All memtables of the process: one that fills up makes the fullest database flush.
_MEMTABLES_BYTES = 32 << 20

#: Refusals of the system that say nothing about the bytes: passed on as OSError. RocksDB ends its message with the
#: system's own text for the error number, which is all that rocksdict hands on.
_REFUSALS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
)

_T = TypeVar("_T")


class RocksStoreFactory:
    """Opens the databases of tasks in `<state_dir>/tasks/<task>`; all share one block cache and one bound on memtables.

    *cache_bytes*: of the block cache, for the whole process. *max_age_ms*: a store that was last caught up longer ago
    is refused with StoreMismatch, because tombstones may be gone from the log (None: never). One process for a state
    directory; the methods may be called by any thread, for one task by one at a time.
    """

    def __init__(self, state_dir: Path, *, cache_bytes: int, max_age_ms: int | None, clock: Clock) -> None:
        self._tasks_dir = state_dir / "tasks"
        self._max_age_ms = max_age_ms
        self._clock = clock
        self._cache = Cache(cache_bytes)
        self._memtables = WriteBufferManager(_MEMTABLES_BYTES, False)

    def open(self, task: int, stores: Sequence[str], identity: StoreIdentity) -> "RocksTaskStore":
        """Open or create the stores of *task*.

        Raises StoreMismatch or StoreDamaged (wipe, then open again), StoreLocked when a process holds the database, or
        OSError when the disk or the permissions refuse.
        """
        directory = self._tasks_dir / str(task)
        self._tasks_dir.parent.mkdir(parents=True, exist_ok=True)
        make_private(self._tasks_dir)
        make_private(directory)
        # A directory that has anything in it is never created anew: where CURRENT and the WAL are lost, RocksDB would
        # make an empty database among the remains and call that a success.
        is_new = not any(directory.iterdir())
        options = _options(self._cache, self._memtables, is_new=is_new)
        families = {name: _options(self._cache, self._memtables, is_new=is_new) for name in stores}
        try:
            database = Rdict(str(directory), options, families)
        except Exception as error:
            raise _opening_error(error, directory) from error
        store = RocksTaskStore(directory, database, stores)
        try:
            if is_new:
                store.initialise(identity_row(task, stores, identity, self._clock.time_ms()))
            else:
                store.load(identity_row(task, stores, identity, 0), self._clock.time_ms(), self._max_age_ms)
        except BaseException:
            store.close()
            raise
        return store

    def wipe(self, task: int) -> None:
        """Delete the task's directory. It must not be open. A crash in the middle leaves what `open` refuses."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._tasks_dir / str(task))

    def tasks(self) -> list[int]:
        """Return the tasks that have a directory."""
        if not self._tasks_dir.is_dir():
            return []
        return sorted(int(entry.name) for entry in self._tasks_dir.iterdir() if entry.name.isdecimal())


class RocksBatch:
    """Changes to be committed together; a thin cover of RocksDB's own batch. One thread, one commit."""

    __slots__ = ("_delete", "_handles", "_put", "raw")

    def __init__(self, handles: Mapping[str, Any]) -> None:
        self.raw = WriteBatch(raw_mode=True)
        self._handles = handles
        self._put = self.raw.put
        self._delete = self.raw.delete

    def put(self, store: str, key: bytes, value: bytes) -> None:
        """Set a row. Raises KeyError for an unknown store."""
        self._put(key, value, self._handles[store])

    def delete(self, store: str, key: bytes) -> None:
        """Remove a row, if there is one. Raises KeyError for an unknown store."""
        self._delete(key, self._handles[store])

    def delete_before(self, store: str, stop: bytes) -> None:
        """Remove the rows before *stop*: one entry in the database, however many they are. Raises KeyError."""
        self.raw.delete_range(b"", stop, self._handles[store])

    def __len__(self) -> int:
        return self.raw.len()


class RocksTaskStore:
    """All stores of one task in one database. One thread writes and closes; any number of threads read."""

    def __init__(self, directory: Path, database: Any, stores: Sequence[str]) -> None:
        self._directory = directory
        self._database = database
        self._families = {name: database.get_column_family(name) for name in stores}
        self._handles = {name: database.get_column_family_handle(name) for name in stores}
        self._logged = WriteOptions()
        self._unlogged = WriteOptions()
        self._unlogged.disable_wal = True  # type: ignore[method-assign, assignment]  # a property, whatever the stub says
        self._has_unlogged = False
        self._is_closed = False
        self._calls = 0
        self._calls_changed = threading.Condition()
        self._positions: Mapping[str, int] = {}
        self._caught_up_ms: int | None = None
        self._commits = 0

    @property
    def positions(self) -> Mapping[str, int]:
        """Topic to the next offset to read, as last committed. A new mapping for each commit, never changed."""
        return self._positions

    @property
    def caught_up_ms(self) -> int | None:
        """Unix time in ms at which the store was last known to hold all that its topics held; None if never."""
        return self._caught_up_ms

    def getter(self, store: str) -> Getter:
        """Return the column family's own `get`: nothing lies between the caller and RocksDB.

        So it raises rocksdict's errors, for a damaged block or after `close`; `explain` tells what they mean.
        """
        get: Getter = self._families[store].get
        return get

    def explain(self, error: Exception) -> Exception:
        """Return what an error of a getter means: StoreClosed, StoreDamaged or OSError; else the error itself."""
        return _explained(error)

    def scan(
        self, store: str, *, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return the rows with start <= key < stop in byte order, at most *limit*. Any thread.

        Raises StoreDamaged when a block on the way is damaged, and StoreClosed.
        """
        return self._call(lambda: self._scan(self._families[store], start, stop, limit))

    def batch(self) -> RocksBatch:
        """Return an empty batch."""
        return RocksBatch(self._handles)

    def commit(
        self,
        batch: StoreBatch,
        positions: Mapping[str, int],
        *,
        caught_up_ms: int | None = None,
        is_restoring: bool = False,
    ) -> None:
        """Write the rows and the positions in one step; visible when it returns, and safe from a crash of the process.

        With *is_restoring* a crash may fall back to an older position, with the rows of that position: the WAL is left
        out. Nothing is fsynced in either case. Raises OSError when the disk is full: nothing was written, reads go on,
        and the commit may be tried again with a new batch. Raises StoreDamaged and StoreClosed.
        """
        assert isinstance(batch, RocksBatch)
        if self._has_unlogged and not is_restoring:
            self._call(self._flush)
        caught_up_ms = self._caught_up_ms if caught_up_ms is None else caught_up_ms
        commits = self._commits + 1
        raw = batch.raw
        raw.put(_STATE, state_row(positions, caught_up_ms, commits))
        raw.put(*commit_row(commits))
        self._has_unlogged = is_restoring
        self._call(lambda: self._database.write(raw, self._unlogged if is_restoring else self._logged))
        self._commits = commits
        self._positions = dict(positions)
        self._caught_up_ms = caught_up_ms

    def approximate_count(self, store: str) -> int:
        """Return RocksDB's estimate: rows that were overwritten and not yet compacted count more than once."""
        count = self._call(lambda: self._families[store].property_int_value("rocksdb.estimate-num-keys"))
        return int(count or 0)

    def size_bytes(self) -> int:
        """Return the bytes of all files of the task, WAL and info log included."""
        total = 0
        for entry in os.scandir(self._directory):
            with contextlib.suppress(FileNotFoundError):  # compaction deletes files at any time
                total += entry.stat().st_size
        return total

    def close(self) -> None:
        """Flush and close. Idempotent; also when the disk refuses. The writing thread only.

        Reads of other threads fail from now on; it waits for those in progress, which end at their next row.
        """
        with self._calls_changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._calls_changed.wait_for(lambda: self._calls == 0)
        with contextlib.suppress(Exception):  # the rows are in the log; a reopened store is at an older position
            self._flush()
        # Each object that knows the database holds its LOCK: families until closed, handles until they are forgotten
        # (batches share this very dict).
        self._handles.clear()
        for database in (*self._families.values(), self._database):
            with contextlib.suppress(Exception):
                database.close()

    def initialise(self, identity: bytes) -> None:
        """Write who the database belongs to, before anything else."""
        batch = WriteBatch(raw_mode=True)
        batch.put(_IDENTITY, identity)
        batch.put(_STATE, state_row({}, None, 0))
        self._call(lambda: self._database.write(batch))

    def load(self, expected: bytes, now_ms: int, max_age_ms: int | None) -> None:
        """Read the positions. Raises StoreMismatch when the identity differs or the store is too old, StoreDamaged."""
        rows = dict(self._call(lambda: self._scan(self._database, b"", None, None)))
        try:
            found, wanted, state = json.loads(rows.pop(_IDENTITY)), json.loads(expected), json.loads(rows.pop(_STATE))
            created_ms = int(found.pop("created_ms"))
            wanted.pop("created_ms")
            positions = {str(topic): int(offset) for topic, offset in state["positions"].items()}
            caught_up_ms, commits = state["caught_up_ms"], int(state["commits"])
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise StoreDamaged(f"{self._directory} does not say what it is") from error
        if found != wanted:
            raise StoreMismatch(f"{self._directory} belongs to {found}, not to {wanted}")
        if rows != dict(map(commit_row, range(max(0, commits - COMMITS) + 1, commits + 1))):
            raise StoreDamaged(f"{self._directory} lost commits before its last one, the {commits}th")
        # A restore that was interrupted never caught up: what it read is as old as the database.
        age_ms = now_ms - (created_ms if caught_up_ms is None else caught_up_ms)
        if max_age_ms is not None and age_ms > max_age_ms:
            raise StoreMismatch(f"{self._directory} was last caught up {age_ms} ms ago, longer than {max_age_ms} ms")
        self._positions = positions
        self._caught_up_ms = caught_up_ms
        self._commits = commits

    def _flush(self) -> None:
        """Bring the memtables of all column families to files, in one step.

        A flush by that name takes one column family, even with `atomic_flush`. But compacting a range that is in a
        memtable flushes first, and all of them together (DBImpl::CompactRange); the metadata is always in it. It
        reports no error, so flushes by name follow: they do nothing, or raise. Rows come first, and the positions, in
        the default family, last: should anything be left, the rows are ahead of the position and not behind.
        """
        self._database.compact_range(_STATE, _STATE)
        for database in (*self._families.values(), self._database):
            database.flush()
        self._has_unlogged = False

    def _call(self, function: Callable[[], _T]) -> _T:
        """Call *function* so that `close` waits for it: a handle that is in use could not be closed, and an iterator
        that outlived it would keep the LOCK."""
        with self._calls_changed:
            if self._is_closed:
                raise StoreClosed(f"{self._directory} is closed")
            self._calls += 1
        try:
            return function()
        except Exception as error:
            explained = _explained(error)
            if explained is error:
                raise
            raise explained from error
        finally:
            with self._calls_changed:
                self._calls -= 1
                self._calls_changed.notify_all()

    def _scan(self, family: Any, start: bytes, stop: bytes | None, limit: int | None) -> list[tuple[bytes, bytes]]:
        reading = ReadOptions()
        if stop is not None:
            if stop <= start:
                return []
            reading.set_iterate_upper_bound(stop)
        iterator = family.iter(reading)
        iterator.seek(start)
        rows: list[tuple[bytes, bytes]] = []
        add, is_valid, key, value, advance = rows.append, iterator.valid, iterator.key, iterator.value, iterator.next
        left = -1 if limit is None else limit
        try:
            while left and is_valid():
                if self._is_closed:
                    raise StoreClosed(f"{self._directory} was closed during a scan")
                add((key(), value()))
                advance()
                left -= 1
            iterator.status()  # an iterator ends at a damaged block as if there were no more rows
        finally:
            # An error's traceback would keep them, and they the LOCK, while its handler wipes and opens again.
            del iterator, is_valid, key, value, advance
        return rows


def _options(cache: Cache, memtables: WriteBufferManager, *, is_new: bool) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_bloom_filter(10, False)
    options = Options(raw_mode=True)
    options.create_if_missing(is_new)
    options.create_missing_column_families(is_new)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.none())
    options.set_atomic_flush(True)
    options.set_write_buffer_size(4 << 20)
    options.set_max_write_buffer_number(4)  # with 2, commits waited up to 60 ms for a flush, holding the GIL
    options.set_write_buffer_manager(memtables)
    options.set_max_total_wal_size(16 << 20)
    options.set_paranoid_checks(True)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 << 20)
    return options


def _opening_error(error: Exception, directory: Path) -> Exception:
    explained = _explained(error)
    # No error but that of the lock names this file, besides a refusal to open it.
    if isinstance(explained, StoreDamaged) and f"{directory}/LOCK" in str(error):
        return StoreLocked(f"{directory} is in use by {lock_holder(directory / 'LOCK')}")
    return explained


def _explained(error: Exception) -> Exception:
    """Decide by policy, not by RocksDB's words: what is no refusal of the system is damage (a missing MANIFEST says "IO
    error", an empty CURRENT "Corruption"), and the remedy is the same."""
    if isinstance(error, DbClosedError) or (type(error) is RuntimeError and "borrowed" in str(error)):
        # "Already mutably borrowed" is what a read gets in the moment in which another thread closes.
        return StoreClosed("the store is closed")
    if type(error) is not Exception:  # rocksdict raises the bare class for RocksDB's own errors, and only for them
        return error
    message = str(error)
    for code in _REFUSALS:
        if message.endswith(os.strerror(code)):
            return OSError(code, message)
    return StoreDamaged(message)
