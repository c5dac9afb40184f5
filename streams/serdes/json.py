"""JSON, with decimals that stay decimals: `13.40` read is `Decimal("13.40")`, and written again it is `13.40`.

A binary float would make it `13.4`. So a number with a fraction or an exponent is read as a Decimal, whole numbers as
ints. Members keep the order in which they were given and nothing is put between tokens: values built alike have equal
bytes, which is what a key needs. A Decimal is written with the digits that it has, without an exponent (`1E+3` is
`1000`) unless that took more than some dozens of digits.

A *shape* stands between the plain value and the user's: a dataclass, or anything with `load` and `dump` (a marshmallow
schema). It knows nothing of JSON, and this module nothing of marshmallow.
"""

import json
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any, Protocol, TypeVar

import orjson

from streams.errors import SerializationError
from streams.serdes.shapes import dataclass_shape

T = TypeVar("T")

_MAX_PLAIN_DIGITS = 60  # a Decimal of a larger exponent keeps it: 1E+1000000 must not take a megabyte
_MAX_DEPTH = 64
_PLAIN = frozenset({str, int, bool, type(None)})


class Schema(Protocol):
    """What a marshmallow schema looks like from here: `load` raises what it likes for a value that it refuses."""

    def load(self, data: Any) -> Any: ...

    def dump(self, obj: Any) -> Any: ...


class JsonSerde:
    """JSON in UTF-8. `JsonSerde()` reads and writes dict, list, str, int, Decimal, bool and None (and writes float).

    Immutable; any thread. JSON `null` is a value like others here: a tombstone is a record without a value.
    """

    __slots__ = ("_dump", "_load", "name")

    def __init__(
        self,
        *,
        schema: Schema | None = None,
        load: Callable[[Any], Any] | None = None,
        dump: Callable[[Any], Any] | None = None,
        name: str = "json",
    ) -> None:
        """*schema* or *load* and *dump*: turn the plain value into the user's and back."""
        self.name = name
        self._load = schema.load if schema is not None else load
        self._dump = schema.dump if schema is not None else dump

    @classmethod
    def of(cls, shape: type) -> "JsonSerde":
        """Return the serde of a dataclass; see `streams.serdes.shapes` for what its fields may be."""
        load, dump = dataclass_shape(shape)
        return cls(load=load, dump=dump, name=f"json<{shape.__name__}>")

    def serialize(self, value: Any) -> bytes:
        """Return the JSON of *value*. Raises SerializationError for NaN, infinities and what JSON cannot say."""
        try:
            return _dumped(value if self._dump is None else self._dump(value))
        except Exception as error:
            raise SerializationError(f"{self.name} cannot write {type(value).__name__}: {error}") from error

    def deserialize(self, data: bytes) -> Any:
        """Return the value of *data*. Raises SerializationError for what is not JSON, or what the shape refuses."""
        try:
            value = _loaded(data.decode())
            return value if self._load is None else self._load(value)
        except Exception as error:
            raise SerializationError(f"{self.name} cannot read {data[:100]!r}: {error}") from error

    def __repr__(self) -> str:
        return f"<serde {self.name}>"


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


_decoder: Any = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse_constant)
_decode, _scan = _decoder.decode, _decoder.scan_once


def _loaded(text: str) -> Any:
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        return _decode(text)  # It begins with white space, or says what is wrong.
    return value if end == len(text) else _decode(text)


def _dumped(value: Any) -> bytes:
    return _plain(value) or _text(value, 0).encode()


def _plain(value: Any) -> bytes | None:
    """Return the JSON of *value* as orjson makes it, at a third of the price; None: the bytes might be others, or it is
    something to refuse."""
    if type(value) is not dict or not _PLAIN.issuperset(map(type, value.values())):
        return None
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # also an int of more than 64 bits
        return None


def _text(value: Any, depth: int) -> str:
    """Return the JSON of *value*, which lies so deep."""
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is int:
        return repr(value)
    if value is None or kind is bool:
        return "null" if value is None else "true" if value else "false"
    if kind is Decimal or kind is float:
        return _scalar(value)
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    if kind is dict or isinstance(value, Mapping):
        plain = _plain(value)
        return _object(value, depth) if plain is None else plain.decode()
    if isinstance(value, list | tuple):
        return "[" + ",".join([_text(item, depth + 1) for item in value]) + "]"
    return _scalar(value)


def _object(value: Mapping[Any, Any], depth: int) -> str:
    parts = []
    for name, item in value.items():
        if not isinstance(name, str):
            raise TypeError(f"the name of a member is {type(name).__name__}, not str")
        kind = type(item)
        text = encode_basestring(item) if kind is str else repr(item) if kind is int else _text(item, depth + 1)
        parts.append(f"{encode_basestring(name)}:{text}")
    return "{" + ",".join(parts) + "}"


def _scalar(value: Any) -> str:
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"{value} is not JSON")
        text = str(value)
        if "E" not in text and "e" not in text:
            return text
        plain = abs(value.adjusted()) + len(value.as_tuple().digits) <= _MAX_PLAIN_DIGITS
        return format(value, "f") if plain else text
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not JSON")
        return float.__repr__(value)
    if isinstance(value, str):
        return encode_basestring(str(value))
    if isinstance(value, int):
        return int.__repr__(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


#: JSON without a shape; the usual serde of dict and list.
JSON = JsonSerde()
