"""`StreamsApplication` (Kafka Streams: KafkaStreams): a topology, running. Composes; the only place here that picks
concrete classes.

For each sub-topology there is a `StreamsNode`, which keeps the state of its tasks and says which are this process', and
a `Processing`, which computes. What connects sub-topologies are topics. `docs/streams/running.md` describes it.
"""

import logging
import threading
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from streams.application.global_tables import GlobalTables, tables_by_topic
from streams.application.health import ApplicationHealth
from streams.application.logs import Logs
from streams.application.producing import Input, Producer
from streams.application.purging import Purger
from streams.application.settings import StreamsSettings
from streams.application.topics import TOMBSTONE_RETENTION_MS, PartitionCounts, prepare, runnable, table_topics
from streams.clock import Clock, Deadline, SystemClock
from streams.cluster import OBSERVER
from streams.config import RuntimeConfig
from streams.errors import StreamsError, Unavailable
from streams.files import write_durably
from streams.lockfile import DirectoryLock
from streams.log.base import Log, TopicSpec
from streams.records import Headers, TopicPartition
from streams.runtime.node import StreamsNode
from streams.runtime.processing import Processing, ProcessingBounds, ProcessingCounters, row_format, state_of
from streams.serdes import SerdeLike
from streams.stores.rocksdb import RocksStoreFactory
from streams.topology.graph import Topology
from streams.topology.subtopology import ProcessorTopology, SubTopology

logger = logging.getLogger(__name__)

_CACHE_BYTES = 32 * 1024 * 1024
_MAX_QUEUED = 4096


class StreamsApplication:
    """One process of an application. A context manager: entering starts, leaving stops. Any thread may ask."""

    def __init__(
        self, topology: ProcessorTopology, settings: StreamsSettings | None = None, *, clock: Clock | None = None
    ) -> None:
        """Opens nothing. `topology` is afterwards what runs: with the application id of *settings*, and with a
        changelog for each store that is logged."""
        self.settings = settings or StreamsSettings()
        self.topology = runnable(topology, self.settings.application_id)
        self.application_id = self.topology.application_id
        self._table_topics = table_topics(topology)
        self.clock = clock or SystemClock()
        #: By name: the index of a sub-topology, `global-<topic>` for a global table. Empty before `start`.
        self.nodes: Mapping[str, StreamsNode] = {}
        self._processings: tuple[Processing, ...] = ()
        self._globals: GlobalTables | None = None
        self._logs: Logs | None = None
        self._counts: PartitionCounts | None = None
        self._producer: Producer | None = None
        self._purger: Purger | None = None
        self._stack = ExitStack()
        self._error: BaseException | None = None
        #: Set when the application has given up as a whole; `health().error` says why.
        self.failed = threading.Event()

    def __enter__(self) -> "StreamsApplication":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Lock the data directory, reach the log, make topics, and begin in the background.

        Returns when topics are as they must be; `wait_ready` waits for the rest. Raises StoreLocked (another process
        holds the directory), TopologyError or TopicMismatch (a topic is missing or does not fit), LogUnavailable after
        `start_timeout_ms`; nothing is open then.
        """
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        for node in self.nodes.values():
            node.start()
        for processing in self._processings:
            processing.start()
        self._purger = Purger(self._processings, self.log, self.clock)
        self._purger.start()

    def stop(self, timeout_s: float = 20.0) -> None:
        """Finish the batches under way, hand the tasks over, close everything; returns after *timeout_s* at most, a
        little more when the disk is slow. Idempotent. Not on an event loop."""
        deadline = Deadline.after(timeout_s, self.clock)
        if self._purger is not None:
            self._purger.stop(deadline)
        for processing in self._processings:
            processing.stop(deadline)
        stopping = [
            threading.Thread(target=node.stop, args=(deadline,), name=f"stop-{name}", daemon=True)
            for name, node in self.nodes.items()
        ]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join(deadline.remaining_s(self.clock) + 1.0)
        for processing in self._processings:
            processing.close()
        self._stack.close()

    def wait_ready(self, timeout_s: float) -> None:
        """Return when this process is ready (see `ApplicationHealth`). Raises Unavailable after *timeout_s*, or the
        error for which the application gave up."""
        deadline = Deadline.after(timeout_s, self.clock)
        while not self.is_ready:
            if self._error is not None:
                raise self._error
            if deadline.has_passed(self.clock):
                raise Unavailable(f"the application is not ready after {timeout_s} s: {self.health()}")
            self.failed.wait(0.01)

    @property
    def is_ready(self) -> bool:
        """Whether every task that is owned here can process."""
        if not self.nodes or self._error is not None or (self._globals is not None and not self._globals.stores()):
            return False
        if any(processing.troubles for processing in self._processings):
            return False
        return all(self._is_ready(name, node) for name, node in self.nodes.items())

    def health(self) -> ApplicationHealth:
        """Return how the application stands."""
        nodes = {name: node.health() for name, node in self.nodes.items()}
        return ApplicationHealth(
            is_live=bool(nodes) and self._error is None and all(one.is_live for one in nodes.values()),
            is_ready=self.is_ready,
            failed=[failed for processing in self._processings for failed in processing.failed],
            unread=[reason for processing in self._processings for reason in processing.troubles],
            nodes=nodes,
            error="" if self._error is None else str(self._error),
        )

    def node_of(self, store: str) -> StreamsNode:
        """Return the node that has *store*. Raises KeyError: there is no such store, or nothing was started."""
        subtopology = self.topology.subtopology_of(store)
        if not self.nodes:
            raise KeyError(f"{store}: the application was not started")
        if subtopology.is_global:
            assert self._globals is not None
            return self._globals.node_of(store)
        return self.nodes[str(subtopology.index)]

    def subtopology_of(self, store: str) -> SubTopology:
        """Return the sub-topology that has *store*. Raises KeyError."""
        return self.topology.subtopology_of(store)

    @property
    def counters(self) -> Mapping[int, ProcessingCounters]:
        """What was processed since the start, by index of the sub-topology. A batch is counted when its task has
        heard of its end: a moment after `lag` and the stores show it."""
        return {each.subtopology.index: each.counters for each in self._processings}

    def lag(self, timeout_s: float = 5.0) -> dict[TopicPartition, int]:
        """Return how many offsets of the input of tasks that are owned here are left to process; 0 when nothing is.
        Asks the log. Raises LogUnavailable."""
        if self._logs is None:
            return {}
        positions: dict[TopicPartition, int] = {}
        for processing in self._processings:
            positions |= processing.reached()
        deadline = Deadline.after(timeout_s, self.clock)
        ends = self._logs.shared.end_offsets(list(positions), deadline) if positions else {}
        return {place: max(0, ends.get(place, 0) - position) for place, position in positions.items()}

    @property
    def producer(self) -> Producer:
        """A producer for the topics that the topology reads. Raises Unavailable before `start`."""
        if self._producer is None:
            raise Unavailable("the application was not started")
        return self._producer

    @property
    def log(self) -> Log:
        """The log, for readers and questions of one's own. Raises Unavailable before `start`."""
        if self._logs is None:
            raise Unavailable("the application was not started")
        return self._logs.shared

    def produce(
        self,
        topic: str,
        key: Any,
        value: Any,
        *,
        timestamp_ms: int | None = None,
        headers: Headers = (),
        partition: int | None = None,
        key_serde: SerdeLike[Any] | None = None,
        value_serde: SerdeLike[Any] | None = None,
    ) -> None:
        """Append one record; it is durable when this returns. See `Producer.send`, which is faster for many."""
        record = Input(key, value, timestamp_ms, headers, partition)
        self.producer.send(topic, (record,), key=key_serde, value=value_serde)

    def _is_ready(self, name: str, node: StreamsNode) -> bool:
        if name.startswith("global-"):
            return node.thread.is_serving
        return node.health().is_ready

    def _open(self) -> None:
        settings, clock = self.settings, self.clock
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(settings.data_dir, note=settings.address or self.application_id)
        lock.acquire()
        self._stack.callback(lock.release)
        node_id = settings.node_id or _kept(settings.data_dir / "node-id")
        self._logs = logs = Logs(settings, self.application_id, node_id, clock)
        self._stack.callback(logs.close)
        counts = self._counts = PartitionCounts(logs.shared, clock)
        tasks = prepare(
            self.topology,
            logs.shared,
            counts,
            create_topics=settings.create_topics,
            compacted=self._table_topics.union(settings.compacted_topics),
            policy=settings.policy(),
            replication_factor=settings.replication_factor,
            deadline=Deadline.after(settings.start_timeout_ms / 1000, clock),
        )
        self._producer = Producer(logs.shared.open_producer(), counts, clock, self.topology)
        self._stack.callback(self._producer.close)
        nodes: dict[str, StreamsNode] = {}
        whole = self.topology.global_subtopology
        if whole is not None:
            for topic, topology in tables_by_topic(whole).items():
                name = f"global-{topic}"
                nodes[name] = self._node(name, topology, counts(topic), node_id, role=OBSERVER, rows=row_format(whole))
            self._globals = GlobalTables(whole, {name.removeprefix("global-"): node for name, node in nodes.items()})
        processings: list[Processing] = []
        for subtopology, count in zip(self.topology.subtopologies, tasks, strict=True):
            name = str(subtopology.index)
            state, rows = state_of(subtopology), row_format(subtopology)
            nodes[name] = node = self._node(name, state, count, node_id, role=settings.role, rows=rows)
            if settings.role != OBSERVER:
                processings.append(self._processing(subtopology, node))
        self.nodes, self._processings = nodes, tuple(processings)

    def _node(
        self, name: str, topology: Topology, partitions: int, node_id: str, *, role: str, rows: int
    ) -> StreamsNode:
        """*rows*: the format of the stores' rows."""
        settings, assert_logs = self.settings, self._logs
        assert assert_logs is not None
        directory = settings.data_dir / name
        directory.mkdir(mode=0o700, exist_ok=True)
        max_age_ms = None if name.startswith("global-") else TOMBSTONE_RETENTION_MS // 2
        stores = RocksStoreFactory(directory, cache_bytes=_CACHE_BYTES, max_age_ms=max_age_ms, clock=self.clock)
        return StreamsNode(
            topology=topology,
            # Made and checked by now. A table of a global topic may be anything that its owner has chosen.
            topics=[TopicSpec(topic, assert_logs.config_of(topic), partitions) for topic in topology.topics],
            log=assert_logs.of(name, directory),
            stores=stores,
            config=RuntimeConfig(
                node_id=node_id,
                format_version=rows,
                address=settings.address or f"http://{node_id}.invalid:1",
                rack=settings.rack,
                role=role,
                num_standby_replicas=settings.num_standby_replicas,
                shared_settings=self._shared_settings(),
                max_queued_commands=_MAX_QUEUED,
                append_timeout_s=settings.append_timeout_ms / 1000,
            ),
            clock=self.clock,
            on_fatal=self._give_up,
        )

    def _processing(self, subtopology: SubTopology, node: StreamsNode) -> Processing:
        settings = self.settings
        assert self._logs is not None
        assert self._counts is not None
        return Processing(
            subtopology,
            node=node,
            log=self._logs.of(str(subtopology.index), settings.data_dir),
            partition_count=self._counts,
            clock=self.clock,
            policy=settings.policy(),
            bounds=ProcessingBounds(
                batch_records=settings.batch_records,
                batch_ms=settings.batch_ms,
                buffered_records=settings.buffered_records,
            ),
            global_stores=dict if self._globals is None else self._globals.stores,
        )

    def _shared_settings(self) -> dict[str, str]:
        """Return what must be the same in every process: with another topology, tasks would not mean the same."""
        return {
            "topology": str(uuid.uuid5(uuid.NAMESPACE_OID, self.topology.describe())),
            **self.settings.shared_settings,
        }

    def _give_up(self, error: BaseException) -> None:
        self._error = error
        logger.critical(
            "the application gives up: %s", error, exc_info=None if isinstance(error, StreamsError) else error
        )
        self.failed.set()


def _kept(path: Path) -> str:
    """Return the text of *path*, which is made once."""
    if path.exists() and (text := path.read_text().strip()):
        return text
    text = uuid.uuid4().hex
    write_durably(path, text)
    return text
