"""The embedded log's bytes: keys and rows of records, and what is kept beside them. Pure; no I/O.

A record is one row. Key: topic number (4 bytes), partition (4), offset (8), big-endian, so that byte order is offset
order. Row: timestamp in ms (8), length of the key and of the value (4 each, -1: none), length of the layout (2); then
layout, key, value, values of the headers. The *layout* lists the headers' names and the lengths of their values. Most
records share a few layouts, so both directions look them up in a cache instead of walking the headers one by one.
Damage is not looked for here: RocksDB checks each block before it hands out a row.
"""

import json
from collections.abc import Mapping
from struct import Struct
from struct import error as struct_error
from typing import Any, NamedTuple, Protocol

from streams.errors import LogDamaged, RecordTooLarge
from streams.records import Headers, ProducerRecord, Record

#: Goes up with every change that an older release cannot read. Kept in the meta rows, checked at start.
FORMAT_VERSION = 1

_KEY = Struct(">IIQ")
_PREFIX = Struct(">II")
_ROW = Struct(">qiiH")
_CLEANING = Struct(">QQQQ")
_HEADER_BYTES = _ROW.size
_OFFSET_AT = _PREFIX.size
_MAXIMUM_LAYOUT_BYTES = 0xFFFF
_MAXIMUM_LAYOUTS = 1_000

_Names = tuple[str, ...]


class RowIterator(Protocol):
    """What of RocksDB's iterator is used here."""

    def valid(self) -> bool: ...

    def key(self) -> bytes: ...

    def value(self) -> bytes: ...

    def next(self) -> None: ...


class Topic(NamedTuple):
    """A topic's row. `number` stands for it in the keys of records, and is never used again."""

    name: str
    number: int
    topic_id: str
    partitions: int
    config: Mapping[str, str]


class Cleaning(NamedTuple):
    """How far a partition is cleaned. Written in the batch of the deletions that it describes.

    end: the offset after the last record, which outlives the records. start: below it retention removed everything.
    cleaned: below it each key has one record. live: the number of records below `cleaned`.
    """

    end: int
    start: int
    cleaned: int
    live: int


class Outline(NamedTuple):
    """What the cleaner has to know of a record."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    is_tombstone: bool


class Codec:
    """Turns records into rows and back. Any thread: its caches are dicts that are only ever added to or cleared."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[_Names, tuple[int, ...]], bytes] = {}
        self._parsers: dict[bytes, tuple[_Names, Any]] = {}

    def row(self, record: ProducerRecord, timestamp_ms: int) -> bytes:
        """Return the row of *record*, whose time is *timestamp_ms* unless it has one of its own. Raises RecordTooLarge
        when the names of its headers do not fit."""
        _topic, _partition, key, value, headers, own_ms = record
        if own_ms is not None:
            timestamp_ms = own_ms
        key_bytes = -1 if key is None else len(key)
        value_bytes = -1 if value is None else len(value)
        if not headers:
            return b"".join((_ROW.pack(timestamp_ms, key_bytes, value_bytes, 0), key or b"", value or b""))
        names, values = zip(*headers, strict=True)
        lengths = tuple(map(len, values))
        layout = self._layouts.get((names, lengths))
        if layout is None:
            layout = self._add_layout(names, lengths)
        return b"".join(
            (_ROW.pack(timestamp_ms, key_bytes, value_bytes, len(layout)), layout, key or b"", value or b"", *values)
        )

    def read(self, rows: RowIterator, topic: str, partition: int, limit: int) -> list[Record]:
        """Return the next records of *rows*, at most *limit*. The hot loop of a restore.

        Raises LogDamaged for a row that is none; the caller asks the iterator whether it ended soundly.
        """
        is_valid, key_of, row_of, advance = rows.valid, rows.key, rows.value, rows.next
        unpack, number, parsers, new = _ROW.unpack_from, int.from_bytes, self._parsers, tuple.__new__
        records: list[Record] = []
        add = records.append
        try:
            while limit and is_valid():
                row = row_of()
                timestamp_ms, key_bytes, value_bytes, layout_bytes = unpack(row)
                key_at = _HEADER_BYTES + layout_bytes
                value_at = key_at if key_bytes < 0 else key_at + key_bytes
                values_at = value_at if value_bytes < 0 else value_at + value_bytes
                headers: Headers = ()
                if layout_bytes:
                    layout = row[_HEADER_BYTES:key_at]
                    parser = parsers.get(layout)
                    names, unpack_values = self._add_parser(layout) if parser is None else parser
                    headers = tuple(zip(names, unpack_values(row, values_at), strict=True))
                add(
                    new(  # as Record(...), at half the price
                        Record,
                        (
                            topic,
                            partition,
                            number(key_of()[_OFFSET_AT:], "big"),
                            timestamp_ms,
                            None if key_bytes < 0 else row[key_at:value_at],
                            None if value_bytes < 0 else row[value_at:values_at],
                            headers,
                        ),
                    )
                )
                advance()
                limit -= 1
        except (struct_error, ValueError, IndexError) as error:
            raise LogDamaged(
                f"a record of {topic}-{partition} cannot be read; restore the log from a backup"
            ) from error
        return records

    def _add_layout(self, names: _Names, lengths: tuple[int, ...]) -> bytes:
        encoded = [name.encode() for name in names]
        layout_bytes = sum(map(len, encoded)) + 6 * len(encoded)
        if layout_bytes > _MAXIMUM_LAYOUT_BYTES:
            raise RecordTooLarge(f"the names of the headers take {layout_bytes} bytes, above {_MAXIMUM_LAYOUT_BYTES}")
        layout = b"".join(
            b"%b%b%b" % (len(name).to_bytes(2, "big"), name, length.to_bytes(4, "big"))
            for name, length in zip(encoded, lengths, strict=True)
        )
        if len(self._layouts) >= _MAXIMUM_LAYOUTS:
            self._layouts.clear()
        self._layouts[names, lengths] = layout
        return layout

    def _add_parser(self, layout: bytes) -> tuple[_Names, Any]:
        names, lengths, at = [], [], 0
        while at < len(layout):
            name_at = at + 2
            end = name_at + int.from_bytes(layout[at:name_at], "big")
            names.append(layout[name_at:end].decode())
            at = end + 4
            lengths.append(int.from_bytes(layout[end:at], "big"))
        parser = tuple(names), Struct("".join(f"{length}s" for length in lengths)).unpack_from
        if len(self._parsers) >= _MAXIMUM_LAYOUTS:
            self._parsers.clear()
        self._parsers[layout] = parser
        return parser


def outlines(rows: RowIterator, limit: int) -> list[Outline]:
    """Return the outlines of the next records of *rows*, at most *limit*."""
    found: list[Outline] = []
    while len(found) < limit and rows.valid():
        row = rows.value()
        timestamp_ms, key_bytes, value_bytes, layout_bytes = _ROW.unpack_from(row)
        key_at = _HEADER_BYTES + layout_bytes
        key = None if key_bytes < 0 else row[key_at : key_at + key_bytes]
        found.append(Outline(offset_of(rows.key()), timestamp_ms, key, value_bytes < 0))
        rows.next()
    return found


def record_key(prefix: bytes, offset: int) -> bytes:
    """Return the key of the record at *offset* of the partition with that *prefix*."""
    return prefix + offset.to_bytes(8, "big")


def offset_of(key: bytes) -> int:
    """Return the offset in a record's key."""
    return int.from_bytes(key[_OFFSET_AT:], "big")


def partition_prefix(topic_number: int, partition: int) -> bytes:
    """Return what all keys of a partition begin with; also the key of its cleaning row, and of its rows of keys."""
    return _PREFIX.pack(topic_number, partition)


def topic_row(topic: Topic) -> bytes:
    return json.dumps({**topic._asdict(), "config": dict(topic.config)}).encode()


def parse_topic(row: bytes) -> Topic:
    """Raises LogDamaged for a row that is none."""
    try:
        return Topic(**json.loads(row))
    except (ValueError, TypeError) as error:
        raise LogDamaged("the list of topics cannot be read; restore the log from a backup") from error


def cleaning_row(cleaning: Cleaning) -> bytes:
    return _CLEANING.pack(*cleaning)


def parse_cleaning(row: bytes | None) -> Cleaning:
    """Return the row's content; of None: of a partition that was never cleaned."""
    return Cleaning(0, 0, 0, 0) if row is None else Cleaning(*_CLEANING.unpack(row))


def encoded_bytes(record: ProducerRecord) -> int:
    """Return about how much *record* counts against `max.message.bytes`."""
    _, _, key, value, headers, _ = record
    size_bytes = len(key or b"") + len(value or b"")
    for name, content in headers:
        size_bytes += len(name) + len(content)
    return size_bytes
