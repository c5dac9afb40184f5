"""The part of a stream that leaves keys and values of their types, and where streams end. The base of `KStream`.

Apart from `streams.dsl.api` for its length only; see there for what holds for all methods.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, Self, TypeVar

from streams import serdes
from streams.dsl import streams_of
from streams.dsl.graph import StreamRef
from streams.operators import stateless
from streams.serdes import SerdeLike
from streams.topology.nodes import Partitioner, TopicChooser

K = TypeVar("K")
V = TypeVar("V")


def serde_of(kind: SerdeLike[Any] | None) -> serdes.Serde[Any] | None:
    """Return the serde of *kind*, or None for None."""
    return None if kind is None else serdes.of(kind)


class RecordStream(Generic[K, V]):
    """A series of records, as far as its types stay what they are."""

    def __init__(self, ref: StreamRef) -> None:
        self._ref = ref

    def filter(self, predicate: Callable[[K, V], bool]) -> Self:
        """The records for which *predicate* holds."""
        return type(self)(streams_of.add(self._ref, "KSTREAM-FILTER", stateless.keep_if(predicate, wanted=True)))

    def filter_not(self, predicate: Callable[[K, V], bool]) -> Self:
        """The records for which *predicate* does not hold."""
        return type(self)(streams_of.add(self._ref, "KSTREAM-FILTER", stateless.keep_if(predicate, wanted=False)))

    def peek(self, action: Callable[[K, V], object]) -> Self:
        """The same records, each shown to *action* first. It may be shown twice, if processing it is repeated."""
        return type(self)(streams_of.add(self._ref, "KSTREAM-PEEK", stateless.look(action)))

    def split(self, branches: Mapping[str, Callable[[K, V], bool]], *, default: str | None = None) -> dict[str, Self]:
        """The branches by name. A record is in the first whose predicate holds, else in *default*, else in none."""
        return {name: type(self)(ref) for name, ref in streams_of.split(self._ref, branches, default).items()}

    def merge(self, other: Self) -> Self:
        """The records of both; in which order is not said, except that each keeps its own."""
        return type(self)(streams_of.merge(self._ref, other._ref))

    def with_serdes(self, *, key: SerdeLike[K] | None = None, value: SerdeLike[V] | None = None) -> Self:
        """The same records; from here on these serdes write them."""
        return type(self)(streams_of.with_serdes(self._ref, serde_of(key), serde_of(value)))

    def repartition(
        self,
        *,
        name: str | None = None,
        partitions: int | None = None,
        partitioner: Partitioner | None = None,
        key: SerdeLike[K] | None = None,
        value: SerdeLike[V] | None = None,
    ) -> Self:
        """The same records after a topic of their own, `<application_id>-<name>-repartition`, with equal keys in one
        partition. *partitions* None: as many as whatever it is joined with has, else as the topics it comes from."""
        graph = self._ref.graph
        stream = streams_of.with_serdes(self._ref, serde_of(key), serde_of(value))
        base = name or graph.new_name("KSTREAM-REPARTITION")
        return type(self)(graph.repartition(stream, base, partitions=partitions, partitioner=partitioner))

    def to(
        self,
        topic: str | TopicChooser,
        *,
        key: SerdeLike[K] | None = None,
        value: SerdeLike[V] | None = None,
        partitioner: Partitioner | None = None,
    ) -> None:
        """Write the records to *topic*, or to the topic that a function of key and value names. A value None is a
        tombstone. Partition: of the key as Kafka does it, unless *partitioner* says otherwise."""
        graph, ref = self._ref.graph, self._ref
        known_key, known_value = graph.key_of(serde_of(key) or ref.key), graph.value_of(serde_of(value) or ref.value)
        graph.sink(ref.node, topic, key=known_key, value=known_value, partitioner=partitioner)

    def through(
        self,
        topic: str,
        *,
        key: SerdeLike[K] | None = None,
        value: SerdeLike[V] | None = None,
        partitioner: Partitioner | None = None,
    ) -> Self:
        """The same records after *topic*, which must exist, and which others may read and write."""
        graph, ref = self._ref.graph, self._ref
        known_key, known_value = graph.key_of(serde_of(key) or ref.key), graph.value_of(serde_of(value) or ref.value)
        graph.sink(ref.node, topic, key=known_key, value=known_value, partitioner=partitioner)
        source = graph.source([topic], key=known_key, value=known_value)
        return type(self)(StreamRef(graph, source, known_key, known_value, frozenset((source,))))
