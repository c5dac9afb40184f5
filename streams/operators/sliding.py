"""Aggregations in sliding windows: one window for each distinct set of a key's records that lie within the difference.

A record at t closes a *left* window [t - difference, t] and opens a *right* window [t + 1, t + 1 + difference] as
soon as there is a later record in it; so each window is found by the start that a record gave it. A record also gives
the right window of the one before it, if that did not exist, and joins every window in between. Windows that would
begin before the epoch are one window that begins there. (KIP-450 has the proof that this makes each set once.)
"""

from collections.abc import Callable
from typing import Any

from streams.operators.aggregates import Aggregator, Initializer
from streams.operators.tables import Getter, StoredTable
from streams.serdes import Windowed
from streams.topology.nodes import OperatorContext, Process
from streams.topology.windows import SlidingWindows

Found = tuple[Any, int]  # aggregate, timestamp of its latest record


class SlidingAggregate(StoredTable):
    """The aggregate of each key and window; its rows' keys are `Windowed`, with both ends inside."""

    def __init__(self, store: str, windows: SlidingWindows, initializer: Initializer, aggregator: Aggregator) -> None:
        super().__init__(store)
        self.windows = windows
        self._initializer = initializer
        self._aggregator = aggregator

    def __call__(self, context: OperatorContext, forward: Process) -> Process:
        observed = context.moment("observed")
        difference_ms, grace_ms = self.windows.difference_ms, self.windows.grace_ms

        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            if key is None or value is None:
                context.drop("null-key-or-value")
                return
            if timestamp_ms > observed.value:
                observed.value = timestamp_ms
            closed_ms = observed.value - grace_ms
            if timestamp_ms + difference_ms < closed_ms:
                context.drop("late")
                return
            change = changer(key, value, timestamp_ms, closed_ms)
            if timestamp_ms < difference_ms:
                change.early()
            else:
                change.usual()

        store = context.store(self.store)

        def changer(key: Any, value: Any, timestamp_ms: int, closed_ms: int) -> "_Change":
            return _Change(self, store, forward, context.drop, key, value, timestamp_ms, closed_ms)

        return process

    def aggregate(self, key: Any, value: Any, before: Any) -> Any:
        """Return the aggregate with one record more."""
        return self._aggregator(key, value, before)

    def nothing(self) -> Any:
        """Return the aggregate of no record."""
        return self._initializer()

    def getter(self, context: OperatorContext) -> Getter:
        lookup = context.store(self.store).lookup

        def get(key: Windowed[Any]) -> tuple[Any, int] | None:
            found: tuple[Any, int] | None = lookup(key.key, key.start_ms)
            return found

        return get


class _Change:
    """What one record changes."""

    __slots__ = ("_at", "_closed_ms", "_drop", "_forward", "_key", "_size", "_starts", "_store", "_table", "_value")

    def __init__(
        self,
        table: SlidingAggregate,
        store: Any,
        forward: Process,
        drop: Callable[[str], None],
        key: Any,
        value: Any,
        timestamp_ms: int,
        closed_ms: int,
    ) -> None:
        self._table = table
        self._store = store
        self._forward = forward
        self._drop = drop
        self._key = key
        self._value = value
        self._at = timestamp_ms
        self._closed_ms = closed_ms
        self._size = table.windows.difference_ms
        self._starts: set[int] = set()

    def usual(self) -> None:
        """The record lies no nearer to the epoch than the difference."""
        at, size = self._at, self._size
        left: Found | None = None
        right: Found | None = None
        has_left = has_right = False
        previous: int | None = None
        rows = self._store.fetch_rows(self._key, max(0, at - 2 * size), at + 1, reverse=True)
        for start_ms, aggregate, latest_ms in list(rows):
            self._starts.add(start_ms)
            end_ms = start_ms + size
            if start_ms == at + 1:
                has_right = True
            elif end_ms > at:
                if right is None:
                    right = self._store.lookup(self._key, start_ms)
                self._add(start_ms, (aggregate, latest_ms))
            elif end_ms == at:
                has_left = True
                self._add(start_ms, (aggregate, latest_ms))
                if latest_ms >= at:
                    return  # a record of the same time was here: the windows around are there
                previous = latest_ms
            else:
                left, previous = (aggregate, latest_ms), latest_ms
                break
        if previous is not None and previous + 1 not in self._starts and previous + 1 + size >= at:
            self._add(previous + 1, None)
        if not has_left:
            reaches = left is not None and previous is not None and at - size <= previous
            self._add(at - size, (left[0], at) if left is not None and reaches else None)
        if not has_right and right is not None and right[1] > at:
            self._put_right(right)

    def early(self) -> None:
        """The record's left window begins at the epoch, as those of its neighbours do."""
        at = self._at
        combined: Found | None = None
        right: Found | None = None
        has_right = False
        previous: int | None = None
        for start_ms, aggregate, latest_ms in list(self._store.fetch_rows(self._key, 0, at + 1)):
            self._starts.add(start_ms)
            if start_ms == 0:
                combined = (aggregate, latest_ms)
                if latest_ms < at:
                    previous = latest_ms
            elif start_ms <= at:
                right = self._store.lookup(self._key, start_ms)
                self._add(start_ms, (aggregate, latest_ms))
            else:
                has_right = True
        if right is None and combined is not None and combined[1] > at:
            right = combined
        if not has_right and right is not None and right[1] > at:
            self._put_right(right)
        if previous is not None and previous + 1 not in self._starts:
            self._add(previous + 1, None)
        self._add(0, combined)

    def _add(self, start_ms: int, found: Found | None) -> None:
        """Add the record to the window that starts at *start_ms*, whose aggregate was *found*."""
        end_ms = start_ms + self._size
        if end_ms < self._closed_ms:
            self._drop("late")
            return
        before = self._table.nothing() if found is None else found[0]
        old = None
        if self._table.sends_old:  # a value of its own, because an aggregator may change the one that it gets
            old = self._table.nothing() if found is None else self._store.get(self._key, start_ms)
        moment_ms = self._at if found is None else max(self._at, found[1])
        new = self._table.aggregate(self._key, self._value, before)
        self._store.put(self._key, new, start_ms, moment_ms)
        self._forward(Windowed(self._key, start_ms, end_ms), new, old, moment_ms)

    def _put_right(self, right: Found) -> None:
        """Make the window of what comes after the record."""
        start_ms = self._at + 1
        self._store.put(self._key, right[0], start_ms, right[1])
        self._forward(Windowed(self._key, start_ms, start_ms + self._size), right[0], None, right[1])
