"""Joiners that are told the key, for joins of streams (Kafka Streams: ValueJoinerWithKey).

A joiner gets the two values. One that needs the key, too, is passed as `with_key(joiner)`. The key must not be
changed: the result keeps it.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
V2 = TypeVar("V2")
R = TypeVar("R")

#: key, left value, right value
KeyedJoiner = Callable[[Any, Any, Any], Any]


class _WithKey(Generic[K, V, V2, R]):
    """A joiner of three arguments in the place of one of two."""

    __slots__ = ("joiner",)

    def __init__(self, joiner: Callable[[K, V, V2], R]) -> None:
        self.joiner = joiner

    def __call__(self, _left: V, _right: V2) -> R:
        raise TypeError("a joiner with_key() is for joins of a stream")


def with_key(joiner: Callable[[K, V, V2], R]) -> Callable[[V, V2], R]:
    """Return *joiner*, which gets key, left and right value, as a joiner for a join of a stream."""
    return _WithKey(joiner)


def keyed(joiner: Callable[[Any, Any], Any]) -> KeyedJoiner:
    """Return *joiner* as a function of key, left and right value."""
    if isinstance(joiner, _WithKey):
        told: KeyedJoiner = joiner.joiner
        return told
    return lambda _key, left, right: joiner(left, right)
