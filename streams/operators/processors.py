"""The Processor API: a user's own operator, with stores, punctuations and headers.

A processor is made for each task, and is used by that task's thread alone. It may keep things in memory only if they
can be made again from its stores: a task begins anew after a restart, a move to another node, or a transaction that
failed.
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from streams.records import Headers
from streams.topology.nodes import Operator, OperatorContext, Process

KIn = TypeVar("KIn")
VIn = TypeVar("VIn")
KOut = TypeVar("KOut")
VOut = TypeVar("VOut")

STREAM_TIME, WALL_CLOCK = "stream", "wall_clock"


class ProcessorRecord(NamedTuple, Generic[KIn, VIn]):
    """A record as a processor gets it. `timestamp_ms`: Unix time."""

    key: KIn
    value: VIn
    timestamp_ms: int
    headers: Headers


class ProcessorContext(Generic[KOut, VOut]):
    """What a processor may ask of its task, and how it sends records on."""

    __slots__ = ("_context", "_forward")

    def __init__(self, context: OperatorContext, forward: Process) -> None:
        self._context = context
        self._forward = forward

    def forward(
        self, key: KOut, value: VOut, *, timestamp_ms: int | None = None, headers: Headers | None = None
    ) -> None:
        """Send a record to everything below. Timestamp and headers None: those of the record under way; in a
        punctuation stream time, and none."""
        record = self._context.record
        at_ms = record.timestamp_ms if timestamp_ms is None else timestamp_ms
        if headers is None:
            self._forward(key, value, at_ms)
            return
        before, record.headers = record.headers, headers
        try:
            self._forward(key, value, at_ms)
        finally:
            record.headers = before

    def store(self, name: str) -> Any:
        """Return a store named in `stores=`, or of a global table: a KeyValueStore, WindowStore, SessionStore or
        MembershipStore of `streams.stores`. Raises TopologyError for any other."""
        return self._context.store(name)

    def schedule(
        self, interval_ms: int, callback: Callable[[int], None], *, time: str = STREAM_TIME
    ) -> Callable[[], None]:
        """Call *callback* with the time in ms every *interval_ms*, and return a function that ends that.

        *time* `stream`: as stream time goes on, at multiples of the interval; never without records; a processor with
        stores goes on with that after a restart. `wall_clock`: by the clock, counted from now. An interval that was
        missed is not made up for.
        """
        return self._context.schedule(interval_ms, time == STREAM_TIME, callback)

    @property
    def topic(self) -> str:
        """The topic of the record under way; empty in a punctuation."""
        return self._context.record.topic

    @property
    def partition(self) -> int:
        """The partition of the record under way."""
        return self._context.record.partition

    @property
    def offset(self) -> int:
        """The offset of the record under way; -1 in a punctuation."""
        return self._context.record.offset

    @property
    def stream_time_ms(self) -> int:
        """The greatest timestamp that the task has seen; -1 before any."""
        return self._context.record.stream_time_ms

    def wall_clock_ms(self) -> int:
        """Return Unix time in ms; in a test what the test says."""
        return self._context.wall_clock_ms()


class Processor(Generic[KIn, VIn, KOut, VOut]):
    """The base of processors. `process` is the only method that has to be there."""

    context: ProcessorContext[KOut, VOut]

    def init(self, context: ProcessorContext[KOut, VOut]) -> None:
        """Begin: get stores, schedule punctuations. Call this one first; it sets `context`."""
        self.context = context

    def process(self, record: ProcessorRecord[KIn, VIn]) -> None:
        """Process one record."""
        raise NotImplementedError

    def close(self) -> None:
        """End. Stores must not be used any more."""


def run_processor(make_processor: Callable[[], Processor[Any, Any, Any, Any]]) -> Operator:
    """Return the operator that runs what *make_processor* makes for each task."""

    def make(context: OperatorContext, forward: Process) -> Process:
        processor, record = make_processor(), context.record
        processor.init(ProcessorContext(context, forward))
        context.on_close(processor.close)
        handle = processor.process

        def process(key: Any, value: Any, timestamp_ms: int) -> None:
            handle(ProcessorRecord(key, value, timestamp_ms, record.headers))

        return process

    return make
