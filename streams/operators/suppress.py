"""Suppression: updates of a table are held back until there will be no other, or until some stream time has passed.

Held-back updates are rows of a store of their own, so a restart forgets none. A key's later update takes the place of
its earlier one and keeps its turn. They go in the order of time, and of the keys' bytes where times are equal.
"""

import struct
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

from streams.operators.tables import Getter, TableView
from streams.records import Headers
from streams.serdes import Serde
from streams.topology.nodes import OperatorContext, Process

_HEAD = struct.Struct(">qqB")  # since when it is held back, its timestamp, which values there are
_LENGTH = struct.Struct(">I")
_HAS_NEW, _HAS_OLD, _HAS_PRIOR = 1, 2, 4


class Held(NamedTuple):
    """An update that is held back. `prior`: what the table showed below before it was."""

    since_ms: int
    timestamp_ms: int
    new: Any
    old: Any
    prior: Any
    headers: Headers


class HeldSerde:
    """Held-back updates in bytes: head, then each value that there is with its length, then names and values of
    headers."""

    name = "held"

    def __init__(self, value: Serde[Any]) -> None:
        self._value = value

    def serialize(self, value: Held) -> bytes:
        """Return the bytes of *value*."""
        values = (value.new, value.old, value.prior)
        flags = sum(
            flag for flag, each in zip((_HAS_NEW, _HAS_OLD, _HAS_PRIOR), values, strict=True) if each is not None
        )
        parts = [self._value.serialize(each) for each in values if each is not None]
        for name, content in value.headers:
            parts += [name.encode(), content]
        framed = b"".join(_LENGTH.pack(len(part)) + part for part in parts)
        return _HEAD.pack(value.since_ms, value.timestamp_ms, flags) + framed

    def deserialize(self, data: bytes) -> Held:
        """Return the update of *data*."""
        since_ms, timestamp_ms, flags = _HEAD.unpack_from(data)
        parts: list[bytes] = []
        place = _HEAD.size
        while place < len(data):
            (length,) = _LENGTH.unpack_from(data, place)
            place += _LENGTH.size
            parts.append(data[place : place + length])
            place += length
        values = [self._value.deserialize(parts.pop(0)) if flags & flag else None for flag in (1, 2, 4)]
        headers = tuple((name.decode(), content) for name, content in zip(parts[::2], parts[1::2], strict=True))
        return Held(since_ms, timestamp_ms, values[0], values[1], values[2], headers)


class Suppress:
    """A table whose updates come late, or not at all when a newer one takes their place."""

    def __init__(
        self, parent: TableView, store: str, *, wait_ms: int, until_window_closes: bool, max_records: int | None
    ) -> None:
        """*wait_ms*: for how long in stream time; with *until_window_closes* after the end of the key's window (the
        grace, and for sessions the gap). *max_records*: the oldest go early when there are more."""
        self.parent = parent
        self.store = store
        self.sends_old = False
        self._wait_ms = wait_ms
        self._until_window_closes = until_window_closes
        self._max_records = max_records
        parent.enable_old_values(force=True)  # for `prior`

    def enable_old_values(self, *, force: bool) -> bool:
        self.sends_old = self.parent.enable_old_values(force=force)
        return self.sends_old

    def need_getter(self) -> tuple[str, ...]:
        return (self.store, *self.parent.need_getter())

    def getter(self, context: OperatorContext) -> Getter:
        held, above = context.store(self.store), self.parent.getter(context)

        def get(key: Any) -> tuple[Any, int] | None:
            found = held.get(key)
            if found is None:
                return above(key)
            return None if found.prior is None else (found.prior, found.timestamp_ms)

        return get

    def __call__(self, context: OperatorContext, forward: Process) -> Process:
        store, observed = context.store(self.store), context.moment("observed")
        queue = _Queue(store)
        context.on_rollback(queue.fill)
        wait_ms, is_final, max_records = self._wait_ms, self._until_window_closes, self._max_records
        sends_old = self.sends_old

        def process(key: Any, new: Any, old: Any, timestamp_ms: int) -> None:
            if timestamp_ms > observed.value:
                observed.value = timestamp_ms
            since_ms = key.end_ms if is_final else timestamp_ms
            queue.put(key, since_ms, timestamp_ms, new, old, context.record.headers)
            while queue.due and (
                queue.due[0][0] <= observed.value - wait_ms or (max_records is not None and queue.count > max_records)
            ):
                send(queue.take())

        def send(item: tuple[Any, Held] | None) -> None:
            if item is None or (is_final and item[1].new is None):
                return  # a window that was there for a moment only need not be deleted below
            key, held = item
            record = context.record
            before, record.headers = record.headers, held.headers
            try:
                forward(key, held.new, held.prior if sends_old else None, held.timestamp_ms)
            finally:
                record.headers = before

        return process


class _Queue:
    """The held-back updates in the order in which they go. What is in the store counts; this is only its order."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._dump_key = store.spec.key.serialize
        self.due: list[tuple[int, bytes]] = []
        self.count = 0
        self.fill()

    def fill(self) -> None:
        """Make the order anew, from the store."""
        self.due = [(held.since_ms, self._dump_key(key)) for key, held in self._store.all()]
        self.count = len(self.due)
        heapify(self.due)

    def put(self, key: Any, since_ms: int, timestamp_ms: int, new: Any, old: Any, headers: Headers) -> None:
        """Hold back an update."""
        found: Held | None = self._store.get(key)
        if found is None:
            prior = old
            heappush(self.due, (since_ms, self._dump_key(key)))
            self.count += 1
        else:
            prior, since_ms = found.prior, found.since_ms
        self._store.put(key, Held(since_ms, timestamp_ms, new, old, prior, headers), timestamp_ms)

    def take(self) -> tuple[Any, Held] | None:
        """Remove the first and return its key and update."""
        _, key_bytes = heappop(self.due)
        key = self._store.spec.key.deserialize(key_bytes)
        held: Held | None = self._store.delete(key)
        self.count -= 1
        return None if held is None else (key, held)
