"""The topology while it is being built: nodes, stores and topics with their names, and what must fit together.

The only mutable part of the DSL; `build` freezes it. Names follow Kafka Streams': what the user named keeps its name,
everything else gets one with a number that counts up. A number changes when the topology does, and with it the names
of internal topics: whoever wants to change a running topology names its stores, groupings and joins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from streams.errors import TopologyError
from streams.operators.stateless import NeedKey
from streams.operators.tables import TableSource, TableView
from streams.serdes import Serde
from streams.topology.nodes import (
    CopartitionGroup,
    InternalTopic,
    Node,
    Operator,
    Partitioner,
    ProcessorNode,
    SinkNode,
    SourceNode,
    TimestampExtractor,
    TopicChooser,
)
from streams.topology.stores import StoreSpec
from streams.topology.subtopology import ProcessorTopology, split

REPARTITION_CONFIG = {"cleanup.policy": "delete", "retention.ms": "-1", "message.timestamp.type": "CreateTime"}

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_MAX_NAME = 200  # a topic's name has at most 249 characters, and ours get a prefix and an ending


@dataclass
class Draft:
    """A processor node before it is frozen."""

    name: str
    parents: tuple[str, ...]
    operator: Operator
    stores: list[str]
    keeps_time: bool


@dataclass(eq=False)
class StreamRef:
    """A stream in the making: the node that sends its records, and what is known of them.

    `key`, `value`: the serdes, None: not known. `sources`: the source nodes that it comes from. `is_rekeyed`: keys were
    changed since the last topic, so that equal keys may lie in different partitions.
    """

    graph: "Graph"
    node: str
    key: Serde[Any] | None
    value: Serde[Any] | None
    sources: frozenset[str]
    is_rekeyed: bool = False
    #: Repartitioned already, by the serdes: groupings and joins of one stream share the topic.
    repartitioned: dict[tuple[int, int], "StreamRef"] = field(default_factory=dict)
    #: Of a stream that comes straight from a repartition topic: what decides whether records without a key get there.
    need_key: NeedKey | None = None

    def then(
        self,
        node: str,
        *,
        key: Serde[Any] | None,
        value: Serde[Any] | None,
        is_rekeyed: bool | None = None,
    ) -> "StreamRef":
        """Return the stream of a node below this one."""
        rekeyed = self.is_rekeyed if is_rekeyed is None else is_rekeyed
        above = None if rekeyed else self.need_key
        return StreamRef(self.graph, node, key, value, self.sources, rekeyed, need_key=above)


@dataclass(eq=False)
class TableRef:
    """A table in the making; `view` is how others read it."""

    graph: "Graph"
    node: str
    key: Serde[Any] | None
    value: Serde[Any] | None
    sources: frozenset[str]
    view: TableView


@dataclass(eq=False)
class GlobalTableRef:
    """A global table: its store, which all tasks may read."""

    graph: "Graph"
    store: str
    key: Serde[Any]
    value: Serde[Any]


class Graph:
    """Collects nodes. Not thread-safe; belongs to one builder."""

    def __init__(self, name: str, *, key: Serde[Any], value: Serde[Any]) -> None:
        """*key*, *value*: the serdes of what no serde is known of."""
        check_name("the name of a topology", name)
        self.name = name
        self._default_key = key
        self._default_value = value
        self._numbers = 0
        self._nodes: dict[str, Draft | SourceNode | SinkNode] = {}
        self._stores: dict[str, StoreSpec] = {}
        self._sources: dict[tuple[str, bool], str] = {}
        self._source_changelogs: set[str] = set()
        self._repartition_topics: dict[str, InternalTopic] = {}
        self._copartition_groups: list[CopartitionGroup] = []

    def new_name(self, prefix: str) -> str:
        """Return a name with the next number."""
        self._numbers += 1
        return f"{prefix}-{self._numbers - 1:010d}"

    def key_of(self, known: Serde[Any] | None) -> Serde[Any]:
        """Return *known*, or the topology's default for keys."""
        return self._default_key if known is None else known

    def value_of(self, known: Serde[Any] | None) -> Serde[Any]:
        """Return *known*, or the topology's default for values."""
        return self._default_value if known is None else known

    def source(
        self,
        topics: Sequence[str],
        *,
        key: Serde[Any],
        value: Serde[Any],
        timestamp: TimestampExtractor | None = None,
        is_internal: bool = False,
        is_global: bool = False,
        auto_offset_reset: str = "earliest",
        name: str | None = None,
    ) -> str:
        """Return the node that reads *topics*: a new one, or the one that does so already in the same way. Raises
        TopologyError when a topic is read in two ways."""
        if not topics:
            raise TopologyError("a stream needs a topic")
        if auto_offset_reset not in ("earliest", "latest", "none"):
            raise TopologyError(f"auto_offset_reset is earliest, latest or none, not {auto_offset_reset!r}")
        for topic in topics:
            check_name("the name of a topic", topic)
        known = {self._sources.get((topic, is_global)) for topic in topics}
        new_name = name or self.new_name("KSTREAM-SOURCE")
        node = SourceNode(new_name, tuple(topics), key, value, timestamp, is_internal, auto_offset_reset)
        if known == {None}:
            self._add(node)
            self._sources.update(dict.fromkeys(((topic, is_global) for topic in topics), new_name))
            return new_name
        (first, *others) = known
        found = self._nodes.get(first or "")
        if not others and isinstance(found, SourceNode):
            alike = (found.topics, found.key, found.value, found.timestamp, found.auto_offset_reset)
            if alike == (node.topics, key, value, timestamp, auto_offset_reset):
                return found.name
        raise TopologyError(f"{topics[0]!r} is read twice in different ways: read it once, and use that twice")

    def process(
        self,
        name: str,
        parents: Sequence[str],
        operator: Operator,
        *,
        stores: Sequence[str] = (),
        keeps_time: bool = False,
    ) -> str:
        """Add a node that computes; return its name."""
        self._add(Draft(name, tuple(parents), operator, list(dict.fromkeys(stores)), keeps_time))
        return name

    def sink(
        self,
        parent: str,
        topic: str | TopicChooser,
        *,
        key: Serde[Any],
        value: Serde[Any],
        partitioner: Partitioner | None = None,
        is_internal: bool = False,
        name: str | None = None,
    ) -> None:
        """Add a node that writes."""
        if isinstance(topic, str):
            check_name("the name of a topic", topic)
        self._add(
            SinkNode(name or self.new_name("KSTREAM-SINK"), (parent,), topic, key, value, partitioner, is_internal)
        )

    def store(self, spec: StoreSpec) -> str:
        """Add a store; return its name. Raises TopologyError for a name in use."""
        check_name("the name of a store", spec.name)
        if spec.name in self._stores:
            raise TopologyError(f"two stores are named {spec.name!r}")
        self._stores[spec.name] = spec
        return spec.name

    def claim_source_changelog(self, topic: str) -> bool:
        """Say whether a store may have *topic* as its changelog: the first that asks may."""
        if topic in self._source_changelogs:
            return False
        self._source_changelogs.add(topic)
        return True

    def repartition(
        self,
        stream: StreamRef,
        base_name: str,
        *,
        partitions: int | None = None,
        partitioner: Partitioner | None = None,
        keeps_null_keys: bool = False,
    ) -> StreamRef:
        """Return *stream* after a topic of its own, in which equal keys lie in one partition. Records without a key are
        dropped, unless *keeps_null_keys*: then they lie anywhere."""
        topic = base_name if base_name.endswith("-repartition") else f"{base_name}-repartition"
        check_name("the name of a repartition topic", topic)
        if topic in self._repartition_topics:
            raise TopologyError(f"two repartition topics are named {topic!r}: give the second grouping another name=")
        if partitions is not None and partitions < 1:
            raise TopologyError(f"a topic needs a partition, not {partitions}")
        key, value = self.key_of(stream.key), self.value_of(stream.value)
        self._repartition_topics[topic] = InternalTopic(topic, REPARTITION_CONFIG, partitions)
        need_key = NeedKey(keeps_null_keys=keeps_null_keys)
        above = self.process(f"{topic}-filter", [stream.node], need_key)
        self.sink(above, topic, key=key, value=value, partitioner=partitioner, is_internal=True, name=f"{topic}-sink")
        source = self.source([topic], key=key, value=value, is_internal=True, name=f"{topic}-source")
        return StreamRef(self, source, key, value, frozenset((source,)), need_key=need_key)

    def copartition(self, sources: frozenset[str], reason: str) -> None:
        """Demand one number of partitions of the topics of *sources*."""
        if len(sources) > 1:
            self._copartition_groups.append(CopartitionGroup(tuple(sorted(sources)), reason))

    def build(self, application_id: str) -> ProcessorTopology:
        """Return the topology. Raises TopologyError for one that computes nothing."""
        if not self._nodes:
            raise TopologyError(f"topology {self.name!r} reads nothing: begin with stream() or table()")
        nodes = [self._freeze(node) for node in self._nodes.values()]
        added = [draft.stores for draft in self._nodes.values() if isinstance(draft, Draft)]
        known = {store for stores in added for store in stores}
        unused = [name for name in self._stores if name not in known]
        if unused:
            raise TopologyError(f"store {unused[0]!r} is used by no processor: name it in stores= of one")
        return split(
            name=self.name,
            application_id=application_id,
            nodes=nodes,
            stores=self._stores,
            repartition_topics=self._repartition_topics,
            copartition_groups=self._copartition_groups,
        )

    def _freeze(self, node: Draft | SourceNode | SinkNode) -> Node:
        if not isinstance(node, Draft):
            return node
        stores = node.stores
        if isinstance(node.operator, TableSource) and not node.operator.is_materialized:
            stores = []  # nobody reads it: its rows need no place
        missing = [store for store in stores if store not in self._stores]
        if missing:
            raise TopologyError(f"{node.name} uses a store {missing[0]!r}, which was never added: add_store() first")
        return ProcessorNode(node.name, node.parents, node.operator, tuple(stores), node.keeps_time)

    def _add(self, node: Draft | SourceNode | SinkNode) -> None:
        if node.name in self._nodes:
            raise TopologyError(f"two nodes are named {node.name!r}")
        self._nodes[node.name] = node


def check_name(what: str, name: str) -> None:
    """Raise TopologyError unless *name* can be a topic's or a store's."""
    if not isinstance(name, str) or not name or len(name) > _MAX_NAME or not _NAME_CHARACTERS.issuperset(name):
        raise TopologyError(f"{what} must be 1 to {_MAX_NAME} of the characters a-z A-Z 0-9 . _ -, not {name!r}")
    if name in (".", ".."):
        raise TopologyError(f"{what} must not be {name!r}")
