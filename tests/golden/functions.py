"""The vocabulary of the cases in Python: each function exactly as README.md says, none more.

Tables by kind: a name gives a maker, which takes the function's argument (or None). The driver in Java has the same
names; test_files.py compares the README with it, and test_golden.py these tables with it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from streams.serdes import Windowed

Maker = Callable[[str | None], Any]
# Types of results that depend on what the function is given: the stream's key, its value, its key without the window.
KEY, VALUE, KEY_INSIDE = "<key>", "<value>", "<key inside>"


class FunctionFailed(Exception):
    """A function of a case failed as the case wants it to."""


@dataclass(frozen=True)
class Mapper:
    """A function of key and value with the type of its result."""

    apply: Callable[[Any, Any], Any]
    type: str = VALUE


@dataclass(frozen=True)
class PairMapper:
    """A function of key and value with the types of the keys and values that it gives."""

    apply: Callable[[Any, Any], Any]
    key: str
    value: str


@dataclass(frozen=True)
class Aggregator:
    """What aggregates: initial value, function of key, value and aggregate, and merger of two aggregates."""

    initial: Any
    apply: Callable[[Any, Any, Any], Any]
    merge: Callable[[Any, Any], Any]
    type: str


@dataclass(frozen=True)
class Joiner:
    """A function of key, left and right value with the type of its result: KEY stands for the left, VALUE for the right
    value's."""

    apply: Callable[[Any, Any, Any], Any]
    type: str = "string"
    needs_key: bool = False


def text(value: Any) -> str:
    """Return *text(x)* of README.md."""
    if value is None:
        return "null"
    if isinstance(value, Windowed):
        return f"{text(value.key)}@{value.start_ms}/{value.end_ms}"
    assert isinstance(value, str | int), f"no text for {type(value)}"
    return str(value)


def _mapper(function: Callable[[Any], Any], type_: str = VALUE) -> Mapper:
    return Mapper(lambda _, value: None if value is None else function(value), type_)


def _predicate(function: Callable[[Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda _, value: value is not None and function(value)


def _to_long(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise FunctionFailed(f"no number: {value}") from None


def _fail_on(value: Any, poison: str) -> Any:
    if text(value) == poison:
        raise FunctionFailed(f"told to fail on {poison}")
    return value


def _before_colon(value: str) -> str | None:
    return value.partition(":")[0] if ":" in value else None


def _after_colon(value: str) -> str | None:
    return value.partition(":")[2] if ":" in value else None


def _words(value: str | None) -> list[str]:
    return [] if value is None else [word for word in value.split(" ") if word]


def _given(argument: str | None) -> str:
    assert argument is not None, "this function needs an argument"
    return argument


def _number(argument: str | None) -> int:
    return int(_given(argument))


PREDICATES: dict[str, Maker] = {
    "all": lambda _: lambda key, value: True,
    "none": lambda _: lambda key, value: False,
    "is_null": lambda _: lambda key, value: value is None,
    "length_gt": lambda x: _predicate(lambda value: len(value) > _number(x)),
    "starts_with": lambda x: _predicate(lambda value: value.startswith(_given(x))),
    "value_is": lambda x: _predicate(lambda value: text(value) == x),
    "key_is": lambda x: lambda key, value: text(key) == x,
    "greater_than": lambda x: _predicate(lambda value: value > _number(x)),
}

VALUE_MAPPERS: dict[str, Maker] = {
    "identity": lambda _: _mapper(lambda value: value),
    "upper": lambda _: _mapper(str.upper),
    "reverse": lambda _: _mapper(lambda value: value[::-1]),
    "length": lambda _: _mapper(len, "long"),
    "append": lambda x: _mapper(lambda value: text(value) + _given(x), "string"),
    "constant": lambda x: Mapper(lambda key, value: _given(x), "string"),
    "null_if": lambda x: _mapper(lambda value: None if text(value) == x else value),
    "to_long": lambda _: _mapper(_to_long, "long"),
    "to_text": lambda _: _mapper(text, "string"),
    "before_colon": lambda _: _mapper(_before_colon),
    "after_colon": lambda _: _mapper(_after_colon),
    "key_and_value": lambda _: Mapper(lambda key, value: f"{text(key)}:{text(value)}", "string"),
    "fail_on": lambda x: _mapper(lambda value: _fail_on(value, _given(x))),
}

FLAT_VALUE_MAPPERS: dict[str, Maker] = {
    "split_words": lambda _: Mapper(lambda key, value: _words(value), "string"),
    "letters": lambda _: Mapper(lambda key, value: list(value or ""), "string"),
}

MAPPERS: dict[str, Maker] = {
    "swap": lambda _: PairMapper(lambda key, value: (value, key), VALUE, KEY),
    "key_from_first_letter": lambda _: PairMapper(
        lambda key, value: (value[:1] or None if value is not None else None, value), "string", VALUE
    ),
    "value_and_length": lambda _: PairMapper(
        lambda key, value: (value, None if value is None else len(value)), VALUE, "long"
    ),
}

FLAT_MAPPERS: dict[str, Maker] = {
    "words_to_keys": lambda _: PairMapper(lambda key, value: [(word, key) for word in _words(value)], "string", KEY),
    "both_ways": lambda _: PairMapper(lambda key, value: [(key, value), (value, key)], KEY, VALUE),
}

KEY_SELECTORS: dict[str, Maker] = {
    "value": lambda _: Mapper(lambda key, value: value),
    "key": lambda _: Mapper(lambda key, value: key, KEY),
    "first_letter": lambda _: _mapper(lambda value: value[:1] or None, "string"),
    "before_colon": lambda _: _mapper(_before_colon, "string"),
    "after_colon": lambda _: _mapper(_after_colon, "string"),
    "no_key": lambda _: Mapper(lambda key, value: None, "string"),
    "window_text": lambda _: Mapper(lambda key, value: text(key), "string"),
    "window_key": lambda _: Mapper(lambda key, value: key.key, KEY_INSIDE),
}


def _reducer(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda aggregate, value: None if value is None else function(aggregate, value)


REDUCERS: dict[str, Maker] = {
    "concat": lambda _: _reducer(lambda aggregate, value: aggregate + value),
    "sum": lambda _: _reducer(lambda aggregate, value: aggregate + value),
    "max": lambda _: _reducer(max),
    "last": lambda _: _reducer(lambda aggregate, value: value),
    "first": lambda _: _reducer(lambda aggregate, value: aggregate),
    "concat_or_null": lambda x: _reducer(lambda aggregate, value: None if text(value) == x else aggregate + value),
    "plus": lambda _: _reducer(lambda aggregate, value: f"{aggregate}+{value}"),
    "minus": lambda _: _reducer(lambda aggregate, value: f"{aggregate}-{value}"),
    "subtract": lambda _: _reducer(lambda aggregate, value: aggregate - value),
}


def _texts(function: Callable[[Any, Any, Any], Any], between: str = "") -> Aggregator:
    return Aggregator("", function, lambda a, b: f"{a}{between}{b}", "string")


def _longs(function: Callable[[int, Any], int], merge: Callable[[int, int], int]) -> Aggregator:
    return Aggregator(
        0, lambda key, value, aggregate: aggregate if value is None else function(aggregate, value), merge, "long"
    )


def _add(a: int, b: int) -> int:
    return a + b


def _subtract(a: int, b: int) -> int:
    return a - b


AGGREGATORS: dict[str, Maker] = {
    "concat": lambda _: _texts(lambda key, value, aggregate: aggregate + text(value)),
    "list": lambda _: _texts(lambda key, value, aggregate: f"{aggregate}[{text(value)}]", "|"),
    "list_or_null": lambda x: _texts(
        lambda key, value, aggregate: None if text(value) == x else f"{aggregate or ''}[{text(value)}]", "|"
    ),
    "sum": lambda _: _longs(_add, _add),
    "sum_length": lambda _: _longs(lambda aggregate, value: aggregate + len(value), _add),
    "keys_and_values": lambda _: _texts(lambda key, value, aggregate: f"{aggregate}{text(key)}{text(value)};"),
    "plus": lambda _: _texts(lambda key, value, aggregate: f"{aggregate}+{text(value)}"),
    "minus": lambda _: _texts(lambda key, value, aggregate: f"{aggregate}-{text(value)}"),
    "subtract": lambda _: _longs(_subtract, _subtract),
}

JOINERS: dict[str, Maker] = {
    "concat_with_plus": lambda _: Joiner(lambda key, left, right: f"{text(left)}+{text(right)}"),
    "with_key": lambda _: Joiner(lambda key, left, right: f"{text(key)}:{text(left)}+{text(right)}", needs_key=True),
    "left": lambda _: Joiner(lambda key, left, right: left, KEY),
    "right": lambda _: Joiner(lambda key, left, right: right, VALUE),
    "null_if_equal": lambda _: Joiner(
        lambda key, left, right: None if text(left) == text(right) else f"{text(left)}+{text(right)}"
    ),
}

KINDS: dict[str, Iterable[str]] = {
    "predicate": PREDICATES,
    "value mapper": VALUE_MAPPERS,
    "flat value mapper": FLAT_VALUE_MAPPERS,
    "mapper": MAPPERS,
    "flat mapper": FLAT_MAPPERS,
    "key selector": KEY_SELECTORS,
    "reducer": REDUCERS,
    "aggregator": AGGREGATORS,
    "joiner": JOINERS,
}
