"""The port of state stores: the rows of one task and its positions in the log, written together.

Invariants of every adapter, kept by `tests/contracts/test_store.py`:
1. Rows and positions of one batch are visible and durable together or not at all, after any crash.
2. Damage is reported (StoreDamaged), never served: a scan that stopped early raises.
3. One thread writes; any number of threads read meanwhile.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Getter = Callable[[bytes], bytes | None]


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """What a store was made from. Any difference means that its rows are worth nothing.

    `topic_ids`: topic name to the log's id of it. `format_version`: of the rows (the application's) and of the layout.
    """

    topic_ids: Mapping[str, str]
    partitions: int
    format_version: int


class StoreBatch(Protocol):
    """Changes that will be committed together, in order. Used by the writing thread only; not reusable."""

    def put(self, store: str, key: bytes, value: bytes) -> None: ...

    def delete(self, store: str, key: bytes) -> None: ...

    def delete_before(self, store: str, stop: bytes) -> None:
        """Remove every row whose key is less than *stop*, those included that this batch has put before."""
        ...

    def __len__(self) -> int:
        """Return the number of changes."""
        ...


class TaskStore(Protocol):
    """All stores of one task, with its positions."""

    @property
    def positions(self) -> Mapping[str, int]:
        """Topic to the next offset to read, as last committed. Any thread; do not change it."""
        ...

    @property
    def caught_up_ms(self) -> int | None:
        """Unix time in ms at which the store was last known to hold all that its topics held; None if never."""
        ...

    def getter(self, store: str) -> Getter:
        """Return the fastest way to read rows of *store* by key (None: no such row). The result may be called by any
        thread until `close`, and raises StoreClosed (or the adapter's own error, see `explain`) after it."""
        ...

    def explain(self, error: Exception) -> Exception:
        """Return what an error raised by a getter means: StoreDamaged, StoreClosed, OSError; any other is returned as
        it is. Any thread, also after `close`."""
        ...

    def scan(
        self, store: str, *, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return rows with start <= key < stop in byte order, at most *limit*. Any thread, but it blocks: not on an
        event loop with a large limit. Raises StoreDamaged when the end was not reached soundly."""
        ...

    def batch(self) -> StoreBatch:
        """Return an empty batch."""
        ...

    def commit(
        self,
        batch: StoreBatch,
        positions: Mapping[str, int],
        *,
        caught_up_ms: int | None = None,
        is_restoring: bool = False,
    ) -> None:
        """Write the rows of *batch* and the *positions* in one step. The writing thread only.

        *positions* names every topic of the task. *caught_up_ms*: given when the positions are the end of the log.
        With *is_restoring* the adapter may trade latency for throughput, as long as invariant 1 holds for what a
        reopened store claims as its position. Raises StoreDamaged, or OSError when the disk is full.
        """
        ...

    def approximate_count(self, store: str) -> int:
        """Return about how many rows *store* holds (Kafka Streams: approximateNumEntries). Any thread."""
        ...

    def size_bytes(self) -> int:
        """Return about how much disk the task takes. Any thread."""
        ...

    def close(self) -> None:
        """Flush and close. Idempotent. No reader may be inside a call that it cannot afford to see fail."""
        ...


class StoreFactory(Protocol):
    """Opens the stores of tasks below one state directory."""

    def open(self, task: int, stores: Sequence[str], identity: StoreIdentity) -> TaskStore:
        """Open or create the stores of *task*. Raises StoreDamaged or StoreMismatch (call `wipe`, then open again),
        StoreLocked, or OSError when the disk refuses."""
        ...

    def wipe(self, task: int) -> None:
        """Delete everything that the task has on disk. It must not be open."""
        ...

    def tasks(self) -> list[int]:
        """Return the tasks that have something on disk."""
        ...
