"""Aggregations in sessions.

A record opens a session, or joins all sessions of its key that lie within the gap, which then become one: those that
were merged get a tombstone each, and the new one takes their place. A session that ended longer ago than gap and grace
is closed, and a record that would only touch it is dropped and counted. A result's timestamp is the end of its session.
"""

from collections.abc import Callable
from typing import Any

from streams.operators.aggregates import Aggregator, Initializer
from streams.operators.tables import Getter, StoredTable
from streams.serdes import Windowed
from streams.topology.nodes import OperatorContext, Process
from streams.topology.windows import SessionWindows

Merger = Callable[[Any, Any, Any], Any]  # key, aggregate, aggregate


class SessionAggregate(StoredTable):
    """The aggregate of each key and session; its rows' keys are `Windowed`."""

    def __init__(
        self,
        store: str,
        windows: SessionWindows,
        initializer: Initializer,
        aggregator: Aggregator,
        merger: Merger,
    ) -> None:
        super().__init__(store)
        self.windows = windows
        self._initializer = initializer
        self._aggregator = aggregator
        self._merger = merger

    def __call__(self, context: OperatorContext, forward: Process) -> Process:
        store, observed = context.store(self.store), context.moment("observed")
        find, put, drop = store.find, store.put, context.drop
        gap_ms, grace_ms = self.windows.gap_ms, self.windows.grace_ms
        initializer, aggregator, merger = self._initializer, self._aggregator, self._merger

        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            if key is None:
                drop("null-key")
                return
            if timestamp_ms > observed.value:
                observed.value = timestamp_ms
            merged = find(key, timestamp_ms - gap_ms, timestamp_ms + gap_ms)
            aggregate, start_ms, end_ms = initializer(), timestamp_ms, timestamp_ms
            for session, before in merged:
                aggregate = merger(key, aggregate, before)
                start_ms = min(start_ms, session.start_ms)
                end_ms = max(end_ms, session.end_ms)
            if end_ms < observed.value - grace_ms - gap_ms:
                drop("late")
                return
            if start_ms != end_ms:  # a session of one moment is not merged, but written over
                for session, before in merged:
                    put(session, None)
                    forward(session, None, before, session.end_ms)
            session = Windowed(key, start_ms, end_ms)
            new = aggregator(key, value, aggregate)
            put(session, new, end_ms)
            forward(session, new, None, end_ms)

        return process

    def getter(self, context: OperatorContext) -> Getter:
        get_session = context.store(self.store).get

        def get(key: Windowed[Any]) -> tuple[Any, int] | None:
            value = get_session(key.key, key.start_ms, key.end_ms)
            return None if value is None else (value, key.end_ms)

        return get
