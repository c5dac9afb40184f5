"""Ids: uids that belong to a wanted partition, event ids, and their text. The only user of randomness in the domain.

The source of randomness is passed in, so that tests can repeat a run.
"""

from collections.abc import Callable

from streams.partitioner import hex_ending_for

#: Returns that many random bytes: `os.urandom`, or a seeded one in tests.
RandomBytes = Callable[[int], bytes]

UID_LENGTH = 36


def random_id(random: RandomBytes) -> bytes:
    """Return a fresh UUIDv4 (RFC 9562) as 16 bytes."""
    drawn = bytearray(random(16))
    drawn[6] = drawn[6] & 0x0F | 0x40
    drawn[8] = drawn[8] & 0x3F | 0x80
    return bytes(drawn)


def text_of(identifier: bytes) -> str:
    """Return the 16 bytes as the text of a UUID: 36 lower-case characters."""
    digits = identifier.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def draw_uid(random: RandomBytes, *, partition: int, partitions: int) -> str:
    """Return a fresh UUIDv4 whose text lies in *partition* of *partitions*, by Kafka's default partitioner.

    Only the last four of its 36 characters are varied, from a random place on: hashing whole uuids until one fits
    would take 8 times longer with 8 partitions. All other bits stay random.
    """
    while True:
        text = text_of(random_id(random))
        start = int(text[-4:], 16)
        prefix = text[:-4].encode()
        ending = hex_ending_for(prefix, start, partition=partition, partitions=partitions)
        if ending is not None:
            return (prefix + ending).decode()
