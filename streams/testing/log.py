"""A log in memory: the port's contract without a broker and without a disk, with failures that a test can choose."""

import math
import threading
import uuid
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum

from streams.clock import Clock, Deadline
from streams.cluster import Member
from streams.errors import (
    Fenced,
    LogUnavailable,
    OffsetOutOfRange,
    OutcomeUnknown,
    PartitionsUnavailable,
    RecordRefused,
    RecordTooLarge,
    TopicMismatch,
)
from streams.log.base import LogProducer, LogReader, LogWriter, Look, Membership, Ownership, TopicInfo, TopicSpec
from streams.records import ProducerRecord, Record, RecordBatch, TopicPartition
from streams.testing.group import GroupMembership, MemoryGroup
from streams.testing.membership import MemoryMembership

_NO_TOPIC = TopicInfo("", "", 0)
_MAX_RECORD_BYTES = 1_048_588  # Kafka's default of max.message.bytes


class Fault(Enum):
    """What becomes of an append."""

    UNAVAILABLE = "refused, nothing written"
    TOO_LARGE = "refused for its size, nothing written"
    REFUSED = "a record of its first partition is refused for what it is, nothing written"
    FENCED = "refused by the fence, nothing written"
    BUG = "what no log should raise, nothing written"
    UNKNOWN_WRITTEN = "reported as unknown, in the log at once"
    UNKNOWN_LATE = "reported as unknown, in the log when the next fence begins"
    UNKNOWN_LOST = "reported as unknown, never in the log"
    PENDING = "not ended until `MemoryLog.complete`"


_ERRORS = {Fault.UNAVAILABLE: LogUnavailable, Fault.TOO_LARGE: RecordTooLarge, Fault.BUG: TypeError}


class MemoryLog:
    """A log in memory. `faults` holds what becomes of the next appends, one each; without any, they succeed.

    One node, whose ownership the test chooses through `membership`; with *group*, as many as join that.
    """

    def __init__(self, *, clock: Clock, group: MemoryGroup | None = None) -> None:
        self.group = group
        self.faults: deque[Fault] = deque()
        self.fence_faults: deque[Exception] = deque()
        self.membership = MemoryMembership(lambda: self.partitions)
        self.is_reachable = True
        self._clock = clock
        self._topics: dict[str, TopicInfo] = {}
        self._records: dict[TopicPartition, list[Record]] = {}
        self._changed = threading.Condition()
        self._late: list[Sequence[ProducerRecord]] = []
        self._pending: deque[_Pending] = deque()
        self._withheld: dict[TopicPartition, int] = {}
        self._away: set[TopicPartition] = set()
        #: By node and first topic: the writer that fenced last, only it may append.
        self._fenced_in: dict[tuple[str, str], MemoryWriter] = {}

    def ensure_topics(self, specs: Sequence[TopicSpec], deadline: Deadline) -> dict[str, TopicInfo]:
        if not self.is_reachable:
            raise LogUnavailable("the log was made unreachable")
        for spec in specs:
            known = self._topics.get(spec.name)
            if known is None:
                count = spec.partitions or spec.default_partitions
                known = TopicInfo(spec.name, uuid.uuid4().hex, count, dict(spec.config))
                self._topics[spec.name] = known
            if spec.partitions not in (None, known.partitions):
                raise TopicMismatch(f"topic {spec.name} has {known.partitions} partitions, not {spec.partitions}")
            is_compacted = "compact" in known.config.get("cleanup.policy", "delete")
            if not is_compacted and "compact" in spec.config.get("cleanup.policy", "compact"):
                raise TopicMismatch(f"topic {spec.name} would lose data: it is not compacted")
        return {spec.name: self._topics[spec.name] for spec in specs}

    def describe_topics(self, names: Sequence[str], deadline: Deadline) -> dict[str, TopicInfo]:
        return {name: self._topics[name] for name in names if name in self._topics}

    def end_offsets(
        self, partitions: Sequence[TopicPartition], deadline: Deadline, *, is_partial: bool = False
    ) -> dict[TopicPartition, int]:
        known = [partition for partition in partitions if partition not in self._away]
        if not self.is_reachable or (len(known) < len(partitions) and not (is_partial and known)):
            raise LogUnavailable("the log was made unreachable")
        return {partition: len(self._records.get(partition, ())) for partition in known}

    def delete_before(self, offsets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        """Everything is kept: a test wants to see it."""

    def open_reader(self) -> LogReader:
        return MemoryReader(self)

    def open_writer(self, topics: Sequence[str], membership: Membership) -> LogWriter:
        assert isinstance(membership, MemoryMembership | GroupMembership)
        return MemoryWriter(self, topics, membership)

    def open_membership(self, topics: Sequence[str], member: Member) -> Membership:
        if self.group is not None:
            return self.group.open(member, self._topics[topics[0]].partitions)
        self.membership.member = member
        return self.membership

    def open_producer(self) -> LogProducer:
        return MemoryProducer(self)

    def gauges(self) -> Mapping[str, float]:
        return {"log_records": float(sum(map(len, self._records.values())))}

    def close(self) -> None:
        """Nothing to free: the records outlive the nodes of a test."""

    @property
    def partitions(self) -> int:
        """How many partitions every topic has; 0 before any exists."""
        return next((info.partitions for info in self._topics.values()), 0)

    # What a test does to the log.

    def put(self, *records: ProducerRecord) -> Mapping[TopicPartition, int]:
        """Write *records* past every fence, as a foreign producer would."""
        return self._write(records)

    def complete(self, error: Exception | None = None, *, is_written: bool = True) -> None:
        """End the oldest append that a `Fault.PENDING` has kept open. A fence may have ended it before: then nothing of
        it is in the log, whatever was asked for."""
        pending = self._pending.popleft()
        if pending.is_aborted or not pending.writer.may_append(pending.ownership):
            pending.future.set_exception(Fenced("a fence came first"))
            return
        targets = self._write(pending.group) if is_written else {}
        if error is not None:
            pending.future.set_exception(error)
        else:
            pending.future.set_result(targets)

    @property
    def pending(self) -> int:
        """How many appends `Fault.PENDING` has kept open."""
        return len(self._pending)

    def land(self) -> None:
        """Write what `Fault.UNKNOWN_LATE` has kept back, before a fence does."""
        for group in self._late:
            self._write(group)
        self._late.clear()

    def withhold(self, partition: TopicPartition) -> None:
        """Keep what is written to *partition* from now on from every reader, until `release`."""
        self._withheld[partition] = len(self._records.get(partition, ()))

    def release(self) -> None:
        """End every `withhold`."""
        with self._changed:
            self._withheld.clear()
            self._changed.notify_all()

    def take_away(self, partition: TopicPartition) -> None:
        """Let *partition* have no leader, until `bring_back`: it takes nothing, tells no end, and nobody reads it."""
        self._away.add(partition)

    def bring_back(self) -> None:
        """Give every partition a leader again."""
        with self._changed:
            self._away.clear()
            self._changed.notify_all()

    @property
    def away(self) -> frozenset[TopicPartition]:
        """The partitions without a leader."""
        return frozenset(self._away)

    def needs_key(self, record: ProducerRecord) -> bool:
        """Say whether the topic of *record* is compacted, and so takes nothing without a key."""
        return "compact" in self._topics.get(record.topic, _NO_TOPIC).config.get("cleanup.policy", "delete")

    def dump(self, topic: str) -> list[Record]:
        """Return all records of *topic*, partition after partition."""
        return [record for place in sorted(self._records) if place.topic == topic for record in self._records[place]]

    def _write(self, records: Sequence[ProducerRecord]) -> Mapping[TopicPartition, int]:
        targets: dict[TopicPartition, int] = {}
        with self._changed:
            for topic, partition, key, value, headers, own_ms in records:
                place = TopicPartition(topic, partition)
                log = self._records.setdefault(place, [])
                at_ms = self._clock.time_ms() if own_ms is None else own_ms
                log.append(Record(topic, partition, len(log), at_ms, key, value, headers))
                targets[place] = len(log)
            self._changed.notify_all()
        return targets


class MemoryReader:
    """Reads a `MemoryLog`."""

    _MAX_RECORDS = 2000

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._positions: dict[TopicPartition, int] = {}
        self._caught_up: dict[TopicPartition, float] = {}
        self._is_woken = False

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._caught_up = {
            place: at for place, at in self._caught_up.items() if positions.get(place) == self._positions.get(place)
        }
        self._positions = dict(positions)

    def poll(self, timeout_s: float) -> list[RecordBatch]:
        changed = self._log._changed
        with changed:
            batches = self._read()
            if not batches and not self._is_woken and timeout_s > 0:
                changed.wait(timeout_s)
                batches = self._read()
            self._is_woken = False
        return batches

    def caught_up_at(self, partition: TopicPartition) -> float:
        log = self._log
        if (
            log.is_reachable
            and partition not in log._away
            and self._positions.get(partition) == len(log._records.get(partition, ()))
        ):
            self._caught_up[partition] = log._clock.monotonic()
        return self._caught_up.get(partition, -math.inf)

    def wakeup(self) -> None:
        with self._log._changed:
            self._is_woken = True
            self._log._changed.notify_all()

    def close(self) -> None:
        self._positions = {}

    def _read(self) -> list[RecordBatch]:
        batches: list[RecordBatch] = []
        left = self._MAX_RECORDS
        for place, offset in self._positions.items():
            records = self._log._records.get(place, [])
            if offset > len(records):
                raise OffsetOutOfRange(place.topic, place.partition, offset)
            if place in self._log._away:
                continue
            end = min(self._log._withheld.get(place, len(records)), offset + left)
            if end > offset:
                batches.append(RecordBatch(place.topic, place.partition, records[offset:end], end))
                left -= end - offset
        for batch in batches:
            self._positions[TopicPartition(batch.topic, batch.partition)] = batch.next_offset
        return batches


class MemoryProducer:
    """Appends to a `MemoryLog` past every fence."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def produce(self, records: Sequence[ProducerRecord], deadline: Deadline) -> Mapping[TopicPartition, int]:
        if not self._log.is_reachable:
            raise LogUnavailable("the log was made unreachable")
        if any(record.key is None and self._log.needs_key(record) for record in records):
            raise RecordRefused("a compacted topic takes no record without a key")
        return self._log._write(records)

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class _Pending:
    """An append that is kept open."""

    writer: "MemoryWriter"
    group: Sequence[ProducerRecord]
    ownership: Ownership
    future: Future[Mapping[TopicPartition, int]]
    is_aborted: bool = False


class MemoryWriter:
    """Writes to a `MemoryLog` as its `faults` say."""

    def __init__(self, log: MemoryLog, topics: Sequence[str], membership: MemoryMembership | GroupMembership) -> None:
        self._log = log
        self._topics = topics
        self._membership = membership
        self._fenced_for: Ownership | None = None

    @property
    def _scope(self) -> tuple[str, str]:
        return self._membership.member.info.node_id, self._topics[0]

    def may_append(self, ownership: Ownership) -> bool:
        """Say whether the log would take an append under *ownership* now."""
        is_last = self._log._fenced_in.get(self._scope) is self
        return is_last and ownership == self._fenced_for == self._membership.current

    def fence(self, ownership: Ownership, deadline: Deadline) -> Future[Mapping[TopicPartition, int]]:
        future: Future[Mapping[TopicPartition, int]] = Future()
        log = self._log
        if log.fence_faults:
            future.set_exception(log.fence_faults.popleft())
            return future
        if ownership != self._membership.current:
            future.set_exception(Fenced("the generation is not current"))
            return future
        self._end_what_is_open(ownership)
        self._fenced_for = ownership
        log._fenced_in[self._scope] = self
        try:
            future.set_result(self._ends(ownership.partitions, deadline))
        except LogUnavailable as error:
            future.set_exception(error)
        return future

    def look(self, partitions: frozenset[int], deadline: Deadline) -> Future[Look]:
        future: Future[Look] = Future()
        try:
            ends = self._ends(partitions, deadline)
            future.set_result(Look(ends, frozenset(place.partition for place in ends)))
        except LogUnavailable as error:
            future.set_exception(error)
        return future

    def _ends(self, partitions: Collection[int], deadline: Deadline) -> dict[TopicPartition, int]:
        """Return the ends of the tasks that have a leader for all of their partitions."""
        gone = {place.partition for place in self._log._away}
        places = [TopicPartition(topic, one) for topic in self._topics for one in partitions if one not in gone]
        return self._log.end_offsets(places, deadline)

    def _end_what_is_open(self, ownership: Ownership) -> None:
        """Decide every append that touches the partitions: what was on its way arrives, what was open is aborted."""
        self._log.land()
        for pending in self._log._pending:
            if any(each.topic in self._topics and each.partition in ownership.partitions for each in pending.group):
                pending.is_aborted = True

    def append(
        self,
        group: Sequence[ProducerRecord],
        *,
        ownership: Ownership,
        positions: Mapping[int, int],
        deadline: Deadline,
    ) -> Future[Mapping[TopicPartition, int]]:
        assert self._fenced_for is not None, "append before fence"
        own = {record.partition for record in group if record.topic in self._topics}
        assert own == positions.keys(), "a partition without its offset commit"
        future, log = Future[Mapping[TopicPartition, int]](), self._log
        fault = log.faults.popleft() if log.faults else None
        if not self.may_append(ownership):
            fault = Fault.FENCED
        elif any(len(record.value or b"") > _MAX_RECORD_BYTES for record in group):
            fault = Fault.TOO_LARGE
        elif any(record.key is None and record.topic not in self._topics and log.needs_key(record) for record in group):
            future.set_exception(RecordRefused("a compacted topic takes no record without a key"))
            return future
        elif any(record[:2] in log._away for record in group):
            gone = {record.partition for record in group if record[:2] in log._away and record.topic in self._topics}
            future.set_exception(PartitionsUnavailable("without a leader", gone))
            return future
        if fault is None:
            future.set_result(log._write(group))
        elif fault is Fault.PENDING:
            log._pending.append(_Pending(self, group, ownership, future))
        elif fault in _ERRORS:
            future.set_exception(_ERRORS[fault]("chosen by the test"))
        elif fault is Fault.FENCED:
            self._fenced_for = None
            future.set_exception(Fenced("another generation"))
        elif fault is Fault.REFUSED:
            future.set_exception(RecordRefused("chosen by the test", (group[0].partition,)))
        else:
            self._fenced_for = None
            if fault is Fault.UNKNOWN_WRITTEN:
                log._write(group)
            elif fault is Fault.UNKNOWN_LATE:
                log._late.append(group)
            future.set_exception(OutcomeUnknown("chosen by the test"))
        return future

    def close(self, deadline: Deadline) -> None:
        self._fenced_for = None
