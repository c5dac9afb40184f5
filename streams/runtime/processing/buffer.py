"""The input of one task that was read and is not processed yet, in the order in which it will be.

Among topics the record with the least timestamp comes first, and of equals the topic that was named first (Kafka
Streams: PartitionGroup). One thread adds; one takes, and gives back what has to be taken again. Invariant: what was
taken is contiguous in each topic, and `position` says where it ends.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from streams.records import Record, RecordBatch
from streams.topology.nodes import TimestampExtractor

Order = Callable[[Record], int]


class InputBuffer:
    """Records by topic. `add` belongs to the feeding thread; `next`, `taken` and `give_back` to the stream thread."""

    def __init__(self, offsets: Mapping[str, int], timestamps: Mapping[str, TimestampExtractor | None]) -> None:
        """*offsets*: topic to where reading begins. *timestamps*: how the records of each topic are timed; None: as
        they are."""
        self._queues: dict[str, deque[Record]] = {topic: deque() for topic in offsets}
        self._read = dict(offsets)  # the position after what was added
        self._position = dict(offsets)
        self._orders = {topic: _order(timestamp) for topic, timestamp in timestamps.items()}
        self._added_bytes = 0  # the feeding thread's
        #: About how many bytes were taken and not given back. The stream thread's.
        self.taken_bytes = 0
        self._only = next(iter(self._queues.values())) if len(self._queues) == 1 else None
        #: Topics that may have older records than what is here: nothing is taken past their end. Replaced whole.
        self.unsure: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def size_bytes(self) -> int:
        """About how many bytes wait here."""
        return self._added_bytes - self.taken_bytes

    @property
    def read(self) -> Mapping[str, int]:
        """Topic to the offset at which reading goes on."""
        return self._read

    @property
    def has_next(self) -> bool:
        """Whether `next` would return a record."""
        is_there = False
        for topic, queue in self._queues.items():
            if queue:
                is_there = True
            elif topic in self.unsure:
                return False
        return is_there

    @property
    def is_starved(self) -> bool:
        """Whether records wait here for older ones of a topic of which nothing is here."""
        return not self.has_next and len(self) > 0

    def waiting(self, topic: str) -> int:
        """Return how many records of *topic* wait."""
        return len(self._queues[topic])

    def add(self, batch: RecordBatch) -> None:
        """Take what was read. The records come first: who sees the new position must find them."""
        position = self._read[batch.topic]
        records = batch.records
        if records and records[0].offset < position:
            records = [record for record in records if record.offset >= position]
        self._added_bytes += sum([len(record[4] or b"") + len(record[5] or b"") for record in records])
        self._queues[batch.topic].extend(records)
        self._read[batch.topic] = max(position, batch.next_offset)

    def restart(self, topic: str, offset: int = 0) -> None:
        """Read *topic* from *offset* on; 0 is the beginning of what it has. The feeding thread's."""
        self._read[topic] = offset

    def next(self) -> Record | None:
        """Take the next record; None: there is none that may be taken now."""
        queue = self._only or self._next_queue()
        if not queue:
            return None
        record = queue.popleft()
        self.taken_bytes += len(record[4] or b"") + len(record[5] or b"")
        return record

    def _next_queue(self) -> deque[Record] | None:
        found: deque[Record] | None = None
        least = 0
        for topic, queue in self._queues.items():
            if not queue:
                if topic in self.unsure:
                    return None
                continue
            moment = self._orders[topic](queue[0])
            if found is None or moment < least:
                found, least = queue, moment
        return found

    def taken(self, records: Sequence[Record]) -> Mapping[str, int]:
        """Note that *records* are processed, and return the positions after them."""
        for record in records if self._only is None else records[-1:]:
            self._position[record.topic] = record.offset + 1
        for topic, queue in self._queues.items():
            read = self._read[topic]  # before the look at the queue: what was read below it is there, or was taken
            if not queue:
                self._position[topic] = read
        return dict(self._position)

    def give_back(self, records: Sequence[Record], position: Mapping[str, int]) -> None:
        """*records*, the last that were taken, will be taken again; *position*: before them."""
        by_topic: dict[str, list[Record]] = {}
        for record in records:
            by_topic.setdefault(record.topic, []).append(record)
            self.taken_bytes -= len(record[4] or b"") + len(record[5] or b"")
        for topic, mine in by_topic.items():
            self._queues[topic].extendleft(reversed(mine))
        self._position = dict(position)


def _order(timestamp: TimestampExtractor | None) -> Order:
    def order(record: Record) -> int:
        if timestamp is None:
            return record.timestamp_ms
        try:
            return timestamp(record)
        except Exception:  # noqa: BLE001 - a user's function; the task will meet the same error, and treat it
            return record.timestamp_ms

    return order
