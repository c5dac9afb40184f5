"""The serdes of plain values, each in the byte layout of Kafka's own serializer of that type.

Sources: `org.apache.kafka.common.serialization`: StringSerializer (UTF-8), ByteArraySerializer, IntegerSerializer and
LongSerializer (big-endian two's complement, so negative numbers sort behind positive ones), DoubleSerializer (the bits
of IEEE 754, big-endian), BooleanSerializer, UUIDSerializer (the text). Immutable; any thread.
"""

import struct
from uuid import UUID

from streams.errors import SerializationError
from streams.serdes.base import FunctionSerde

_INT = struct.Struct(">i")
_LONG = struct.Struct(">q")
_DOUBLE = struct.Struct(">d")


class StringSerde:
    """UTF-8. A class of its own, because nothing is called more often."""

    __slots__ = ()
    name = "str"

    def serialize(self, value: str) -> bytes:
        """Return the UTF-8 of *value*. Raises SerializationError for anything but text without lone surrogates."""
        try:
            return value.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise SerializationError(f"str cannot write {type(value).__name__} {value!r:.100}") from error

    def deserialize(self, data: bytes) -> str:
        """Return the text of *data*. Raises SerializationError for what is not UTF-8."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise SerializationError(f"str cannot read {data[:100]!r}: not UTF-8") from error

    def __repr__(self) -> str:
        return "<serde str>"


def _bytes(value: bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("not bytes")
    return value


def _load_int(data: bytes) -> int:
    return _INT.unpack(data)[0]  # type: ignore[no-any-return]  # the layout says what it is


def _load_long(data: bytes) -> int:
    return _LONG.unpack(data)[0]  # type: ignore[no-any-return]  # the layout says what it is


def _load_double(data: bytes) -> float:
    return _DOUBLE.unpack(data)[0]  # type: ignore[no-any-return]  # the layout says what it is


def _dump_bool(value: bool) -> bytes:
    if not isinstance(value, bool):
        raise TypeError("not a bool")
    return b"\x01" if value else b"\x00"


def _load_bool(data: bytes) -> bool:
    return (b"\x00", b"\x01").index(data) == 1


#: Text in UTF-8; the usual serde of str.
STRING = StringSerde()
#: Bytes as they are.
BYTES: FunctionSerde[bytes] = FunctionSerde("bytes", dump=_bytes, load=_bytes)
#: Whole numbers in 4 bytes, big-endian, signed. Raises SerializationError for a number that does not fit.
INTEGER: FunctionSerde[int] = FunctionSerde("int32", dump=_INT.pack, load=_load_int)
#: Whole numbers in 8 bytes, big-endian, signed: what `count` stores, and the usual serde of int.
LONG: FunctionSerde[int] = FunctionSerde("int64", dump=_LONG.pack, load=_load_long)
#: 8 bytes (IEEE 754), big-endian; the usual serde of float.
DOUBLE: FunctionSerde[float] = FunctionSerde("float64", dump=_DOUBLE.pack, load=_load_double)
#: 1 byte, 0 or 1.
BOOLEAN: FunctionSerde[bool] = FunctionSerde("bool", dump=_dump_bool, load=_load_bool)
#: The text of a UUID, 36 characters, as Kafka's UUIDSerializer.
UUID_TEXT: FunctionSerde[UUID] = FunctionSerde(
    "uuid", dump=lambda value: str(value).encode("ascii"), load=lambda data: UUID(data.decode("ascii"))
)
