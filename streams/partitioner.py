"""Which partition a key belongs to: Kafka's default partitioner (murmur2), so that any Kafka client agrees.

Source: `org.apache.kafka.common.utils.Utils.murmur2` and `BuiltInPartitioner.partitionForKey`.
"""

from array import array
from collections.abc import Sequence
from functools import cache, lru_cache
from struct import unpack_from

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF
_HEX_ENDINGS = 16**4
_SHORT = 256  # bytes of keys whose layout is at hand
_WORDS = tuple(f"<{words}I" for words in range(_SHORT >> 2))


def murmur2(key: bytes) -> int:
    """Return Kafka's 32-bit murmur2 hash of *key* as an unsigned number."""
    # The numbers stand here as they are, and are cut to 32 bits only where it counts: names took half of the time.
    length = len(key)
    state = 0x9747B28C ^ length
    for word in unpack_from(_WORDS[length >> 2] if length < _SHORT else f"<{length >> 2}I", key):
        mixed = (word * 0x5BD1E995) & 0xFFFFFFFF
        state = (state * 0x5BD1E995 ^ (mixed ^ (mixed >> 24)) * 0x5BD1E995) & 0xFFFFFFFF
    rest = length & 3
    if rest:
        state = ((state ^ int.from_bytes(key[length - rest :], "little")) * 0x5BD1E995) & 0xFFFFFFFF
    state = ((state ^ (state >> 13)) * 0x5BD1E995) & 0xFFFFFFFF
    return state ^ (state >> 15)


@lru_cache(maxsize=65_536)  # A miss costs about 3 us, which a read would feel; so many keys hold about 12 MB.
def partition_for(key: bytes, partitions: int) -> int:
    """Return the partition of *key* among *partitions*; the same as Kafka's default partitioner. Any thread."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def hex_ending_for(prefix: bytes, start: int, *, partition: int, partitions: int) -> bytes | None:
    """Return four hexadecimal digits with which `prefix + digits` lies in *partition* of *partitions*, or None.

    To find a key that belongs to a wanted partition: *prefix*, whose length is a multiple of 4, is hashed once, and
    each ending tried, from the number *start* on, costs a third of a microsecond instead of a whole hash. Any thread.
    """
    state = _SEED ^ (len(prefix) + 4)
    for word in unpack_from(f"<{len(prefix) >> 2}I", prefix):
        mixed = (word * _M) & _MASK
        mixed = ((mixed ^ (mixed >> 24)) * _M) & _MASK
        state = ((state * _M) & _MASK) ^ mixed
    state = (state * _M) & _MASK
    mixed_endings = _mixed_hex_endings()
    for number in range(start, start + _HEX_ENDINGS):
        last = state ^ mixed_endings[number & (_HEX_ENDINGS - 1)]
        last = ((last ^ (last >> 13)) * _M) & _MASK
        if ((last ^ (last >> 15)) & 0x7FFFFFFF) % partitions == partition:
            return b"%04x" % (number & (_HEX_ENDINGS - 1))
    return None


@cache  # 256 KiB, and some 50 ms at the first call
def _mixed_hex_endings() -> Sequence[int]:
    """Return, for each number of four hexadecimal digits, what its text contributes to the hash as the last word."""
    table = array("I", bytes(4 * _HEX_ENDINGS))
    for number in range(_HEX_ENDINGS):
        mixed = (int.from_bytes(b"%04x" % number, "little") * _M) & _MASK
        table[number] = ((mixed ^ (mixed >> 24)) * _M) & _MASK
    return table
