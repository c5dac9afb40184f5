"""Operators that keep nothing: what `map`, `filter` and their like do with one record. Pure functions of the record.

Each function here takes what the user passed and returns an operator (`streams.topology.nodes.Operator`). Nulls go to
the user's functions as they are: a stream may carry records without key or value.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from streams.topology.nodes import Operator, OperatorContext, Process

UNPLACED = "null-key-before-repartition"


def keep_if(predicate: Callable[[Any, Any], bool], *, wanted: bool) -> Operator:
    """Pass on the records for which *predicate* is *wanted*."""

    def make(_: OperatorContext, forward: Process) -> Process:
        def keep(key: Any, value: Any, timestamp_ms: int) -> None:
            if predicate(key, value):
                forward(key, value, timestamp_ms)

        def drop(key: Any, value: Any, timestamp_ms: int) -> None:
            if not predicate(key, value):
                forward(key, value, timestamp_ms)

        return keep if wanted else drop

    return make


def change(mapper: Callable[[Any, Any], tuple[Any, Any]]) -> Operator:
    """Pass on the key and value that *mapper* makes."""

    def make(_: OperatorContext, forward: Process) -> Process:
        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            new_key, new_value = mapper(key, value)
            forward(new_key, new_value, timestamp_ms)

        return process

    return make


def change_key(selector: Callable[[Any, Any], Any]) -> Operator:
    """Pass on the value under the key that *selector* makes."""

    def make(_: OperatorContext, forward: Process) -> Process:
        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            forward(selector(key, value), value, timestamp_ms)

        return process

    return make


def change_value(mapper: Callable[[Any], Any]) -> Operator:
    """Pass on the value that *mapper* makes of the value."""

    def make(_: OperatorContext, forward: Process) -> Process:
        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            forward(key, mapper(value), timestamp_ms)

        return process

    return make


def change_value_with_key(mapper: Callable[[Any, Any], Any]) -> Operator:
    """Pass on the value that *mapper* makes of key and value."""

    def make(_: OperatorContext, forward: Process) -> Process:
        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            forward(key, mapper(key, value), timestamp_ms)

        return process

    return make


def expand(mapper: Callable[[Any, Any], Iterable[tuple[Any, Any]]]) -> Operator:
    """Pass on each key and value that *mapper* makes."""

    def make(_: OperatorContext, forward: Process) -> Process:
        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            for new_key, new_value in mapper(key, value):
                forward(new_key, new_value, timestamp_ms)

        return process

    return make


def expand_value(mapper: Callable[[Any], Iterable[Any]]) -> Operator:
    """Pass on each value that *mapper* makes of the value."""

    def make(_: OperatorContext, forward: Process) -> Process:
        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            for new_value in mapper(value):
                forward(key, new_value, timestamp_ms)

        return process

    return make


def look(action: Callable[[Any, Any], object]) -> Operator:
    """Show each record to *action* and pass it on."""

    def make(_: OperatorContext, forward: Process) -> Process:
        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            action(key, value)
            forward(key, value, timestamp_ms)

        return process

    return make


def pass_on(_: OperatorContext, forward: Process) -> Process:
    """Pass on everything as it is: where streams meet (an operator itself)."""
    return forward


def choose(branches: Sequence[tuple[str, Callable[[Any, Any], bool] | None]]) -> Operator:
    """Pass each record to the first child whose predicate holds; None always holds."""

    def make(context: OperatorContext, _: Process) -> Process:
        ways = [(predicate, context.children[child]) for child, predicate in branches]

        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            for predicate, forward in ways:
                if predicate is None or predicate(key, value):
                    forward(key, value, timestamp_ms)
                    return

        return process

    return make


class NeedKey:
    """Drop records without a key, which a repartition topic has no place for. Kafka Streams does not count them; here
    they are counted under a reason of their own. `keeps_null_keys`: a left join wants them all the same."""

    def __init__(self, *, keeps_null_keys: bool) -> None:
        self.keeps_null_keys = keeps_null_keys

    def __call__(self, context: OperatorContext, forward: Process) -> Process:
        if self.keeps_null_keys:
            return forward

        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            if key is None:
                context.drop(UNPLACED)
            else:
                forward(key, value, timestamp_ms)

        return process
