"""Keys of windows, and their serdes in the byte layout of Kafka Streams.

A windowed key is the key and its window: of a tumbling or hopping window [start, end), of a session [start, end],
both ends in Unix milliseconds. Bytes of a windowed key (WindowKeySchema.toBinary): the key, then the start in 8
bytes; the end follows from the size that reader and writer agree on. Of a session (SessionKeySchema.toBinary): the
key, end, start.
"""

import struct
from typing import Generic, NamedTuple, TypeVar

from streams.errors import SerializationError
from streams.serdes.base import Serde

K = TypeVar("K")

_MOMENT = struct.Struct(">q")
_TWO_MOMENTS = struct.Struct(">qq")
MAX_TIME_MS = (1 << 63) - 1


class Windowed(NamedTuple, Generic[K]):
    """A key in a window. `start_ms` and `end_ms`: Unix time; the end is outside a time window and inside a session."""

    key: K
    start_ms: int
    end_ms: int

    def __str__(self) -> str:
        return f"[{self.key}@{self.start_ms}/{self.end_ms}]"


class TimeWindowedSerde(Generic[K]):
    """Windowed keys of windows of *size_ms*: key, start (8 bytes)."""

    __slots__ = ("_inner", "_size_ms", "name")

    def __init__(self, inner: Serde[K], size_ms: int) -> None:
        self.name = f"windowed<{inner.name}>"
        self._inner = inner
        self._size_ms = size_ms

    def serialize(self, value: Windowed[K]) -> bytes:
        """Return the bytes of *value*."""
        return self._inner.serialize(value.key) + _MOMENT.pack(value.start_ms)

    def serialize_base_key(self, value: Windowed[K]) -> bytes:
        """Return the bytes by which a record of *value* finds its partition: those of the key, whatever the window."""
        return self._inner.serialize(value.key)

    def deserialize(self, data: bytes) -> Windowed[K]:
        """Return the windowed key of *data*. Raises SerializationError when they are too short."""
        if len(data) < _MOMENT.size:
            raise SerializationError(f"{self.name} cannot read {len(data)} bytes")
        (start_ms,) = _MOMENT.unpack_from(data, len(data) - _MOMENT.size)
        end_ms = min(start_ms + self._size_ms, MAX_TIME_MS)
        return Windowed(self._inner.deserialize(data[: -_MOMENT.size]), start_ms, end_ms)

    def __repr__(self) -> str:
        return f"<serde {self.name}>"


class SessionWindowedSerde(Generic[K]):
    """Windowed keys of sessions: key, end, start (8 bytes each)."""

    __slots__ = ("_inner", "name")

    def __init__(self, inner: Serde[K]) -> None:
        self.name = f"session<{inner.name}>"
        self._inner = inner

    def serialize(self, value: Windowed[K]) -> bytes:
        """Return the bytes of *value*."""
        return self._inner.serialize(value.key) + _TWO_MOMENTS.pack(value.end_ms, value.start_ms)

    def serialize_base_key(self, value: Windowed[K]) -> bytes:
        """Return the bytes by which a record of *value* finds its partition: those of the key, whatever the session."""
        return self._inner.serialize(value.key)

    def deserialize(self, data: bytes) -> Windowed[K]:
        """Return the windowed key of *data*. Raises SerializationError when they are too short."""
        if len(data) < _TWO_MOMENTS.size:
            raise SerializationError(f"{self.name} cannot read {len(data)} bytes")
        end_ms, start_ms = _TWO_MOMENTS.unpack_from(data, len(data) - _TWO_MOMENTS.size)
        return Windowed(self._inner.deserialize(data[: -_TWO_MOMENTS.size]), start_ms, end_ms)

    def __repr__(self) -> str:
        return f"<serde {self.name}>"
