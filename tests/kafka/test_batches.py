"""The unpacking of fetched bytes, against kafka-python's own; no broker is needed."""

import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaTopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder

from streams.log.kafka.batches import CommittedRecords

AT = KafkaTopicPartition("t", 3)

some_bytes = st.binary(max_size=300)
headers = st.lists(st.tuples(st.text(max_size=200), some_bytes), max_size=4)
records = st.tuples(st.integers(0, 2**41), st.none() | some_bytes, st.none() | some_bytes, headers)


@given(batches=st.lists(st.lists(records, min_size=1, max_size=8), max_size=5), start=st.integers(0, 12))
def test_it_unpacks_what_kafka_python_unpacks(batches: list[list[Any]], start: int) -> None:
    """Any records, any starting offset: the same records, and the same position after them."""
    data, offset = b"", 0
    for batch in batches:
        data += built(batch, offset)
        offset += len(batch)
    theirs = unpacked_by(Fetcher.PartitionRecords, data, start)
    expected = [
        (record.offset, record.timestamp, record.key, record.value, tuple(record.headers)) for record in theirs.take()
    ]
    ours = unpacked_by(CommittedRecords, data, start)
    steps = ours.take()
    found = [record for step in steps for record in step.batch.records]
    assert [record[2:] for record in found] == expected
    assert all(record[:2] == ("t", 3) for record in found)
    assert ours.next_fetch_offset == theirs.next_fetch_offset
    assert not ours
    if steps:
        assert (steps[0].start, steps[-1].batch.next_offset) == (start, ours.next_fetch_offset)


@given(versions=st.lists(st.integers(1, 1200), min_size=10, max_size=60), kinds=st.lists(st.booleans(), min_size=60))
def test_layouts_of_headers_that_repeat_change_nothing(versions: list[int], kinds: list[bool]) -> None:
    """Many records of a few kinds, whose headers are taken apart by the layout of earlier ones: as if one by one."""
    batch = [
        (i, b"k", None, [("id", b"%032d" % i), ("é", b"x" if kind else b""), ("version", b"%d" % version)][: 3 - kind])
        for i, (version, kind) in enumerate(zip(versions, kinds, strict=False))
    ]
    steps = unpacked_by(CommittedRecords, built(batch, 0), 0).take()
    found = [list(record.headers) for step in steps for record in step.batch.records]
    assert found == [pairs for *_, pairs in batch]


@pytest.mark.parametrize("codec", [0, 1], ids=["plain", "gzip"])
def test_a_flipped_bit_is_found(codec: int) -> None:
    """The sound batches before it are handed over, then comes an error, and never a wrong record."""
    sound = built([(0, b"k", b"v" * 50, [])], 0, codec)
    broken = bytearray(built([(0, b"k", b"w" * 50, [])], 1, codec))
    broken[-10] ^= 1
    taken = unpacked_by(CommittedRecords, sound + bytes(broken), 0)
    assert [record.value for step in taken.take() for record in step.batch.records] == [b"v" * 50]
    with pytest.raises(CorruptRecordError):
        taken.take()


def test_kafka_python_still_has_the_seam() -> None:
    """`install` replaces one attribute that kafka-python looks up for each fetched partition."""
    assert isinstance(Fetcher.PartitionRecords, type)
    assert "self.PartitionRecords(" in inspect.getsource(Fetcher._parse_fetched_data)
    assert "_fetcher" in KafkaConsumer.__init__.__code__.co_names


def built(batch: list[Any], offset: int, codec: int = 0) -> bytes:
    """Return the bytes of one batch of (timestamp, key, value, headers) whose first record is at *offset*."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 24,
    )
    for delta, (timestamp, key, value, pairs) in enumerate(batch):
        builder.append(delta, timestamp, key, value, pairs)
    data = bytearray(builder.build())
    data[0:8] = offset.to_bytes(8, "big")  # Not covered by the checksum.
    return bytes(data)


def unpacked_by(kind: Any, data: bytes, start: int) -> Any:
    return kind(
        start,
        AT,
        MemoryRecords(data),
        key_deserializer=None,
        value_deserializer=None,
        check_crcs=True,
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=None,
        metric_aggregator=None,
        on_drain=lambda _: None,
    )
