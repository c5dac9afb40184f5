"""What a task sees of a state store: `StoreView` over the port `TaskStore`. Reads only; the writes of a task go
another way."""

from collections.abc import Iterator

from streams.stores.base import Getter, TaskStore

_FIRST_PAGE, _MAX_PAGE = 32, 1024  # rows of one scan: most loops end early


class TaskStoreView:
    """The committed stores of a task. Used by the thread that owns the task."""

    def __init__(self, store: TaskStore) -> None:
        self._store = store

    def getter(self, store: str) -> Getter:
        """Return the function that reads a row by key."""
        return self._store.getter(store)

    def scan(self, store: str, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Return the rows with start <= key < stop, in pages. Raises StoreDamaged."""
        limit = _FIRST_PAGE
        while True:
            rows = self._store.scan(store, start=start, stop=stop, limit=limit)
            yield from rows
            if len(rows) < limit:
                return
            start = rows[-1][0] + b"\0"
            limit = min(2 * limit, _MAX_PAGE)
