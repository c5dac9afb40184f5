"""The stores that operators and processors use: typed keys and values over the bytes of one store.

Rows look as `streams.topology.stores` says. A store belongs to one task and its thread; what it writes is visible to
that task at once, and to nobody else before the task's next commit. Iterators show the rows as they were when they were
made, so a loop may write to the store that it reads.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from streams.stores.overlay import OverlayStore
from streams.topology.nodes import CurrentRecord
from streams.topology.stores import StoreSpec

K = TypeVar("K")
V = TypeVar("V")

_MOMENT = struct.Struct(">q")
_pack = _MOMENT.pack
_unpack_from = _MOMENT.unpack_from


class KeyValueStore(Generic[K, V]):
    """One value for each key (Kafka Streams: TimestampedKeyValueStore). Keys are in the order of their bytes."""

    __slots__ = ("_dump_key", "_dump_value", "_load_key", "_load_value", "_record", "_rows", "spec")

    def __init__(self, spec: StoreSpec, rows: OverlayStore, record: CurrentRecord) -> None:
        self.spec = spec
        self._rows = rows
        self._record = record
        self._dump_key = spec.key.serialize
        self._load_key = spec.key.deserialize
        self._dump_value = spec.value.serialize
        self._load_value = spec.value.deserialize

    def get(self, key: K) -> V | None:
        """Return the value of *key*, or None."""
        row = self._rows.get(self._dump_key(key))
        return None if row is None else self._load_value(row[8:])

    def lookup(self, key: K) -> tuple[V, int] | None:
        """Return value and timestamp of *key*, or None."""
        row = self._rows.get(self._dump_key(key))
        return None if row is None else (self._load_value(row[8:]), _unpack_from(row)[0])

    def put(self, key: K, value: V | None, timestamp_ms: int | None = None) -> None:
        """Set the value of *key*; None removes it. *timestamp_ms* None: that of the record under way."""
        if value is None:
            self._rows.put(self._dump_key(key), None)
        else:
            moment = self._record.timestamp_ms if timestamp_ms is None else timestamp_ms
            self._rows.put(self._dump_key(key), _pack(moment) + self._dump_value(value))

    def put_bytes(self, key: bytes, value: bytes | None, timestamp_ms: int) -> None:
        """Set a row as it came from the source topic that is this store's changelog; no error policy takes it back."""
        self._rows.put_for_good(key, None if value is None else _pack(timestamp_ms) + value)

    def put_if_absent(self, key: K, value: V) -> V | None:
        """Set the value of *key* unless it has one; return the one that it had."""
        found = self.get(key)
        if found is None:
            self.put(key, value)
        return found

    def delete(self, key: K) -> V | None:
        """Remove *key* and return the value that it had."""
        found = self.get(key)
        if found is not None:
            self._rows.put(self._dump_key(key), None)
        return found

    def range(
        self, from_key: K | None = None, to_key: K | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[K, V]]:
        """Return entries from *from_key* to *to_key*, both included, None for no bound, in the order of bytes."""
        start = b"" if from_key is None else self._dump_key(from_key)
        stop = None if to_key is None else self._dump_key(to_key) + b"\0"
        return self._entries(start, stop, reverse)

    def all(self, *, reverse: bool = False) -> Iterator[tuple[K, V]]:
        """Return all entries in the order of the keys' bytes."""
        return self._entries(b"", None, reverse)

    def prefix(self, prefix: bytes, *, reverse: bool = False) -> Iterator[tuple[K, V]]:
        """Return the entries whose key's bytes start with *prefix*."""
        return self._entries(prefix, after_prefix(prefix), reverse)

    def rows(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[K, V, int]]:
        """Return key, value and timestamp of the entries whose key's bytes lie from *start* up to *stop*."""
        for key, row in self._rows.scan(start, stop):
            yield self._load_key(key), self._load_value(row[8:]), _unpack_from(row)[0]

    def approximate_count(self) -> int:
        """Return how many entries there are, by counting them."""
        return sum(1 for _ in self._rows.scan(b"", None))

    def _entries(self, start: bytes, stop: bytes | None, reverse: bool) -> Iterator[tuple[K, V]]:
        found: Iterable[tuple[bytes, bytes]] = self._rows.scan(start, stop)
        for key, row in reversed(list(found)) if reverse else found:
            yield self._load_key(key), self._load_value(row[8:])


def after_prefix(prefix: bytes) -> bytes | None:
    """Return the least bytes that are greater than all that start with *prefix*; None: there are none."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,)) if kept else None
