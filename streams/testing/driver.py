"""TopologyTestDriver: runs a topology in memory, one record at a time, without a broker, threads or a clock of its own.

Each record that is piped in is processed to its end, through all repartition topics, before the call returns; what it
wrote to topics can then be read, and what it left in stores looked at. It is the same engine that runs on a log, with
the same stores, serdes and error policies; only the order of records between sub-topologies is simpler than in a
cluster: by timestamp, then in the order in which they were written.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from streams.errors import PoisonRecord
from streams.partitioner import partition_for
from streams.processing import ErrorPolicy, OutputRecord, SubTopologyTask, TaskOutput, TaskStoreView
from streams.records import Headers, Record
from streams.serdes import BYTES, Serde, SerdeLike, of
from streams.stores.base import StoreIdentity
from streams.stores.memory import MemoryStoreFactory, MemoryTaskStore
from streams.testing.clock import FakeClock
from streams.topology.subtopology import ProcessorTopology, SubTopology

Place = tuple[str, int]


class DrivenRecord(NamedTuple):
    """A record that the topology wrote, with key and value as the serdes read them. `timestamp_ms`: Unix time."""

    key: Any
    value: Any
    timestamp_ms: int
    headers: Headers = ()
    partition: int = 0


class TopologyTestDriver:
    """Pipes records into a topology. One thread. A context manager: leaving it closes the processors.

        with TopologyTestDriver(topology) as driver:
            driver.pipe_input("text", None, "to be or not to be")
            assert driver.read_values("counts")[-1] == ("be", 2)

    Time stands still unless `advance_wall_clock` moves it.
    """

    def __init__(
        self,
        topology: ProcessorTopology,
        *,
        partitions: int | Mapping[str, int] = 1,
        on_deserialization_error: str = "stop",
        on_processing_error: str = "stop",
        wall_clock_ms: int = 0,
    ) -> None:
        """*partitions*: of every topic that is read or written (or topic to number): with several, keys lie apart, as
        they do in a cluster. *on_deserialization_error*, *on_processing_error*: `stop` (the call raises), `skip` or
        `quarantine`. *wall_clock_ms*: what the clock says at first, Unix ms. Raises TopologyError when topics do not
        fit together."""
        self.topology = topology
        self._clock = FakeClock(time_ms=wall_clock_ms)
        self._policy = ErrorPolicy(on_deserialization=on_deserialization_error, on_processing=on_processing_error)
        sources = topology.source_topics
        self._default_partitions = 1 if isinstance(partitions, Mapping) else partitions
        self._partitions = dict(partitions) if isinstance(partitions, Mapping) else dict.fromkeys(sources, partitions)
        self._counts = topology.task_counts(self._partitions)
        internal = topology.internal_topics(self._partitions)
        self._partitions |= {name: topic.partitions or 1 for name, topic in internal.items()}
        self._internal = frozenset(internal)
        self._global_factory = MemoryStoreFactory(max_age_ms=None, clock=self._clock)
        self._factories = [MemoryStoreFactory(max_age_ms=None, clock=self._clock) for _ in topology.subtopologies]
        self._logs: dict[Place, list[Record]] = {}
        self._queues: dict[Place, deque[Record]] = {}  # in the order in which they began to wait
        self._unread: dict[str, deque[OutputRecord]] = {}
        self._tasks: dict[tuple[int, int], tuple[SubTopologyTask, MemoryTaskStore]] = {}
        self._global_task: tuple[SubTopologyTask, MemoryTaskStore] | None = None
        self._readers: dict[str, list[int]] = {}
        self._open()

    def __enter__(self) -> "TopologyTestDriver":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pipe_input(
        self,
        topic: str,
        key: Any,
        value: Any,
        timestamp_ms: int | None = None,
        *,
        headers: Headers = (),
        partition: int | None = None,
    ) -> None:
        """Process a record of *topic* to its end; the serdes that the topology reads the topic with make its bytes.

        *timestamp_ms* None: the wall clock's. *partition* None: the key's. Raises ProcessingFailed when it cannot be
        processed and the policy is to stop; KeyError: the topology does not read the topic.
        """
        key_serde, value_serde = self._serdes_of_source(topic)
        key_bytes = None if key is None else key_serde.serialize(key)
        value_bytes = None if value is None else value_serde.serialize(value)
        self.pipe_bytes(topic, key_bytes, value_bytes, timestamp_ms, headers=headers, partition=partition)

    def pipe_bytes(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int | None = None,
        *,
        headers: Headers = (),
        partition: int | None = None,
    ) -> None:
        """Do as `pipe_input`, with the bytes of key and value."""
        self._serdes_of_source(topic)
        if partition is None:
            partition = 0 if key is None else partition_for(key, self._partitions[topic])
        at_ms = self._clock.time_ms() if timestamp_ms is None else timestamp_ms
        self._enqueue(OutputRecord(topic, partition, key, value, headers, at_ms))
        self._run()

    def advance_wall_clock(self, by_ms: int) -> None:
        """Move the clock on, and run the wall-clock punctuations that become due, with all that they make."""
        self._clock.advance(by_ms / 1000)
        for task, store in self._tasks.values():
            task.punctuate()
            self._take(task, store)
        self._run()

    @property
    def wall_clock_ms(self) -> int:
        """What the clock says, Unix ms."""
        return self._clock.time_ms()

    def read_output(
        self, topic: str, *, key: SerdeLike[Any] | None = None, value: SerdeLike[Any] | None = None
    ) -> list[DrivenRecord]:
        """Return the records that were written to *topic* since the last call, in order. *key*, *value*: how to read
        them, None: with the serdes that wrote them."""
        key_serde, value_serde = self._serdes_of_sink(topic)
        load_key = (key_serde if key is None else of(key)).deserialize
        load_value = (value_serde if value is None else of(value)).deserialize
        return [
            DrivenRecord(
                None if record.key is None else load_key(record.key),
                None if record.value is None else load_value(record.value),
                record.timestamp_ms,
                record.headers,
                record.partition,
            )
            for record in self.read_bytes(topic)
        ]

    def read_values(self, topic: str) -> list[tuple[Any, Any]]:
        """Return keys and values alone of what `read_output` would return."""
        return [(record.key, record.value) for record in self.read_output(topic)]

    def read_bytes(self, topic: str) -> list[OutputRecord]:
        """Return the records that were written to *topic* since the last call, as bytes."""
        return list(self._unread.pop(topic, ()))

    def store(self, name: str, partition: int = 0) -> Any:
        """Return a store of the task of *partition*: a KeyValueStore, WindowStore, SessionStore or MembershipStore of
        `streams.stores`. Reading it is free; writing is for setting up a test. KeyError: no such store."""
        if self._global_task is not None and name in self._global_task[0].stores:
            return self._global_task[0].stores[name]
        return self._tasks[self.topology.subtopology_of(name).index, partition][0].stores[name]

    @property
    def dropped(self) -> dict[str, int]:
        """How many records were dropped since the tasks were made, by reason, over all tasks."""
        found: dict[str, int] = {}
        for task in self._all_tasks():
            for reason, number in task.counters.dropped.items():
                found[reason] = found.get(reason, 0) + number
        return found

    def restart(self) -> None:
        """End all tasks and make them anew from their stores, as a restart of the process does."""
        self.close()
        self._open()

    def restore(self) -> None:
        """End all tasks, throw their stores away, and make both anew from the changelogs, as a new machine does."""
        self.close()
        for factory in (*self._factories, self._global_factory):
            for number in factory.tasks():
                factory.wipe(number)
        self._open()

    def close(self) -> None:
        """Close the processors and stores. Idempotent."""
        for task, store in self._tasks.values():
            task.close()
            store.close()
        if self._global_task is not None:
            self._global_task[0].close()
            self._global_task[1].close()
        self._tasks = {}

    def _open(self) -> None:
        self._readers, self._global_task = {}, None
        whole = self.topology.global_subtopology
        if whole is not None:
            self._global_task = self._open_task(whole, 0, self._global_factory)
        for subtopology, factory in zip(self.topology.subtopologies, self._factories, strict=True):
            for topic in subtopology.source_topics:
                self._readers.setdefault(topic, []).append(subtopology.index)
            for partition in range(self._counts[subtopology.index]):
                self._tasks[subtopology.index, partition] = self._open_task(subtopology, partition, factory)

    def _open_task(
        self, subtopology: SubTopology, partition: int, factory: MemoryStoreFactory
    ) -> tuple[SubTopologyTask, MemoryTaskStore]:
        identity = StoreIdentity({}, self._counts[subtopology.index] if not subtopology.is_global else 1, 1)
        is_new = partition not in factory.tasks()
        store = factory.open(partition, tuple(subtopology.stores), identity)
        if is_new:
            self._fill(subtopology, partition, store)
        task = SubTopologyTask(
            subtopology,
            partition,
            view=TaskStoreView(store),
            partition_count=lambda topic: self._partitions.get(topic, self._default_partitions),
            now_ms=self._clock.time_ms,
            policy=self._policy,
            global_stores=None if self._global_task is None else self._global_task[0].stores,
        )
        return task, store

    def _fill(self, subtopology: SubTopology, partition: int, store: MemoryTaskStore) -> None:
        """Make the rows of a new store from what was written to its changelogs."""
        batch = store.batch()
        partitions = range(max(self._partitions.values())) if subtopology.is_global else (partition,)
        for table in subtopology.state.tables:
            for record in (each for p in partitions for each in self._logs.get((table.topic, p), ())):
                try:
                    key, row = table.materialise(record)
                except PoisonRecord:
                    continue  # the task that processed it had no row of it, either
                if row is None:
                    batch.delete(table.store, key)
                else:
                    batch.put(table.store, key, row)
        store.commit(batch, {})

    def _keep(self, record: OutputRecord) -> Record:
        """Append *record* to its topic."""
        log = self._logs.setdefault((record.topic, record.partition), [])
        topic, partition, key, value, headers, timestamp_ms = record
        log.append(Record(topic, partition, len(log), timestamp_ms, key, value, headers))
        return log[-1]

    def _enqueue(self, record: OutputRecord) -> None:
        """Append *record* to its topic; whoever reads the topic gets it in its turn."""
        kept = self._keep(record)
        self._queues.setdefault((record.topic, record.partition), deque()).append(kept)

    def _is_read(self, topic: str) -> bool:
        whole = self.topology.global_subtopology
        return topic in self._readers or (whole is not None and topic in whole.source_topics)

    def _all_tasks(self) -> list[SubTopologyTask]:
        found = [task for task, _ in self._tasks.values()]
        return found if self._global_task is None else [self._global_task[0], *found]

    def _serdes_of_source(self, topic: str) -> tuple[Serde[Any], Serde[Any]]:
        whole = self.topology.global_subtopology
        for subtopology in (*self.topology.subtopologies, *(() if whole is None else (whole,))):
            for source in subtopology.sources:
                if topic in subtopology.topics_of(source):
                    return source.key, source.value
        raise KeyError(f"the topology does not read topic {topic!r}: it reads {', '.join(self.topology.source_topics)}")

    def _serdes_of_sink(self, topic: str) -> tuple[Serde[Any], Serde[Any]]:
        """Return the serdes of the sink that writes *topic*: by its name, else of the one that chooses its topics."""
        sinks = [sink for each in self.topology.subtopologies for sink in each.sinks if not sink.is_internal]
        named = [sink for sink in sinks if sink.topic == topic]
        for sink in named or [sink for sink in sinks if callable(sink.topic)]:
            return sink.key, sink.value
        return BYTES, BYTES

    def _run(self) -> None:
        """Process everything that waits: the topic whose next record has the least timestamp first, and among equals
        the one that has waited longest, as a task with several topics does (Kafka Streams: PartitionGroup)."""
        while self._queues:
            place = min(self._queues, key=lambda each: self._queues[each][0].timestamp_ms)  # the first of equals
            queue = self._queues.pop(place)
            record = queue.popleft()
            if queue:
                self._queues[place] = queue  # behind the others
            for task, store in self._readers_of(record):
                task.process(record)
                self._take(task, store)

    def _readers_of(self, record: Record) -> Iterable[tuple[SubTopologyTask, MemoryTaskStore]]:
        if self._global_task is not None and record.topic in self._global_task[0].subtopology.source_topics:
            yield self._global_task
        for index in self._readers.get(record.topic, ()):
            yield self._tasks[index, record.partition]

    def _take(self, task: SubTopologyTask, store: MemoryTaskStore) -> None:
        """Do with a task's output what a runtime does: append, keep, go on."""
        output = task.take()
        for record in (*output.records, *output.changes):
            if self._is_read(record.topic):
                self._enqueue(record)
            elif record.topic in self._partitions:
                self._keep(record)
        for record in output.records:
            if record.topic not in self._internal:
                self._unread.setdefault(record.topic, deque()).append(record)
        if not output.is_empty:
            self._commit(store, output)
            task.released()

    def _commit(self, store: MemoryTaskStore, output: TaskOutput) -> None:
        batch = store.batch()
        for name, key, row in output.rows:
            if row is None:
                batch.delete(name, key)
            else:
                batch.put(name, key, row)
        for name, stop in output.expired.items():
            for key, _ in store.scan(name, stop=stop):
                batch.delete(name, key)
        store.commit(batch, {})
