"""Record batches that are packed here: byte for byte what kafka-python makes of the same records, and on a broker."""

import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from kafka import TopicPartition as KafkaTopicPartition
from kafka.errors import MessageSizeTooLargeError
from kafka.producer.future import FutureRecordMetadata
from kafka.producer.producer_batch import ProducerBatch
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from streams.log.kafka import KafkaLog
from streams.log.kafka.packing import pack, send_all
from streams.records import Headers, ProducerRecord, TopicPartition
from tests.kafka.node import Node, read_to, within

OpenLog = Callable[..., KafkaLog]
NOW_MS = 1_700_000_000_000


def some_bytes(chance: random.Random, longest: int) -> bytes:
    return chance.randbytes(chance.choice([0, 1, 5, 63, 64, 65, chance.randrange(longest)]))


def some_record(chance: random.Random) -> ProducerRecord:
    headers: Headers = tuple((f"name-{n}", some_bytes(chance, 300)) for n in range(chance.choice([0, 0, 0, 1, 3])))
    key = None if chance.random() < 0.2 else some_bytes(chance, 200)
    value = None if key is not None and chance.random() < 0.2 else some_bytes(chance, 20_000)
    at_ms = chance.choice([NOW_MS, NOW_MS + chance.randrange(-(10**9), 10**9), 0, None])
    return ProducerRecord("topic", 0, key, value, headers, at_ms)


@pytest.mark.parametrize("seed", range(20))
def test_a_packed_batch_is_the_one_that_kafka_python_makes(seed: int) -> None:
    """Of random records, with the same border where a batch is full."""
    chance = random.Random(seed)
    records = [some_record(chance) for _ in range(chance.randrange(1, 200))]
    limit = chance.choice([100, 5_000, 60_000, 10_000_000])
    start = 0
    while start < len(records):
        ours, theirs = (MemoryRecordsBuilder(2, 0, limit) for _ in range(2))
        packed = pack(ours, records, start, limit, NOW_MS)
        for _, _, key, value, headers, at_ms in records[start : start + packed]:
            assert theirs.append(NOW_MS if at_ms is None else at_ms, key, value, list(headers)) is not None
        if start + packed < len(records):
            _, _, key, value, headers, at_ms = records[start + packed]
            assert theirs.append(NOW_MS if at_ms is None else at_ms, key, value, list(headers)) is None
        assert ours.next_offset() == theirs.next_offset() == packed
        for builder in (ours, theirs):
            builder.set_producer_state(7, 1, 100, is_transactional=True)
            builder.close()
        assert bytes(ours.buffer()) == bytes(theirs.buffer())
        assert sum(1 for batch in MemoryRecords(ours.buffer()) for _ in batch) == packed
        start += packed


@pytest.mark.kafka
def test_many_records_for_a_partition_arrive_in_order_and_as_a_whole(
    kafka_broker: str, open_log: OpenLog, prefix: str
) -> None:
    """More than a batch holds, beside single ones for another partition; what the append says of the ends is so."""
    node = Node(open_log(kafka_broker), [prefix + "packed"]).owner()
    values = [b"%06d" % n + b"x" * 500 for n in range(2_000)]
    group = [
        ProducerRecord(node.topics[0], 0, b"k", value, (("n", b"v"),), NOW_MS + n) for n, value in enumerate(values)
    ]
    group.insert(700, ProducerRecord(node.topics[0], 1, b"alone", b"alone"))
    future = node.writer.append(group, ownership=node.ownership, positions={0: 0, 1: 0}, deadline=within(30))
    ends = future.result(30)
    assert ends == {TopicPartition(node.topics[0], 0): 2_000, TopicPartition(node.topics[0], 1): 1}
    reader = node.log.open_reader()
    reader.assign(dict.fromkeys(ends, 0))
    found = [record for record in read_to(reader, ends) if record.partition == 0]
    assert [record.value for record in found] == values
    assert [record.timestamp_ms for record in found] == [NOW_MS + n for n in range(2_000)]
    assert {record.headers for record in found} == {(("n", b"v"),)}


def split(records: int, *, times: int = 1) -> tuple[FutureRecordMetadata, list[ProducerBatch]]:
    """Send so many records as one batch, have kafka-python split the first batch so often, and return the batches."""
    accumulator = RecordAccumulator(batch_size=1 << 18)
    sender = SimpleNamespace(wakeup=lambda: None)
    producer = SimpleNamespace(_accumulator=accumulator, _transaction_manager=None, _sender=sender)
    sent: list[FutureRecordMetadata] = []
    send_all(producer, [ProducerRecord("topic", 0, b"k", b"%d" % n) for n in range(records)], sent.append, NOW_MS)
    (future,) = sent
    batches = accumulator._batches[KafkaTopicPartition("topic", 0)]
    for _ in range(times):
        large = batches.popleft()
        large.records.close()
        accumulator.split_and_reenqueue(large)
    return future, list(batches)


@pytest.mark.parametrize("times", [1, 2])
def test_the_future_of_a_batch_that_was_split_ends_with_its_last_record(times: int) -> None:
    """As the broker takes the parts one after the other: none may be missing when the transaction is committed."""
    future, parts = split(10, times=times)
    assert len(parts) == times + 1
    offset = 100
    for part in parts:
        assert not future.is_done
        part.complete(offset, -1)
        offset += part.record_count
    assert future.succeeded()
    assert future.value.offset == 109


def test_the_future_of_a_batch_that_was_split_fails_with_any_part() -> None:
    """Also when what comes behind is taken: an idempotent producer goes on after a record that is too large."""
    future, (first, second) = split(10)
    error = MessageSizeTooLargeError("too large")
    first.complete_exceptionally(error, lambda _: error)
    second.complete(100, -1)
    assert future.failed()
    assert isinstance(future.exception, MessageSizeTooLargeError)
