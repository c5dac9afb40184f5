"""Serdes: how keys and values become bytes. `of(str)`, or wherever a serde is asked for just `str`, finds the usual
one.

Keys and values keep the byte layouts of Kafka's own serializers, so that any Kafka client can read what is written
here, and a key has the same partition everywhere.
"""

import dataclasses
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from streams.errors import ConfigError
from streams.serdes.base import FunctionSerde, Serde
from streams.serdes.json import JSON, JsonSerde
from streams.serdes.primitives import BOOLEAN, BYTES, DOUBLE, INTEGER, LONG, STRING, UUID_TEXT
from streams.serdes.windowed import SessionWindowedSerde, TimeWindowedSerde, Windowed

__all__ = [
    "BOOLEAN",
    "BYTES",
    "DOUBLE",
    "INTEGER",
    "JSON",
    "LONG",
    "STRING",
    "UUID_TEXT",
    "FunctionSerde",
    "JsonSerde",
    "Serde",
    "SerdeLike",
    "SessionWindowedSerde",
    "TimeWindowedSerde",
    "Windowed",
    "of",
]

T = TypeVar("T")

#: A serde, or a type that has a usual one.
SerdeLike: TypeAlias = Serde[T] | type[T]

_USUAL: dict[type, Any] = {
    str: STRING,
    bytes: BYTES,
    int: LONG,
    float: DOUBLE,
    bool: BOOLEAN,
    UUID: UUID_TEXT,
    dict: JSON,
    list: JSON,
}


def of(kind: SerdeLike[T]) -> Serde[T]:
    """Return the serde of *kind*: a serde as it is; of str UTF-8, of int 8 bytes, of float 8 bytes, of dict and list
    JSON, of a dataclass JSON with its members. Raises ConfigError for any other type."""
    if not isinstance(kind, type):
        return kind
    found = _USUAL.get(kind)
    if found is None and dataclasses.is_dataclass(kind):
        found = JsonSerde.of(kind)
    if found is None:
        raise ConfigError(f"no serde is usual for {kind.__name__}: pass one, or a FunctionSerde of your own")
    return found  # type: ignore[no-any-return]  # the table pairs each type with its serde
