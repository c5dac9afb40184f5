"""`KafkaLog`: the port's back end for every real deployment. Composes the clients of this package; holds no logic."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from streams.clock import Clock, Deadline, SystemClock
from streams.cluster import OBSERVER, Member
from streams.log.base import Look, Membership, TopicInfo, TopicSpec
from streams.log.kafka.departed import Departed
from streams.log.kafka.membership import KafkaMembership
from streams.log.kafka.observer import KafkaObserver
from streams.log.kafka.offsets import Offsets
from streams.log.kafka.producer import KafkaOutsideProducer
from streams.log.kafka.reader import KafkaReader
from streams.log.kafka.settings import KafkaSettings, tame_logging
from streams.log.kafka.topics import Topics
from streams.log.kafka.transactions import Transactions
from streams.log.kafka.writer import KafkaWriter
from streams.records import TopicPartition

_CLOSE_S = 5.0
_PATIENCE_S = 0.2  # with leaders that do not tell how far a partition goes, while others have told


class KafkaLog:
    """A `Log` on Kafka. Making one connects to nothing; any thread may call it."""

    def __init__(self, settings: KafkaSettings, *, state_dir: Path | None = None, clock: Clock | None = None) -> None:
        """*state_dir* belongs to this node alone; with it, a node that was killed gets its partitions back at once
        and not after the session timeout."""
        tame_logging()
        self._settings = settings
        self._state_dir = state_dir
        self._clock = clock or SystemClock()
        self._topics = Topics(settings, self._clock)
        self._offsets = Offsets(settings, self._clock)
        self._known: dict[str, TopicInfo] = {}
        self._readers: list[KafkaReader] = []
        self._writers: list[KafkaWriter] = []
        self._producers: list[KafkaOutsideProducer] = []
        self._memberships: list[KafkaMembership | KafkaObserver] = []

    def ensure_topics(self, specs: Sequence[TopicSpec], deadline: Deadline) -> dict[str, TopicInfo]:
        found = self._topics.ensure(specs, deadline)
        self._known.update(found)
        return found

    def describe_topics(self, names: Sequence[str], deadline: Deadline) -> dict[str, TopicInfo]:
        found = self._topics.describe(names, deadline)
        self._known.update(found)
        return found

    def end_offsets(
        self, partitions: Sequence[TopicPartition], deadline: Deadline, *, is_partial: bool = False
    ) -> dict[TopicPartition, int]:
        patience_s = _PATIENCE_S if is_partial else math.inf
        return dict(self._topics.ends(partitions, deadline, is_committed=True, patience_s=patience_s).ends)

    def delete_before(self, offsets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        self._topics.delete_before(offsets, deadline)

    def open_reader(self) -> KafkaReader:
        reader = KafkaReader(self._settings, self._clock)
        self._readers.append(reader)
        return reader

    def open_writer(self, topics: Sequence[str], membership: Membership) -> KafkaWriter:
        """Return the node's one writer. The coordinator says whether a snapshot of *membership* is current; what the
        member itself believes proves nothing, so it is not asked."""

        def live_nodes() -> Collection[str]:
            return membership.live_nodes if isinstance(membership, KafkaMembership) else ()

        departed = Departed(self._settings, self._topics, live_nodes=live_nodes, clock=self._clock)

        def transactions() -> Transactions:
            return Transactions(
                self._settings,
                tuple(topics),
                offsets=self._offsets,
                topics=self._topics,
                departed=departed,
                clock=self._clock,
            )

        def look(partitions: frozenset[int], deadline: Deadline) -> Look:
            self._topics.describe(topics, deadline)  # An operator may have changed how many replicas a write needs.
            places = {TopicPartition(topic, number) for topic in topics for number in partitions}
            found = self._topics.ends(places, deadline, is_committed=False, patience_s=0.0, may_be_none=True)
            whole = {n for n in partitions if all(TopicPartition(topic, n) in found.writable for topic in topics)}
            return Look(found.ends, frozenset(whole))

        writer = KafkaWriter(transactions, names=topics, record_limit=self._record_limit, look=look, clock=self._clock)
        self._writers.append(writer)
        return writer

    def open_membership(self, topics: Sequence[str], member: Member) -> KafkaMembership | KafkaObserver:
        membership: KafkaMembership | KafkaObserver
        if member.info.role == OBSERVER:
            membership = KafkaObserver(self._settings.application_id, self._topics, self._clock)
        else:
            membership = KafkaMembership(
                self._settings, topics[0], self._topics, member=member, clock=self._clock, state_dir=self._state_dir
            )
        self._memberships.append(membership)
        return membership

    def open_producer(self) -> KafkaOutsideProducer:
        producer = KafkaOutsideProducer(self._settings, self._clock)
        self._producers.append(producer)
        return producer

    def gauges(self) -> Mapping[str, float]:
        return {"abandoned_writer_threads": float(sum(writer.abandoned_threads for writer in self._writers))}

    def close(self) -> None:
        deadline = Deadline.after(_CLOSE_S, self._clock)
        for writer in self._writers:
            writer.close(deadline)
        for membership in self._memberships:
            membership.leave(deadline)
        for reader in self._readers:
            reader.close()
        for producer in self._producers:
            producer.close()
        self._topics.close()
        self._offsets.close()

    def _record_limit(self, topic: str) -> int:
        info = self._known.get(topic)
        limit = info.config.get("max.message.bytes") if info is not None else None
        return min(self._settings.max_request_size, int(limit)) if limit else self._settings.max_request_size
