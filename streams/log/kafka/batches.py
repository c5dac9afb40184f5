"""Turns the bytes of a fetch response into `RecordBatch`es, in place of kafka-python's own unpacking.

Two reasons. kafka-python's `poll` says nothing when a position moves without a record (transaction markers, aborted
and compacted records), so a reader could not tell that it has reached a barrier; here each step comes with its
position. And it makes three objects for each record where one is enough: this is about twice as fast.

`CommittedRecords` has the shape of `kafka.consumer.fetcher.Fetcher.PartitionRecords`, which is not a public class: the
release is pinned to 3.0.x, and `tests/kafka/test_reader.py` fails when its shape changes. Everything else of fetching
(sessions, leaders, retries, epochs) stays kafka-python's.
"""

from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, NamedTuple

from kafka.errors import CorruptRecordError, KafkaConfigurationError, UnsupportedForMessageFormatError

from streams.records import Headers, Record, RecordBatch

#: About how many records one `RecordBatch` holds at most (a batch of the log is never divided).
RECORDS_PER_TAKE = 1_000

_LOG_APPEND_TIME = 1
_FORMAT = 2


class Fetched(NamedTuple):
    """A step of one partition: *batch* continues at exactly *start*. *size_bytes* is what it took in the log."""

    start: int
    batch: RecordBatch
    size_bytes: int


class CommittedRecords:
    """The rest of one fetched partition. Used by kafka-python's fetcher on the thread that polls."""

    def __init__(
        self,
        fetch_offset: int,
        tp: Any,
        records: Any,
        *,
        aborted_transactions: Sequence[Any] | None,
        on_drain: Callable[[Any], None],
        **_: object,
    ) -> None:
        self.topic_partition = tp
        self.next_fetch_offset = fetch_offset
        self.leader_epoch = -1
        self.bytes_read = 0
        self._first_offset = fetch_offset
        self._records = records
        self._on_drain = on_drain
        self._aborted = deque(sorted(aborted_transactions or (), key=lambda one: one.first_offset))
        self._aborted_producers: set[int] = set()
        self._layouts = _Layouts()
        self._is_drained = False
        self._error: Exception | None = None

    def __bool__(self) -> bool:
        return not self._is_drained

    def drain(self) -> None:
        """Forget what is left."""
        if not self._is_drained:
            self._is_drained = True
            self._on_drain(self)

    def take(self, _limit: int | None = None) -> list[Fetched]:
        """Return the next step, or nothing when there is none. Raises CorruptRecordError after the sound part."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        start, bytes_before = self.next_fetch_offset, self.bytes_read
        out: list[Record] = []
        try:
            while len(out) < RECORDS_PER_TAKE:
                batch = self._records.next_batch()
                if batch is None:
                    self.drain()
                    break
                self._add(batch, out)
        except Exception as error:
            if self.next_fetch_offset == start:
                raise
            self._error = error
        if self.next_fetch_offset == start:
            return []
        topic, partition = self.topic_partition
        step = RecordBatch(topic, partition, out, self.next_fetch_offset)
        return [Fetched(start, step, self.bytes_read - bytes_before)]

    def _add(self, batch: Any, out: list[Record]) -> None:
        topic, partition = self.topic_partition
        if batch.magic != _FORMAT:
            raise UnsupportedForMessageFormatError(f"{topic}-{partition} has records of format {batch.magic}")
        if not batch.validate_crc():
            raise CorruptRecordError(f"a checksum is wrong in {topic}-{partition} at offset {batch.base_offset}")
        if not self._is_aborted(batch) and not batch.is_control_batch:
            decode(batch, topic, partition, self._first_offset, out, self._layouts)
        self.leader_epoch = batch.leader_epoch
        self.bytes_read += batch.size_in_bytes
        # The batch keeps its last offset when compaction removed the record there.
        self.next_fetch_offset = batch.next_offset

    def _is_aborted(self, batch: Any) -> bool:
        """Whether *batch* belongs to an aborted transaction (KIP-98): the broker names where each of these begins, and
        a marker in the log says where it ends."""
        aborted, producer = self._aborted, batch.producer_id
        while aborted and aborted[0].first_offset <= batch.last_offset:
            self._aborted_producers.add(aborted.popleft().producer_id)
        if not self._aborted_producers or producer not in self._aborted_producers:
            return False
        if batch.is_control_batch:
            if next(iter(batch)).abort:
                self._aborted_producers.discard(producer)
            return True
        return bool(batch.is_transactional)


def install(consumer: Any) -> None:
    """Make *consumer* hand out `Fetched` in place of its own records. Raises KafkaConfigurationError when this
    kafka-python is not the one that this was written for."""
    fetcher: Any = getattr(consumer, "_fetcher", None)
    if not isinstance(getattr(fetcher, "PartitionRecords", None), type):
        raise KafkaConfigurationError("this release of kafka-python is not supported: its fetcher has changed")
    fetcher.PartitionRecords = CommittedRecords


def decode(batch: Any, topic: str, partition: int, first_offset: int, out: list[Record], layouts: "_Layouts") -> None:
    """Append the records of *batch* from *first_offset* on to *out*. Raises CorruptRecordError.

    *layouts* are those of headers seen before in the partition, and are added to.

    Format: KIP-98, "message format v2". Written out flat: a call for each number would take most of the time.
    """
    batch._maybe_uncompress()
    data = bytes(batch._buffer)
    position: int = batch._pos
    base_offset: int = batch.base_offset
    first_timestamp: int = batch.first_timestamp
    append_timestamp = batch.max_timestamp if batch.timestamp_type == _LOG_APPEND_TIME else None
    new, append = tuple.__new__, out.append
    no_headers: Headers = ()
    try:
        for _ in range(batch.records_count):
            while data[position] & 0x80:  # The length: the parts say it again.
                position += 1
            position += 2  # Its last byte, and the attributes, which are not used.
            if (byte := data[position]) < 0x80:
                position += 1
                timestamp = first_timestamp + ((byte >> 1) ^ -(byte & 1))
            elif (second := data[position + 1]) < 0x80:
                position += 2
                timestamp = first_timestamp + (((byte & 0x7F | second << 7) >> 1) ^ -(byte & 1))
            else:
                delta, position = _varint(data, position)
                timestamp = first_timestamp + delta
            if (byte := data[position]) < 0x80:
                position += 1
                offset = base_offset + (byte >> 1)
            elif (second := data[position + 1]) < 0x80:
                position += 2
                offset = base_offset + ((byte & 0x7F | second << 7) >> 1)
            else:
                delta, position = _varint(data, position)
                offset = base_offset + delta
            if (byte := data[position]) < 0x80:
                position += 1
                length = (byte >> 1) ^ -(byte & 1)
            else:
                length, position = _varint(data, position)
            key = value = None
            if length >= 0:
                key = data[position : (position := position + length)]
            if (byte := data[position]) < 0x80:
                position += 1
                length = (byte >> 1) ^ -(byte & 1)
            elif (second := data[position + 1]) < 0x80:
                position += 2
                length = ((byte & 0x7F | second << 7) >> 1) ^ -(byte & 1)
            else:
                length, position = _varint(data, position)
            if length >= 0:
                value = data[position : (position := position + length)]
            if data[position]:
                headers, position = _headers(data, position, layouts)
            else:
                headers = no_headers
                position += 1
            if offset >= first_offset:
                append(new(Record, (topic, partition, offset, append_timestamp or timestamp, key, value, headers)))
    except (IndexError, UnicodeDecodeError) as error:
        raise CorruptRecordError(f"a batch of {topic}-{partition} at offset {base_offset} is malformed") from error
    if position != len(data):
        raise CorruptRecordError(f"a batch of {topic}-{partition} at offset {base_offset} has a wrong length")


class _Layouts:
    """The ways in which the headers of records were seen to lie in one fetched partition.

    Records of one kind have the same names, and values of the same lengths: then one call of C takes all headers
    apart, which one by one take more time than all the rest of a record.
    """

    LIMIT = 8
    #: A layout costs more than it saves on one record, and live traffic comes record by record.
    WORTHWHILE_AFTER = 4

    def __init__(self) -> None:
        self.seen: list[tuple[Struct, tuple[bytes, ...], tuple[str, ...]]] = []
        self._misses = 0

    def learn(self, data: bytes, start: int, headers: Headers) -> None:
        """Note how *headers* lie from *start* on, where their count is."""
        self._misses += 1
        if self._misses < self.WORTHWHILE_AFTER or len(self.seen) >= self.LIMIT:
            return
        _, position = _varint(data, start)
        form, before = [">"], start
        for name, value in headers:
            _, position = _varint(data, position)
            _, position = _varint(data, position + len(name.encode()))
            form.append(f"{position - before}s{len(value)}s")
            position = before = position + len(value)
        layout = Struct("".join(form))
        # What lies before each value (names, lengths, the count) must be the same in another record.
        self.seen.append((layout, layout.unpack_from(data, start)[::2], tuple(name for name, _ in headers)))


def _headers(data: bytes, position: int, layouts: _Layouts) -> tuple[Headers, int]:
    """Return the headers whose count is at *position*, and the position after them."""
    for layout, between, names in layouts.seen:
        end = position + layout.size
        if end <= len(data):
            parts = layout.unpack_from(data, position)
            if parts[::2] == between:
                return tuple(zip(names, parts[1::2], strict=True)), end
    start = position
    count, position = _varint(data, position)
    pairs = []
    for _ in range(count):
        length, position = _varint(data, position)
        raw = data[position : (position := position + length)]
        name = _NAMES.get(raw)
        if name is None:
            name = _name(raw)
        length, position = _varint(data, position)
        # The port knows no header without a value: it becomes an empty one.
        pairs.append((name, data[position : (position := position + max(0, length))]))
    headers = tuple(pairs)
    layouts.learn(data, start, headers)
    return headers, position


#: Names of headers that were seen: there are few, and decoding each time costs more than looking it up.
_NAMES: dict[bytes, str] = {}
_NAMES_LIMIT = 1_000


def _name(raw: bytes) -> str:
    name = raw.decode()
    if len(_NAMES) < _NAMES_LIMIT:  # Any producer may invent names without end.
        _NAMES[raw] = name
    return name


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the zigzag number of any length at *position*, and the position after it."""
    byte = data[position]
    position += 1
    result, shift = byte & 0x7F, 7
    while byte >= 0x80:
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        shift += 7
    return (result >> 1) ^ -(result & 1), position
