"""Streams, tables and groups: the objects that a topology is written with.

What holds for all their methods (functions, serdes, names, errors) stands in `streams.dsl`. The objects only describe.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from streams.dsl import joins, streams_of, tables_of
from streams.dsl.base import RecordStream, serde_of
from streams.dsl.graph import GlobalTableRef, StreamRef, TableRef
from streams.operators import stateless
from streams.operators.processors import Processor
from streams.operators.tables import to_stream
from streams.serdes import LONG, SerdeLike, Windowed
from streams.topology.windows import JoinWindows, Windows

K = TypeVar("K")
V = TypeVar("V")
K2 = TypeVar("K2")
V2 = TypeVar("V2")
R = TypeVar("R")


class KStream(RecordStream[K, V]):
    """An endless series of records, each an event of its own."""

    def map(
        self,
        mapper: Callable[[K, V], tuple[K2, V2]],
        *,
        key: SerdeLike[K2] | None = None,
        value: SerdeLike[V2] | None = None,
    ) -> "KStream[K2, V2]":
        """A new key and value for each record. The keys may change, so groupings and joins need a repartition topic."""
        known = {"key": serde_of(key), "value": serde_of(value), "is_rekeyed": True}
        return KStream(streams_of.add(self._ref, "KSTREAM-MAP", stateless.change(mapper), **known))

    def map_values(self, mapper: Callable[[V], V2], *, value: SerdeLike[V2] | None = None) -> "KStream[K, V2]":
        """A new value for each record, of its value."""
        operator = stateless.change_value(mapper)
        return KStream(streams_of.add(self._ref, "KSTREAM-MAPVALUES", operator, value=serde_of(value)))

    def map_values_with_key(
        self, mapper: Callable[[K, V], V2], *, value: SerdeLike[V2] | None = None
    ) -> "KStream[K, V2]":
        """A new value for each record, of its key and value. The key stays, and must not be changed."""
        operator = stateless.change_value_with_key(mapper)
        return KStream(streams_of.add(self._ref, "KSTREAM-MAPVALUES", operator, value=serde_of(value)))

    def flat_map(
        self,
        mapper: Callable[[K, V], Iterable[tuple[K2, V2]]],
        *,
        key: SerdeLike[K2] | None = None,
        value: SerdeLike[V2] | None = None,
    ) -> "KStream[K2, V2]":
        """Any number of records for each, in the order of the iterable. As with `map` the keys may change."""
        known = {"key": serde_of(key), "value": serde_of(value), "is_rekeyed": True}
        return KStream(streams_of.add(self._ref, "KSTREAM-FLATMAP", stateless.expand(mapper), **known))

    def flat_map_values(
        self, mapper: Callable[[V], Iterable[V2]], *, value: SerdeLike[V2] | None = None
    ) -> "KStream[K, V2]":
        """Any number of values for each, under the same key."""
        operator = stateless.expand_value(mapper)
        return KStream(streams_of.add(self._ref, "KSTREAM-FLATMAPVALUES", operator, value=serde_of(value)))

    def select_key(self, selector: Callable[[K, V], K2], *, key: SerdeLike[K2] | None = None) -> "KStream[K2, V]":
        """A new key for each record. Groupings and joins after it need a repartition topic."""
        operator = stateless.change_key(selector)
        return KStream(streams_of.add(self._ref, "KSTREAM-KEY-SELECT", operator, key=serde_of(key), is_rekeyed=True))

    def values(self) -> "KStream[None, V]":
        """The values without their keys, which are None from here on."""
        operator = stateless.change_key(lambda _key, _value: None)
        return KStream(streams_of.add(self._ref, "KSTREAM-KEY-SELECT", operator, is_rekeyed=True))

    def to_table(
        self, *, store: str | None = None, key: SerdeLike[K] | None = None, value: SerdeLike[V] | None = None
    ) -> "KTable[K, V]":
        """The table of the last record of each key; a record without value deletes the row."""
        return KTable(streams_of.to_table(streams_of.with_serdes(self._ref, serde_of(key), serde_of(value)), store))

    def process(
        self,
        processor: Callable[[], Processor[K, V, K2, V2]],
        *,
        stores: Sequence[str] = (),
        key: SerdeLike[K2] | None = None,
        value: SerdeLike[V2] | None = None,
        name: str | None = None,
    ) -> "KStream[K2, V2]":
        """What a processor forwards; *processor* (its class, say) makes one for each task. *stores*: those it may use
        (`StreamsBuilder.add_store`, or the store of a table); one that does not exist is a TopologyError of `build`.
        Keys may change."""
        ref = self._ref
        return KStream(streams_of.process(ref, processor, stores, key=serde_of(key), value=serde_of(value), name=name))

    def group_by_key(
        self, *, name: str | None = None, key: SerdeLike[K] | None = None, value: SerdeLike[V] | None = None
    ) -> "KGroupedStream[K, V]":
        """The records grouped by the key that they have. *name*: of the repartition topic, if one is needed."""
        return KGroupedStream(streams_of.with_serdes(self._ref, serde_of(key), serde_of(value)), name)

    def group_by(
        self,
        selector: Callable[[K, V], K2],
        *,
        name: str | None = None,
        key: SerdeLike[K2] | None = None,
        value: SerdeLike[V] | None = None,
    ) -> "KGroupedStream[K2, V]":
        """The records grouped by what *selector* says; *key* is the serde of that."""
        return self.select_key(selector, key=key).group_by_key(name=name, value=value)

    def join(
        self,
        other: "KStream[K, V2] | KTable[K, V2] | GlobalKTable[K2, V2]",
        joiner: Callable[[V, V2], R],
        *,
        windows: JoinWindows | None = None,
        on: Callable[[K, V], K2] | None = None,
        name: str | None = None,
        value: SerdeLike[R] | None = None,
    ) -> "KStream[K, R]":
        """Records with what they meet on the other side, which must be there.

        With a table: the row of the record's key as it is now. With a global table: the row of the key that *on* makes
        of the record. With a stream: each record of the same key within *windows*, whichever comes first. A *joiner*
        that needs the key is passed as `with_key(joiner)`. Both sides need the same number of partitions, except a
        global table. Raises TopologyError for *windows* with a table, and a stream or a global table without what it
        needs.
        """
        return KStream(joins.join(self._ref, other._ref, joiner, "inner", windows, on, name, serde_of(value)))

    def left_join(
        self,
        other: "KStream[K, V2] | KTable[K, V2] | GlobalKTable[K2, V2]",
        joiner: Callable[[V, V2 | None], R],
        *,
        windows: JoinWindows | None = None,
        on: Callable[[K, V], K2] | None = None,
        name: str | None = None,
        value: SerdeLike[R] | None = None,
    ) -> "KStream[K, R]":
        """As `join`; a record that meets nothing is joined with None, with a stream once the window has closed."""
        return KStream(joins.join(self._ref, other._ref, joiner, "left", windows, on, name, serde_of(value)))

    def outer_join(
        self,
        other: "KStream[K, V2]",
        joiner: Callable[[V | None, V2 | None], R],
        *,
        windows: JoinWindows,
        name: str | None = None,
        value: SerdeLike[R] | None = None,
    ) -> "KStream[K, R]":
        """As `left_join` of two streams, in both directions."""
        return KStream(joins.join(self._ref, other._ref, joiner, "outer", windows, None, name, serde_of(value)))


class KGroupedStream(Generic[K, V]):
    """Records grouped by key. Records without key or value belong to no group, and are dropped and counted."""

    def __init__(self, ref: StreamRef, name: str | None) -> None:
        self._grouping = streams_of.Grouping(ref, name)

    def count(self, *, store: str | None = None) -> "KTable[K, int]":
        """How many records each key has had (8 bytes in topics and stores)."""
        return KTable(self._grouping.aggregate(int, streams_of.count_one, store=store, value=LONG))

    def reduce(self, reducer: Callable[[V, V], V], *, store: str | None = None) -> "KTable[K, V]":
        """The records of each key made one: *reducer* gets the result so far and the next value. The first value of a
        key is its first result."""
        return KTable(self._grouping.reduce(reducer, store=store))

    def aggregate(
        self,
        initializer: Callable[[], R],
        aggregator: Callable[[K, V, R], R],
        *,
        store: str | None = None,
        value: SerdeLike[R] | None = None,
    ) -> "KTable[K, R]":
        """An aggregate of each key: *aggregator* gets key, value and the aggregate so far, at first what *initializer*
        returns, and returns the new one. None deletes the row."""
        return KTable(self._grouping.aggregate(initializer, aggregator, store=store, value=serde_of(value)))

    def windowed_by(self, windows: Windows) -> "WindowedKStream[K, V]":
        """The groups divided by time: see `streams.dsl.tumbling`, `hopping`, `sliding` and `session`."""
        return WindowedKStream(self._grouping, windows)


class WindowedKStream(Generic[K, V]):
    """Records grouped by key and window; those without value count, too, and functions get None for it.
    *retention_ms*: for how long, in stream time, the store keeps windows; at least as long as they take records,
    which is the default."""

    def __init__(self, grouping: streams_of.Grouping, windows: Windows) -> None:
        self._grouping = grouping
        self._windows = windows

    def count(self, *, store: str | None = None, retention_ms: int | None = None) -> "KTable[Windowed[K], int]":
        """How many records each key has had in each window (8 bytes in topics and stores)."""
        return self.aggregate(
            int, streams_of.count_one, merger=streams_of.add_counts, store=store, value=LONG, retention_ms=retention_ms
        )

    def reduce(
        self, reducer: Callable[[V, V], V], *, store: str | None = None, retention_ms: int | None = None
    ) -> "KTable[Windowed[K], V]":
        """The records of each key and window made one: *reducer* gets the result so far and the next value."""
        return KTable(
            self._grouping.windowed(
                self._windows,
                lambda: None,
                streams_of.reduce_two(reducer),
                merger=streams_of.merge_two(reducer),
                store=store,
                value=self._grouping.stream.value,
                retention_ms=retention_ms,
            )
        )

    def aggregate(
        self,
        initializer: Callable[[], R],
        aggregator: Callable[[K, V, R], R],
        *,
        merger: Callable[[K, R, R], R] | None = None,
        store: str | None = None,
        value: SerdeLike[R] | None = None,
        retention_ms: int | None = None,
    ) -> "KTable[Windowed[K], R]":
        """An aggregate of each key and window: *aggregator* gets key, value and the aggregate so far. Sessions need
        *merger*, which makes one aggregate of two (key, a, b). Raises TopologyError for sessions without it, and for a
        retention that is shorter than a window takes records."""
        return KTable(
            self._grouping.windowed(
                self._windows,
                initializer,
                aggregator,
                merger=merger,
                store=store,
                value=serde_of(value),
                retention_ms=retention_ms,
            )
        )


class GlobalKTable(Generic[K, V]):
    """A table that every node has whole, for joins by any key. See `StreamsBuilder.global_table`."""

    def __init__(self, ref: GlobalTableRef) -> None:
        self._ref = ref

    @property
    def store(self) -> str:
        """The name of its store."""
        return self._ref.store


class KTable(Generic[K, V]):
    """A row for each key. What flows from it are updates: a key's new value, or None when the row is deleted."""

    def __init__(self, ref: TableRef) -> None:
        self._ref = ref

    def filter(self, predicate: Callable[[K, V], bool], *, store: str | None = None) -> "KTable[K, V]":
        """The rows for which *predicate* holds. A row that ceases to do so is deleted here."""
        return KTable(tables_of.keep_if(self._ref, predicate, wanted=True, store=store))

    def filter_not(self, predicate: Callable[[K, V], bool], *, store: str | None = None) -> "KTable[K, V]":
        """The rows for which *predicate* does not hold."""
        return KTable(tables_of.keep_if(self._ref, predicate, wanted=False, store=store))

    def map_values(
        self, mapper: Callable[[V], V2], *, store: str | None = None, value: SerdeLike[V2] | None = None
    ) -> "KTable[K, V2]":
        """A new value for each row, of its value; never called for a deletion."""
        return self.map_values_with_key(lambda _, row: mapper(row), store=store, value=value)

    def map_values_with_key(
        self, mapper: Callable[[K, V], V2], *, store: str | None = None, value: SerdeLike[V2] | None = None
    ) -> "KTable[K, V2]":
        """A new value for each row, of its key and value."""
        return KTable(tables_of.map_values(self._ref, mapper, store=store, value=serde_of(value)))

    def to_stream(self) -> KStream[K, V]:
        """The updates as records; a deletion has the value None."""
        return KStream(tables_of.as_stream(self._ref, to_stream))

    def group_by(
        self,
        selector: Callable[[K, V], tuple[K2, V2]],
        *,
        name: str | None = None,
        key: SerdeLike[K2] | None = None,
        value: SerdeLike[V2] | None = None,
    ) -> "KGroupedTable[K2, V2]":
        """The rows grouped by another key; *selector* gives group and value of a row."""
        return KGroupedTable(tables_of.TableGrouping(self._ref, selector, name, serde_of(key), serde_of(value)))

    def suppress(
        self,
        *,
        until_window_closes: bool = False,
        time_limit_ms: int | None = None,
        max_records: int | None = None,
        name: str | None = None,
    ) -> "KTable[K, V]":
        """Fewer updates: only the last one of each window, once it has closed; or of each key the last one in
        *time_limit_ms* of stream time. With *max_records* no more are held back, and the oldest go early. Raises
        TopologyError unless exactly one of *until_window_closes*, for a windowed table, and *time_limit_ms* is
        given."""
        return KTable(tables_of.suppress(self._ref, until_window_closes, time_limit_ms, max_records, name))

    def join(
        self,
        other: "KTable[K, V2] | KTable[K2, V2]",
        joiner: Callable[[V, V2], R],
        *,
        on: Callable[[V], K2 | None] | None = None,
        store: str | None = None,
        value: SerdeLike[R] | None = None,
        name: str | None = None,
    ) -> "KTable[K, R]":
        """The rows of both for a key that both have. *on*: a foreign-key join, with the other table's row of the key
        that *on* finds in the value."""
        return KTable(joins.join_tables(self._ref, other._ref, joiner, "inner", on, store, serde_of(value), name))

    def left_join(
        self,
        other: "KTable[K, V2] | KTable[K2, V2]",
        joiner: Callable[[V, V2 | None], R],
        *,
        on: Callable[[V], K2 | None] | None = None,
        store: str | None = None,
        value: SerdeLike[R] | None = None,
        name: str | None = None,
    ) -> "KTable[K, R]":
        """As `join`, with None for a row that the other table does not have."""
        return KTable(joins.join_tables(self._ref, other._ref, joiner, "left", on, store, serde_of(value), name))

    def outer_join(
        self,
        other: "KTable[K, V2]",
        joiner: Callable[[V | None, V2 | None], R],
        *,
        store: str | None = None,
        value: SerdeLike[R] | None = None,
        name: str | None = None,
    ) -> "KTable[K, R]":
        """As `join`, with None for a row that either table does not have."""
        return KTable(joins.join_tables(self._ref, other._ref, joiner, "outer", None, store, serde_of(value), name))


class KGroupedTable(Generic[K, V]):
    """Rows of a table, grouped. A row that changes is first subtracted as it was, then added as it is."""

    def __init__(self, grouping: tables_of.TableGrouping) -> None:
        self._grouping = grouping

    def count(self, *, store: str | None = None) -> KTable[K, int]:
        """How many rows each group has (8 bytes in topics and stores)."""
        return self.aggregate(int, streams_of.count_one, streams_of.count_off, store=store, value=LONG)

    def reduce(
        self, adder: Callable[[V, V], V], subtractor: Callable[[V, V], V], *, store: str | None = None
    ) -> KTable[K, V]:
        """The rows of each group made one; both functions get the result so far and a row's value."""
        return KTable(self._grouping.reduce(adder, subtractor, store=store))

    def aggregate(
        self,
        initializer: Callable[[], R],
        adder: Callable[[K, V, R], R],
        subtractor: Callable[[K, V, R], R],
        *,
        store: str | None = None,
        value: SerdeLike[R] | None = None,
    ) -> KTable[K, R]:
        """An aggregate of each group; both functions get the group, a row's value and the aggregate so far."""
        return KTable(self._grouping.aggregate(initializer, adder, subtractor, store=store, value=serde_of(value)))
