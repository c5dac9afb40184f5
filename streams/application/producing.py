"""A producer for the input of a topology: serialises with its serdes, and puts a key where everybody looks for it."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from streams.application.topics import PartitionCounts
from streams.clock import Clock, Deadline
from streams.log.base import LogProducer
from streams.partitioner import partition_for
from streams.records import Headers, ProducerRecord
from streams.serdes import Serde, SerdeLike, of
from streams.topology.subtopology import ProcessorTopology


class Input(NamedTuple):
    """A record to be sent. `partition` None: the key's, and of records without a key one after the other;
    `timestamp_ms` None: now."""

    key: Any
    value: Any
    timestamp_ms: int | None = None
    headers: Headers = ()
    partition: int | None = None


class Producer:
    """Sends records to topics. Any thread."""

    def __init__(
        self, producer: LogProducer, counts: PartitionCounts, clock: Clock, topology: ProcessorTopology | None = None
    ) -> None:
        """*topology*: whose serdes are taken for the topics that it reads."""
        self._producer = producer
        self._counts = counts
        self._clock = clock
        self._serdes = _serdes_of(topology) if topology is not None else {}
        self._round = 0

    def send(
        self,
        topic: str,
        records: Iterable[Input],
        *,
        key: SerdeLike[Any] | None = None,
        value: SerdeLike[Any] | None = None,
        timeout_s: float = 30.0,
    ) -> int:
        """Append *records* and return how many they were; they are durable then.

        *key*, *value*: their serdes, None: those with which the topology reads the topic. Raises KeyError when there
        are none, SerializationError, TopologyError (no such topic), LogUnavailable or OutcomeUnknown: some may be in
        the log, and sending them again may write them twice.
        """
        known = self._serdes.get(topic)
        if known is None and (key is None or value is None):
            raise KeyError(f"the topology does not read {topic!r}: say which serdes to use")
        key_serde: Serde[Any] = of(key) if key is not None else known[0]  # type: ignore[index]
        value_serde: Serde[Any] = of(value) if value is not None else known[1]  # type: ignore[index]
        count = self._counts(topic)
        made: list[ProducerRecord] = []
        for record in records:
            key_bytes = None if record.key is None else key_serde.serialize(record.key)
            value_bytes = None if record.value is None else value_serde.serialize(record.value)
            partition = record.partition
            if partition is None:
                partition = self._next(count) if key_bytes is None else partition_for(key_bytes, count)
            at_ms = self._clock.time_ms() if record.timestamp_ms is None else record.timestamp_ms
            made.append(ProducerRecord(topic, partition, key_bytes, value_bytes, record.headers, at_ms))
        self._producer.produce(made, Deadline.after(timeout_s, self._clock))
        return len(made)

    def close(self) -> None:
        """Send nothing any more. Idempotent."""
        self._producer.close()

    def _next(self, count: int) -> int:
        self._round += 1
        return self._round % count


def _serdes_of(topology: ProcessorTopology) -> dict[str, tuple[Serde[Any], Serde[Any]]]:
    whole = topology.global_subtopology
    found: dict[str, tuple[Serde[Any], Serde[Any]]] = {}
    for each in (*topology.subtopologies, *(() if whole is None else (whole,))):
        for source in each.sources:
            for topic in each.topics_of(source):
                found.setdefault(topic, (source.key, source.value))
    return found
