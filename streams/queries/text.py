"""Keys as the text of a URL, and rows as JSON: what a serde's bytes look like to somebody who has no serde.

A key is written as its type is usually written: text as it is, numbers in digits, JSON as JSON, bytes in base64. With
`encoding=base64` any key is the base64url of its bytes. In JSON a decimal keeps its digits, a windowed key is
`{"key":..,"window":{"start":..,"end":..}}`, bytes are `{"base64":".."}`, and so is a value of a type that JSON does not
know. Pure; any thread.
"""

import dataclasses
import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from streams.errors import SerializationError
from streams.queries.asking import BadParameter
from streams.serdes import BOOLEAN, BYTES, DOUBLE, INTEGER, JSON, LONG, STRING, UUID_TEXT, JsonSerde, Serde, Windowed
from streams.serdes.windowed import MAX_TIME_MS
from streams.topology.stores import StoreKind, StoreSpec

BASE64 = "base64"

_MOMENT_BYTES = 8


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text]


def _base64(text: str) -> bytes:
    return b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)


_PARSERS: Mapping[int, Callable[[str], Any]] = {
    id(STRING): str,
    id(INTEGER): int,
    id(LONG): int,
    id(DOUBLE): float,
    id(BOOLEAN): _boolean,
    id(UUID_TEXT): UUID,
    id(BYTES): _base64,
}


def key_of(serde: Serde[Any], text: bytes, *, encoding: str | None, parameter: str) -> bytes:
    """Return the bytes of the key that *text*, percent-decoded, names. Raises BadParameter for *parameter*."""
    try:
        if encoding == BASE64:
            return _base64(text.decode("ascii"))
        parse = _PARSERS.get(id(serde))
        if parse is not None:
            return serde.serialize(parse(text.decode()))
        if isinstance(serde, JsonSerde):
            return serde.serialize(serde.deserialize(text))
    except (ValueError, KeyError, SerializationError) as error:
        kind = "base64" if encoding == BASE64 else f"a key of type {serde.name}"
        raise BadParameter(parameter, f"{parameter} is not {kind}") from error
    raise BadParameter(parameter, f"keys of type {serde.name} are written with encoding=base64")


def prefix_of(serde: Serde[Any], text: bytes, *, encoding: str | None) -> bytes:
    """Return the bytes with which the keys begin that *text* names. Raises BadParameter."""
    if encoding == BASE64 or serde is BYTES:
        return key_of(serde, text, encoding=BASE64, parameter="prefix")
    if serde is STRING or isinstance(serde, JsonSerde):
        return text
    raise BadParameter("prefix", f"beginnings of keys of type {serde.name} are written with encoding=base64")


def python_entry(spec: StoreSpec, place: bytes, row: bytes) -> tuple[Any, Any, int]:
    """Return key, value and timestamp of a row. The value of a membership store is True."""
    key, window = _place(spec, place)
    loaded = spec.key.deserialize(key)
    value = True if spec.kind is StoreKind.MEMBERSHIP else spec.value.deserialize(row[_MOMENT_BYTES:])
    moment = int.from_bytes(row[:_MOMENT_BYTES], "big", signed=True)
    return (loaded if window is None else Windowed(loaded, *window)), value, moment


def json_entry(spec: StoreSpec, place: bytes, row: bytes) -> bytes:
    """Return a row as `{"key":..,"value":..,"timestamp_ms":..}` without a line break."""
    key, window = _place(spec, place)
    key_json = to_json(spec.key, key)
    if window is not None:
        key_json = b'{"key":%s,"window":{"start":%d,"end":%d}}' % (key_json, *window)
    value_json = b"true" if spec.kind is StoreKind.MEMBERSHIP else to_json(spec.value, row[_MOMENT_BYTES:])
    moment = int.from_bytes(row[:_MOMENT_BYTES], "big", signed=True)
    return b'{"key":%s,"value":%s,"timestamp_ms":%d}' % (key_json, value_json, moment)


def to_json(serde: Serde[Any], data: bytes) -> bytes:
    """Return *data* as JSON: the value that *serde* reads in it, or base64 where JSON has no word for that."""
    try:
        value = serde.deserialize(data)
        return serde.serialize(value) if isinstance(serde, JsonSerde) else JSON.serialize(_plain(value))
    except (SerializationError, TypeError):
        return b'{"base64":"%s"}' % b64encode(data)


def _place(spec: StoreSpec, place: bytes) -> tuple[bytes, tuple[int, int] | None]:
    """Return the key in the key of a row, and its window."""
    if spec.kind is StoreKind.WINDOW:
        start_ms = int.from_bytes(place[-12:-4], "big", signed=True)
        return place[8:-12], (start_ms, min(start_ms + spec.window_size_ms, MAX_TIME_MS))
    if spec.kind is StoreKind.SESSION:
        end_ms, start_ms = (int.from_bytes(place[at : at + 8 or None], "big", signed=True) for at in (-16, -8))
        return place[8:-16], (start_ms, end_ms)
    return place, None


def _plain(value: Any) -> Any:
    """Return *value* made of what JSON knows. Raises TypeError."""
    if value is None or isinstance(value, str | int | Decimal):
        if isinstance(value, Decimal) and not value.is_finite():
            raise TypeError("JSON has no such number")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError("JSON has no such number")
        return value
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    if isinstance(value, Windowed):
        return {"key": _plain(value.key), "window": {"start": value.start_ms, "end": value.end_ms}}
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} is not JSON")
