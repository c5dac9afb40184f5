"""Makes functions of nodes, once for each task: every node's function calls those of its children directly.

Nothing is looked up and nothing is allocated for a record but what the operators themselves make. Children are made
before their parents, and called in the order in which they were added to the topology.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from streams.errors import SerializationError
from streams.partitioner import partition_for
from streams.processing.context import NodeContext, TaskRecord, TaskState
from streams.processing.output import OutputRecord
from streams.topology.nodes import Node, Process, ProcessorNode, SinkNode, SourceNode, TimestampExtractor
from streams.topology.subtopology import SubTopology

_BYTES = (bytes, type(None))

#: The number of partitions of a topic, by its name in the log.
PartitionCount = Callable[[str], int]


class Entry(NamedTuple):
    """Where the records of one topic come in."""

    load_key: Callable[[bytes], Any]
    load_value: Callable[[bytes], Any]
    timestamp: TimestampExtractor | None
    process: Process


def compile_nodes(
    subtopology: SubTopology,
    task: TaskState,
    *,
    emit: Callable[[OutputRecord], None],
    partition_count: PartitionCount,
    guard: Callable[[Process], Process] | None = None,
) -> dict[str, Entry]:
    """Return the entries of *subtopology* by topic (its name in the log). Sinks call *emit*. *guard* wraps every
    node."""
    children: dict[str, list[str]] = {node.name: [] for node in subtopology.nodes}
    for node in subtopology.nodes:
        for parent in () if isinstance(node, SourceNode) else node.parents:
            children[parent].append(node.name)
    made: dict[str, Process] = {}
    entries: dict[str, Entry] = {}
    for node in _children_first(subtopology.nodes, children):
        below = {name: made[name] for name in children[node.name]}
        forward = _all_of(list(below.values()))
        if isinstance(node, ProcessorNode):
            made[node.name] = node.operator(NodeContext(task, node.name, node.stores, below), forward)
        elif isinstance(node, SinkNode):
            made[node.name] = _sink(subtopology, node, task.record, emit, partition_count)
        if guard is not None and node.name in made:
            made[node.name] = guard(made[node.name])
        if isinstance(node, SourceNode):
            for topic in subtopology.topics_of(node):
                entries[topic] = Entry(node.key.deserialize, node.value.deserialize, node.timestamp, forward)
    return entries


def _children_first(nodes: Sequence[Node], children: dict[str, list[str]]) -> list[Node]:
    """Return *nodes* in an order in which every node comes after all below it."""
    by_name = {node.name: node for node in nodes}
    ordered: dict[str, Node] = {}

    def visit(name: str) -> None:
        if name not in ordered:
            for child in children[name]:
                visit(child)
            ordered[name] = by_name[name]

    for node in nodes:
        visit(node.name)
    return list(ordered.values())


def _all_of(processes: list[Process]) -> Process:
    """Return a function that calls all of *processes*."""
    if len(processes) == 1:
        return processes[0]
    if not processes:
        return lambda *_: None

    def forward(*arguments: Any) -> None:
        for process in processes:
            process(*arguments)

    return forward


def _sink(
    subtopology: SubTopology,
    node: SinkNode,
    record: TaskRecord,
    emit: Callable[[OutputRecord], None],
    partition_count: PartitionCount,
) -> Process:
    dump_key, dump_value, partitioner = node.key.serialize, node.value.serialize, node.partitioner
    # A windowed key lies where its key lies, whatever the window (Kafka Streams: WindowedStreamPartitioner).
    place_key = getattr(node.key, "serialize_base_key", None)
    choose = node.topic if callable(node.topic) else None
    fixed = "" if callable(node.topic) else node.topic
    if node.is_internal:
        fixed = subtopology.repartition_name(fixed)
    counts: dict[str, int] = {}
    new = tuple.__new__  # a third of what the constructor costs

    def process(key: Any, value: Any, timestamp_ms: int) -> None:
        topic = fixed if choose is None else choose(key, value)
        count = counts.get(topic)
        if count is None:
            count = counts[topic] = partition_count(topic)
        key_bytes = None if key is None else dump_key(key)
        value_bytes = None if value is None else dump_value(value)
        if not (isinstance(key_bytes, _BYTES) and isinstance(value_bytes, _BYTES) and isinstance(timestamp_ms, int)):
            raise SerializationError(f"{node.name}: serdes must make bytes, and timestamps be whole numbers")
        if partitioner is not None:
            partition = partitioner(topic, key, value, count)
            if not (isinstance(partition, int) and 0 <= partition < count):
                raise ValueError(f"the partitioner says {partition!r}, and {topic} has {count} partitions")
        elif key_bytes is None:
            partition = record.partition % count  # nobody can ask for it; this way a repetition puts it there again
        else:
            partition = partition_for(key_bytes if place_key is None else place_key(key), count)
        emit(new(OutputRecord, (topic, partition, key_bytes, value_bytes, record.headers, timestamp_ms)))

    return process
