"""Joins of two tables by a key that lies in the rows of the left one (KIP-213).

The row of the left table and that of the right one lie in different partitions, so the left side *subscribes*: it
sends the foreign key, its own key and a digest of its row to the partition of the foreign key (`subscribe`). There
the subscription is kept, and answered with the right row, now (`receive`) and whenever that changes (`answer_all`).
An answer goes back to the partition of the left row, and makes a row of the result if the digest is still that of the
left row (`resolve`): otherwise a newer subscription is on its way, and its answer will come. So the two topics in
between may be as slow as they like.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

from streams.errors import SerializationError
from streams.operators.tables import TableView
from streams.serdes import Serde
from streams.topology.nodes import Operator, OperatorContext, Process

_DIGEST = 16  # bytes

# What a subscription asks for.
REMOVE, REMOVE_AND_TELL, TELL_ALWAYS, TELL_IF_FOUND = range(4)


class Subscription(NamedTuple):
    """`digest` is empty when the left row is gone; `partition` is where it lies."""

    wish: int
    partition: int
    digest: bytes
    key: bytes


class Answer(NamedTuple):
    """The right row in bytes, or None, for the left row with that digest."""

    partition: int
    digest: bytes
    value: bytes | None


class SubscriptionSerde:
    """Subscriptions in bytes: wish (1), partition (4), length of the digest (1), digest, key of the left row."""

    name = "subscription"

    def serialize(self, value: Subscription) -> bytes:
        """Return the bytes of *value*."""
        head = bytes((value.wish,)) + value.partition.to_bytes(4, "big") + bytes((len(value.digest),))
        return head + value.digest + value.key

    def deserialize(self, data: bytes) -> Subscription:
        """Return the subscription of *data*. Raises SerializationError when they are too short."""
        if len(data) < 6 or len(data) < 6 + data[5]:
            raise SerializationError(f"{len(data)} bytes are no subscription")
        end = 6 + data[5]
        return Subscription(data[0], int.from_bytes(data[1:5], "big"), data[6:end], data[end:])


class AnswerSerde:
    """Answers in bytes: partition (4), length of the digest (1), digest, whether there is a row (1), the row."""

    name = "answer"

    def serialize(self, value: Answer) -> bytes:
        """Return the bytes of *value*."""
        head = value.partition.to_bytes(4, "big") + bytes((len(value.digest),)) + value.digest
        return head + (b"\0" if value.value is None else b"\1" + value.value)

    def deserialize(self, data: bytes) -> Answer:
        """Return the answer of *data*. Raises SerializationError when they are too short."""
        if len(data) < 6 or len(data) < 6 + data[4]:
            raise SerializationError(f"{len(data)} bytes are no answer")
        end = 5 + data[4]
        return Answer(
            int.from_bytes(data[:4], "big"), data[5:end], data[end + 1 :] if data[end : end + 1] == b"\1" else None
        )


def place_of(foreign_key: bytes, key: bytes = b"") -> bytes:
    """Return the key of a subscription's row: all of one foreign key lie together."""
    return len(foreign_key).to_bytes(4, "big") + foreign_key + key


def _digest(value: bytes) -> bytes:
    return blake2b(value, digest_size=_DIGEST).digest()


def subscribe(
    on: Callable[[Any], Any], *, key: Serde[Any], foreign_key: Serde[Any], value: Serde[Any], is_left: bool
) -> Operator:
    """Turn updates of the left table into subscriptions under the foreign keys of its old and its new row."""

    def make(context: OperatorContext, forward: Process) -> Process:
        record, dump_foreign = context.record, foreign_key.serialize

        def process(row_key: Any, new: Any, old: Any, timestamp_ms: int) -> None:
            old_foreign = None if old is None else on(old)
            new_foreign = None if new is None else on(new)
            digest = b"" if new is None else _digest(value.serialize(new))
            key_bytes = key.serialize(row_key)

            def send(foreign: Any, wish: int) -> None:
                forward(foreign, Subscription(wish, record.partition, digest, key_bytes), timestamp_ms)

            if old is None and new is None:
                return
            is_moved = old_foreign is not None and (
                new_foreign is None or dump_foreign(old_foreign) != dump_foreign(new_foreign)
            )
            if is_left:
                if is_moved:
                    send(old_foreign, REMOVE_AND_TELL if new is None else REMOVE)
                if new is not None or old_foreign is None:
                    send(new_foreign, TELL_ALWAYS)
                return
            if new is not None and new_foreign is None:
                context.drop("null-foreign-key")
            if new_foreign is None:
                if old_foreign is not None:
                    send(old_foreign, REMOVE_AND_TELL)
            else:
                if is_moved:
                    send(old_foreign, REMOVE)
                send(new_foreign, TELL_ALWAYS if is_moved else TELL_IF_FOUND)

        return process

    return make


def receive(right: TableView, store: str, *, key: Serde[Any], foreign_key: Serde[Any], value: Serde[Any]) -> Operator:
    """Keep subscriptions, and answer each from the right table as it is."""

    def make(context: OperatorContext, forward: Process) -> Process:
        subscriptions, get = context.store(store), right.getter(context)

        def process(foreign: Any, wanted: Subscription, timestamp_ms: int) -> None:
            if foreign is None and wanted.wish != TELL_ALWAYS:
                context.drop("null-key")
                return
            found = None
            if foreign is not None:
                place = place_of(foreign_key.serialize(foreign), wanted.key)
                is_over = wanted.wish in (REMOVE, REMOVE_AND_TELL)
                subscriptions.put(place, None if is_over else wanted, timestamp_ms)
                found = get(foreign)
            if found is not None:
                timestamp_ms = max(timestamp_ms, found[1])
            if wanted.wish == REMOVE or (wanted.wish == TELL_IF_FOUND and found is None):
                return
            row = None if found is None or wanted.wish == REMOVE_AND_TELL else value.serialize(found[0])
            forward(key.deserialize(wanted.key), Answer(wanted.partition, wanted.digest, row), timestamp_ms)

        return process

    return make


def answer_all(store: str, *, key: Serde[Any], foreign_key: Serde[Any], value: Serde[Any]) -> Operator:
    """Answer all subscriptions of a foreign key whose row in the right table has changed."""

    def make(context: OperatorContext, forward: Process) -> Process:
        subscriptions = context.store(store)

        def process(foreign: Any, new: Any, _old: Any, timestamp_ms: int) -> None:
            if foreign is None:
                context.drop("null-key")
                return
            row = None if new is None else value.serialize(new)
            for _, wanted in list(subscriptions.prefix(place_of(foreign_key.serialize(foreign)))):
                forward(key.deserialize(wanted.key), Answer(wanted.partition, wanted.digest, row), timestamp_ms)

        return process

    return make


def resolve(
    left: TableView, joiner: Callable[[Any, Any], Any], *, value: Serde[Any], other: Serde[Any], is_left: bool
) -> Operator:
    """Make rows of the result of answers that fit the left rows as they are now."""

    def make(context: OperatorContext, forward: Process) -> Process:
        get = left.getter(context)

        def process(row_key: Any, answer: Answer, timestamp_ms: int) -> None:
            found = get(row_key)
            digest = b"" if found is None else _digest(value.serialize(found[0]))
            if digest != answer.digest:
                return  # nothing of the user's is lost: Kafka Streams counts this as a dropped record all the same
            if found is None or (answer.value is None and not is_left):
                forward(row_key, None, timestamp_ms)
            else:
                right = None if answer.value is None else other.deserialize(answer.value)
                forward(row_key, joiner(found[0], right), timestamp_ms)

        return process

    return make
