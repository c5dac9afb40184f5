"""The other cluster, as the sink asks for it: its topics, the positions kept there, and a writer for each partition.

Nothing here decides. Invariant: no call takes longer than its deadline.
"""

import uuid
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from app.feed.position import identity_of
from app.replication.kafka.copying import Copying, Mark
from streams.clock import Clock, Deadline
from streams.errors import LogUnavailable
from streams.log.base import LogReader, TopicInfo, TopicSpec
from streams.log.kafka import KafkaLog
from streams.log.kafka.clients import bounded, open_client
from streams.log.kafka.offsets import Offsets
from streams.log.kafka.operations import Operations
from streams.log.kafka.settings import KafkaSettings, admin_config
from streams.log.kafka.topics import Topics
from streams.records import TopicPartition

_POLL_S = 0.2


class TargetCluster:
    """Connects with the first call. One thread uses it."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        """The application id of *settings* is the group whose offsets are the positions."""
        self._log = KafkaLog(settings, clock=clock)
        self._topics = Topics(settings, clock)
        self._settings = settings
        self._clock = clock
        self._offsets = Offsets(settings, clock)
        self._is_here: dict[str, bool] = {}

    @property
    def group(self) -> str:
        """The consumer group under which positions are kept. It has no members."""
        return self._settings.application_id

    def ensure(self, spec: TopicSpec, deadline: Deadline) -> TopicInfo:
        """Return the topic, made if it was missing. Raises TopicMismatch, LogUnavailable."""
        return self._log.ensure_topics([spec], deadline)[spec.name]

    def open_writer(self, partition: TopicPartition) -> Operations[Copying]:
        """Return what runs the transactions of *partition*: their transactional id is that of no other partition."""
        settings = replace(self._settings, node_id=f"{partition.topic}-{partition.partition}")
        make = partial(Copying, settings, partition, topics=self._topics, clock=self._clock)
        return Operations(make, clock=self._clock)

    def marks(self, topic: str, partitions: Collection[int], deadline: Deadline) -> dict[int, Mark]:
        """Return the positions that are kept, once no transaction that may change them is undecided. Raises
        LogUnavailable."""
        found = self._offsets.marks(topic, partitions, deadline)
        return {number: Mark(*mark) for number, mark in found.items()}

    def describe(self, topic: str, deadline: Deadline) -> TopicInfo | None:
        """Return *topic*, None if there is none. Raises LogUnavailable."""
        return self._log.describe_topics([topic], deadline).get(topic)

    def end(self, partition: TopicPartition, deadline: Deadline) -> int:
        """Return the offset after the last committed record. Raises LogUnavailable."""
        return self._log.end_offsets([partition], deadline)[partition]

    def open_reader(self) -> LogReader:
        """Return a reader of committed records."""
        return self._log.open_reader()

    def holds_records(self, partition: TopicPartition, deadline: Deadline) -> bool:
        """Say whether there is any committed record. Raises LogUnavailable."""
        end = self.end(partition, deadline)
        if end == 0:
            return False
        reader = self.open_reader()
        try:
            reader.assign({partition: 0})
            while not deadline.has_passed(self._clock):
                for batch in reader.poll(_POLL_S):
                    if batch.records:
                        return True
                    if batch.next_offset >= end:
                        return False
        finally:
            reader.close()
        raise LogUnavailable(f"{partition.topic}-{partition.partition} could not be read in time")

    def has_topic(self, identity: str, deadline: Deadline) -> bool:
        """Say whether the topic of that identity (`SourceInfo`) is one of this cluster. Raises LogUnavailable.

        Asked once for each: a record that has come through a topic shows that the topic existed before, and identities
        do not come again, so that an unknown one will never be of this cluster.
        """
        if identity not in self._is_here:
            found = bounded(self._identities, deadline, self._clock, what="list the topics")
            self._is_here |= dict.fromkeys(found, True)
            self._is_here.setdefault(identity, False)
        return self._is_here[identity]

    def close(self) -> None:
        """Disconnect. Idempotent."""
        self._topics.close()
        self._offsets.close()
        self._log.close()

    def _identities(self) -> set[str]:
        try:
            admin: Any = open_client(KafkaAdminClient, admin_config(self._settings))
            try:
                topics = admin.describe_topics()
            finally:
                admin.close()
        except KafkaError as error:
            raise LogUnavailable(f"Kafka does not tell its topics: {type(error).__name__}: {error}") from error
        return {identity_of_topic(one["name"], one["topic_id"], len(one["partitions"])) for one in topics}


def identity_of_topic(name: str, topic_id: object, partitions: int) -> str:
    """Return the identity of a topic as a source tells it."""
    return identity_of(name, str(uuid.UUID(str(topic_id))), partitions).hex()
