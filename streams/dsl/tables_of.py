"""How operations on tables add nodes: functions of references, which the classes of `streams.dsl.api` wrap with
types."""

from collections.abc import Callable
from typing import Any

from streams.dsl.graph import StreamRef, TableRef
from streams.errors import TopologyError
from streams.operators.aggregates import Aggregator, Initializer, Reducer, TableAggregate, TableReduce
from streams.operators.changes import ChangeSerde
from streams.operators.sessions import SessionAggregate
from streams.operators.sliding import SlidingAggregate
from streams.operators.suppress import HeldSerde, Suppress
from streams.operators.tables import StoredTable, TableFilter, TableMapValues, TableView, regroup
from streams.operators.windows import WindowAggregate
from streams.serdes import Serde
from streams.topology.nodes import Operator
from streams.topology.stores import StoreSpec


def keep_if(table: TableRef, predicate: Callable[[Any, Any], bool], *, wanted: bool, store: str | None) -> TableRef:
    """Return the rows for which *predicate* is *wanted*."""
    view = TableFilter(table.view, predicate, wanted=wanted, store=store)
    return _derived(table, "KTABLE-FILTER", view, store, table.value)


def map_values(
    table: TableRef, mapper: Callable[[Any, Any], Any], *, store: str | None, value: Serde[Any] | None
) -> TableRef:
    """Return the rows with new values."""
    return _derived(table, "KTABLE-MAPVALUES", TableMapValues(table.view, mapper, store=store), store, value)


def as_stream(table: TableRef, operator: Operator) -> StreamRef:
    """Return the updates as records."""
    node = table.graph.process(table.graph.new_name("KTABLE-TOSTREAM"), [table.node], operator)
    return StreamRef(table.graph, node, table.key, table.value, table.sources)


def suppress(
    table: TableRef,
    until_window_closes: bool,
    time_limit_ms: int | None,
    max_records: int | None,
    name: str | None,
) -> TableRef:
    """Return the table with fewer updates."""
    if until_window_closes == (time_limit_ms is not None):
        raise TopologyError("suppress() needs either until_window_closes=True or time_limit_ms=")
    if until_window_closes and max_records is not None:
        raise TopologyError("final results cannot go early: max_records= is for time_limit_ms=")
    if max_records is not None and max_records < 0:
        raise TopologyError(f"max_records must not be less than 0, but is {max_records}")
    graph = table.graph
    wait_ms = _close_after_ms(table.view) if time_limit_ms is None else time_limit_ms
    node = name or graph.new_name("KTABLE-SUPPRESS")
    store = f"{name}-store" if name else graph.new_name("KTABLE-SUPPRESS-STATE-STORE")
    key, value = graph.key_of(table.key), graph.value_of(table.value)
    graph.store(StoreSpec(name=store, key=key, value=HeldSerde(value), is_queryable=False))
    view = Suppress(
        table.view, store, wait_ms=wait_ms, until_window_closes=until_window_closes, max_records=max_records
    )
    graph.process(node, [table.node], view, stores=[store], keeps_time=True)
    return TableRef(graph, node, key, value, table.sources, view)


def _close_after_ms(view: TableView) -> int:
    """Return how long after the end of its window a key of the table is final."""
    while not isinstance(view, WindowAggregate | SlidingAggregate | SessionAggregate):
        parent = getattr(view, "parent", None)
        if parent is None:
            raise TopologyError("only a windowed table can be held back until windows close: windowed_by() first")
        view = parent
    return view.windows.grace_ms + (view.windows.gap_ms if isinstance(view, SessionAggregate) else 0)


def _derived(table: TableRef, prefix: str, view: Any, store: str | None, value: Serde[Any] | None) -> TableRef:
    graph = table.graph
    node = graph.new_name(prefix)
    if store is not None:
        graph.store(StoreSpec(name=store, key=graph.key_of(table.key), value=graph.value_of(value)))
    graph.process(node, [table.node], view, stores=() if store is None else (store,))
    return TableRef(graph, node, table.key, value, table.sources, view)


class TableGrouping:
    """A grouped table in the making."""

    def __init__(
        self,
        table: TableRef,
        selector: Callable[[Any, Any], tuple[Any, Any]],
        name: str | None,
        key: Serde[Any] | None,
        value: Serde[Any] | None,
    ) -> None:
        table.view.enable_old_values(force=True)  # what a row was has to be subtracted
        graph = table.graph
        node = graph.process(graph.new_name("KTABLE-SELECT"), [table.node], regroup(selector))
        self._value = graph.value_of(value)
        changes = ChangeSerde(self._value)
        self._stream = StreamRef(graph, node, graph.key_of(key), changes, table.sources, is_rekeyed=True)
        self._name = name
        self._placed: StreamRef | None = None

    def reduce(self, adder: Reducer, subtractor: Reducer, *, store: str | None) -> TableRef:
        """Add a reduction."""
        return self._stored("KTABLE-REDUCE", store, self._value, lambda name: TableReduce(name, adder, subtractor))

    def aggregate(
        self,
        initializer: Initializer,
        adder: Aggregator,
        subtractor: Aggregator,
        *,
        store: str | None,
        value: Serde[Any] | None,
    ) -> TableRef:
        """Add an aggregation."""
        return self._stored(
            "KTABLE-AGGREGATE", store, value, lambda name: TableAggregate(name, initializer, adder, subtractor)
        )

    def _stored(
        self, prefix: str, store: str | None, value: Serde[Any] | None, make: Callable[[str], StoredTable]
    ) -> TableRef:
        graph = self._stream.graph
        node = graph.new_name(prefix)
        name = store or graph.new_name(f"{prefix}-STATE-STORE")
        if self._placed is None:
            self._placed = graph.repartition(self._stream, self._name or name)
        key, value = graph.key_of(self._placed.key), graph.value_of(value)
        graph.store(StoreSpec(name=name, key=key, value=value, is_queryable=store is not None))
        table: Any = make(name)
        graph.process(node, [self._placed.node], table, stores=[name])
        return TableRef(graph, node, key, value, self._placed.sources, table)
