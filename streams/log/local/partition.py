"""One partition in memory: its ends, and the last records that were appended. No I/O, no database."""

from collections import deque
from collections.abc import Sequence

from streams.log.local.format import partition_prefix
from streams.records import Record, RecordBatch, TopicPartition

_TAIL_BYTES = 256 * 1024
_TAIL_APPENDS = 256


class Partition:
    """What is known of a partition without the disk. The holder of the commit lock changes it; any thread reads.

    `end`: the offset after the last durable record; all that readers see lies below it. `start`: below it retention
    removed everything. The tail serves readers that follow the log closely, with the very
    objects that were appended.
    """

    __slots__ = ("_tail", "_tail_bytes", "at", "end", "prefix", "start", "upper")

    def __init__(self, at: TopicPartition, topic_number: int) -> None:
        self.at = at
        self.prefix = partition_prefix(topic_number, at.partition)
        self.upper = partition_prefix(topic_number, at.partition + 1)  # greater than any key of this partition
        self.end = 0
        self.start = 0
        self._tail: deque[tuple[Sequence[Record], int]] = deque()
        self._tail_bytes = 0

    def extend(self, records: Sequence[Record], size_bytes: int) -> None:
        """Publish records that are durable now."""
        tail = self._tail
        # The records first: who sees the new end must find them.
        tail.append((records, size_bytes))
        self._tail_bytes += size_bytes
        while len(tail) > 1 and (self._tail_bytes > _TAIL_BYTES or len(tail) > _TAIL_APPENDS):
            self._tail_bytes -= tail.popleft()[1]
        self.end = records[-1].offset + 1

    def trim(self, cleaned: int, start: int) -> None:
        """Take note of what the cleaner did: below *cleaned* records are missing, below *start* all of them."""
        self.start = start
        # In memory they would outlive their removal.
        while self._tail and self._tail[0][0][0].offset < cleaned:
            self._tail_bytes -= self._tail.popleft()[1]

    def forget_tail(self, end: int) -> None:
        """Set the end to what was found on disk."""
        self._tail.clear()
        self._tail_bytes = 0
        self.end = end

    def recent(self, position: int) -> RecordBatch | None:
        """Return what follows *position* when the tail holds all of it; None: look on disk. Any thread."""
        try:
            records: Sequence[Record] = self._tail[-1][0]
        except IndexError:
            return None
        if records[0].offset != position:  # not just the last append, as it is for whoever follows closely
            tail = tuple(self._tail)  # one step for the interpreter, so no append comes in between
            if not tail or tail[0][0][0].offset > position:
                return None
            first = tail[0][0][0].offset
            joined = [record for appended, _size in tail for record in appended]
            records = joined[position - first :]  # offsets have no gaps as they are appended
        return RecordBatch(self.at.topic, self.at.partition, records, records[-1].offset + 1)
