"""The values that travel between log, tasks and stores. No behaviour beyond construction; nothing here does I/O.

Named tuples and not dataclasses: a restore makes some hundred thousand of them per second, and a frozen dataclass
costs three times as much to build.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

#: Names and values of headers, in their order; a name may be there more than once.
Headers = tuple[tuple[str, bytes], ...]


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class ProducerRecord(NamedTuple):
    """A record to be appended. `value` None is a tombstone. The log gives the offset, and with `timestamp_ms` None the
    timestamp, too (Unix time)."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int | None = None


#: Topic and partition of a `ProducerRecord`, as a plain tuple: in C, for loops over whole groups.
place_of = itemgetter(0, 1)


class Record(NamedTuple):
    """A committed record. `timestamp_ms` is Unix time; `offset` is its own place, so the next to read is offset + 1."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class RecordBatch(NamedTuple):
    """Committed records of one partition in offset order.

    `next_offset` is the position after this batch. It can lie beyond the last record, and `records` can be empty:
    transaction markers, aborted records and compaction leave gaps. Progress is measured by positions, never by the
    offset of the last record seen.
    """

    topic: str
    partition: int
    records: Sequence[Record]
    next_offset: int


def header(headers: Headers, name: str) -> bytes | None:
    """Return the first header of that name, or None."""
    for key, value in headers:
        if key == name:
            return value
    return None
