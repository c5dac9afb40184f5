"""How joins add nodes: functions of references, which the classes of `streams.dsl.api` wrap with types."""

from collections.abc import Callable
from typing import Any

from streams.dsl.foreign_key import join_on_foreign_key
from streams.dsl.graph import GlobalTableRef, StreamRef, TableRef
from streams.dsl.streams_of import in_place
from streams.errors import TopologyError
from streams.operators import stateless
from streams.operators.joiners import keyed
from streams.operators.lookups import lookup
from streams.operators.stream_joins import ListSerde, StreamJoin, WaitingSerde, join_side, keep
from streams.operators.table_joins import INNER, LEFT, OUTER, RIGHT, JoinedTable, JoinSide
from streams.serdes import Serde
from streams.topology.stores import StoreKind, StoreSpec
from streams.topology.windows import JoinWindows

Joiner = Callable[[Any, Any], Any]


def join(
    stream: StreamRef,
    other: StreamRef | TableRef | GlobalTableRef,
    joiner: Joiner,
    kind: str,
    windows: JoinWindows | None,
    on: Callable[[Any, Any], Any] | None,
    name: str | None,
    value: Serde[Any] | None,
) -> StreamRef:
    """Return the join of a stream with whatever *other* is. Raises TopologyError for arguments that do not fit it."""
    if isinstance(other, StreamRef):
        if windows is None or on is not None:
            raise TopologyError("a join of two streams needs windows=, and matches by key: no on=")
        return _join_streams(stream, other, joiner, kind, windows, name, value)
    if windows is not None:
        raise TopologyError("a join with a table has no windows: it looks at the table as it is")
    if isinstance(other, GlobalTableRef):
        return _join_global(stream, other, joiner, kind, on, name, value)
    if on is not None:
        raise TopologyError("a join with a table matches by key: select_key() first, or use a global table")
    graph = stream.graph
    node = name or graph.new_name("KSTREAM-JOIN")
    placed = in_place(stream, name or node, keeps_null_keys=kind == LEFT)
    graph.copartition(placed.sources | other.sources, f"the two sides of join {node!r}")
    stores = other.view.need_getter()
    graph.process(node, [placed.node], lookup(other.view, joiner, is_left=kind == LEFT), stores=stores)
    return StreamRef(graph, node, placed.key, value, placed.sources | other.sources)


def _join_global(
    stream: StreamRef,
    other: GlobalTableRef,
    joiner: Joiner,
    kind: str,
    on: Callable[[Any, Any], Any] | None,
    name: str | None,
    value: Serde[Any] | None,
) -> StreamRef:
    graph = stream.graph
    node = name or graph.new_name("KSTREAM-JOIN")
    graph.process(node, [stream.node], lookup(other.store, joiner, is_left=kind == LEFT, on=on))
    return stream.then(node, key=stream.key, value=value)


def _join_streams(
    left: StreamRef,
    right: StreamRef,
    joiner: Joiner,
    kind: str,
    windows: JoinWindows,
    name: str | None,
    value: Serde[Any] | None,
) -> StreamRef:
    graph = left.graph
    base = name or graph.new_name("KSTREAM-JOIN")
    left = in_place(left, f"{base}-left", keeps_null_keys=kind != INNER)
    right = in_place(right, f"{base}-right", keeps_null_keys=kind != INNER)
    graph.copartition(left.sources | right.sources, f"the two sides of join {base!r}")
    key = graph.key_of(left.key)
    left_value, right_value = graph.value_of(left.value), graph.value_of(right.value)

    def window_store(side: str, serde: Serde[Any]) -> str:
        return graph.store(
            StoreSpec(
                name=f"{base}-{side}-store",
                kind=StoreKind.WINDOW,
                key=key,
                value=serde,
                is_queryable=False,
                retention_ms=windows.retention_ms,
                window_size_ms=windows.before_ms + windows.after_ms,
                has_duplicates=True,
            )
        )

    stores = {"left": window_store("left", left_value), "right": window_store("right", right_value)}
    waiting = None
    if kind != INNER:
        waiting = graph.store(
            StoreSpec(name=f"{base}-waiting-store", key=WaitingSerde(key), value=ListSerde(), is_queryable=False)
        )
    shared = StreamJoin(base, windows, waiting, left_value, right_value, keyed(joiner))
    for side, stream in (("left", left), ("right", right)):
        is_left = side == "left"
        kept = graph.process(f"{base}-{side}-keep", [stream.node], keep(stores[side]), stores=[stores[side]])
        other = stores["right" if is_left else "left"]
        graph.process(
            f"{base}-{side}",
            [kept],
            join_side(shared, other, is_left=is_left, is_outer=kind == OUTER or (kind == LEFT and is_left)),
            stores=[other] if waiting is None else [other, waiting],
            keeps_time=True,
        )
    graph.process(base, [f"{base}-left", f"{base}-right"], stateless.pass_on)
    return StreamRef(graph, base, key, value, left.sources | right.sources)


def join_tables(
    left: TableRef,
    right: TableRef,
    joiner: Joiner,
    kind: str,
    on: Callable[[Any], Any] | None,
    store: str | None,
    value: Serde[Any] | None,
    name: str | None,
) -> TableRef:
    """Return the join of two tables."""
    if on is not None:
        return join_on_foreign_key(left, right, joiner, kind == LEFT, on, store, value, name)
    graph = left.graph
    base = name or graph.new_name("KTABLE-JOIN")
    sources = left.sources | right.sources
    graph.copartition(sources, f"the two sides of join {base!r}")
    if kind != INNER:
        left.view.enable_old_values(force=True)
    if kind == OUTER:
        right.view.enable_old_values(force=True)
    this = JoinSide(left.view, right.view, joiner, kind)
    turned = {INNER: INNER, LEFT: RIGHT, OUTER: OUTER}[kind]
    other = JoinSide(right.view, left.view, lambda mine, theirs: joiner(theirs, mine), turned)
    key = graph.key_of(left.key)
    if store is not None:
        graph.store(StoreSpec(name=store, key=key, value=graph.value_of(value)))
    # Each side reads the other: their stores are needed before the nodes are made.
    left_stores, right_stores = left.view.need_getter(), right.view.need_getter()
    graph.process(f"{base}-this", [left.node], this, stores=right_stores)
    graph.process(f"{base}-other", [right.node], other, stores=left_stores)
    joined = JoinedTable(this, other, store)
    graph.process(base, [f"{base}-this", f"{base}-other"], joined, stores=() if store is None else (store,))
    return TableRef(graph, base, key, value, sources, joined)
