"""The store of sessions: values by key, end and start of the session, forgotten as windows are
(`streams.stores.windows`).

The bytes of a row's key have the end before the start, so that the sessions of a key are in the order of their ends:
those that a record can touch are the ones that end late enough. One task, one thread; see `streams.stores.typed`.
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
_SESSION = struct.Struct(">qq")
_pack, _unpack_from = _MOMENT.pack, _MOMENT.unpack_from


class SessionStore(Generic[K, V]):
    """Values by key and session (Kafka Streams: SessionStore). Starts, ends and bounds are Unix ms, all included."""

    __slots__ = (
        "_dump_key",
        "_dump_value",
        "_load_key",
        "_load_value",
        "_observed",
        "_record",
        "_retention_ms",
        "_rows",
        "_segment_ms",
        "spec",
    )

    def __init__(self, spec: StoreSpec, rows: OverlayStore, record: CurrentRecord, observed: Moment) -> None:
        """*observed*: the greatest end that was ever put, which is what retention counts from."""
        self.spec = spec
        self._rows = rows
        self._record = record
        self._observed = observed
        self._retention_ms = spec.retention_ms
        self._segment_ms = spec.segment_ms
        self._dump_key, self._load_key = spec.key.serialize, spec.key.deserialize
        self._dump_value, self._load_value = spec.value.serialize, spec.value.deserialize

    def get(self, key: K, start_ms: int, end_ms: int) -> V | None:
        """Return the value of exactly that session, or None."""
        if end_ms <= self._observed.value - self._retention_ms:
            return None
        row = self._rows.get(self._place(key, start_ms, end_ms))
        return None if row is None else self._load_value(row[8:])

    def put(self, session: Windowed[K], value: V | None, timestamp_ms: int | None = None) -> bool:
        """Set the value of a session; None removes it. One that has expired already is not kept: False."""
        key, start_ms, end_ms = session
        observed = self._observed
        if end_ms > observed.value:
            observed.value = end_ms
        if end_ms // self._segment_ms < (observed.value - self._retention_ms) // self._segment_ms:
            return False
        row = None if value is None else _pack(timestamp_ms if timestamp_ms is not None else end_ms)
        place = self._place(key, start_ms, end_ms)
        self._rows.put(place, None if row is None or value is None else row + self._dump_value(value))
        return True

    def find(self, key: K, earliest_end_ms: int = 0, latest_start_ms: int = MAX_TIME_MS) -> list[tuple[Windowed[K], V]]:
        """Return the sessions of *key* that end at *earliest_end_ms* or later and start at *latest_start_ms* or
        earlier, in the order of their ends."""
        wanted = self._dump_key(key)
        length = 8 + len(wanted) + _SESSION.size
        first = max(0, earliest_end_ms, self._observed.value - self._retention_ms + 1)
        last = self._observed.value
        found: list[tuple[Windowed[K], V]] = []
        if first > last:
            return found
        for segment in range(first // self._segment_ms, last // self._segment_ms + 1):
            prefix = _pack(segment) + wanted
            for place, row in self._rows.scan(prefix + _pack(first), prefix + _pack(last + 1)):
                if len(place) != length:
                    continue  # of a longer key that begins alike
                end_ms, start_ms = _SESSION.unpack_from(place, length - _SESSION.size)
                if start_ms <= latest_start_ms:
                    found.append((Windowed(key, start_ms, end_ms), self._load_value(row[8:])))
        return found

    def all(self) -> Iterator[tuple[Windowed[K], V, int]]:
        """Return session, value and timestamp of all that is kept, segment by segment, in each by the bytes of the
        keys."""
        oldest = self._observed.value - self._retention_ms
        for place, row in self._rows.scan(b"", None):
            end_ms, start_ms = _SESSION.unpack_from(place, len(place) - _SESSION.size)
            if end_ms > oldest:
                key = self._load_key(place[8 : -_SESSION.size])
                yield Windowed(key, start_ms, end_ms), self._load_value(row[8:]), _unpack_from(row)[0]

    def expired_before(self) -> bytes:
        """Return the key of rows before which all have expired: they may be removed at any time."""
        return self.spec.expired_before(self._observed.value)

    def _place(self, key: K, start_ms: int, end_ms: int) -> bytes:
        return _pack(end_ms // self._segment_ms) + self._dump_key(key) + _SESSION.pack(end_ms, start_ms)
