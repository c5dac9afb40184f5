"""What a state store is, and how its rows look: inert, and pure functions of bytes.

A store is a fold of a topic: of its changelog, or, of a table that is read as it is, of its source topic.
`StoreSpec.rows` turns a record of that topic into a row, and it is the only way to do so, for the task that wrote the
record and for a standby, a restore or a read-back alike. So a record of a changelog describes a write completely:
key, value and timestamp of the record are all that there is to know. The other direction, from a row to its record,
is `StoreSpec.change_of`; the two are inverse.

Layouts (big-endian, times in Unix ms):

    kind          key of the record            key of the row                    value of the row
    key-value     key                          key                               timestamp (8), value
    window        key, start (8), number (4)   segment (8), key of the record    timestamp (8), value
    session       key, end (8), start (8)      segment (8), key of the record    timestamp (8), value
    membership    number of the block (4)      the same                          timestamp (8), bits of the block

The keys of the records are those of Kafka Streams' changelogs. A segment is a stretch of time: rows that have outlived
their retention lie together, and are removed as one range.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from streams.errors import PoisonRecord, SerializationError
from streams.records import ProducerRecord, Record
from streams.serdes import Serde

_MOMENT = struct.Struct(">q")
_WINDOW = struct.Struct(">qi")
_SESSION = struct.Struct(">qq")
_DAY_MS = 24 * 3600 * 1000
_MIN_SEGMENT_MS = 60_000

Row = tuple[bytes, bytes | None]


class StoreKind(Enum):
    """The kinds of stores; the values are what describe() and the query API show."""

    KEY_VALUE = "key-value"
    WINDOW = "window"
    SESSION = "session"
    MEMBERSHIP = "membership"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSpec:
    """One store of a topology.

    `source_topic`: the topic that is its changelog already; None: it has one of its own if `is_logged`, or none.
    `retention_ms` (window and session): how far behind stream time a row is kept. `window_size_ms`: of time windows.
    `has_duplicates`: a key may have several rows of one start (the stores of stream-stream joins).
    `is_queryable`: it was named by the user. `timestamp`: how the source's records are timed, None: as they are.
    """

    name: str
    kind: StoreKind = StoreKind.KEY_VALUE
    key: Serde[Any]
    value: Serde[Any]
    source_topic: str | None = None
    is_logged: bool = True
    is_queryable: bool = True
    is_global: bool = False
    retention_ms: int = 0
    window_size_ms: int = 0
    has_duplicates: bool = False
    timestamp: Callable[[Record], int] | None = None
    options: Mapping[str, int] = field(default_factory=dict)

    @property
    def segment_ms(self) -> int:
        """How long a segment is (Kafka Streams: half the retention, and a minute at least)."""
        return max(self.retention_ms // 2, _MIN_SEGMENT_MS)

    def expired_before(self, observed_ms: int) -> bytes:
        """Return the key of rows before which all have outlived their retention, when *observed_ms* is the greatest
        time that was put: nobody can read them any more, and they may be removed at any time. Window and session
        stores only."""
        return _MOMENT.pack(max(0, (observed_ms - self.retention_ms) // self.segment_ms))

    def changelog_config(self) -> dict[str, str]:
        """Return the settings of the changelog topic (Kafka Streams' own, KIP-150 and after)."""
        config = {"cleanup.policy": "compact", "message.timestamp.type": "CreateTime"}
        if self.kind in (StoreKind.WINDOW, StoreKind.SESSION):
            config |= {"cleanup.policy": "compact,delete", "retention.ms": str(self.retention_ms + _DAY_MS)}
        return config

    def row_key(self, key: bytes) -> bytes:
        """Return the key of the row for the key of a changelog record. Raises PoisonRecord for a key of no such row."""
        kind = self.kind
        if kind is StoreKind.KEY_VALUE or kind is StoreKind.MEMBERSHIP:
            return key
        layout = _WINDOW if kind is StoreKind.WINDOW else _SESSION
        if len(key) < layout.size:
            raise PoisonRecord("bad-key", f"{len(key)} bytes are no key of a {kind.value} store")
        (moment,) = _MOMENT.unpack_from(key, len(key) - layout.size)
        return _MOMENT.pack(moment // self.segment_ms) + key

    def rows(self, record: Record | ProducerRecord) -> Row:
        """Return the row that *record*, of the changelog or of the source topic, makes. Pure.

        Raises PoisonRecord for a record without a key, and for one of a source topic that its serdes cannot read.
        """
        key, value = record.key, record.value
        if key is None:
            raise PoisonRecord("no-key")
        if self.source_topic is not None:
            self._check(key, value)
        try:
            timestamp_ms = self._time_of(record)
        except Exception as error:
            raise PoisonRecord("no-time", str(error)) from error
        return self.row_key(key), None if value is None else _MOMENT.pack(timestamp_ms) + value

    def materialiser(self) -> Callable[[Record | ProducerRecord], Row]:
        """Return what does as `rows`, faster where the rows are those of a key-value store's own changelog."""
        is_plain = self.kind is StoreKind.KEY_VALUE and self.source_topic is None and self.timestamp is None
        return _plain_rows if is_plain else self.rows

    def change_of(self, row_key: bytes) -> bytes:
        """Return the key of the changelog record that makes the row of *row_key*."""
        return row_key[self.segment_bytes :]

    @property
    def segment_bytes(self) -> int:
        """How many bytes of a row's key come before the key of its changelog record."""
        is_segmented = self.kind is StoreKind.WINDOW or self.kind is StoreKind.SESSION
        return _MOMENT.size if is_segmented else 0

    def _time_of(self, record: Record | ProducerRecord) -> int:
        if self.timestamp is not None and isinstance(record, Record):
            return self.timestamp(record)
        return getattr(record, "timestamp_ms", 0)

    def _check(self, key: bytes, value: bytes | None) -> None:
        try:
            self.key.deserialize(key)
            if value is not None:
                self.value.deserialize(value)
        except SerializationError as error:
            raise PoisonRecord("not-readable", str(error)) from error


def _plain_rows(record: Record | ProducerRecord) -> Row:
    key, value = record.key, record.value
    if key is None:
        raise PoisonRecord("no-key")
    return key, None if value is None else _MOMENT.pack(record.timestamp_ms or 0) + value
