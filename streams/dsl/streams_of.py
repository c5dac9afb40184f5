"""How operations on streams add nodes: functions of references, which the classes of `streams.dsl.api` wrap with types.

Nothing runs here, and nothing is checked that the type of an argument says already.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from streams.dsl.graph import StreamRef, TableRef
from streams.errors import TopologyError
from streams.operators import stateless
from streams.operators.aggregates import Aggregator, Initializer, Reducer, StreamAggregate, StreamReduce
from streams.operators.processors import Processor, run_processor
from streams.operators.sessions import SessionAggregate
from streams.operators.sliding import SlidingAggregate
from streams.operators.tables import StoredTable, TableSource
from streams.operators.windows import WindowAggregate
from streams.serdes import Serde, SessionWindowedSerde, TimeWindowedSerde
from streams.topology.nodes import Operator
from streams.topology.stores import StoreKind, StoreSpec
from streams.topology.windows import SessionWindows, SlidingWindows, TimeWindows, Windows

Predicate = Callable[[Any, Any], bool]


def add(stream: StreamRef, prefix: str, operator: Operator, **known: Any) -> StreamRef:
    """Return the stream of a new node below *stream*; *known*: what `StreamRef.then` takes, by default unchanged."""
    node = stream.graph.process(stream.graph.new_name(prefix), [stream.node], operator)
    return stream.then(node, **{"key": stream.key, "value": stream.value, **known})


def split(stream: StreamRef, branches: Mapping[str, Predicate], default: str | None) -> dict[str, StreamRef]:
    """Return the branches by name; each record is in the first that takes it, or in *default*, if there is one."""
    if not branches:
        raise TopologyError("split() needs a branch")
    if default in branches:
        raise TopologyError(f"the default branch {default!r} is a branch with a predicate, too")
    graph = stream.graph
    node = graph.new_name("KSTREAM-BRANCH")
    ways: list[tuple[str, Predicate | None]] = [(f"{node}-{name}", test) for name, test in branches.items()]
    if default is not None:
        ways.append((f"{node}-{default}", None))
    graph.process(node, [stream.node], stateless.choose(ways))
    found: dict[str, StreamRef] = {}
    for (child, _), name in zip(ways, (*branches, *(() if default is None else (default,))), strict=True):
        graph.process(child, [node], stateless.pass_on)
        found[name] = stream.then(child, key=stream.key, value=stream.value)
    return found


def merge(stream: StreamRef, other: StreamRef) -> StreamRef:
    """Return the records of both, in the order in which they are processed."""
    node = stream.graph.process(stream.graph.new_name("KSTREAM-MERGE"), [stream.node, other.node], stateless.pass_on)
    return StreamRef(
        stream.graph,
        node,
        stream.key if stream.key is other.key else None,
        stream.value if stream.value is other.value else None,
        stream.sources | other.sources,
        stream.is_rekeyed or other.is_rekeyed,
    )


def in_place(stream: StreamRef, base_name: str, *, keeps_null_keys: bool = False) -> StreamRef:
    """Return *stream* with equal keys in one partition: as it is, or after a repartition topic, which is made once for
    each re-keyed stream, however many groupings and joins it has."""
    found = stream
    if stream.is_rekeyed:
        graph = stream.graph
        shared = (id(graph.key_of(stream.key)), id(graph.value_of(stream.value)))
        if shared not in stream.repartitioned:
            stream.repartitioned[shared] = graph.repartition(stream, base_name)
        found = stream.repartitioned[shared]
    if keeps_null_keys and found.need_key is not None:
        found.need_key.keeps_null_keys = True  # whoever cannot use them drops them below
    return found


def with_serdes(stream: StreamRef, key: Serde[Any] | None, value: Serde[Any] | None) -> StreamRef:
    """Return the same stream, with serdes said anew; repartition topics are shared as long as the serdes are."""
    if (key is None or key is stream.key) and (value is None or value is stream.value):
        return stream
    changed = stream.then(stream.node, key=key or stream.key, value=value or stream.value)
    changed.repartitioned = stream.repartitioned
    return changed


def to_table(stream: StreamRef, store: str | None) -> TableRef:
    """Return the table whose rows are the last records of each key."""
    graph = stream.graph
    node = graph.new_name("KSTREAM-TOTABLE")
    name = store or graph.new_name("KSTREAM-TOTABLE-STATE-STORE")
    placed = in_place(stream, store or node)
    key, value = graph.key_of(placed.key), graph.value_of(placed.value)
    graph.store(StoreSpec(name=name, key=key, value=value, is_queryable=store is not None))
    table = TableSource(name, is_materialized=store is not None, is_source_changelog=False)
    graph.process(node, [placed.node], table, stores=[name])
    return TableRef(graph, node, key, value, placed.sources, table)


class Grouping:
    """A grouped stream in the making: the stream, and the name of its repartition topic, if the user gave one."""

    def __init__(self, stream: StreamRef, name: str | None) -> None:
        self.stream = stream
        self.name = name

    def reduce(self, reducer: Reducer, *, store: str | None) -> TableRef:
        """Add a reduction; its values are of the stream's type."""
        return self._stored("KSTREAM-REDUCE", store, self.stream.value, lambda name: StreamReduce(name, reducer))

    def aggregate(
        self, initializer: Initializer, aggregator: Aggregator, *, store: str | None, value: Serde[Any] | None
    ) -> TableRef:
        """Add an aggregation."""
        return self._stored(
            "KSTREAM-AGGREGATE", store, value, lambda name: StreamAggregate(name, initializer, aggregator)
        )

    def windowed(
        self,
        windows: Windows,
        initializer: Initializer,
        aggregator: Aggregator,
        *,
        merger: Callable[[Any, Any, Any], Any] | None,
        store: str | None,
        value: Serde[Any] | None,
        retention_ms: int | None,
    ) -> TableRef:
        """Add an aggregation for each window of a key."""
        kept_ms = windows.retention_ms if retention_ms is None else retention_ms
        if kept_ms < windows.retention_ms:
            raise TopologyError(
                f"retention_ms ({kept_ms}) is less than the {windows.retention_ms} ms for which windows take records"
            )
        key = self.stream.graph.key_of(self.stream.key)
        is_session = isinstance(windows, SessionWindows)
        size_ms = 0
        result: Serde[Any]
        if isinstance(windows, SessionWindows):
            if merger is None:
                raise TopologyError("an aggregation of sessions needs a merger=, for sessions that grow together")
            session_windows, merge = windows, merger
            result = SessionWindowedSerde(key)
        else:
            size_ms = windows.size_ms if isinstance(windows, TimeWindows) else windows.difference_ms
            result = TimeWindowedSerde(key, size_ms)

        def make(name: str) -> StoredTable:
            if isinstance(windows, TimeWindows):
                return WindowAggregate(name, windows, initializer, aggregator)
            if isinstance(windows, SlidingWindows):
                return SlidingAggregate(name, windows, initializer, aggregator)
            return SessionAggregate(name, session_windows, initializer, aggregator, merge)

        table = self._stored(
            "KSTREAM-AGGREGATE",
            store,
            value,
            make,
            kind=StoreKind.SESSION if is_session else StoreKind.WINDOW,
            retention_ms=kept_ms,
            window_size_ms=size_ms,
        )
        table.key = result
        return table

    def _stored(
        self,
        prefix: str,
        store: str | None,
        value: Serde[Any] | None,
        make: Callable[[str], StoredTable],
        **spec: Any,
    ) -> TableRef:
        graph = self.stream.graph
        node = graph.new_name(prefix)
        name = store or graph.new_name(f"{prefix}-STATE-STORE")
        placed = in_place(self.stream, self.name or name)
        key, value = graph.key_of(placed.key), graph.value_of(value)
        graph.store(StoreSpec(name=name, key=key, value=value, is_queryable=store is not None, **spec))
        table: Any = make(name)
        graph.process(node, [placed.node], table, stores=[name])
        return TableRef(graph, node, key, value, placed.sources, table)


def process(
    stream: StreamRef,
    processor: Callable[[], Processor[Any, Any, Any, Any]],
    stores: Sequence[str],
    *,
    key: Serde[Any] | None,
    value: Serde[Any] | None,
    name: str | None,
) -> StreamRef:
    """Return what the processor forwards."""
    graph = stream.graph
    node = graph.process(
        name or graph.new_name("KSTREAM-PROCESSOR"),
        [stream.node],
        run_processor(processor),
        stores=stores,
        keeps_time=bool(stores),  # who keeps nothing needs no topic for when its next punctuation is due
    )
    return stream.then(node, key=key or stream.key, value=value or stream.value, is_rekeyed=True)


def count_one(_key: Any, _value: Any, total: int) -> int:
    """Return *total* and one."""
    return total + 1


def count_off(_key: Any, _value: Any, total: int) -> int:
    """Return *total* less one."""
    return total - 1


def add_counts(_key: Any, total: int, other: int) -> int:
    """Return the sum of two counts."""
    return total + other


def reduce_two(reducer: Reducer) -> Aggregator:
    """Return *reducer* as an aggregator whose first aggregate is None."""
    return lambda _key, value, total: value if total is None else reducer(total, value)


def merge_two(reducer: Reducer) -> Callable[[Any, Any, Any], Any]:
    """Return *reducer* as a merger of aggregates of which either may be None."""
    return lambda _key, one, other: other if one is None else one if other is None else reducer(one, other)
