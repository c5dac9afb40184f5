"""The store of windows: values by key and start of the window, forgotten when stream time has gone on far enough.

Rows of one stretch of time (a segment) lie together, so that what has outlived its retention goes as one range, and a
key's windows are found with one short scan in each segment. Expired rows are invisible from the moment on at which they
expire, whenever they are removed. One task, one thread; see `streams.stores.typed`.
"""

import struct
from collections.abc import Iterator
from typing import Generic, TypeVar

from streams.serdes.windowed import MAX_TIME_MS, Windowed
from streams.stores.overlay import OverlayStore
from streams.topology.nodes import CurrentRecord, Moment
from streams.topology.stores import StoreSpec

K = TypeVar("K")
V = TypeVar("V")

_MOMENT = struct.Struct(">q")
_PLACE = struct.Struct(">qi")
_pack, _unpack_from = _MOMENT.pack, _MOMENT.unpack_from
_MAX_NUMBER = b"\x7f\xff\xff\xff"


class WindowStore(Generic[K, V]):
    """Values by key and start (Kafka Streams: TimestampedWindowStore). Starts and bounds are Unix ms, both included."""

    __slots__ = (
        "_dump_key",
        "_dump_value",
        "_has_duplicates",
        "_load_key",
        "_load_value",
        "_observed",
        "_record",
        "_retention_ms",
        "_rows",
        "_segment_ms",
        "_size_ms",
        "spec",
    )

    def __init__(self, spec: StoreSpec, rows: OverlayStore, record: CurrentRecord, observed: Moment) -> None:
        """*observed*: the greatest start that was ever put, which is what retention counts from."""
        self.spec = spec
        self._rows = rows
        self._record = record
        self._observed = observed
        self._retention_ms = spec.retention_ms
        self._segment_ms = spec.segment_ms
        self._size_ms = spec.window_size_ms
        self._has_duplicates = spec.has_duplicates
        self._dump_key, self._load_key = spec.key.serialize, spec.key.deserialize
        self._dump_value, self._load_value = spec.value.serialize, spec.value.deserialize

    def lookup(self, key: K, start_ms: int) -> tuple[V, int] | None:
        """Return value and timestamp of the window that starts at *start_ms*, or None."""
        if start_ms <= self._observed.value - self._retention_ms:
            return None
        row = self._rows.get(_pack(start_ms // self._segment_ms) + self._dump_key(key) + _PLACE.pack(start_ms, 0))
        return None if row is None else (self._load_value(row[8:]), _unpack_from(row)[0])

    def get(self, key: K, start_ms: int) -> V | None:
        """Return the value of the window that starts at *start_ms*, or None."""
        found = self.lookup(key, start_ms)
        return None if found is None else found[0]

    def put(self, key: K, value: V | None, start_ms: int, timestamp_ms: int | None = None) -> bool:
        """Set the value of a window; None removes it. A window that has expired already is not kept: False."""
        observed = self._observed
        if start_ms > observed.value:
            observed.value = start_ms
        segment = start_ms // self._segment_ms
        if segment < (observed.value - self._retention_ms) // self._segment_ms:
            return False
        number = 0
        if self._has_duplicates:
            if value is None:
                return True  # nobody can say which of them
            number = self._next_number(_pack(segment) + self._dump_key(key) + _pack(start_ms))
        place = _pack(segment) + self._dump_key(key) + _PLACE.pack(start_ms, number)
        if value is None:
            self._rows.put(place, None)
        else:
            moment = self._record.timestamp_ms if timestamp_ms is None else timestamp_ms
            self._rows.put(place, _pack(moment) + self._dump_value(value))
        return True

    def fetch(self, key: K, from_ms: int, to_ms: int, *, reverse: bool = False) -> Iterator[tuple[int, V]]:
        """Return start and value of the windows of *key* that start from *from_ms* to *to_ms*, the earliest first."""
        for start_ms, value, _ in self.fetch_rows(key, from_ms, to_ms, reverse=reverse):
            yield start_ms, value

    def fetch_rows(self, key: K, from_ms: int, to_ms: int, *, reverse: bool = False) -> Iterator[tuple[int, V, int]]:
        """Do as `fetch`; each item has the timestamp, too."""
        wanted = self._dump_key(key)
        length = 8 + len(wanted) + _PLACE.size
        first, last = self._bounds(from_ms, to_ms)
        if first > last:
            return
        found: list[tuple[int, bytes]] = []
        for segment in range(first // self._segment_ms, last // self._segment_ms + 1):
            prefix = _pack(segment) + wanted
            for place, row in self._rows.scan(prefix + _pack(first), prefix + _pack(last) + _MAX_NUMBER + b"\0"):
                if len(place) == length:  # otherwise it is of a longer key that begins alike
                    found.append((_unpack_from(place, length - _PLACE.size)[0], row))
        for start_ms, row in reversed(found) if reverse else found:
            yield start_ms, self._load_value(row[8:]), _unpack_from(row)[0]

    def fetch_all(
        self,
        from_ms: int = 0,
        to_ms: int = MAX_TIME_MS,
        *,
        from_key: K | None = None,
        to_key: K | None = None,
    ) -> Iterator[tuple[Windowed[K], V, int]]:
        """Return windowed key, value and timestamp of the windows that start from *from_ms* to *to_ms*, of keys whose
        bytes lie from *from_key* to *to_key*. They come segment by segment, and in each by the bytes of the keys."""
        low = b"" if from_key is None else self._dump_key(from_key)
        high = None if to_key is None else self._dump_key(to_key)
        first, last = self._bounds(from_ms, to_ms)
        begin = _pack(max(0, first) // self._segment_ms)
        for place, row in self._rows.scan(begin, _pack(min(last // self._segment_ms + 1, MAX_TIME_MS))):
            key = place[8 : -_PLACE.size]
            (start_ms,) = _unpack_from(place, len(place) - _PLACE.size)
            if first <= start_ms <= last and key >= low and (high is None or key <= high):
                windowed = Windowed(self._load_key(key), start_ms, min(start_ms + self._size_ms, MAX_TIME_MS))
                yield windowed, self._load_value(row[8:]), _unpack_from(row)[0]

    def expired_before(self) -> bytes:
        """Return the key of rows before which all have expired: they may be removed at any time."""
        return self.spec.expired_before(self._observed.value)

    def _bounds(self, from_ms: int, to_ms: int) -> tuple[int, int]:
        """Return the bounds within what is not expired and what was ever put."""
        first = max(0, from_ms, self._observed.value - self._retention_ms + 1)
        return first, min(to_ms, self._observed.value)

    def _next_number(self, prefix: bytes) -> int:
        """Return a number that no row of this key and start has: the next one after those that are kept."""
        number = -1
        for place, _ in self._rows.scan(prefix, prefix + _MAX_NUMBER + b"\0"):
            if len(place) == len(prefix) + 4:
                number = int.from_bytes(place[-4:], "big", signed=True)
        return number + 1
