"""Writer, membership and producer of the embedded log. One process has it, and in it one node owns all partitions of
its topics, so they are simple; the port is Kafka's."""

import math
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar
from uuid import uuid4

from streams.clock import Clock, Deadline
from streams.cluster import OBSERVER, ClusterView, Member, Placement
from streams.errors import Fenced, LogError, LogUnavailable, RecordRefused, RecordTooLarge
from streams.log.base import Look, Membership, Ownership, OwnershipListener
from streams.log.local.appender import Appender
from streams.log.local.format import encoded_bytes
from streams.records import ProducerRecord, TopicPartition, place_of

_Ends = Mapping[TopicPartition, int]
_T = TypeVar("_T")


class LocalMembership:
    """The group with one member: it owns all partitions from `start` to `leave`, and an observer none. Reports on the
    caller's thread."""

    def __init__(self, partitions: int, member: Member) -> None:
        self._member = member
        self._ownership = Ownership(1, f"local-{uuid4()}", frozenset(range(partitions)))
        self._listener: OwnershipListener | None = None

    def start(self, listener: OwnershipListener) -> None:
        """Take all partitions and tell *listener* before this returns."""
        self._listener = listener
        info = self._member.info
        if info.role == OBSERVER:
            return
        place = Placement(info.node_id)
        listener.on_view(ClusterView(1, {info.node_id: info}, tuple(place for _ in self._ownership.partitions)))
        listener.on_assigned(self._ownership)

    @property
    def lease_until(self) -> float:
        """Infinite while a member: nobody else can own anything. Any thread."""
        return 0.0 if self._listener is None or self._member.info.role == OBSERVER else math.inf

    @property
    def current(self) -> Ownership | None:
        """What is owned now; None: nothing. Any thread."""
        return None if self._listener is None else self._ownership

    def rebalance(self) -> None:
        """There is nobody to share with."""

    def leave(self, deadline: Deadline) -> None:
        """Revoke everything, then own nothing. Idempotent."""
        listener = self._listener
        if listener is not None:
            if self._member.info.role != OBSERVER:
                listener.on_revoked(self._ownership.partitions)
            self._listener = None


class LocalWriter:
    """LogWriter of the embedded log. It works on the caller's thread and returns futures that are done.

    So no deadline can interrupt it: one that has passed before the work begins is heeded, a disk that hangs is not.
    *maximum_bytes*: topic to the largest record that it takes. *compacted*: topics that take nothing without a key.
    """

    def __init__(
        self,
        topics: Sequence[str],
        membership: Membership,
        appender: Appender,
        ends: Callable[[Sequence[TopicPartition]], dict[TopicPartition, int]],
        maximum_bytes: Mapping[str, int],
        compacted: Container[str],
        exists: Callable[[TopicPartition], bool],
        clock: Clock,
    ) -> None:
        assert isinstance(membership, LocalMembership)
        self._topics = tuple(topics)
        self._membership = membership
        self._appender = appender
        self._ends = ends
        self._maximum_bytes = maximum_bytes
        self._compacted = compacted
        self._exists = exists
        self._clock = clock
        self._is_closed = False

    def fence(self, ownership: Ownership, deadline: Deadline) -> "Future[_Ends]":
        """Take over from every earlier writer, find out what became of an append in doubt, and return the ends."""

        def settle() -> _Ends:
            self._check(ownership, deadline)
            self._appender.settle(self, scope=self._topics)
            return self._ends(
                [TopicPartition(name, number) for name in self._topics for number in ownership.partitions]
            )

        return _done(settle)

    def look(self, partitions: frozenset[int], deadline: Deadline) -> "Future[Look]":
        """Return the ends; all partitions are in one place, and take appends together."""
        places = [TopicPartition(name, number) for name in self._topics for number in partitions]
        return _done(lambda: Look(self._ends(places), partitions))

    def append(
        self,
        group: Sequence[ProducerRecord],
        *,
        ownership: Ownership,
        positions: Mapping[int, int],
        deadline: Deadline,
    ) -> "Future[_Ends]":
        """Append and sync *group*; it is durable and visible to readers when this returns."""

        def append() -> _Ends:
            self._check(ownership, deadline)
            owned, topics = ownership.partitions, self._topics
            for topic, partition in set(map(place_of, group)):
                if partition not in owned and topic in topics:
                    raise Fenced(f"{topic}-{partition} is not owned")
            check_records(group, self._maximum_bytes, self._compacted, self._exists, topics)
            return self._appender.append(group, writer=self, scope=topics)

        return _done(append)

    def close(self, deadline: Deadline) -> None:
        """Append nothing any more. Idempotent."""
        self._is_closed = True

    def _check(self, ownership: Ownership, deadline: Deadline) -> None:
        if self._is_closed:
            raise LogUnavailable("the writer is closed")
        if ownership != self._membership.current:
            raise Fenced("this ownership is not current")
        if deadline.has_passed(self._clock):
            raise LogUnavailable("the deadline passed before anything was begun")


class LocalProducer:
    """LogProducer of the embedded log. Any thread."""

    def __init__(
        self,
        appender: Appender,
        maximum_bytes: Mapping[str, int],
        compacted: Container[str],
        exists: Callable[[TopicPartition], bool],
    ) -> None:
        self._appender = appender
        self._maximum_bytes = maximum_bytes
        self._compacted = compacted
        self._exists = exists

    def produce(self, records: Sequence[ProducerRecord], deadline: Deadline) -> Mapping[TopicPartition, int]:
        """Append *records* durably and all together."""
        check_records(records, self._maximum_bytes, self._compacted, self._exists, ())
        if self._appender.fault is not None:
            self._appender.settle(self, scope=self)  # nobody else may have a reason to
        return self._appender.append(records, writer=None)

    def close(self) -> None:
        """Nothing is held."""


def check_records(
    records: Sequence[ProducerRecord],
    maximum_bytes: Mapping[str, int],
    compacted: Container[str],
    exists: Callable[[TopicPartition], bool],
    own: Collection[str],
) -> None:
    """Raise RecordRefused for a record that has no place, is too large for its topic, or has no key for one that is
    *compacted*: there it would be removed. Partitions are named in it only of the *own* topics, and what is there
    without a key is for their owner to see."""
    for topic, partition in set(map(place_of, records)):
        if not exists(TopicPartition(topic, partition)):
            blamed = (partition,) if topic in own else ()
            raise RecordRefused(f"there is no partition {topic}-{partition}", blamed)
    for record in records:
        topic, partition, key, _, _, _ = record
        if key is None and topic in compacted and topic not in own:
            raise RecordRefused(f"{topic} is compacted and takes no record without a key")
        size_bytes = encoded_bytes(record)
        if size_bytes > maximum_bytes[topic]:
            blamed = (partition,) if topic in own else ()
            raise RecordTooLarge(f"{size_bytes} bytes, above max.message.bytes of {topic}", blamed)


def _done(work: Callable[[], _T]) -> "Future[_T]":
    future: Future[_T] = Future()
    try:
        future.set_result(work())
    except LogError as error:
        future.set_exception(error)
    return future
