"""Aggregations of groups: of records (count, reduce, aggregate) and of the rows of a table (with a subtractor).

The result is a table with a store of its own. Its timestamp is the greatest of the records that made it; a record that
comes late changes the result all the same, since only windows close. Records without key or value belong to no group
and are counted as dropped.
"""

from collections.abc import Callable
from typing import Any

from streams.operators.tables import Change, StoredTable
from streams.topology.nodes import OperatorContext, Process

Initializer = Callable[[], Any]
Aggregator = Callable[[Any, Any, Any], Any]  # key, value, aggregate
Reducer = Callable[[Any, Any], Any]  # aggregate, value


class StreamAggregate(StoredTable):
    """The aggregate of each key's records."""

    def __init__(self, store: str, initializer: Initializer, aggregator: Aggregator) -> None:
        super().__init__(store)
        self._initializer = initializer
        self._aggregator = aggregator

    def __call__(self, context: OperatorContext, forward: Process) -> Process:
        store, sends_old = context.store(self.store), self.sends_old
        lookup, put = store.lookup, store.put
        initializer, aggregator = self._initializer, self._aggregator

        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            if key is None or value is None:
                context.drop("null-key-or-value")
                return
            found = lookup(key)
            if found is None:
                aggregate = initializer()
            else:
                aggregate, before_ms = found
                timestamp_ms = max(timestamp_ms, before_ms)
            old = None
            if sends_old:  # a value of its own, because an aggregator may change the one that it gets
                old = initializer() if found is None else lookup(key)[0]
            new = aggregator(key, value, aggregate)
            put(key, new, timestamp_ms)
            forward(key, new, old, timestamp_ms)

        return process


class StreamReduce(StoredTable):
    """The records of each key, reduced to one value."""

    def __init__(self, store: str, reducer: Reducer) -> None:
        super().__init__(store)
        self._reducer = reducer

    def __call__(self, context: OperatorContext, forward: Process) -> Process:
        store = context.store(self.store)
        lookup, put, reducer = store.lookup, store.put, self._reducer

        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            if key is None or value is None:
                context.drop("null-key-or-value")
                return
            found = lookup(key)
            old = None
            if found is not None:
                old, before_ms = found
                value = reducer(old, value)
                timestamp_ms = max(timestamp_ms, before_ms)
            put(key, value, timestamp_ms)
            forward(key, value, old, timestamp_ms)

        return process


class TableAggregate(StoredTable):
    """The aggregate of the rows of each group: what a row was is subtracted before what it is now is added."""

    def __init__(self, store: str, initializer: Initializer, adder: Aggregator, subtractor: Aggregator) -> None:
        super().__init__(store)
        self._initializer = initializer
        self._adder = adder
        self._subtractor = subtractor

    def __call__(self, context: OperatorContext, forward: Process) -> Process:
        store = context.store(self.store)
        lookup, put = store.lookup, store.put
        initializer, adder, subtractor = self._initializer, self._adder, self._subtractor

        def process(key: Any, change: Change, timestamp_ms: int) -> None:
            if key is None:
                context.drop("null-key")
                return
            new, old = change
            found = lookup(key)
            before = None if found is None else found[0]
            result = before
            if old is not None and before is not None:
                result = subtractor(key, old, before)
                timestamp_ms = max(timestamp_ms, found[1])
            if new is not None:
                result = adder(key, new, initializer() if result is None else result)
                if found is not None:
                    timestamp_ms = max(timestamp_ms, found[1])
            put(key, result, timestamp_ms)
            forward(key, result, before, timestamp_ms)

        return process


class TableReduce(StoredTable):
    """The rows of each group reduced to one value, as `TableAggregate` does."""

    def __init__(self, store: str, adder: Reducer, subtractor: Reducer) -> None:
        super().__init__(store)
        self._adder = adder
        self._subtractor = subtractor

    def __call__(self, context: OperatorContext, forward: Process) -> Process:
        store = context.store(self.store)
        lookup, put, adder, subtractor = store.lookup, store.put, self._adder, self._subtractor

        def process(key: Any, change: Change, timestamp_ms: int) -> None:
            if key is None:
                context.drop("null-key")
                return
            new, old = change
            found = lookup(key)
            before = None if found is None else found[0]
            result = before
            if old is not None and before is not None:
                result = subtractor(before, old)
                timestamp_ms = max(timestamp_ms, found[1])
            if new is not None and result is None:
                result = new
            elif new is not None:
                result = adder(result, new)
                timestamp_ms = max(timestamp_ms, found[1])
            put(key, result, timestamp_ms)
            forward(key, result, before, timestamp_ms)

        return process
