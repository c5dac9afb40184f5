"""Patience: an event whose row is not there yet waits for it, in a store of its own, for a bounded time.

Events and table are different topics, and nothing says that a product is announced before it is bought. A join looks
once; whoever came a moment too early would stay without a name for ever. What waits is kept with the topology's other
state, so it goes on waiting on another instance when its own dies.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from streams.dsl import Processor, ProcessorContext, ProcessorRecord

LOOK_MS = 200

Members = dict[str, Any]


class Joined(NamedTuple):
    """An event and the row that it names, or None."""

    event: Members
    row: Members | None


class WaitForRow(Processor[str, Joined, str, Joined]):
    """Holds each event back until its row is there, or until it has waited *wait_ms*. Then it passes it on, under the
    time that it came with."""

    def __init__(self, rows: str, waiting: str, wait_ms: int) -> None:
        """*rows* and *waiting*: the names of the table's store and of the one for what waits."""
        self._names = rows, waiting
        self._wait_ms = wait_ms

    @classmethod
    def of(cls, rows: str, waiting: str, wait_ms: int) -> Callable[[], "WaitForRow"]:
        """Return what makes one for each task."""
        return lambda: cls(rows, waiting, wait_ms)

    def init(self, context: ProcessorContext[str, Joined]) -> None:
        """Begin to look every now and then."""
        super().init(context)
        self._rows, self._waiting = (context.store(name) for name in self._names)
        context.schedule(LOOK_MS, self._look, time="wall_clock")

    def process(self, record: ProcessorRecord[str, Joined]) -> None:
        """Put *record* aside. Its offset is its key: no two of a partition have the same, and they stay in order."""
        since_ms = self.context.wall_clock_ms()
        self._waiting.put(self.context.offset, [record.key, record.value.event, record.timestamp_ms, since_ms])

    def _look(self, now_ms: int) -> None:
        for offset, (key, event, timestamp_ms, since_ms) in self._waiting.all():
            row = self._rows.get(key)
            if row is not None or now_ms - since_ms >= self._wait_ms:
                self._waiting.delete(offset)
                self.context.forward(key, Joined(event, row), timestamp_ms=timestamp_ms)
