"""Where a topology begins: what it reads, the stores of its own processors, and `build`.

    builder = StreamsBuilder("word-count")
    lines = builder.stream("text", key=str, value=str)
    counts = lines.flat_map_values(str.split).group_by(lambda _, word: word).count(store="counts")
    counts.to_stream().to("counts")
    topology = builder.build()

A topology is inert: it can be described, tested (`streams.testing.TopologyTestDriver`) and run, any number of times.
"""

from typing import Any, TypeVar

from streams import serdes
from streams.dsl.api import GlobalKTable, KStream, KTable
from streams.dsl.graph import GlobalTableRef, Graph, StreamRef, TableRef
from streams.errors import TopologyError
from streams.operators.tables import TableSource
from streams.serdes import SerdeLike
from streams.topology.nodes import TimestampExtractor
from streams.topology.stores import StoreKind, StoreSpec
from streams.topology.subtopology import ProcessorTopology

K = TypeVar("K")
V = TypeVar("V")


class StreamsBuilder:
    """Collects a topology. One thread; after `build` it can go on, which changes nothing of what was built."""

    def __init__(self, name: str, *, key: SerdeLike[Any] = str, value: SerdeLike[Any] = str) -> None:
        """*name*: of the topology, and its application id unless `build` gets another. *key*, *value*: the serdes where
        nothing else is known."""
        self._graph = Graph(name, key=serdes.of(key), value=serdes.of(value))

    def stream(
        self,
        *topics: str,
        key: SerdeLike[K],
        value: SerdeLike[V],
        timestamp: TimestampExtractor | None = None,
        auto_offset_reset: str = "earliest",
    ) -> KStream[K, V]:
        """The records of *topics*. *timestamp*: a function of a record (bytes) that gives its Unix time in ms; None:
        its own. *auto_offset_reset*: where to begin without a committed position, and what to do when the log was cut
        so that it has not what comes next: `earliest` reads from the beginning of what is there, `latest` goes on at
        its end if that is where it was cut, `none` begins as `earliest` does, and stops the task then. Raises
        TopologyError for no topic, one that is read already with other serdes, and any other word."""
        graph, key_serde, value_serde = self._graph, serdes.of(key), serdes.of(value)
        node = graph.source(
            topics, key=key_serde, value=value_serde, timestamp=timestamp, auto_offset_reset=auto_offset_reset
        )
        return KStream(StreamRef(graph, node, key_serde, value_serde, frozenset((node,))))

    def table(
        self,
        topic: str,
        *,
        key: SerdeLike[K],
        value: SerdeLike[V],
        store: str | None = None,
        timestamp: TimestampExtractor | None = None,
    ) -> KTable[K, V]:
        """The table of the last record of each key of *topic*, which should be compacted: it is the changelog of its
        store.

        Without *store* there is one only if something needs to read the table.
        """
        graph, key_serde, value_serde = self._graph, serdes.of(key), serdes.of(value)
        source = graph.source([topic], key=key_serde, value=value_serde, timestamp=timestamp)
        node = graph.new_name("KTABLE-SOURCE")
        name = store or f"{topic}-STATE-STORE-{node[-10:]}"
        is_source_changelog = graph.claim_source_changelog(topic)
        graph.store(
            StoreSpec(
                name=name,
                key=key_serde,
                value=value_serde,
                source_topic=topic if is_source_changelog else None,
                is_queryable=store is not None,
                timestamp=timestamp,
            )
        )
        table = TableSource(name, is_materialized=store is not None, is_source_changelog=is_source_changelog)
        graph.process(node, [source], table, stores=[name])
        return KTable(TableRef(graph, node, key_serde, value_serde, frozenset((source,)), table))

    def global_table(
        self, topic: str, *, key: SerdeLike[K], value: SerdeLike[V], store: str | None = None
    ) -> GlobalKTable[K, V]:
        """The table of all partitions of *topic*, whole on every node: for joins by any key, with topics of any
        number of partitions. It is complete before the first record of a stream is processed."""
        graph, key_serde, value_serde = self._graph, serdes.of(key), serdes.of(value)
        source = graph.source([topic], key=key_serde, value=value_serde, is_global=True)
        node = graph.new_name("KTABLE-SOURCE")
        name = store or f"{topic}-STATE-STORE-{node[-10:]}"
        graph.store(StoreSpec(name=name, key=key_serde, value=value_serde, source_topic=topic, is_global=True))
        table = TableSource(name, is_materialized=True, is_source_changelog=True)
        graph.process(node, [source], table, stores=[name])
        return GlobalKTable(GlobalTableRef(graph, name, key_serde, value_serde))

    def add_store(
        self,
        name: str,
        *,
        key: SerdeLike[Any],
        value: SerdeLike[Any] = bytes,
        kind: str = "key-value",
        retention_ms: int = 0,
        window_size_ms: int = 0,
        has_duplicates: bool = False,
        capacity: int = 0,
        error_rate: float = 0.01,
        is_logged: bool = True,
    ) -> str:
        """Add a store for processors (`KStream.process`); return its name.

        *kind*: `key-value`; `window` or `session`, which forget what lies *retention_ms* behind stream time;
        `membership`, which remembers up to *capacity* keys and is wrong about *error_rate* of those that it never
        saw. *is_logged*: it has a changelog topic. Without one it has no copies: it survives a stop in order, and
        begins empty after a kill and whenever its task moves.
        """
        try:
            store_kind = StoreKind(kind)
        except ValueError:
            known = ", ".join(each.value for each in StoreKind)
            raise TopologyError(f"a store is one of {known}, not {kind!r}") from None
        if store_kind in (StoreKind.WINDOW, StoreKind.SESSION) and retention_ms <= 0:
            raise TopologyError(f"store {name!r} forgets by time: it needs retention_ms=")
        options: dict[str, int] = {}
        if store_kind is StoreKind.MEMBERSHIP:
            options = {"capacity": capacity, "error_rate_ppm": round(error_rate * 1e6)}
        return self._graph.store(
            StoreSpec(
                name=name,
                kind=store_kind,
                key=serdes.of(key),
                value=serdes.of(value),
                is_logged=is_logged,
                retention_ms=retention_ms,
                window_size_ms=window_size_ms,
                has_duplicates=has_duplicates,
                options=options,
            )
        )

    def build(self, *, application_id: str | None = None) -> ProcessorTopology:
        """Return the topology. *application_id*: the prefix of internal topics and the name of the group; None: the
        builder's name. Raises TopologyError for one that cannot run, with what to do about it."""
        return self._graph.build(application_id or self._graph.name)
