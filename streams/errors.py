"""Every error of the package, in one tree divided by what the caller should do.

    StreamsError
    |- ConfigError            fix the settings and start again
    |  '- TopologyError       fix the topology: it contradicts itself, or cannot run as it is
    |- LogError
    |  |- LogUnavailable      nothing was appended: try again later
    |  |  '- PartitionsUnavailable  that goes for some partitions; the others take appends
    |  |- OutcomeUnknown      an append may or may not be in the log: fence, read to the barrier, look
    |  |- Fenced              another writer owns the partitions now: step down, do not crash
    |  |  '- GenerationPassed the group has gone on: wait for what it says next
    |  |- RecordRefused       only this group is refused, for what one of its records is
    |  |  '- RecordTooLarge   fix the request
    |  |- OffsetOutOfRange    the store and the log have parted: wipe the store and rebuild
    |  |- TopicMismatch       the topic would lose data or has another shape: stop
    |  |- LogDamaged          the embedded log's files are not what was written: restore them from a backup
    |  '- LogLocked           another process holds the embedded log: stop
    |- StoreError
    |  |- StoreDamaged        wipe and rebuild
    |  |- StoreMismatch       of another topic, partition count or format: wipe and rebuild
    |  |- StoreLocked         another process holds the state directory: stop
    |  '- StoreClosed         the task moved away while it was read: look up the owner again
    |- Unavailable            not now (each with `retry_after_s`)
    |  |- Restoring           the task is still catching up
    |  |- NotOwner            another node owns the partition, or nobody does yet
    |  |- LeaseExpired        ownership could not be confirmed in time
    |  |- Overloaded          a bounded queue is full
    |  |- NotTaken            the log takes nothing for the partition, while it does for others
    |  |- NotWritten          the write is certainly not in the log, and never will be
    |  '- Draining            this node is stopping
    |- PoisonRecord           a record that cannot be processed: quarantined, never fatal
    |- SerializationError     a value and a serde do not fit: a poison record when read, a wrong serde when written
    |- SerdeUnavailable       the schema registry does not answer: try the same record again later
    '- ProcessingFailed       a record stopped its task, as its error policy says: mend the code, or its policy

An error carries facts as attributes, and a sentence that an operator can act on.
"""

from collections.abc import Collection


class StreamsError(Exception):
    """The root. `is_retriable` says whether the same call may succeed later without any other change."""

    is_retriable = False


class ConfigError(StreamsError):
    """A setting is missing, malformed or contradicts another."""


class TopologyError(ConfigError):
    """A topology cannot be built: a name used twice, an unknown serde, topics that cannot be co-partitioned."""


class LogError(StreamsError):
    """The log refused or failed."""


class LogUnavailable(LogError):
    """The log cannot be reached or refuses for now; nothing was appended."""

    is_retriable = True


class PartitionsUnavailable(LogUnavailable):
    """Some partitions take nothing for now: they have no leader, or too few replicas in sync. Nothing of the group was
    appended; without what it has for `partitions` the rest of it can be."""

    def __init__(self, message: str, partitions: Collection[int]) -> None:
        super().__init__(message)
        self.partitions = frozenset(partitions)


class OutcomeUnknown(LogError):
    """The append was sent and its fate is not known: it may be in the log now, later, or never."""


class Fenced(LogError):
    """The log's fence refused this writer: it no longer owns what it wrote to. Nothing was appended."""


class GenerationPassed(Fenced):
    """The group has formed another generation than the one written under. What this member owns in it is told by its
    membership in a moment, or that it owns nothing any more."""


class RecordRefused(LogError):
    """The log refuses a record, and would refuse it again. Nothing of its group was appended. `partitions`: where the
    record is one of those for these; empty: it may be any."""

    def __init__(self, message: str, partitions: Collection[int] = ()) -> None:
        super().__init__(message)
        self.partitions = frozenset(partitions)


class RecordTooLarge(RecordRefused):
    """The log refuses a record for its size."""


class OffsetOutOfRange(LogError):
    """A position lies outside the partition's offsets [start, end]."""

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        super().__init__(f"offset {offset} is out of range in {topic}-{partition}")
        self.topic = topic
        self.partition = partition
        self.offset = offset


class TopicMismatch(LogError):
    """An existing topic has a shape or a setting on which this application must not run."""


class LogDamaged(LogError):
    """The files of the embedded log are not what was written. Nothing can rebuild the truth: restore it."""


class LogLocked(LogError):
    """Another process holds the embedded log; the message names it."""


class StoreError(StreamsError):
    """The state of a task cannot be used."""


class StoreDamaged(StoreError):
    """The bytes on disk are not what was written: a checksum, a missing file, an unreadable manifest."""


class StoreMismatch(StoreError):
    """The store belongs to another topic, partition count, format, or was last caught up too long ago."""


class StoreLocked(StoreError):
    """Another process holds the state directory; the message names it."""


class StoreClosed(StoreError):
    """The store was closed while it was used, since its task left this node."""

    is_retriable = True


class Unavailable(StreamsError):
    """The answer cannot be given now. `retry_after_s` is a hint in seconds for the next try."""

    is_retriable = True

    def __init__(self, message: str, *, partition: int | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.partition = partition
        self.retry_after_s = retry_after_s


class Restoring(Unavailable):
    """The task still reads the log up to its barrier; `lag_records` are left."""

    def __init__(self, message: str, *, partition: int, lag_records: int, retry_after_s: float = 1.0) -> None:
        super().__init__(message, partition=partition, retry_after_s=retry_after_s)
        self.lag_records = lag_records


class NotOwner(Unavailable):
    """This node does not own the partition."""


class LeaseExpired(Unavailable):
    """The node could not confirm its ownership in time; a newer owner may exist."""


class Overloaded(Unavailable):
    """A bounded queue is full. Nothing was begun."""


class NotTaken(Unavailable):
    """The log takes nothing for the partition now: it has no leader, or too few replicas in sync. Nothing was begun."""


class NotWritten(Unavailable):
    """The command changed nothing and never will; `reason` is one of the words of `streams.runtime.table`."""


class Draining(Unavailable):
    """The node is stopping and takes no new work."""


class PoisonRecord(StreamsError):
    """A record cannot be processed. Raised by processors; the task quarantines the record and goes on.

    `reason` is a short word for counters (`not-json`, `wrong-shape`, `newer-version`, `no-key`).
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class SerializationError(StreamsError):
    """A value is not of the serde's type, or bytes are not what the serde writes."""


class SerdeUnavailable(StreamsError):
    """A serde needs something that cannot be reached now. It says nothing of the record, so no error policy applies."""

    is_retriable = True


class ProcessingFailed(StreamsError):
    """A record could not be read or processed, and the policy for that is to stop. `stage`: reading, deserialization,
    processing or punctuation, or production, when the log does not take what it made. The cause is what was raised."""

    def __init__(self, stage: str, *, topic: str, partition: int, offset: int, reason: str) -> None:
        super().__init__(f"{stage} of {topic}-{partition} offset {offset} failed: {reason}")
        self.stage = stage
        self.topic = topic
        self.partition = partition
        self.offset = offset
