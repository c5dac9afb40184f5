"""Global tables: every process follows all partitions of their topics, and processing begins when they are complete.

For each topic there is a node that observes it, owning nothing. Reads find a key where the usual partitioner puts it,
else in any other partition: whoever writes the topic may have divided it another way.
"""

import heapq
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from streams.errors import Restoring, SerdeUnavailable, StoreDamaged
from streams.partitioner import partition_for
from streams.processing.context import TaskMoment, TaskRecord
from streams.processing.stores import open_store, overlay_of
from streams.runtime.node import StreamsNode
from streams.runtime.reader import TaskReader
from streams.stores.base import Getter
from streams.topology.graph import Topology
from streams.topology.subtopology import SubTopology

_PAGE = 1024


def tables_by_topic(subtopology: SubTopology) -> dict[str, Topology]:
    """Return what is kept of each topic."""
    found: dict[str, Topology] = {}
    for table in subtopology.state.tables:
        topology = found.setdefault(table.topic, Topology(f"{subtopology.application_id}-global-{table.topic}"))
        topology.table(topic=table.topic, store=table.store, materialise=table.materialise)
    return found


class GlobalTables:
    """The global stores of this process. Any thread."""

    def __init__(self, subtopology: SubTopology, nodes: Mapping[str, StreamsNode]) -> None:
        """*nodes*: by topic."""
        self._subtopology = subtopology
        self._nodes = nodes
        self._is_complete = False

    def stores(self) -> Mapping[str, Any] | None:
        """Return the stores by name, for one reader; None until all of them were complete once."""
        if not self._is_complete and not all(node.thread.is_serving for node in self._nodes.values()):
            return None
        self._is_complete = True
        return {name: self._open(name) for name in self._subtopology.stores}

    def node_of(self, store: str) -> StreamsNode:
        """Return the node that has *store*. Raises KeyError."""
        topic = self._subtopology.changelog_of(store)
        assert topic is not None, "a global table is the fold of its topic"
        return self._nodes[topic]

    def _open(self, name: str) -> Any:
        view = _AllPartitions(self.node_of(name))
        spec = self._subtopology.stores[name]
        return open_store(spec, overlay_of(view, name), TaskRecord(), lambda moment: TaskMoment(moment, -1))


class _AllPartitions:
    """A `StoreView` over all partitions of a node."""

    def __init__(self, node: StreamsNode) -> None:
        self._node = node

    def getter(self, store: str) -> Getter:
        node = self._node

        def get(key: bytes) -> bytes | None:
            count = node.partitions
            first = partition_for(key, count)
            for step in range(count):
                with _temporary(node, store, (first + step) % count) as reader:
                    row = reader.get(key)
                if row is not None:
                    return row
            return None

        return get

    def scan(self, store: str, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        parts = [self._scan_one(store, number, start, stop) for number in range(self._node.partitions)]
        return heapq.merge(*parts)

    def _scan_one(self, store: str, partition: int, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        while True:
            with _temporary(self._node, store, partition) as reader:
                rows = reader.scan(start=start, stop=stop, limit=_PAGE)
            yield from rows
            if len(rows) < _PAGE:
                return
            start = rows[-1][0] + b"\0"


@contextmanager
def _temporary(node: StreamsNode, store: str, partition: int) -> Iterator[TaskReader]:
    """Give a reader of what is here. Raises SerdeUnavailable for whatever keeps it from being read: the partition is
    being rebuilt, or will be. No policy for records must take that for a fault of one."""
    reader: TaskReader | None = None
    try:
        reader = node.replica(store, partition)
        _check_whole(node, partition)
        yield reader
    except Exception as error:
        if reader is not None and isinstance(reader.explain(error), StoreDamaged):
            reader.report_damage(error)
        raise SerdeUnavailable(f"global table {store}: {error}") from error


def _check_whole(node: StreamsNode, partition: int) -> None:
    """Raise Restoring for a partition that was complete once, as all were, and is being rebuilt."""
    task = node.thread.tasks[partition]
    if not task.is_serving:
        raise Restoring("a partition is restoring", partition=partition, lag_records=task.lag_records())
