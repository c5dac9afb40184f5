"""The partition of a key is the one that every Kafka client gives it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafka_murmur2

from streams.partitioner import hex_ending_for, murmur2, partition_for

# The vectors of Apache Kafka's own test (UtilsTest.testMurmur2), as signed numbers.
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "signed"), VECTORS.items())
def test_murmur2_gives_kafkas_own_vectors(key: bytes, signed: int) -> None:
    """The hash is Kafka's to the bit."""
    assert murmur2(key) == signed & 0xFFFFFFFF


@given(st.binary(max_size=80))
def test_murmur2_agrees_with_another_client(key: bytes) -> None:
    """Whatever the length and the bytes."""
    assert murmur2(key) == kafka_murmur2(key) & 0xFFFFFFFF


@given(
    prefix=st.binary(min_size=0, max_size=8).map(lambda part: part * 4),
    start=st.integers(0, 0xFFFF),
    partitions=st.integers(1, 64),
    data=st.data(),
)
def test_a_key_found_for_a_partition_lies_in_it(
    prefix: bytes, start: int, partitions: int, data: st.DataObject
) -> None:
    """The short way of hashing agrees with the long one."""
    partition = data.draw(st.integers(0, partitions - 1))
    ending = hex_ending_for(prefix, start, partition=partition, partitions=partitions)
    assert ending is not None
    assert partition_for(prefix + ending, partitions) == partition
