"""The committed stores of a task as its engine sees them. Reads only."""

from collections.abc import Iterator

from streams.processing import TaskStoreView
from streams.stores.base import Getter, TaskStore


class WatchedView:
    """A `StoreView` that remembers its first failure: an engine takes what is raised within a user's function for that
    function's fault, and a policy could then skip a record because a disk is damaged. The stream thread's."""

    def __init__(self, store: TaskStore) -> None:
        self.failure: Exception | None = None
        self._store = store
        self._view = TaskStoreView(store)

    def getter(self, store: str) -> Getter:
        """Return the function that reads a row by key."""
        get, explain = self._store.getter(store), self._store.explain

        def read(key: bytes) -> bytes | None:
            try:
                return get(key)
            except Exception as error:
                self.failure = explain(error)
                raise self.failure from error

        return read

    def scan(self, store: str, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Return the rows with start <= key < stop in the order of bytes."""
        try:
            yield from self._view.scan(store, start, stop)
        except Exception as error:
            self.failure = error
            raise
