"""The transactions of one target partition: its copies, and the source's position as the offset of a consumer group.

The offset is committed for the target's partition in the target's cluster, so records and position are one transaction
there: both are in the copy or neither is. Invariant: one producer at a time, since its transactional id belongs to the
partition; a new one shuts out the one before it, be that a process that was stopped or one that does not know yet that
it lost its share.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from kafka import KafkaProducer
from kafka import TopicPartition as KafkaTopicPartition
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from streams.clock import Clock
from streams.errors import LogUnavailable
from streams.log.kafka.producing import Ends, Operation, Producing
from streams.log.kafka.settings import KafkaSettings
from streams.log.kafka.topics import Topics
from streams.records import Headers, TopicPartition

#: There is no group membership that could be checked: who may write is settled by the producer's epoch alone.
_NO_GENERATION = -1


class Copy(NamedTuple):
    """A record to be written. `timestamp_ms` None: the time at which it is written."""

    key: bytes
    value: bytes | None
    headers: Headers
    timestamp_ms: int | None


class Mark(NamedTuple):
    """A position as the target keeps it: `order` as the offset, everything else in `metadata`."""

    order: int
    metadata: str


class Copying:
    """Used by one thread."""

    def __init__(self, settings: KafkaSettings, target: TopicPartition, *, topics: Topics, clock: Clock) -> None:
        """*settings* are those of this partition: the group is the application id, and the node id is its alone."""
        self._target = target
        self._group = settings.application_id
        self._producing = Producing(settings, [target.topic], topics=topics, clock=clock)

    def take(self, operation: Operation) -> Ends:
        """Shut out whoever wrote to the partition before, this object's own earlier transactions included. Raises
        LogUnavailable."""
        self._producing.discard()
        self._producing.open(operation.deadline)
        return {}

    def copy(self, records: Sequence[Copy], mark: Mark, operation: Operation) -> Ends:
        """Commit *records*, which may be none, and *mark* together. Raises LogUnavailable, RecordTooLarge or Fenced
        (certainly nothing was written), or OutcomeUnknown."""
        if not self._producing.is_open:
            # A new producer would shut out whoever has taken the partition over meanwhile, and would go on from a
            # position that is not the last one.
            raise LogUnavailable("the partition must be taken anew")
        return self._producing.transact(
            partial(self._send, records), partial(self._send_mark, mark), operation, generation=_NO_GENERATION
        )

    def discard(self) -> None:
        """Throw the producer away, in the background."""
        self._producing.discard()

    def _send(self, records: Sequence[Copy], producer: KafkaProducer, sent_one: Callable[[Any], None]) -> None:
        topic, partition = self._target
        send = producer.send
        for key, value, headers, timestamp_ms in records:
            sent_one(send(topic, value, key, list(headers), partition, timestamp_ms))

    def _send_mark(self, mark: Mark, producer: KafkaProducer) -> None:
        group = ConsumerGroupMetadata(self._group, _NO_GENERATION, "", None)
        offset = OffsetAndMetadata(mark.order, mark.metadata, -1)
        producer.send_offsets_to_transaction({KafkaTopicPartition(*self._target): offset}, group)
