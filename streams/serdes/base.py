"""What a serde is, and the serdes of plain values, each in the byte layout of Kafka's own serializers.

A serde turns one Python value into the bytes of a key or value and back. It is a value itself: immutable, shared by all
threads, without I/O (the Avro serde, which asks a schema registry, is the one exception). `None` never reaches a serde:
a null key stays a null key, and a null value is a tombstone. Invariant: `deserialize(serialize(x)) == x`, and the bytes
of equal keys are equal, because the partition of a key and its row in a store are found by its bytes.

Sources of the layouts: `org.apache.kafka.common.serialization` (StringSerializer, LongSerializer, ...).
"""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, runtime_checkable

from streams.errors import SerializationError

T = TypeVar("T")


@runtime_checkable
class Serde(Protocol[T]):
    """Serialiser and deserialiser of one type of values. Any thread.

    `name`: how messages and `describe` call it.
    """

    @property
    def name(self) -> str: ...

    def serialize(self, value: T) -> bytes:
        """Return the bytes of *value*. Raises SerializationError for a value that is not of this serde's type."""
        ...

    def deserialize(self, data: bytes) -> T:
        """Return the value of *data*. Raises SerializationError when they are not bytes of this serde."""
        ...


class FunctionSerde(Generic[T]):
    """A serde made of two functions; whatever they raise becomes a SerializationError that names the serde.

    For a user's own format: `FunctionSerde("point", dump=..., load=...)`.
    """

    __slots__ = ("_dump", "_load", "name")

    def __init__(self, name: str, *, dump: Callable[[T], bytes], load: Callable[[bytes], T]) -> None:
        self.name = name
        self._dump = dump
        self._load = load

    def serialize(self, value: T) -> bytes:
        """Return the bytes of *value*."""
        try:
            return self._dump(value)
        except Exception as error:
            raise SerializationError(f"{self.name} cannot write {type(value).__name__} {value!r:.100}") from error

    def deserialize(self, data: bytes) -> T:
        """Return the value of *data*."""
        try:
            return self._load(data)
        except Exception as error:
            raise SerializationError(f"{self.name} cannot read {data[:100]!r}") from error

    def __repr__(self) -> str:
        return f"<serde {self.name}>"
