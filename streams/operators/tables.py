"""What a table is to the operators that read it, and the operators that make tables of streams and of tables.

An update of a table travels as (key, new, old, timestamp). The old value is sent only if somebody below needs it
(`enable_old_values`): aggregations of tables, which first subtract it, joins and filters that are then spared
tombstones for what was never there. A table that nobody needs to read has no store: its value for a key is computed
from the table before it (`getter`). These rules, and when a table becomes a store, are Kafka Streams' own.
"""

from collections.abc import Callable
from typing import Any, Protocol

from streams.topology.nodes import OperatorContext, Process

#: Reads a table: key to (value, timestamp) or None.
Getter = Callable[[Any], tuple[Any, int] | None]


class TableView(Protocol):
    """A table as other operators see it, while the topology is being built and when a task is made."""

    def enable_old_values(self, *, force: bool) -> bool:
        """Have old values sent with every update, and say whether they are; without *force* only if that needs no
        store that would not exist otherwise."""
        ...

    def need_getter(self) -> tuple[str, ...]:
        """Have the table readable by key; return the stores that its reader must be connected to."""
        ...

    def getter(self, context: OperatorContext) -> Getter:
        """Return the function that reads the table in this task."""
        ...


class StoredTable:
    """A table that is a key-value store: an aggregation, or one that was given a store."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.sends_old = False

    def enable_old_values(self, *, force: bool) -> bool:
        self.sends_old = True
        return True

    def need_getter(self) -> tuple[str, ...]:
        return (self.store,)

    def getter(self, context: OperatorContext) -> Getter:
        lookup: Getter = context.store(self.store).lookup
        return lookup


class TableSource(StoredTable):
    """The table of a topic. It has a store only when one is asked for: by name, or by somebody who reads it."""

    def __init__(self, store: str, *, is_materialized: bool, is_source_changelog: bool) -> None:
        """*is_source_changelog*: the store's rows are the bytes of the topic."""
        super().__init__(store)
        self.is_materialized = is_materialized
        self._is_source_changelog = is_source_changelog

    def enable_old_values(self, *, force: bool) -> bool:
        if not (force or self.is_materialized):
            return False
        self.is_materialized = True
        return super().enable_old_values(force=force)

    def need_getter(self) -> tuple[str, ...]:
        self.is_materialized = True
        return super().need_getter()

    def __call__(self, context: OperatorContext, forward: Process) -> Process:
        if not self.is_materialized:
            return self._pass_on(context, forward)
        store, sends_old, record = context.store(self.store), self.sends_old, context.record
        put, put_bytes, get = store.put, store.put_bytes, store.get
        is_source_changelog = self._is_source_changelog

        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            if key is None:
                context.drop("null-key")
                return
            old = get(key) if sends_old else None
            if is_source_changelog:
                put_bytes(record.key, record.value, timestamp_ms)
            else:
                put(key, value, timestamp_ms)
            forward(key, value, old, timestamp_ms)

        return process

    def _pass_on(self, context: OperatorContext, forward: Process) -> Process:
        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            if key is None:
                context.drop("null-key")
            else:
                forward(key, value, None, timestamp_ms)

        return process


class _Derived:
    """A table made from another, value by value, with or without a store of its own."""

    def __init__(self, parent: TableView, store: str | None) -> None:
        self.parent = parent
        self.store = store
        self.sends_old = False

    def enable_old_values(self, *, force: bool) -> bool:
        if self.store is not None or self.parent.enable_old_values(force=force):
            self.sends_old = True
        return self.sends_old

    def need_getter(self) -> tuple[str, ...]:
        return self.parent.need_getter() if self.store is None else (self.store,)

    def getter(self, context: OperatorContext) -> Getter:
        if self.store is not None:
            stored: Getter = context.store(self.store).lookup
            return stored
        above, compute = self.parent.getter(context), self.compute

        def get(key: Any) -> tuple[Any, int] | None:
            found = above(key)
            if found is None:
                return None
            value = compute(key, found[0])
            return None if value is None else (value, found[1])

        return get

    def compute(self, key: Any, value: Any) -> Any:
        """Return the value of this table for a value of the parent that is not None; None: there is none."""
        raise NotImplementedError

    def __call__(self, context: OperatorContext, forward: Process) -> Process:
        compute, sends_old, skips_nothing = self.compute, self.sends_old, self.skips_nothing
        store = context.store(self.store) if self.store is not None else None

        def process(key: Any, new: Any, old: Any, timestamp_ms: int) -> None:
            value = None if new is None else compute(key, new)
            before = None
            if sends_old:
                if store is not None:
                    before = store.get(key)
                elif old is not None:
                    before = compute(key, old)
                if value is None and before is None and skips_nothing:
                    return
            if store is not None:
                store.put(key, value, timestamp_ms)
            forward(key, value, before, timestamp_ms)

        return process

    #: Whether an update from nothing to nothing goes no further when old values are known.
    skips_nothing = False


class TableFilter(_Derived):
    """The rows for which a predicate is as wanted."""

    skips_nothing = True

    def __init__(
        self, parent: TableView, predicate: Callable[[Any, Any], bool], *, wanted: bool, store: str | None
    ) -> None:
        super().__init__(parent, store)
        self._predicate = predicate
        self._wanted = wanted
        self.sends_old = parent.enable_old_values(force=False)

    def compute(self, key: Any, value: Any) -> Any:
        return value if bool(self._predicate(key, value)) is self._wanted else None


class TableMapValues(_Derived):
    """Each value made into another."""

    def __init__(self, parent: TableView, mapper: Callable[[Any, Any], Any], *, store: str | None) -> None:
        super().__init__(parent, store)
        self._mapper = mapper

    def compute(self, key: Any, value: Any) -> Any:
        return self._mapper(key, value)


def to_stream(_: OperatorContext, forward: Process) -> Process:
    """Make each update of a table a record of a stream (an operator itself)."""

    def process(key: Any, new: Any, _old: Any, timestamp_ms: int) -> None:
        forward(key, new, timestamp_ms)

    return process


class Change(tuple[Any, Any]):
    """New and old value of a row on its way through a repartition topic, as one value."""

    __slots__ = ()


def regroup(selector: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[[OperatorContext, Process], Process]:
    """Send each update of a table to the groups of its old and its new value, as records of `Change` (KIP-904: in one
    record when the group stays)."""

    def make(_: OperatorContext, forward: Process) -> Process:
        def process(key: Any, new: Any, old: Any, timestamp_ms: int) -> None:
            old_key, old_value = selector(key, old) if old is not None else (None, None)
            new_key, new_value = selector(key, new) if new is not None else (None, None)
            has_old = old_key is not None and old_value is not None
            has_new = new_key is not None and new_value is not None
            if has_old and has_new and old_key == new_key:
                forward(new_key, Change((new_value, old_value)), timestamp_ms)
                return
            if has_old:
                forward(old_key, Change((None, old_value)), timestamp_ms)
            if has_new:
                forward(new_key, Change((new_value, None)), timestamp_ms)

        return process

    return make
