"""The port over Kafka and the embedded log: what the rest of `streams` may expect of a log, and nothing of how.

Invariants of every back end, kept by `tests/contracts/test_log.py`:
1. A group of records is appended to all its partitions or to none (one Kafka transaction, one synced write batch).
2. A reader sees committed records only, in offset order, each exactly once for a position.
3. What `append` reported as appended survives the crash of any process (and of the machine, as far as the log's own
   replication or fsync reaches).
4. After `fence` has returned a barrier, no writer that was fenced can add a record at or below it, nor ever after.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from streams.clock import Deadline
from streams.cluster import ClusterView, Member
from streams.records import ProducerRecord, RecordBatch, TopicPartition

COMPACT = "compact"
COMPACT_DELETE = "compact,delete"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What a topic must be. `config` holds Kafka's names (`cleanup.policy`, `delete.retention.ms`, ...).

    `partitions` None means: whatever an existing topic has. A number is a demand, and another count is refused.
    `default_partitions` is used when the topic has to be created and `partitions` is None.
    """

    name: str
    config: Mapping[str, str]
    partitions: int | None = None
    default_partitions: int = 8
    replication_factor: int | None = None


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it is. `topic_id` changes when a topic of the same name is deleted and made again."""

    name: str
    topic_id: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at tasks has shown. `ends`: of the partitions that have a leader, as after a fence; `writable`: the
    tasks of which every partition takes appends, as far as the log knows."""

    ends: Mapping[TopicPartition, int]
    writable: frozenset[int]


@dataclass(frozen=True, slots=True)
class Ownership:
    """The fence's snapshot: what this member owned when a join completed. One immutable value, never read live later.

    `generation` and `member_id` are Kafka's (KIP-447); a generation below 0 or an empty member id may not be committed
    with, since a broker accepts that unchecked.
    """

    generation: int
    member_id: str
    partitions: frozenset[int]


class OwnershipListener(Protocol):
    """Told of each change of ownership, on the membership's own thread."""

    def on_assigned(self, ownership: Ownership) -> None:
        """These are all partitions that are owned now, also those owned before. Must return at once."""
        ...

    def on_revoked(self, partitions: frozenset[int]) -> None:
        """Give these up. Must return only when no append for them is in flight any more; bounded in time by the
        callee. Another member gets them after this has returned."""
        ...

    def on_lost(self, partitions: frozenset[int]) -> None:
        """These belong to somebody else already: drop what is in flight, do not write. Must return at once."""
        ...

    def on_view(self, view: ClusterView) -> None:
        """The newest map of the cluster: after each join, before `on_assigned` of the same generation; to an observer
        whenever it changes. It also says which partitions this node has to follow. Must return at once."""
        ...


class Membership(Protocol):
    """This node's place in the group that divides the partitions among the nodes."""

    def start(self, listener: OwnershipListener) -> None:
        """Join in the background and report to *listener* from then on. Returns at once."""
        ...

    @property
    def lease_until(self) -> float:
        """Until when, on the monotonic clock in seconds, no other node can have become owner. Any thread.

        Infinite where nobody else can own anything, 0.0 while not a member. Counted from the send time of the last
        request which the coordinator accepted under the current generation.
        """
        ...

    def rebalance(self) -> None:
        """Ask the group to divide the partitions anew: this node has caught up with what it was to warm up. Any thread;
        returns at once, and asking too often does no harm."""
        ...

    def leave(self, deadline: Deadline) -> None:
        """Leave the group, so that others take over at once, and stop. Revokes first. Idempotent."""
        ...


class LogReader(Protocol):
    """Reads committed records of assigned partitions. One thread uses it; only `wakeup` may be called by any."""

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Replace the assignment: read each partition from its offset on (0 is the beginning of any partition,
        also of one whose first records were compacted away). Partitions that stay with an unchanged position go on
        without a gap and without reading anything twice."""
        ...

    def poll(self, timeout_s: float) -> list[RecordBatch]:
        """Return what is there, waiting up to *timeout_s* for it; empty after a time-out or `wakeup`.

        A bounded number of records (some thousands) at a time. Raises OffsetOutOfRange when a position lies beyond
        the end of its partition, or before its start where that is not just compaction's doing, and LogUnavailable
        never: a log that cannot be reached yields nothing until it can.
        """
        ...

    def caught_up_at(self, partition: TopicPartition) -> float:
        """Return the latest moment, on the monotonic clock in seconds, of which it is known that `poll` has by now
        handed over all that the log held of *partition* at that moment; minus infinity if there is none since it was
        assigned. It goes on without new records, about twice a second or more often, and stands still while the log
        cannot be reached."""
        ...

    def wakeup(self) -> None:
        """Make a `poll` that waits now, or the next one, return at once. Any thread."""
        ...

    def close(self) -> None:
        """Stop and free what it holds. Idempotent."""
        ...


class LogWriter(Protocol):
    """Appends groups of records under a fence. One thread submits; results come on any thread.

    At most one operation is under way: the next is submitted after the future of the last is done. Each future is done
    at the latest shortly after the deadline, whatever the log does.
    """

    def fence(self, ownership: Ownership, deadline: Deadline) -> "Future[Mapping[TopicPartition, int]]":
        """Make sure that no earlier writer of `ownership.partitions` can append any more, this writer's own earlier
        operations included, and only then take the end offsets of all topics of these partitions: the barrier.

        Must be called after each new `ownership` and after OutcomeUnknown, before `append`. A reader whose positions
        have reached the barrier has seen everything that earlier writers ever wrote. A task of which a partition cannot
        tell its end now is left out: it has no barrier until a `look` has shown one. Fails with Fenced (*ownership* is
        not current any more) or LogUnavailable.
        """
        ...

    def look(self, partitions: frozenset[int], deadline: Deadline) -> "Future[Look]":
        """Look at the tasks *partitions* of the last fence, which has succeeded: the ends that this shows are a barrier
        under that fence, unless another was begun meanwhile. One at a time, also while an append is under way. Fails
        with LogUnavailable."""
        ...

    def append(
        self,
        group: Sequence[ProducerRecord],
        *,
        ownership: Ownership,
        positions: Mapping[int, int],
        deadline: Deadline,
    ) -> "Future[Mapping[TopicPartition, int]]":
        """Append *group* atomically; the result maps each partition written to the offset after its last record.

        It may have records of other topics than the writer's own, of whatever partition: they are in the log if and
        only if the group is, but no barrier says where they end. An error names partitions of the own topics only.
        *positions*: for each task whose partition is written, the next offset of its first topic, to be committed with
        the group (the fence of KIP-447 lies in this commit). Fails with LogUnavailable (PartitionsUnavailable when
        it is known whose fault that is), RecordRefused or Fenced (certainly nothing was appended) or OutcomeUnknown
        (then call `fence`, read up to its barrier, and look). Any other error, raised or in the future, is a bug that
        these records meet: certainly nothing was appended.
        """
        ...

    def close(self, deadline: Deadline) -> None:
        """Stop within *deadline*. Idempotent."""
        ...


class LogProducer(Protocol):
    """Appends what no fence protects: the input that programs outside send. Any thread."""

    def produce(self, records: Sequence[ProducerRecord], deadline: Deadline) -> Mapping[TopicPartition, int]:
        """Append *records*, those of each partition in their order; return the offset after the last one of each.

        All are durable when this returns. When it fails with LogUnavailable or OutcomeUnknown some of them may be in
        the log: to send them again may write them twice. Raises RecordRefused for one that the log would refuse again.
        """
        ...

    def close(self) -> None:
        """Stop. Idempotent."""
        ...


class Log(Protocol):
    """A durable, partitioned, compacted log. Any thread may call it."""

    def ensure_topics(self, specs: Sequence[TopicSpec], deadline: Deadline) -> dict[str, TopicInfo]:
        """Create what is missing and check what is there. Raises TopicMismatch if an existing topic has another
        partition count than demanded or would lose data (`cleanup.policy` without `compact`), LogUnavailable."""
        ...

    def describe_topics(self, names: Sequence[str], deadline: Deadline) -> dict[str, TopicInfo]:
        """Return those of *names* that exist. Raises LogUnavailable."""
        ...

    def end_offsets(
        self, partitions: Sequence[TopicPartition], deadline: Deadline, *, is_partial: bool = False
    ) -> dict[TopicPartition, int]:
        """Return the offset after the last committed record of each partition; with *is_partial* what cannot be learned
        soon is missing, but never all. Raises LogUnavailable."""
        ...

    def delete_before(self, offsets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        """Nobody needs what lies before *offsets* any more, of topics that are not compacted: it is removed soon
        (Kafka: DeleteRecords), or after the next call that says so, should this process end first. Raises
        LogUnavailable."""
        ...

    def open_reader(self) -> LogReader:
        """Return a new reader without an assignment."""
        ...

    def open_writer(self, topics: Sequence[str], membership: Membership) -> LogWriter:
        """Return the node's one writer for the co-partitioned *topics* (the first carries the offset commits)."""
        ...

    def open_producer(self) -> LogProducer:
        """Return a new producer."""
        ...

    def open_membership(self, topics: Sequence[str], member: Member) -> Membership:
        """Return the node's one membership in the group that divides the partitions of *topics*. An observer
        (`member.info.role`) gets one that looks at the group from outside: it owns nothing, and only tells views."""
        ...

    def gauges(self) -> Mapping[str, float]:
        """Return figures for operators (sizes in bytes, counts), by metric name."""
        ...

    def close(self) -> None:
        """Close the log itself, after readers, writer and membership. Idempotent."""
        ...


Wakeup = Callable[[], None]
