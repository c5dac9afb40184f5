"""Aggregations in tumbling and hopping windows.

A record belongs to each window that its timestamp lies in, as long as the window is open: its end plus the grace lies
after stream time, the greatest timestamp that came here before. A record for a window that has closed is dropped and
counted; in hopping windows the others take it still. A result's timestamp is the greatest of its records. Unlike an
aggregation without windows this one takes records without value, too, and passes None to the aggregator: so does
Kafka Streams.
"""

from typing import Any

from streams.operators.aggregates import Aggregator, Initializer
from streams.operators.tables import Getter, StoredTable
from streams.serdes import Windowed
from streams.topology.nodes import OperatorContext, Process
from streams.topology.windows import TimeWindows


class WindowAggregate(StoredTable):
    """The aggregate of each key and window; its rows' keys are `Windowed`."""

    def __init__(
        self,
        store: str,
        windows: TimeWindows,
        initializer: Initializer,
        aggregator: Aggregator,
    ) -> None:
        super().__init__(store)
        self.windows = windows
        self._initializer = initializer
        self._aggregator = aggregator

    def __call__(self, context: OperatorContext, forward: Process) -> Process:
        store, observed, sends_old = context.store(self.store), context.moment("observed"), self.sends_old
        lookup, put, drop = store.lookup, store.put, context.drop
        starts_of, size_ms, grace_ms = self.windows.starter(), self.windows.size_ms, self.windows.grace_ms
        initializer, aggregator = self._initializer, self._aggregator

        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            if key is None:
                drop("null-key")
                return
            if timestamp_ms > observed.value:
                observed.value = timestamp_ms
            closed_ms = observed.value - grace_ms
            for start_ms in starts_of(timestamp_ms):
                end_ms = start_ms + size_ms
                if end_ms <= closed_ms:
                    drop("late")
                    continue
                found = lookup(key, start_ms)
                moment_ms = timestamp_ms
                if found is None:
                    aggregate = initializer()
                else:
                    aggregate = found[0]
                    moment_ms = max(timestamp_ms, found[1])
                old = None
                if sends_old:  # a value of its own, because an aggregator may change the one that it gets
                    old = initializer() if found is None else lookup(key, start_ms)[0]
                new = aggregator(key, value, aggregate)
                put(key, new, start_ms, moment_ms)
                forward(Windowed(key, start_ms, end_ms), new, old, moment_ms)

        return process

    def getter(self, context: OperatorContext) -> Getter:
        lookup = context.store(self.store).lookup

        def get(key: Windowed[Any]) -> tuple[Any, int] | None:
            found: tuple[Any, int] | None = lookup(key.key, key.start_ms)
            return found

        return get
