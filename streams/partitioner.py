"""Which partition a key belongs to: Kafka's default partitioner (murmur2), so that any Kafka client agrees.

Source: `org.apache.kafka.common.utils.Utils.murmur2` and `BuiltInPartitioner.partitionForKey`.
"""

from collections.abc import Iterable
from functools import lru_cache
from struct import unpack_from

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """Return Kafka's 32-bit murmur2 hash of *key* as an unsigned number."""
    length = len(key)
    state = _SEED ^ length
    words = length >> 2
    for word in unpack_from(f"<{words}I", key):
        mixed = (word * _M) & _MASK
        mixed = ((mixed ^ (mixed >> 24)) * _M) & _MASK
        state = ((state * _M) & _MASK) ^ mixed
    rest = length & 3
    if rest:
        state ^= int.from_bytes(key[length - rest :], "little")
        state = (state * _M) & _MASK
    state = ((state ^ (state >> 13)) * _M) & _MASK
    return state ^ (state >> 15)


@lru_cache(maxsize=16_384)  # A miss costs about 3 us, which a read would feel; 16k keys hold about 3 MB.
def partition_for(key: bytes, partitions: int) -> int:
    """Return the partition of *key* among *partitions*; the same as Kafka's default partitioner. Any thread."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def ending_for(prefix: bytes, endings: Iterable[bytes], partition: int, partitions: int) -> bytes | None:
    """Return the first of *endings* for which `prefix + ending` lies in *partition* of *partitions*, or None.

    To find a key that belongs to a wanted partition: *prefix*, whose length is a multiple of 4, is hashed once, and
    each ending, of exactly 4 bytes, costs one step more instead of a whole hash. Any thread.
    """
    state = _SEED ^ (len(prefix) + 4)
    for word in unpack_from(f"<{len(prefix) >> 2}I", prefix):
        mixed = (word * _M) & _MASK
        mixed = ((mixed ^ (mixed >> 24)) * _M) & _MASK
        state = ((state * _M) & _MASK) ^ mixed
    state = (state * _M) & _MASK
    for ending in endings:
        mixed = (int.from_bytes(ending, "little") * _M) & _MASK
        last = state ^ (((mixed ^ (mixed >> 24)) * _M) & _MASK)
        last = ((last ^ (last >> 13)) * _M) & _MASK
        if ((last ^ (last >> 15)) & 0x7FFFFFFF) % partitions == partition:
            return ending
    return None
