"""A node of the tests: one log, its membership, its writer, and what the membership reported."""

import threading
import time
from collections.abc import Mapping, Sequence

from streams.clock import Deadline, SystemClock
from streams.cluster import NOWHERE, ClusterView, LoneMember, Member
from streams.errors import Fenced
from streams.log.base import Ownership, TopicSpec
from streams.log.kafka import KafkaLog
from streams.log.kafka.reader import KafkaReader
from streams.records import ProducerRecord, Record, TopicPartition

CLOCK = SystemClock()
WAIT_S = 30.0


class Node:
    """Joins the group of *topics* (made if need be) and keeps every report."""

    def __init__(
        self, log: KafkaLog, topics: Sequence[str], *, partitions: int = 2, member: Member | None = None
    ) -> None:
        """*member* is what the node says of itself; by default nothing but its node id."""
        self.log = log
        self.topics = tuple(topics)
        self.partitions = partitions
        self._changed = threading.Condition()
        self.reports: list[tuple[str, Ownership | frozenset[int]]] = []
        self.ownership = Ownership(-1, "", frozenset())
        self.view: ClusterView = NOWHERE
        self.membership = log.open_membership(topics, member or LoneMember.named(log._settings.node_id))
        self.writer = log.open_writer(topics, self.membership)

    def join(self) -> "Node":
        specs = [TopicSpec(name, {"cleanup.policy": "compact"}, self.partitions) for name in self.topics]
        self.log.ensure_topics(specs, within(WAIT_S))
        self.membership.start(self)
        return self

    def owner(self) -> "Node":
        """Join, wait until every partition is owned, and fence; again when the group has gone on meanwhile."""
        self.join()
        while True:
            generation = self.wait_until_owned().generation
            try:
                self.fence()
            except Fenced:
                self.wait_until_owned(after_generation=generation)
            else:
                return self

    def on_assigned(self, ownership: Ownership) -> None:
        with self._changed:
            self.ownership = ownership
            self.reports.append(("assigned", ownership))
            self._changed.notify_all()

    def on_revoked(self, partitions: frozenset[int]) -> None:
        with self._changed:
            self.reports.append(("revoked", partitions))
            self._changed.notify_all()

    def on_view(self, view: ClusterView) -> None:
        with self._changed:
            self.view = view
            self._changed.notify_all()

    def on_lost(self, partitions: frozenset[int]) -> None:
        with self._changed:
            self.reports.append(("lost", partitions))
            self._changed.notify_all()

    def wait_until_owned(self, *, after_generation: int = -1, partitions: int | None = None) -> Ownership:
        """Return the snapshot with that many partitions (default: all) of a later generation than the one given."""
        count = self.partitions if partitions is None else partitions
        with self._changed:
            assert self._changed.wait_for(
                lambda: len(self.ownership.partitions) == count and self.ownership.generation > after_generation, WAIT_S
            ), self.reports
            return self.ownership

    def fence(self, timeout_s: float = WAIT_S) -> Mapping[TopicPartition, int]:
        return self.writer.fence(self.ownership, within(timeout_s)).result(timeout_s + 2)

    def append(
        self, *values: bytes | None, partition: int = 0, ownership: Ownership | None = None, timeout_s: float = WAIT_S
    ) -> Mapping[TopicPartition, int]:
        """Append records with *values* to the first topic."""
        group = [ProducerRecord(self.topics[0], partition, b"k", value) for value in values]
        future = self.writer.append(
            group, ownership=ownership or self.ownership, positions={partition: 1}, deadline=within(timeout_s)
        )
        return future.result(timeout_s + 2)


def within(seconds: float) -> Deadline:
    return Deadline.after(seconds, CLOCK)


def read_to(reader: KafkaReader, ends: Mapping[TopicPartition, int]) -> list[Record]:
    """Return what *reader* hands over until its positions have reached *ends*."""
    give_up_at = time.monotonic() + WAIT_S
    found: list[Record] = []
    left = {partition: end for partition, end in ends.items() if end > 0}
    while left:
        assert time.monotonic() < give_up_at, left
        for batch in reader.poll(1.0):
            found += batch.records
            partition = TopicPartition(batch.topic, batch.partition)
            if batch.next_offset >= left.get(partition, batch.next_offset + 1):
                del left[partition]
    return found


def all_values(log: KafkaLog, ends: Mapping[TopicPartition, int]) -> list[bytes | None]:
    """Return the values of all committed records up to *ends*, read by a new reader."""
    reader = log.open_reader()
    reader.assign(dict.fromkeys(ends, 0))
    try:
        return [record.value for record in read_to(reader, ends)]
    finally:
        reader.close()
