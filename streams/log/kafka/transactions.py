"""The node's transactions: fencing, and appending a group with the offsets that are its fence (KIP-447).

Invariant: every transaction carries offset commits under the generation of its snapshot, so that the group's
coordinator refuses those of a node that has lost a partition.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from kafka import KafkaProducer
from kafka import TopicPartition as KafkaTopicPartition
from kafka.errors import KafkaError
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from streams.clock import Clock
from streams.errors import Fenced, GenerationPassed, LogError, LogUnavailable
from streams.log.base import Ownership
from streams.log.kafka.blame import GENERATION_REFUSED, PRODUCER_FENCED
from streams.log.kafka.departed import Departed
from streams.log.kafka.offsets import Offsets
from streams.log.kafka.packing import send_all
from streams.log.kafka.producing import Operation, Producing
from streams.log.kafka.settings import KafkaSettings
from streams.log.kafka.topics import Topics
from streams.records import ProducerRecord, TopicPartition, place_of

#: How long a fence waits for leaders that are being elected; a partition without one gets its barrier later.
_PATIENCE_S = 0.1


class Transactions:
    """Used by one thread. Has a producer from the first fence on, and a new one after each error that may have left
    the old one unusable."""

    def __init__(
        self,
        settings: KafkaSettings,
        names: Sequence[str],
        *,
        offsets: Offsets,
        topics: Topics,
        departed: Departed,
        clock: Clock,
    ) -> None:
        """*names* are the co-partitioned topics; the first one carries the offset commits."""
        self._settings = settings
        self._names = names
        self._offsets = offsets
        self._topics = topics
        self._departed = departed
        self._clock = clock
        self._producing = Producing(settings, names, topics=topics, clock=clock, ids=departed.ids)

    def fence(self, ownership: Ownership, operation: Operation) -> dict[TopicPartition, int]:
        """See `LogWriter.fence`."""
        check_usable(ownership)
        is_reused = self._producing.is_open
        try:
            try:
                return self._barrier(ownership, operation)
            except PRODUCER_FENCED:
                if not is_reused:
                    raise
                self.discard()  # It was fenced while it rested, by somebody who took this node for dead.
                return self._barrier(ownership, operation)
        except LogError:
            raise  # Not from within a transaction.
        except BaseException as error:
            self.discard()
            if isinstance(error, GENERATION_REFUSED):
                raise GenerationPassed(f"the group refuses generation {ownership.generation}: {error}") from error
            if isinstance(error, PRODUCER_FENCED):
                raise Fenced(f"a newer producer of this node's transactional id exists: {error}") from error
            if isinstance(error, KafkaError):
                raise LogUnavailable(f"Kafka cannot fence: {type(error).__name__}: {error}") from error
            raise

    def _barrier(self, ownership: Ownership, operation: Operation) -> dict[TopicPartition, int]:
        """Fence, and return the barrier. The order of the four steps is the proof."""
        partitions = sorted(ownership.partitions)
        everything = [TopicPartition(name, number) for name in self._names for number in partitions]
        self._departed.fence(everything, ownership.generation)
        # A new producer of our id aborts what any older one left open, which can commit no more then.
        self._producing.open(operation.deadline)
        # Other nodes' transactions: undecided ones with an offset of ours hold this up; those without one cannot commit
        # any more, since the generation has changed.
        committed = self._offsets.committed(self._names[0], partitions, operation.deadline)
        if partitions:
            self._commit_offsets({number: offset or 0 for number, offset in committed.items()}, ownership, operation)
        # Only now the end. Not the last stable one: that may lie below what was committed behind an open transaction.
        ends = self._topics.ends(everything, operation.deadline, is_committed=False, patience_s=_PATIENCE_S).ends
        return {place: end for place, end in ends.items() if all((name, place[1]) in ends for name in self._names)}

    def append(
        self,
        group: Sequence[ProducerRecord],
        ownership: Ownership,
        positions: Mapping[int, int],
        operation: Operation,
    ) -> Mapping[TopicPartition, int]:
        """See `LogWriter.append`."""
        check_usable(ownership)
        self._producing.require_leaders(
            {TopicPartition(*place) for place in set(map(place_of, group))}, operation.deadline
        )
        offsets = partial(self._send_offsets, positions=positions, ownership=ownership)

        def send(producer: KafkaProducer, sent_one: Callable[[Any], None]) -> None:
            send_all(producer, group, sent_one, self._clock.time_ms())

        return self._producing.transact(send, offsets, operation, generation=ownership.generation)

    def discard(self) -> None:
        """Throw the producer away, in the background: closing it may take a second."""
        self._producing.discard()

    def _send_offsets(self, producer: KafkaProducer, positions: Mapping[int, int], ownership: Ownership) -> None:
        group = ConsumerGroupMetadata(self._settings.application_id, ownership.generation, ownership.member_id, None)
        first = self._names[0]
        producer.send_offsets_to_transaction(
            {KafkaTopicPartition(first, one): OffsetAndMetadata(at, "", -1) for one, at in positions.items()}, group
        )

    def _commit_offsets(self, positions: Mapping[int, int], ownership: Ownership, operation: Operation) -> None:
        """Commit *positions* and nothing else: the coordinator says whether the generation is current."""
        self._producing.commit_offsets(partial(self._send_offsets, positions=positions, ownership=ownership), operation)


def check_usable(ownership: Ownership) -> None:
    """Raise Fenced for a snapshot with which nothing may be committed: a broker accepts generation -1 unchecked."""
    if ownership.generation < 0 or not ownership.member_id:
        raise Fenced(f"generation {ownership.generation} of member {ownership.member_id!r} is not a membership")
