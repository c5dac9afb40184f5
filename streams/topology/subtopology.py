"""A whole topology, built: sub-topologies, and for each what it reads, writes and keeps. Inert and immutable.

A *sub-topology* is a set of nodes that hand records to each other directly or share a store. Between two of them lies
a topic. It runs as one task for each partition of its sources, which must have the same number of partitions. What a
task keeps is described by `SubTopology.state`, a `Topology` of tables in the sense of `streams.topology.graph`: each
store is the fold of one topic (its changelog, or its source), and whoever restores, follows, verifies or queries
state needs to know nothing else. Who *computes* needs the nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from streams.errors import ConfigError, TopologyError
from streams.serdes import LONG, STRING
from streams.topology.describe import as_graphviz, as_mermaid, as_text
from streams.topology.graph import Topology
from streams.topology.nodes import CopartitionGroup, InternalTopic, Node, ProcessorNode, SinkNode, SourceNode
from streams.topology.stores import StoreKind, StoreSpec

TIMES_STORE = "times"


@dataclass(frozen=True, slots=True)
class SubTopology:
    """The nodes and stores of one kind of task. `index` is its number, from 0; nodes are in the order of their making.

    `application_id`: the prefix of internal topics. `is_global`: it only fills global tables, from all partitions.
    """

    index: int
    application_id: str
    nodes: Sequence[Node]
    stores: Mapping[str, StoreSpec]
    repartition_topics: Mapping[str, InternalTopic] = field(default_factory=dict)
    is_global: bool = False

    @property
    def sources(self) -> tuple[SourceNode, ...]:
        """The nodes that read topics."""
        return tuple(node for node in self.nodes if isinstance(node, SourceNode))

    @property
    def sinks(self) -> tuple[SinkNode, ...]:
        """The nodes that write topics."""
        return tuple(node for node in self.nodes if isinstance(node, SinkNode))

    @property
    def processors(self) -> tuple[ProcessorNode, ...]:
        """The nodes that compute."""
        return tuple(node for node in self.nodes if isinstance(node, ProcessorNode))

    @property
    def source_topics(self) -> tuple[str, ...]:
        """The topics that a task reads partition p of, with the names that they have in the log, each once."""
        return tuple(dict.fromkeys(name for source in self.sources for name in self.topics_of(source)))

    def topics_of(self, source: SourceNode) -> tuple[str, ...]:
        """Return the topics of *source* with the names that they have in the log."""
        return tuple(self.repartition_name(name) for name in source.topics) if source.is_internal else source.topics

    def topics_above(self, node: Node) -> set[str]:
        """Return the topics whose records reach *node*, with the names that they have in the log."""
        by_name = {each.name: each for each in self.nodes}
        found: set[str] = set()
        waiting, seen = [node], {node.name}
        while waiting:
            each = waiting.pop()
            if isinstance(each, SourceNode):
                found.update(self.topics_of(each))
                continue
            above = [by_name[parent] for parent in each.parents if parent not in seen]
            seen.update(parent.name for parent in above)
            waiting += above
        return found

    def repartition_name(self, name: str) -> str:
        """Return the name that an internal topic has in the log."""
        return f"{self.application_id}-{name}"

    def changelog_of(self, store: str) -> str | None:
        """Return the topic that *store* is the fold of; None: it is not logged."""
        spec = self.stores[store]
        if spec.source_topic is not None:
            return spec.source_topic
        return f"{self.application_id}-{store}-changelog" if spec.is_logged else None

    @property
    def times_store(self) -> str | None:
        """The store of the task's times; None: nothing in it depends on times that must outlive a restart."""
        name = f"{self.index}-{TIMES_STORE}"
        return name if name in self.stores else None

    @property
    def changelogs(self) -> tuple[InternalTopic, ...]:
        """The changelog topics that the application has to create; those that are sources are not among them."""
        found = ((self.changelog_of(name), spec) for name, spec in self.stores.items() if spec.source_topic is None)
        return tuple(InternalTopic(topic, spec.changelog_config()) for topic, spec in found if topic is not None)

    @property
    def state(self) -> Topology:
        """What a task keeps, as tables: for restore, standbys, verification and queries."""
        topology = Topology(f"{self.application_id}-{self.index}")
        for name, spec in self.stores.items():
            topic = self.changelog_of(name)
            if topic is not None:
                topology.table(topic=topic, store=name, materialise=spec.materialiser())
            else:
                topology.keep(name)
        return topology


@dataclass(frozen=True, slots=True)
class ProcessorTopology:
    """A topology as a user built it. Immutable; any thread.

    `global_subtopology`: what fills the global tables, None if there are none; every node of the application has it
    whole.
    """

    name: str
    application_id: str
    subtopologies: tuple[SubTopology, ...]
    global_subtopology: SubTopology | None
    copartition_groups: tuple[CopartitionGroup, ...] = ()

    @property
    def source_topics(self) -> tuple[str, ...]:
        """The topics of users that are read, those of global tables included; without repartition topics."""
        subtopologies = [*self.subtopologies, *([self.global_subtopology] if self.global_subtopology else [])]
        sources = [source for each in subtopologies for source in each.sources if not source.is_internal]
        return tuple(dict.fromkeys(topic for source in sources for topic in source.topics))

    @property
    def stores(self) -> Mapping[str, StoreSpec]:
        """All stores by name, those of global tables included."""
        found: dict[str, StoreSpec] = {}
        for each in (*self.subtopologies, *([self.global_subtopology] if self.global_subtopology else [])):
            found |= each.stores
        return found

    def subtopology_of(self, store: str) -> SubTopology:
        """Return the sub-topology that has *store*. Raises KeyError."""
        for each in (*self.subtopologies, *([self.global_subtopology] if self.global_subtopology else [])):
            if store in each.stores:
                return each
        raise KeyError(store)

    def internal_topics(self, partitions: Mapping[str, int]) -> dict[str, InternalTopic]:
        """Return the topics that the application has to create, each with its number of partitions, by the name in the
        log. *partitions*: of each of `source_topics`. Raises TopologyError when topics that must be co-partitioned are
        not, or when a number of partitions follows from nothing."""
        counts = self._count(partitions)
        found: dict[str, InternalTopic] = {}
        for each in self.subtopologies:
            for name, topic in each.repartition_topics.items():
                log_name = each.repartition_name(name)
                found[log_name] = InternalTopic(log_name, topic.config, counts[log_name])
            tasks = self._tasks(each, counts)
            for changelog in each.changelogs:
                found[changelog.name] = InternalTopic(changelog.name, changelog.config, tasks)
        return found

    def task_counts(self, partitions: Mapping[str, int]) -> tuple[int, ...]:
        """Return how many tasks each sub-topology has. Raises TopologyError as `internal_topics` does."""
        counts = self._count(partitions)
        return tuple(self._tasks(each, counts) for each in self.subtopologies)

    def describe(self, form: str = "text") -> str:
        """Return the topology as `text` (in the form of Kafka Streams), as a `mermaid` flow chart, or for `graphviz`.
        Raises ConfigError for any other form."""
        drawers = {"text": as_text, "mermaid": as_mermaid, "graphviz": as_graphviz}
        if form not in drawers:
            raise ConfigError(f"a topology is described as {', '.join(drawers)}, not {form!r}")
        whole = [] if self.global_subtopology is None else [self.global_subtopology]
        return drawers[form](self.name, [*self.subtopologies, *whole])

    def _tasks(self, subtopology: SubTopology, counts: Mapping[str, int]) -> int:
        return max(counts[topic] for topic in subtopology.source_topics)

    def _count(self, partitions: Mapping[str, int]) -> dict[str, int]:
        """Return the number of partitions of every topic that is read, repartition topics included."""
        counts = {topic: partitions[topic] for topic in self.source_topics if topic in partitions}
        missing = [topic for topic in self.source_topics if topic not in partitions]
        if missing:
            raise TopologyError(f"topic {missing[0]!r} does not exist, and the topology reads it: create it first")
        wanted: dict[str, InternalTopic] = {}
        origins: dict[str, set[str]] = {}
        for each in self.subtopologies:
            wanted |= {each.repartition_name(name): topic for name, topic in each.repartition_topics.items()}
            for sink in each.sinks:
                if sink.is_internal and isinstance(sink.topic, str):
                    origins.setdefault(each.repartition_name(sink.topic), set()).update(each.topics_above(sink))
        counts |= {name: topic.partitions for name, topic in wanted.items() if topic.partitions is not None}
        groups = [self._topics_of_group(group) for group in self.copartition_groups]
        while undecided := [name for name in wanted if name not in counts]:
            before = len(counts)
            for topics, _ in groups:
                known = [counts[topic] for topic in topics if topic in counts]
                counts |= {topic: max(known) for topic in topics if known and topic not in counts}
            for name in undecided:
                above = origins.get(name, set())
                if name not in counts and above and all(topic in counts for topic in above):
                    counts[name] = max(counts[topic] for topic in above)
            if len(counts) == before:
                raise TopologyError(f"how many partitions {undecided[0]!r} should have follows from nothing: say so")
        for topics, reason in groups:
            if len({counts[topic] for topic in topics}) > 1:
                shown = ", ".join(f"{topic!r} has {counts[topic]}" for topic in sorted(topics))
                raise TopologyError(
                    f"{reason} need the same number of partitions, but {shown}: "
                    "repartition() one side, or create the topics anew"
                )
        return counts

    def _topics_of_group(self, group: CopartitionGroup) -> tuple[list[str], str]:
        topics: list[str] = []
        for each in self.subtopologies:
            for source in each.sources:
                if source.name in group.sources:
                    topics += each.topics_of(source)
        return topics, group.reason


def split(
    *,
    name: str,
    application_id: str,
    nodes: Sequence[Node],
    stores: Mapping[str, StoreSpec],
    repartition_topics: Mapping[str, InternalTopic],
    copartition_groups: Sequence[CopartitionGroup],
) -> ProcessorTopology:
    """Divide *nodes* into sub-topologies: what hands records to each other, or shares a store, is together."""
    subtopologies: list[SubTopology] = []
    global_nodes: list[Node] = []
    global_stores: dict[str, StoreSpec] = {}
    for members in _connected(nodes):
        used = [store for node in members if isinstance(node, ProcessorNode) for store in node.stores]
        mine = {store: stores[store] for store in dict.fromkeys(used)}
        if any(spec.is_global for spec in mine.values()):
            global_nodes += members
            global_stores |= mine
            continue
        if _keeps_time(members, mine):
            times = _times_store(len(subtopologies))
            mine[times.name] = times
        read = {topic for node in members if isinstance(node, SourceNode) and node.is_internal for topic in node.topics}
        subtopologies.append(
            SubTopology(
                index=len(subtopologies),
                application_id=application_id,
                nodes=tuple(members),
                stores=mine,
                repartition_topics={topic: repartition_topics[topic] for topic in repartition_topics if topic in read},
            )
        )
    whole = None
    if global_nodes:
        whole = SubTopology(len(subtopologies), application_id, tuple(global_nodes), global_stores, {}, is_global=True)
    return ProcessorTopology(name, application_id, tuple(subtopologies), whole, tuple(copartition_groups))


def _connected(nodes: Sequence[Node]) -> list[list[Node]]:
    """Return the nodes in sets of which each hangs together, in the order of their first nodes."""
    leader = {node.name: node.name for node in nodes}

    def find(member: str) -> str:
        while leader[member] != member:
            leader[member] = leader[leader[member]]
            member = leader[member]
        return member

    first_of_store: dict[str, str] = {}
    for node in nodes:
        for parent in () if isinstance(node, SourceNode) else node.parents:
            leader[find(node.name)] = find(parent)
        for store in node.stores if isinstance(node, ProcessorNode) else ():
            leader[find(node.name)] = find(first_of_store.setdefault(store, node.name))
    together: dict[str, list[Node]] = {}
    for node in nodes:
        together.setdefault(find(node.name), []).append(node)
    return list(together.values())


def _keeps_time(members: Sequence[Node], stores: Mapping[str, StoreSpec]) -> bool:
    """Say whether a task of these nodes has times that must outlive a restart (`OperatorContext.moment`)."""
    timed = (StoreKind.WINDOW, StoreKind.SESSION)
    return any(spec.kind in timed for spec in stores.values()) or any(
        isinstance(node, ProcessorNode) and node.keeps_time for node in members
    )


def _times_store(index: int) -> StoreSpec:
    """Return the store of the times of a task: a few rows, written with each commit that changed them."""
    return StoreSpec(name=f"{index}-{TIMES_STORE}", key=STRING, value=LONG, is_queryable=False)
