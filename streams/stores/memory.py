"""State stores in memory: the port's contract without a disk, for tests of topologies and of the runtime.

What a factory holds outlives `close` and a new `open`, as a disk would, and nothing else does: there is no durability
here, no damage and no lock. Invariant: rows and positions of a commit change under one lock, so that no reader sees one
without the other through `scan`.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streams.clock import Clock
from streams.errors import StoreClosed, StoreLocked, StoreMismatch
from streams.stores.base import Getter, StoreBatch, StoreIdentity

_BEFORE = object()  # the value of a change that removes all rows before its key


@dataclass(slots=True)
class _Contents:
    """What a disk would hold of one task."""

    identity: StoreIdentity
    stores: tuple[str, ...]
    created_ms: int
    rows: dict[str, dict[bytes, bytes]]
    positions: dict[str, int] = field(default_factory=dict)
    caught_up_ms: int | None = None


class MemoryStoreFactory:
    """Keeps the tasks' stores in this object. Safe for several threads as far as the port asks for it.

    *max_age_ms*: a store that was last caught up longer ago is refused with StoreMismatch (None: never).
    """

    def __init__(self, *, max_age_ms: int | None, clock: Clock) -> None:
        self._max_age_ms = max_age_ms
        self._clock = clock
        self._tasks: dict[int, _Contents] = {}
        self._opened: dict[int, MemoryTaskStore] = {}

    def open(self, task: int, stores: Sequence[str], identity: StoreIdentity) -> "MemoryTaskStore":
        """Open or create the stores of *task*. Raises StoreMismatch, or StoreLocked when it is open already."""
        opened = self._opened.get(task)
        if opened is not None and not opened.is_closed:
            raise StoreLocked(f"task {task} is open in this process already")
        contents = self._tasks.get(task)
        now_ms = self._clock.time_ms()
        if contents is None:
            contents = _Contents(identity, tuple(stores), now_ms, {name: {} for name in stores})
            self._tasks[task] = contents
        elif contents.identity != identity or set(contents.stores) != set(stores):
            raise StoreMismatch(f"task {task} holds {contents.identity}, not {identity}")
        elif self._max_age_ms is not None:
            since_ms = contents.created_ms if contents.caught_up_ms is None else contents.caught_up_ms
            if now_ms - since_ms > self._max_age_ms:
                raise StoreMismatch(f"task {task} was last caught up {now_ms - since_ms} ms ago")
        store = MemoryTaskStore(contents)
        self._opened[task] = store
        return store

    def wipe(self, task: int) -> None:
        """Forget the task."""
        self._tasks.pop(task, None)

    def tasks(self) -> list[int]:
        """Return the tasks that hold something."""
        return sorted(self._tasks)


class MemoryBatch:
    """Changes to be committed together. One thread."""

    __slots__ = ("changes", "stores")

    def __init__(self, stores: Sequence[str]) -> None:
        self.stores = frozenset(stores)
        self.changes: list[tuple[str, bytes, bytes | object | None]] = []

    def put(self, store: str, key: bytes, value: bytes) -> None:
        """Set a row. Raises KeyError for an unknown store."""
        self._add(store, key, value)

    def delete(self, store: str, key: bytes) -> None:
        """Remove a row, if there is one. Raises KeyError for an unknown store."""
        self._add(store, key, None)

    def delete_before(self, store: str, stop: bytes) -> None:
        """Remove the rows before *stop*. Raises KeyError for an unknown store."""
        self._add(store, stop, _BEFORE)

    def __len__(self) -> int:
        return len(self.changes)

    def _add(self, store: str, key: bytes, value: bytes | object | None) -> None:
        if store not in self.stores:
            raise KeyError(store)
        self.changes.append((store, key, value))


class MemoryTaskStore:
    """The stores of one task in dictionaries."""

    def __init__(self, contents: _Contents) -> None:
        self._contents = contents
        self._lock = threading.Lock()
        self._positions: Mapping[str, int] = dict(contents.positions)
        self.is_closed = False

    @property
    def positions(self) -> Mapping[str, int]:
        """Topic to the next offset to read, as last committed."""
        return self._positions

    @property
    def caught_up_ms(self) -> int | None:
        """Unix time in ms at which the store was last known to be at the end of its topics."""
        return self._contents.caught_up_ms

    def getter(self, store: str) -> Getter:
        """Return a function that reads a row by key; after `close` it raises StoreClosed. Any thread."""
        rows = self._contents.rows[store]

        def get(key: bytes) -> bytes | None:
            if self.is_closed:
                raise StoreClosed("the store is closed")
            return rows.get(key)

        return get

    def explain(self, error: Exception) -> Exception:
        """Return the error: getters raise the port's own."""
        return error

    def scan(
        self, store: str, *, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return the rows with start <= key < stop in byte order, at most *limit*. Any thread."""
        self._check_open()
        with self._lock:
            rows = self._contents.rows[store]
            keys = sorted(key for key in rows if key >= start and (stop is None or key < stop))
            return [(key, rows[key]) for key in keys[:limit]]

    def batch(self) -> MemoryBatch:
        """Return an empty batch."""
        return MemoryBatch(self._contents.stores)

    def commit(
        self,
        batch: StoreBatch,
        positions: Mapping[str, int],
        *,
        caught_up_ms: int | None = None,
        is_restoring: bool = False,
    ) -> None:
        """Apply the batch and the positions in one step. The writing thread only."""
        assert isinstance(batch, MemoryBatch)
        self._check_open()
        contents = self._contents
        with self._lock:
            for store, key, value in batch.changes:
                if value is None:
                    contents.rows[store].pop(key, None)
                elif value is _BEFORE:
                    for gone in [each for each in contents.rows[store] if each < key]:
                        del contents.rows[store][gone]
                else:
                    assert isinstance(value, bytes)
                    contents.rows[store][key] = value
            contents.positions = dict(positions)
            if caught_up_ms is not None:
                contents.caught_up_ms = caught_up_ms
            self._positions = dict(positions)

    def approximate_count(self, store: str) -> int:
        """Return how many rows the store holds."""
        self._check_open()
        return len(self._contents.rows[store])

    def size_bytes(self) -> int:
        """Return the bytes of all keys and values."""
        self._check_open()
        with self._lock:
            return sum(len(key) + len(value) for rows in self._contents.rows.values() for key, value in rows.items())

    def close(self) -> None:
        """Refuse all further calls. Idempotent."""
        self.is_closed = True

    def _check_open(self) -> None:
        if self.is_closed:
            raise StoreClosed("the store is closed")
