"""Pictures of a topology: as text in the form of Kafka Streams' `Topology.describe`, for Mermaid, and for Graphviz.

Pure functions of what is built. The text begins as Kafka Streams' own does, so that tools which read that can read
this; stores are told with their changelogs, which Kafka Streams leaves out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from streams.topology.nodes import Node, ProcessorNode, SinkNode, SourceNode
from streams.topology.stores import StoreSpec


class Described(Protocol):
    """What is asked of a sub-topology."""

    @property
    def index(self) -> int: ...

    @property
    def is_global(self) -> bool: ...

    @property
    def nodes(self) -> Sequence[Node]: ...

    @property
    def stores(self) -> Mapping[str, StoreSpec]: ...

    def topics_of(self, source: SourceNode) -> tuple[str, ...]: ...

    def repartition_name(self, name: str) -> str: ...

    def changelog_of(self, store: str) -> str | None: ...


def as_text(name: str, subtopologies: Sequence[Described]) -> str:
    """Return one line for each node, with the nodes before and after it, and for each store."""
    lines = [f"Topology: {name}"]
    for each in subtopologies:
        kind = f"Sub-topology: {each.index}" + (
            " for global stores (will not generate tasks)" if each.is_global else ""
        )
        lines.append(f"   {kind}")
        for node in each.nodes:
            after = ", ".join(child.name for child in _children(each, node)) or "none"
            if isinstance(node, SourceNode):
                lines += [
                    f"    Source: {node.name} (topics: [{', '.join(each.topics_of(node))}])",
                    f"      --> {after}",
                ]
                continue
            before = ", ".join(node.parents)
            if isinstance(node, ProcessorNode):
                lines += [f"    Processor: {node.name} (stores: [{', '.join(node.stores)}])", f"      --> {after}"]
            else:
                lines.append(f"    Sink: {node.name} (topic: {_topic_of(each, node)})")
            lines.append(f"      <-- {before}")
        for store, spec in each.stores.items():
            changelog = each.changelog_of(store) or "none"
            lines.append(f"    Store: {store} ({spec.kind.value}, changelog: {changelog})")
    return "\n".join(lines)


def as_mermaid(name: str, subtopologies: Sequence[Described]) -> str:
    """Return a Mermaid flow chart: topics as rounded boxes, stores as cylinders, sub-topologies as frames."""
    lines = ["---", f"title: {_quoted(name)}", "---", "flowchart TD"]
    ids = _Ids()
    for each in subtopologies:
        lines.append(f'  subgraph sub{each.index}["{_title(each)}"]')
        lines += [f'    {ids.of("n", each, node.name)}["{_escaped(node.name)}"]' for node in each.nodes]
        lines += [f'    {ids.of("s", each, store)}[("{_escaped(store)}")]' for store in each.stores]
        lines.append("  end")
    topics: list[str] = []
    edges: list[str] = []
    for each in subtopologies:
        for node in each.nodes:
            here = ids.of("n", each, node.name)
            edges += [f"  {here} --> {ids.of('n', each, child.name)}" for child in _children(each, node)]
            if isinstance(node, SourceNode):
                topics += each.topics_of(node)
                edges += [f"  {ids.topic(topic)} --> {here}" for topic in each.topics_of(node)]
            elif isinstance(node, SinkNode):
                topics.append(_topic_of(each, node))
                edges.append(f"  {here} --> {ids.topic(topics[-1])}")
            else:
                edges += [f"  {here} <-.-> {ids.of('s', each, store)}" for store in node.stores]
    lines += [f'  {ids.topic(topic)}(["{_escaped(topic)}"])' for topic in dict.fromkeys(topics)]
    return "\n".join([*lines, *edges])


def as_graphviz(name: str, subtopologies: Sequence[Described]) -> str:
    """Return the same picture in the language of Graphviz."""
    lines = [f"digraph {_quoted(name)} {{", "  rankdir=TB; node [shape=box];"]
    topics: list[str] = []
    edges: list[str] = []
    for each in subtopologies:
        lines += [f"  subgraph cluster_{each.index} {{", f"    label={_quoted(_title(each))};"]
        for node in each.nodes:
            here = _quoted(f"{each.index}/{node.name}")
            lines.append(f"    {here} [label={_quoted(node.name)}];")
            edges += [f"  {here} -> {_quoted(f'{each.index}/{child.name}')};" for child in _children(each, node)]
            if isinstance(node, SourceNode):
                topics += each.topics_of(node)
                edges += [f"  {_quoted(topic)} -> {here};" for topic in each.topics_of(node)]
            elif isinstance(node, SinkNode):
                topics.append(_topic_of(each, node))
                edges.append(f"  {here} -> {_quoted(topics[-1])};")
            else:
                places = [_quoted(f"{each.index}/store/{store}") for store in node.stores]
                edges += [f"  {here} -> {place} [dir=both, style=dotted];" for place in places]
        for store in each.stores:
            place = _quoted(f"{each.index}/store/{store}")
            lines.append(f"    {place} [label={_quoted(store)}, shape=cylinder];")
        lines.append("  }")
    lines += [f"  {_quoted(topic)} [shape=box, style=rounded];" for topic in dict.fromkeys(topics)]
    return "\n".join([*lines, *edges, "}"])


class _Ids:
    """Short names for what Mermaid cannot have as a name."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], str] = {}

    def of(self, kind: str, each: Described, name: str) -> str:
        return self._known.setdefault((kind, str(each.index), name), f"{kind}{len(self._known)}")

    def topic(self, name: str) -> str:
        return self._known.setdefault(("topic", name), f"t{len(self._known)}")


def _children(each: Described, node: Node) -> Iterator[Node]:
    return (child for child in each.nodes if not isinstance(child, SourceNode) and node.name in child.parents)


def _topic_of(each: Described, node: SinkNode) -> str:
    if callable(node.topic):
        return "chosen for each record"
    return each.repartition_name(node.topic) if node.is_internal else node.topic


def _title(each: Described) -> str:
    return "global tables" if each.is_global else f"sub-topology {each.index}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    return text.replace('"', "#quot;")
