"""The rows of one store while a task computes: what it wrote since the last commit, over what is committed.

A task writes here and nowhere else. What it wrote leaves as one piece (`seal`) and stays visible to the task until the
same rows are in the state store (`release`), or is thrown away (`discard`). Owned by the thread that owns the task.
Invariant: a reader sees each write of the task as soon as it is made, and never a row of a discarded one.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from streams.stores.base import Getter

#: (start, stop) to the rows from start up to stop, or to the end for None, in the order of bytes.
Scanner = Callable[[bytes, bytes | None], Iterator[tuple[bytes, bytes]]]

_ABSENT: Any = object()


class Layer:
    """Writes that belong together, with their keys in order as far as somebody asked for that."""

    __slots__ = ("keys", "rows")

    def __init__(self, is_ordered: bool) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        self.keys: list[bytes] | None = [] if is_ordered else None

    def between(self, start: bytes, stop: bytes | None) -> list[bytes]:
        """Return the keys from *start* up to *stop* in order."""
        if self.keys is None:
            self.keys = sorted(self.rows)
        low = bisect_left(self.keys, start)
        high = len(self.keys) if stop is None else bisect_left(self.keys, stop, low)
        return self.keys[low:high]


class OverlayStore:
    """One store as its task sees it. Not thread-safe."""

    __slots__ = ("_getter", "_journal", "_layer", "_scanner", "_sealed", "name")

    def __init__(self, name: str, getter: Getter, scanner: Scanner) -> None:
        self.name = name
        self._getter = getter
        self._scanner = scanner
        self._layer = Layer(is_ordered=False)
        self._sealed: list[Layer] = []  # newest first
        self._journal: list[tuple[bytes, Any]] | None = None

    def get(self, key: bytes) -> bytes | None:
        """Return the row of *key* or None."""
        row: bytes | None = self._layer.rows.get(key, _ABSENT)
        if row is not _ABSENT:
            return row
        for layer in self._sealed:
            row = layer.rows.get(key, _ABSENT)
            if row is not _ABSENT:
                return row
        return self._getter(key)

    def put(self, key: bytes, row: bytes | None) -> None:
        """Set the row of *key*; None removes it."""
        if self._journal is not None:
            self._journal.append((key, self._layer.rows.get(key, _ABSENT)))
        self.put_for_good(key, row)

    def put_for_good(self, key: bytes, row: bytes | None) -> None:
        """Do as `put`, with a row that `undo` leaves: what is in a source topic is in its table, whatever follows."""
        layer = self._layer
        rows = layer.rows
        if layer.keys is not None and key not in rows:
            insort(layer.keys, key)
        rows[key] = row

    def scan(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Return the rows with start <= key < stop in the order of bytes, as they are now: what is written while the
        caller goes on does not show."""
        covers = [layer for layer in (self._layer, *self._sealed) if layer.rows]
        found = [(key, layer.rows[key]) for layer in covers for key in layer.between(start, stop)]
        if not found:
            return self._scanner(start, stop)
        if len(covers) == 1:
            return _merge(iter(found), self._scanner(start, stop))
        newest: dict[bytes, bytes | None] = {}
        for key, row in found:
            newest.setdefault(key, row)
        return _merge(iter(sorted(newest.items())), self._scanner(start, stop))

    @property
    def written(self) -> Mapping[bytes, bytes | None]:
        """What was written since the last `seal`."""
        return self._layer.rows

    def seal(self) -> None:
        """What was written until now leaves the task; it stays visible until `release`."""
        self._sealed.insert(0, self._layer)
        self._layer = Layer(is_ordered=self._layer.keys is not None)

    def release(self) -> None:
        """What was sealed first is in the state store now."""
        self._sealed.pop()

    def discard(self) -> None:
        """Forget everything that is not in the state store."""
        self._sealed.clear()
        self._layer = Layer(is_ordered=self._layer.keys is not None)
        self._journal = None

    def mark(self) -> None:
        """Begin to remember how to undo writes."""
        self._journal = []

    def undo(self) -> bool:
        """Undo the writes since `mark`; say whether there were any."""
        journal, rows = self._journal, self._layer.rows
        if not journal:
            return False
        for key, row in reversed(journal):
            if row is _ABSENT:
                del rows[key]
            else:
                rows[key] = row
        self._layer.keys = None
        self._journal = []
        return True


def _merge(
    cover: Iterator[tuple[bytes, bytes | None]], base: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows of both in order; a row of *cover* hides that of *base*, and None shows nothing."""
    end: tuple[bytes, bytes | None] | None = None
    below = next(base, end)
    for key, row in cover:
        while below is not None and below[0] < key:
            yield below  # type: ignore[misc]  # a row of the base is never None
            below = next(base, end)
        if below is not None and below[0] == key:
            below = next(base, end)
        if row is not None:
            yield key, row
    if below is not None:
        yield below  # type: ignore[misc]
        yield from base
