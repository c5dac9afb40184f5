"""A reader of the embedded log: from memory when it follows closely, else from disk in bounded chunks."""

import math
import threading
from collections.abc import Callable, Mapping

from streams.clock import Clock, Deadline
from streams.errors import LogUnavailable, OffsetOutOfRange
from streams.log.local.database import Database
from streams.log.local.format import Codec, record_key
from streams.log.local.partition import Partition
from streams.records import RecordBatch, TopicPartition

#: As many records as are decoded in about 10 ms. A `poll` stops after it; what the tail holds may go somewhat beyond.
_POLL_RECORDS = 2_000
_RETRY_S = 0.05


class LocalReader:
    """LogReader of the embedded log. One thread uses it; `wakeup` may be called by any.

    *partition_of* finds what is shared with the appender (KeyError: no such partition); *published* is notified after
    each append; *closed* is told when this reader is done.
    """

    def __init__(
        self,
        database: Database,
        codec: Codec,
        partition_of: Callable[[TopicPartition], Partition],
        published: threading.Condition,
        closed: "Callable[[LocalReader], None]",
        clock: Clock,
    ) -> None:
        self._database = database
        self._codec = codec
        self._partition_of = partition_of
        self._published = published
        self._closed = closed
        self._clock = clock
        self._assigned: list[Partition] = []
        #: A new dict for each assignment; the cleaner looks into it from its own thread.
        self.positions: dict[TopicPartition, int] = {}
        self._caught_up: dict[TopicPartition, float] = {}
        self._is_woken = False
        self._is_unreadable = False

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Replace the assignment. Raises KeyError for a partition that does not exist."""
        self._assigned = [self._partition_of(at) for at in positions]
        kept = self._caught_up.items()
        self._caught_up = {at: moment for at, moment in kept if positions.get(at) == self.positions.get(at)}
        self.positions = {partition.at: positions[partition.at] for partition in self._assigned}

    def poll(self, timeout_s: float) -> list[RecordBatch]:
        """Return what is there, waiting up to *timeout_s* seconds for it. Raises OffsetOutOfRange and LogDamaged."""
        deadline = Deadline.after(timeout_s, self._clock)
        while True:
            batches = self._collect()
            with self._published:
                if batches or self._is_woken or deadline.has_passed(self._clock):
                    self._is_woken = False
                    return batches
                if self._is_unreadable:
                    self._published.wait(min(_RETRY_S, deadline.remaining_s(self._clock)))
                elif not self._is_behind():
                    self._published.wait(deadline.remaining_s(self._clock))

    def caught_up_at(self, partition: TopicPartition) -> float:
        """Return when `poll` had last handed over all of *partition*: now, whenever it has. One process writes, so
        there is nobody else to ask."""
        if self.positions.get(partition) == self._partition_of(partition).end:
            self._caught_up[partition] = self._clock.monotonic()
        return self._caught_up.get(partition, -math.inf)

    def wakeup(self) -> None:
        """Make a `poll` that waits now, or the next one, return at once. Any thread."""
        with self._published:
            self._is_woken = True
            self._published.notify_all()

    def close(self) -> None:
        """Give up the assignment. Idempotent."""
        self._assigned, self.positions = [], {}
        self._closed(self)

    def _is_behind(self) -> bool:
        return any(partition.end != self.positions[partition.at] for partition in self._assigned)

    def _collect(self) -> list[RecordBatch]:
        batches: list[RecordBatch] = []
        self._is_unreadable = False
        room = _POLL_RECORDS
        positions = self.positions
        for partition in tuple(self._assigned):
            position = positions[partition.at]
            end = partition.end
            if position == end:
                continue
            if position > end or 0 < position < partition.start:
                raise OffsetOutOfRange(partition.at.topic, partition.at.partition, position)
            batch = partition.recent(position) or self._read(partition, position, end, room)
            if batch is None:
                continue
            positions[partition.at] = batch.next_offset
            batches.append(batch)
            room -= len(batch.records)
            # Who was served goes to the end of the queue, so that a long partition does not keep others waiting.
            self._assigned.remove(partition)
            self._assigned.append(partition)
            if room <= 0:
                break
        return batches

    def _read(self, partition: Partition, position: int, end: int, limit: int) -> RecordBatch | None:
        topic, number = partition.at
        lower, upper = record_key(partition.prefix, position), record_key(partition.prefix, end)
        try:
            records = self._database.scan(lower, upper, lambda rows: self._codec.read(rows, topic, number, limit))
        except LogUnavailable:
            self._is_unreadable = True  # the database is being opened again; `poll` promises to wait
            return None
        next_offset = records[-1].offset + 1 if len(records) == limit else end
        return RecordBatch(topic, number, records, next_offset)
