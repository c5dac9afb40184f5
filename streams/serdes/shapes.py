"""Dataclasses from plain values (what JSON and Avro read) and back. Nothing here knows a format.

A field may be str, int, Decimal, float, bool, Any, another such dataclass, `X | None`, `list[X]`, `tuple[X, ...]` or
`dict[str, X]`. Strict where a wrong type would travel on unseen: a str is not taken for a number nor the reverse, and
a member that the dataclass does not have is refused. Immutable; any thread.
"""

import dataclasses
from collections.abc import Callable
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from streams.errors import ConfigError

Convert = Callable[[Any], Any]


def dataclass_shape(shape: type) -> tuple[Convert, Convert]:
    """Return (load, dump) of a dataclass. Raises ConfigError for a class or a field that it cannot carry."""
    if not (isinstance(shape, type) and dataclasses.is_dataclass(shape)):
        raise ConfigError(f"{shape!r} is not a dataclass")
    return _loader(shape, ()), _dump


def _dump(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _dump(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [_dump(item) for item in value]
    if isinstance(value, dict):
        return {name: _dump(item) for name, item in value.items()}
    return value


def _loader(hint: Any, path: tuple[type, ...]) -> Convert:
    if hint is Any:
        return lambda value: value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _object_loader(hint, path)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _optional_loader(arguments, path)
    if origin in (list, tuple) and arguments:
        item, make = _loader(arguments[0], path), origin
        return lambda value: make([item(each) for each in _of(value, list)])
    if origin is dict and arguments and arguments[0] is str:
        item = _loader(arguments[1], path)
        return lambda value: {name: item(each) for name, each in _of(value, dict).items()}
    if hint in (str, int, bool, Decimal, float):
        return _SCALARS[hint]
    raise ConfigError(f"a field of type {hint!r} cannot be read from a record; use `load` and `dump` of your own")


def _optional_loader(arguments: tuple[Any, ...], path: tuple[type, ...]) -> Convert:
    kinds = [each for each in arguments if each is not NoneType]
    if len(kinds) != 1:
        raise ConfigError(f"a field of several types ({arguments!r}) cannot be read; use `load` and `dump` of your own")
    inner = _loader(kinds[0], path)
    return lambda value: None if value is None else inner(value)


def _object_loader(shape: type, path: tuple[type, ...]) -> Convert:
    if shape in path:
        raise ConfigError(f"{shape.__name__} contains itself")
    hints = get_type_hints(shape)
    fields = {f.name: _loader(hints[f.name], (*path, shape)) for f in dataclasses.fields(shape) if f.init}

    def load(value: Any) -> Any:
        members = _of(value, dict)
        unknown = members.keys() - fields.keys()
        if unknown:
            raise ValueError(f"{shape.__name__} has no member {sorted(unknown)[0]!r}")
        return shape(**{name: fields[name](each) for name, each in members.items()})

    return load


def _of(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} instead of {kind.__name__}")
    return value


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise TypeError(f"{type(value).__name__} instead of a number")
    return Decimal(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise TypeError(f"{type(value).__name__} instead of a number")
    return float(value)


_SCALARS: dict[Any, Convert] = {
    str: lambda value: _of(value, str),
    int: lambda value: _of(value, int),
    bool: lambda value: _of(value, bool),
    Decimal: _decimal,
    float: _float,
}
