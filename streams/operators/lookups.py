"""Joins of a stream with a table: each record with the row of its key as it is at that moment.

The table's own updates make nothing. What counts is the order in which the records of both were processed: by
timestamp as far as they were there together. The result has the timestamp of the stream's record.
"""

from collections.abc import Callable
from typing import Any

from streams.operators.joiners import keyed
from streams.operators.tables import TableView
from streams.topology.nodes import Operator, OperatorContext, Process


def lookup(
    table: TableView | str,
    joiner: Callable[[Any, Any], Any],
    *,
    is_left: bool,
    on: Callable[[Any, Any], Any] | None = None,
) -> Operator:
    """Join with *table*, or with the global table whose store has that name, by the key that *on* makes of a record.

    A record without value is dropped, and one without key to look for, too, unless *is_left*: then it has no match.
    """

    combine = keyed(joiner)

    def make(context: OperatorContext, forward: Process) -> Process:
        get = context.store(table).lookup if isinstance(table, str) else table.getter(context)

        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            wanted = key if on is None or value is None else on(key, value)
            if value is None or (wanted is None and not is_left):
                context.drop("null-key-or-value")
                return
            found = None if wanted is None else get(wanted)
            if found is not None:
                forward(key, combine(key, value, found[0]), timestamp_ms)
            elif is_left:
                forward(key, combine(key, value, None), timestamp_ms)

        return process

    return make
