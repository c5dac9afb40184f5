"""Joins of two streams: records of one key that lie close enough in time, whichever came first.

Each side keeps its records in a window store, for as long as a record of the other side may still meet them. A record
that must appear even without a match waits in a third store, and goes once stream time says that nothing can come any
more. The result of a match has the later timestamp of the two, that of an unmatched record its own.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from streams.operators.joiners import KeyedJoiner
from streams.serdes import Serde
from streams.topology.nodes import Moment, Operator, OperatorContext, Process
from streams.topology.windows import JoinWindows

_HEAD = struct.Struct(">qB")
_LENGTH = struct.Struct(">I")


class Waiting(NamedTuple):
    """The key of unmatched records: they are in the order of time, then side (the right one first), then key."""

    timestamp_ms: int
    is_left: bool
    key: Any


class WaitingSerde:
    """`Waiting` in bytes, in its order."""

    name = "waiting"

    def __init__(self, key: Serde[Any]) -> None:
        self._key = key

    def serialize(self, value: Waiting) -> bytes:
        """Return the bytes of *value*."""
        return _HEAD.pack(value.timestamp_ms, value.is_left) + self._key.serialize(value.key)

    def deserialize(self, data: bytes) -> Waiting:
        """Return the key of *data*."""
        timestamp_ms, is_left = _HEAD.unpack_from(data)
        return Waiting(timestamp_ms, bool(is_left), self._key.deserialize(data[_HEAD.size :]))


class ListSerde:
    """The values of records with one key and time, in the order in which they came, each with its length before it."""

    name = "list"

    def serialize(self, value: list[bytes]) -> bytes:
        """Return the bytes of *value*."""
        return b"".join(_LENGTH.pack(len(item)) + item for item in value)

    def deserialize(self, data: bytes) -> list[bytes]:
        """Return the values of *data*."""
        found, place = [], 0
        while place < len(data):
            (length,) = _LENGTH.unpack_from(data, place)
            place += _LENGTH.size
            found.append(data[place : place + length])
            place += length
        return found


class StreamJoin(NamedTuple):
    """What both sides of one join know. `waiting_store` None: an inner join. `name`: under which they share their
    time."""

    name: str
    windows: JoinWindows
    waiting_store: str | None
    left: Serde[Any]
    right: Serde[Any]
    joiner: KeyedJoiner


def keep(store: str) -> Operator:
    """Pass each record on, then keep it for those of the other side that are still to come."""

    def make(context: OperatorContext, forward: Process) -> Process:
        put = context.store(store).put

        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            forward(key, value, timestamp_ms)
            if key is not None and value is not None and not put(key, value, timestamp_ms, timestamp_ms):
                context.drop("late")

        return process

    return make


def join_side(join: StreamJoin, other_store: str, *, is_left: bool, is_outer: bool) -> Operator:
    """Join the records of one side with what *other_store* has. *is_outer*: those without a match appear, too."""
    before_ms, after_ms = join.windows.before_ms, join.windows.after_ms
    if not is_left:
        before_ms, after_ms = after_ms, before_ms
    joiner = join.joiner if is_left else lambda key, mine, other: join.joiner(key, other, mine)
    dump = (join.left if is_left else join.right).serialize

    def make(context: OperatorContext, forward: Process) -> Process:
        others, drop = context.store(other_store), context.drop
        stream_time = context.moment("stream-time", of=join.name)
        waiting = context.store(join.waiting_store) if join.waiting_store is not None else None
        least = context.moment("least", of=join.name)
        release = _releaser(join, waiting, least, stream_time, forward) if waiting is not None else None

        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            if timestamp_ms > stream_time.value:
                stream_time.value = timestamp_ms
            if value is None or key is None:
                if is_outer and value is not None:
                    forward(key, joiner(key, value, None), timestamp_ms)
                else:
                    drop("null-key-or-value")
                return
            if release is not None and timestamp_ms == stream_time.value:
                release(after_ms)
            to_ms = max(0, timestamp_ms + after_ms)
            has_match = False
            for other_ms, other in list(others.fetch(key, max(0, timestamp_ms - before_ms), to_ms)):
                has_match = True
                if waiting is not None:
                    waiting.delete(Waiting(other_ms, not is_left, key))
                forward(key, joiner(key, value, other), max(timestamp_ms, other_ms))
            if has_match or not is_outer:
                return
            if waiting is None or to_ms < stream_time.value:
                forward(key, joiner(key, value, None), timestamp_ms)
            else:
                least.value = timestamp_ms if least.value < 0 else min(least.value, timestamp_ms)
                place = Waiting(timestamp_ms, is_left, key)
                waiting.put(place, [*(waiting.get(place) or ()), dump(value)], timestamp_ms)

        return process

    return make


def _releaser(
    join: StreamJoin, waiting: Any, least: Moment, stream_time: Moment, forward: Process
) -> Callable[[int], None]:
    """Return the function that sends on what has waited long enough.

    *least*: a time before which nothing waits that could go, -1 if nothing waits; both sides share it. It may be too
    late, and is then put right by the next look: the same looks as Kafka Streams, so the same order of results.
    """
    windows = join.windows

    def is_open(place: Waiting) -> bool:
        reach_ms = windows.after_ms if place.is_left else windows.before_ms
        return place.timestamp_ms + reach_ms + windows.grace_ms >= stream_time.value

    def release(after_ms: int) -> None:
        if least.value < 0 or least.value + after_ms + windows.grace_ms >= stream_time.value:
            return
        least.value = -1
        has_open = {True: False, False: False}  # by side: the first that must wait on; all behind it must, too
        for place, values in list(waiting.all()):
            least.value = place.timestamp_ms
            if all(has_open.values()):
                break
            if is_open(place):
                has_open[place.is_left] = True
                continue
            for data in values:
                if place.is_left:
                    result = join.joiner(place.key, join.left.deserialize(data), None)
                else:
                    result = join.joiner(place.key, None, join.right.deserialize(data))
                forward(place.key, result, place.timestamp_ms)
            waiting.delete(place)

    return release
