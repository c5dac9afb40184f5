"""Joins of two tables by their keys: a row of the result for each key that both, or either, have.

An update of one table is joined with the row of the other as it is at that moment; the result's timestamp is the
later one of both. Each side of a join is a node (`JoinSide`), and both feed one (`JoinedTable`), which is the result.
"""

from collections.abc import Callable
from typing import Any

from streams.operators.tables import Getter, TableView
from streams.topology.nodes import OperatorContext, Process

Joiner = Callable[[Any, Any], Any]

INNER, LEFT, RIGHT, OUTER = "inner", "left", "right", "outer"


class JoinSide:
    """What updates of *table* make of a join with *other*.

    *kind*: which rows of this side are in the result: those with a match (inner; right: also deletions of this side,
    which leave the other's row alone), or all (left; outer: also the other's alone). *joiner* gets this side's value
    first.
    """

    def __init__(self, table: TableView, other: TableView, joiner: Joiner, kind: str) -> None:
        self.table = table
        self.other = other
        self.sends_old = False
        self._joiner = joiner
        self._kind = kind

    def enable_old_values(self) -> None:
        """Have old values sent with every update."""
        self.table.enable_old_values(force=True)
        self.other.enable_old_values(force=True)
        self.sends_old = True

    def combine(self, mine: Any, other: Any) -> Any:
        """Return the row of the result for a value of each side; None: there is no such row."""
        if mine is None and (other is None or self._kind in (INNER, LEFT)):
            return None
        if other is None and self._kind in (INNER, RIGHT):
            return None
        return self._joiner(mine, other)

    def __call__(self, context: OperatorContext, forward: Process) -> Process:
        get, combine, sends_old = self.other.getter(context), self.combine, self.sends_old
        needs_match = self._kind in (INNER, RIGHT)

        def process(key: Any, new: Any, old: Any, timestamp_ms: int) -> None:
            if key is None:
                context.drop("null-key")
                return
            found = get(key)
            other = None
            if found is not None:
                other = found[0]
                timestamp_ms = max(timestamp_ms, found[1])
            elif needs_match or (new is None and old is None):
                return
            forward(key, combine(new, other), combine(old, other) if sends_old else None, timestamp_ms)

        return process


class JoinedTable:
    """The result of a join; a table like others."""

    def __init__(self, this: JoinSide, other: JoinSide, store: str | None) -> None:
        self._this = this
        self._other = other
        self.store = store
        self.sends_old = False

    def enable_old_values(self, *, force: bool) -> bool:
        self._this.enable_old_values()
        self._other.enable_old_values()
        self.sends_old = True
        return True

    def need_getter(self) -> tuple[str, ...]:
        if self.store is not None:
            return (self.store,)
        return (*self._this.table.need_getter(), *self._this.other.need_getter())

    def getter(self, context: OperatorContext) -> Getter:
        if self.store is not None:
            stored: Getter = context.store(self.store).lookup
            return stored
        left, right, combine = self._this.table.getter(context), self._this.other.getter(context), self._this.combine

        def get(key: Any) -> tuple[Any, int] | None:
            mine, other = left(key), right(key)
            value = combine(None if mine is None else mine[0], None if other is None else other[0])
            times = [found[1] for found in (mine, other) if found is not None]
            return None if value is None else (value, max(times))

        return get

    def __call__(self, context: OperatorContext, forward: Process) -> Process:
        if self.store is None:
            return forward
        put = context.store(self.store).put

        def process(key: Any, new: Any, old: Any, timestamp_ms: int) -> None:
            put(key, new, timestamp_ms)
            forward(key, new, old, timestamp_ms)

        return process
