"""Nodes of an application without its runtime: the engine computes, its changelogs go through real nodes, threads and a
log in memory, and the engine's own stores are the model that the answers are compared with.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from streams.clock import Deadline, SystemClock
from streams.config import RuntimeConfig
from streams.dsl import Processor, ProcessorRecord, StreamsBuilder, session, tumbling
from streams.log.base import TopicSpec
from streams.partitioner import partition_for
from streams.processing import SubTopologyTask, TaskStoreView, committed_store
from streams.queries.counts import Counts
from streams.queries.cursors import Cursors
from streams.queries.fanout import FanOut
from streams.queries.local import LocalStores
from streams.queries.peers import Caller, PeerLost, PeerReply, PeerRequest, PeerUnreachable
from streams.queries.reads import Channel, StoreReads
from streams.records import ProducerRecord, Record
from streams.runtime.commands import Decided, Decision, View
from streams.runtime.node import StreamsNode
from streams.stores.base import StoreIdentity
from streams.stores.memory import MemoryStoreFactory
from streams.testing import MemoryGroup, MemoryLog
from streams.topology.subtopology import ProcessorTopology, SubTopology

CLOCK = SystemClock()
PARTITIONS = 4
MINUTE = 60_000


class Remember(Processor[str, int, str, int]):
    """Puts each key into the membership store."""

    def process(self, record: ProcessorRecord[str, int]) -> None:
        self.context.store("seen").add(record.key)


def everything(prefix: str = "") -> ProcessorTopology:
    """Stores of every kind over one topic, and a global table. The topics begin with *prefix*."""
    builder = StreamsBuilder(f"{prefix}everything")
    builder.global_table(f"{prefix}names", key=str, value=str, store="names")
    builder.add_store("seen", key=str, kind="membership", capacity=1000, error_rate=0.0001)
    words = builder.stream(f"{prefix}words", key=str, value=int)
    words.process(Remember, stores=["seen"])
    grouped = words.group_by_key()
    grouped.reduce(lambda a, b: b, store="last")
    grouped.windowed_by(tumbling(MINUTE, grace_ms=0)).count(store="minutes")
    grouped.windowed_by(session(MINUTE, grace_ms=0)).count(store="sessions")
    return builder.build()


def soon(seconds: float = 10.0) -> Deadline:
    return Deadline.after(seconds, CLOCK)


class Append:
    """A command that appends what it was given."""

    def __init__(self, partition: int, records: Sequence[ProducerRecord]) -> None:
        self.event_id = uuid.uuid4().bytes
        self.partitions = (partition,)
        self.records = records

    def decide(self, view: View) -> Decision:
        return Decision(self.records, None)


class LoopbackPeers:
    """The other nodes without a network: operations are called on the spot. *down*: those that do not answer, and are
    suspected once that is known; *failing*: how many more calls of a node get lost."""

    def __init__(self) -> None:
        self.operations: dict[str, Mapping[str, Callable[[bytes, Caller], Awaitable[bytes]]]] = {}
        self.down: set[str] = set()
        self.failing: dict[str, int] = {}
        self.calls: list[tuple[str, str]] = []

    async def forward(self, node_id: str, request: PeerRequest, deadline: Deadline) -> PeerReply:
        raise AssertionError("queries are operations between nodes")

    async def call(self, node_id: str, operation: str, body: bytes, deadline: Deadline) -> bytes:
        self.calls.append((node_id, operation))
        await asyncio.sleep(0)
        if self.failing.get(node_id, 0):
            self.failing[node_id] -= 1
            raise PeerLost("the connection broke")
        if node_id in self.down:
            raise PeerUnreachable("nobody is there")
        return await self.operations[node_id][operation](body, Caller("somebody", deadline, 0))

    def is_suspected(self, node_id: str) -> bool:
        return node_id in self.down

    def set_view(self, view: object) -> None:
        pass


class Cluster:
    """Nodes with all sub-topologies that have state, on one log."""

    def __init__(
        self,
        topology: ProcessorTopology,
        names: Sequence[str],
        *,
        standbys: int = 0,
        addresses: Mapping[str, str] = {},
    ) -> None:
        self.topology = topology
        self.peers = LoopbackPeers()
        (self.subtopology,) = topology.subtopologies
        self.log = MemoryLog(clock=CLOCK, group=MemoryGroup(clock=CLOCK, session_timeout_s=3.0, is_threaded=True))
        self.nodes = {
            name: make_node(
                self.subtopology,
                self.log,
                name,
                num_standby_replicas=standbys,
                address=addresses.get(name, f"http://{name}:1"),
            )
            for name in names
        }
        whole = topology.global_subtopology
        self.global_nodes = (
            {} if whole is None else {name: make_node(whole, MemoryLog(clock=CLOCK), name) for name in names}
        )
        self.model = MemoryStoreFactory(max_age_ms=None, clock=CLOCK)
        self.stores = [
            self.model.open(p, tuple(self.subtopology.stores), StoreIdentity({}, PARTITIONS, 1))
            for p in range(PARTITIONS)
        ]
        self.tasks = [
            SubTopologyTask(
                self.subtopology, p, view=TaskStoreView(store), partition_count=lambda _: PARTITIONS, now_ms=lambda: 0
            )
            for p, store in enumerate(self.stores)
        ]

    def start(self) -> "Cluster":
        for node in (*self.nodes.values(), *self.global_nodes.values()):
            node.start()
        wait_until(lambda: all(node.health().is_ready for node in (*self.nodes.values(), *self.global_nodes.values())))
        wait_until(self._is_settled)
        return self

    def _is_settled(self) -> bool:
        """Say whether the partitions are divided for good: all know one map, after which nothing is to move, and have
        what it says."""
        nodes = self.nodes.values()
        counts = [len(node.thread.owned) for node in nodes]
        return (
            len({node.view.epoch for node in nodes}) == 1
            and all(node.view.owned_by(node.node_id) == node.thread.owned for node in nodes)
            and all(not place.warming for node in nodes for place in node.view.placements)
            and all(
                node.thread.tasks.keys() == node.view.owned_by(node.node_id) | node.view.followed_by(node.node_id)
                for node in nodes
            )
            and sum(counts) == PARTITIONS
            and max(counts) - min(counts) <= 1
        )

    def stop(self) -> None:
        for node in (*self.nodes.values(), *self.global_nodes.values()):
            if node.thread.is_alive:
                node.stop(soon(5))

    def feed(self, topic: str, *records: tuple[str, int | None, int]) -> None:
        """Process records: key, value, timestamp."""
        spec = self.subtopology.stores["last"]
        touched = set()
        for key, value, timestamp_ms in records:
            data = key.encode()
            partition = partition_for(data, PARTITIONS)
            encoded = None if value is None else spec.value.serialize(value)
            self.tasks[partition].process(Record(topic, partition, 0, timestamp_ms, data, encoded, ()))
            touched.add(partition)
        for partition in touched:
            self._commit(partition)

    def _commit(self, partition: int) -> None:
        output = self.tasks[partition].take()
        batch = self.stores[partition].batch()
        for store, key, row in output.rows:
            batch.delete(store, key) if row is None else batch.put(store, key, row)
        self.stores[partition].commit(batch, {})
        self.tasks[partition].released()
        records = [ProducerRecord(*change[:5], timestamp_ms=change.timestamp_ms) for change in output.changes]
        append(self.owner(partition), partition, records)

    def feed_global(self, topic: str, *records: tuple[str, str, int, int]) -> None:
        """Put rows into the global table: key, value, timestamp, partition."""
        for key, value, timestamp_ms, partition in records:
            for node in self.global_nodes.values():
                append(
                    node, partition, [ProducerRecord(topic, partition, key.encode(), value.encode(), (), timestamp_ms)]
                )

    def owner(self, partition: int) -> StreamsNode:
        (node,) = (node for node in self.nodes.values() if node.owns(partition))
        return node

    def expected(self, store: str, partition: int) -> Any:
        """Return the typed store of the model."""
        return committed_store(self.subtopology, store, TaskStoreView(self.stores[partition]))

    def reads(self, name: str, *, is_alone: bool = False) -> StoreReads:
        """Return what node *name* answers with."""
        node = self.nodes[name]
        peers = None if is_alone else self.peers
        fan_out = None if is_alone else FanOut(node=node, peers=self.peers, clock=CLOCK)
        local = LocalStores(node=node, subtopology=self.subtopology)
        counts = Counts(node=node, stores=dict.fromkeys(self.subtopology.stores), peers=peers, fan_out=fan_out)
        channels = [Channel(tuple(self.subtopology.stores), local, counts, CLOCK, peers, fan_out)]
        self.peers.operations[name] = {**local.operations(), **counts.operations()}
        if name in self.global_nodes:
            whole = self.topology.global_subtopology
            assert whole is not None
            there = self.global_nodes[name]
            channels.append(
                Channel(
                    tuple(whole.stores),
                    LocalStores(node=there, subtopology=whole),
                    Counts(node=there, stores=dict.fromkeys(whole.stores)),
                    CLOCK,
                )
            )
        return StoreReads(channels, cursors=Cursors(b"", application_id="tests"), clock=CLOCK)

    def all_reads(self) -> dict[str, StoreReads]:
        return {name: self.reads(name) for name in self.nodes}


def make_node(subtopology: SubTopology, log: MemoryLog, name: str, **config: Any) -> StreamsNode:
    state = subtopology.state
    return StreamsNode(
        topology=state,
        topics=[TopicSpec(topic, {"cleanup.policy": "compact"}, partitions=PARTITIONS) for topic in state.topics],
        log=log,
        stores=MemoryStoreFactory(max_age_ms=None, clock=CLOCK),
        # What it gave away it drops soon: with a copy, it would answer where a test wants nobody to be able to.
        config=RuntimeConfig(node_id=name, format_version=1, state_cleanup_delay_s=0.05, **config),
        clock=CLOCK,
        on_fatal=lambda error: print("fatal", error),
    )


def append(node: StreamsNode, partition: int, records: Sequence[ProducerRecord]) -> None:
    outcome = node.table.execute(Append(partition, records), soon())
    assert isinstance(outcome, Decided), outcome


def wait_until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    end = CLOCK.monotonic() + within_s
    while not condition():
        assert CLOCK.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)


@contextmanager
def cluster(*names: str, standbys: int = 0, topology: ProcessorTopology | None = None) -> Iterator[Cluster]:
    """Nodes that run and own everything between them."""
    found = Cluster(topology or everything(), names, standbys=standbys)
    try:
        yield found.start()
    finally:
        found.stop()
