"""Hands many records for one partition to kafka-python's producer at once, as record batches that are made here.

`KafkaProducer.send` takes some 50 us for a record: locks, a future, and a batch that is written byte by byte. Where a
group has several records for a partition, the batches of format v2 (Kafka documentation, "Record Batch") are packed
here for about a tenth of that, with one future each, and put where `send` would have put them; everything after that
(sequence numbers, transaction, retries, splitting) is kafka-python's.

The accumulator is not a public class: the release is pinned to 3.0.x, `tests/kafka/test_packing.py` fails when its
shape changes, and with another shape records go one by one.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby, islice
from typing import Any

from kafka import KafkaProducer
from kafka import TopicPartition as KafkaTopicPartition
from kafka.errors import IllegalStateError
from kafka.producer.future import FutureRecordMetadata
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder

from streams.records import Headers, ProducerRecord, place_of

#: From so many records of a partition on it is worth it.
_WORTHWHILE = 4
_MAGIC = 2
_SMALL = 1 << 13


def send_all(
    producer: KafkaProducer, group: Sequence[ProducerRecord], sent_one: Callable[[Any], None], now_ms: int
) -> None:
    """Send *group*, the records of each partition in their order; *sent_one* gets every future. Records without a time
    of their own get *now_ms*."""
    by_place: dict[tuple[str, int], list[ProducerRecord]] = {}
    for place, run in groupby(group, place_of):
        by_place.setdefault(place, []).extend(run)
    is_packed = fits(producer)
    for (topic, partition), records in by_place.items():
        if is_packed and (len(records) >= _WORTHWHILE or any(map(_is_bare, records))):
            _send_packed(producer, KafkaTopicPartition(topic, partition), records, sent_one, now_ms)
        else:
            for _, _, key, value, headers, at_ms in records:
                sent_one(producer.send(topic, value, key, list(headers), partition, at_ms))


def _is_bare(record: ProducerRecord) -> bool:
    """Say whether *record* has neither key nor value: Kafka takes such a record, and kafka-python's `send` does not."""
    return record[2] is None and record[3] is None


def fits(producer: KafkaProducer) -> bool:
    """Say whether *producer* is of the shape that this was written for."""
    accumulator = getattr(producer, "_accumulator", None)
    is_known = all(hasattr(accumulator, name) for name in ("_tp_lock", "_batches", "_incomplete", "_closed", "config"))
    return is_known and all(hasattr(producer, name) for name in ("_transaction_manager", "_sender"))


def _send_packed(
    producer: KafkaProducer,
    place: Any,
    records: Sequence[ProducerRecord],
    sent_one: Callable[[Any], None],
    now_ms: int,
) -> None:
    transactions, accumulator = producer._transaction_manager, producer._accumulator
    if transactions is not None and transactions.is_transactional():
        transactions.maybe_add_partition_to_transaction(place)
    limit = accumulator.config["batch_size"]
    start = 0
    while start < len(records):
        builder = MemoryRecordsBuilder(_MAGIC, accumulator.config["compression_attrs"], limit)
        packed = pack(builder, records, start, limit, now_ms)
        batch = ProducerBatch(place, builder)
        future = FutureRecordMetadata(batch.produce_future, packed - 1, now_ms, None, -1, -1, -1)
        # One for each record, by which a batch that is too large is split: the future goes with the last one.
        batch._record_futures = [_Earlier(future)] * (packed - 1) + [future]
        with accumulator._tp_lock(place):
            if accumulator._closed:
                raise IllegalStateError("the producer was closed under way")
            accumulator._batches[place].append(batch)
            accumulator._incomplete.add(batch)
        sent_one(future)
        start += packed
    producer._sender.wakeup()


class _Earlier:
    """Stands for the records before the last one of a batch that is split: where one of them is refused, their future
    fails, although the last one may be taken. Otherwise it ends with the last one, which is acknowledged last."""

    def __init__(self, future: FutureRecordMetadata) -> None:
        self._future = future
        self._seen: Any = None

    def rebind(self, produce_future: Any, _: int) -> None:
        """Called by kafka-python for each record, with the batch that it is in now."""
        if produce_future is not self._seen:
            self._seen = produce_future
            produce_future.add_callback(self._answered)

    def _answered(self, result: tuple[int, int, Callable[[int], Exception] | None]) -> None:
        error_of = result[2]
        if error_of is not None and not self._future.is_done:
            self._future.failure(error_of(0))


def pack(builder: MemoryRecordsBuilder, records: Sequence[ProducerRecord], start: int, limit: int, now_ms: int) -> int:
    """Write *records* from *start* on into *builder*, at most *limit* bytes, but one record at least; return how many
    they were."""
    inner, small = builder._builder, _small_varints()
    buffer = inner._buffer
    begin_ms = records[start].timestamp_ms
    first_ms = max_ms = now_ms if begin_ms is None else begin_ms
    number = 0
    for _, _, key, value, headers, own_ms in islice(records, start, None):
        at_ms = now_ms if own_ms is None else own_ms
        delta_ms, key_bytes, value_bytes = at_ms - first_ms, len(key or b""), len(value or b"")
        # Written out flat, as far as it is short: a call for each number would take half of the time.
        parts = (
            b"\0",
            small[delta_ms] if 0 <= delta_ms < _SMALL else _long_varint(delta_ms),
            small[number] if number < _SMALL else _long_varint(number),
            b"\1" if key is None else small[key_bytes] if key_bytes < _SMALL else _long_varint(key_bytes),
            key or b"",
            b"\1" if value is None else small[value_bytes] if value_bytes < _SMALL else _long_varint(value_bytes),
            value or b"",
            _headers(headers, small) if headers else b"\0",
        )
        body = b"".join(parts)
        size = _varint(len(body), small)
        if number and len(buffer) + len(body) + len(size) > limit:
            break
        buffer += size
        buffer += body
        number += 1
        if at_ms > max_ms:
            max_ms = at_ms
    inner._first_timestamp, inner._max_timestamp = first_ms, max_ms
    inner._last_offset, inner._num_records = number - 1, number
    builder._next_offset = number
    return number


def _headers(headers: Headers, small: Sequence[bytes]) -> bytes:
    parts = [_varint(len(headers), small)]
    for name, content in headers:
        encoded = name.encode()
        parts += (_varint(len(encoded), small), encoded, _varint(len(content), small), content)
    return b"".join(parts)


def _varint(number: int, small: Sequence[bytes]) -> bytes:
    """Return *number* as Kafka's records have it: zigzag, seven bits to a byte, the lowest first."""
    if 0 <= number < _SMALL:
        return small[number]
    return _long_varint(number)


def _long_varint(number: int) -> bytes:
    rest = (number << 1) ^ (number >> 63)
    if 1 << 14 <= rest < 1 << 21:  # a second to a quarter of an hour, which most times of a batch differ by
        return bytes((rest & 0x7F | 0x80, rest >> 7 & 0x7F | 0x80, rest >> 14))
    found = bytearray()
    while rest > 0x7F:
        found.append(rest & 0x7F | 0x80)
        rest >>= 7
    found.append(rest)
    return bytes(found)


@cache  # a millisecond, at the first group
def _small_varints() -> Sequence[bytes]:
    return [_long_varint(number) for number in range(_SMALL)]
