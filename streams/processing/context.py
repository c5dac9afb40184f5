"""What operators see of their task: the record under way, its times, punctuations, and the stores by name.

One task has one `TaskState`, shared by all its nodes; each node has a `NodeContext` over it. Owned by the thread that
owns the task; nothing here is safe for another.
"""

from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from itertools import count
from typing import Any

from streams.errors import TopologyError
from streams.records import Headers
from streams.topology.nodes import Process


class TaskRecord:
    """The record under way (see `streams.topology.nodes.CurrentRecord`)."""

    __slots__ = ("headers", "key", "offset", "partition", "stream_time_ms", "timestamp_ms", "topic", "value")

    def __init__(self) -> None:
        self.topic = ""
        self.partition = -1
        self.offset = -1
        self.timestamp_ms = 0
        self.key: bytes | None = None
        self.value: bytes | None = None
        self.headers: Headers = ()
        self.stream_time_ms = -1


class TaskMoment:
    """A time of the task that is kept with its stores."""

    __slots__ = ("kept", "name", "value")

    def __init__(self, name: str, value: int) -> None:
        self.name = name
        self.value = value
        self.kept = value


class Punctuation:
    """One schedule."""

    __slots__ = ("callback", "interval_ms", "is_cancelled", "next")

    def __init__(self, interval_ms: int, callback: Callable[[int], None], next_: TaskMoment | None) -> None:
        """*next_*: where it is kept when the next one is due, for schedules that go on after a restart."""
        self.interval_ms = interval_ms
        self.callback = callback
        self.is_cancelled = False
        self.next = next_

    def cancel(self) -> None:
        """Do not call again."""
        self.is_cancelled = True


class Punctuations:
    """Schedules of one kind of time (Kafka Streams: PunctuationQueue). A moment that was missed is not made up for."""

    __slots__ = ("_numbers", "due")

    def __init__(self) -> None:
        #: A heap by when they are due; the same list always.
        self.due: list[tuple[int, int, Punctuation]] = []
        self._numbers = count()

    def add(self, first_ms: int, punctuation: Punctuation) -> None:
        """Have *punctuation* called at *first_ms* and from then on."""
        if punctuation.next is not None:
            punctuation.next.value = first_ms
        heappush(self.due, (first_ms, next(self._numbers), punctuation))

    def is_due(self, now_ms: int) -> bool:
        """Say whether anything is to be called."""
        return bool(self.due) and self.due[0][0] <= now_ms

    def next_ms(self) -> int | None:
        """Return when the next one is due; None: nothing is scheduled."""
        return self.due[0][0] if self.due else None

    def run(self, now_ms: int) -> None:
        """Call what is due, each once."""
        while self.is_due(now_ms):
            at_ms, _, punctuation = heappop(self.due)
            if punctuation.is_cancelled:
                continue
            missed = (now_ms - at_ms) // punctuation.interval_ms
            self.add(at_ms + (missed + 1) * punctuation.interval_ms, punctuation)
            punctuation.callback(now_ms)


class TaskState:
    """What all nodes of a task share."""

    def __init__(
        self, *, stores: Mapping[str, Any], global_stores: Mapping[str, Any], now_ms: Callable[[], int]
    ) -> None:
        self.record = TaskRecord()
        self.stores = stores
        self.global_stores = global_stores
        self.now_ms = now_ms
        self.moments: dict[str, TaskMoment] = {}
        self.kept_times: Mapping[str, int] = {}
        self.stream_time = Punctuations()
        self.wall_clock = Punctuations()
        self.closers: list[Callable[[], None]] = []
        self.rollbacks: list[Callable[[], None]] = []
        #: Reason to number of records that were dropped, since the task was made.
        self.dropped: dict[str, int] = {}

    def moment(self, name: str) -> TaskMoment:
        """Return the time of that name, as it was kept; -1 if it never was."""
        found = self.moments.get(name)
        if found is None:
            found = self.moments[name] = TaskMoment(name, self.kept_times.get(name, -1))
        return found

    def drop(self, reason: str) -> None:
        """Count a dropped record."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


class NodeContext:
    """What one node's operator may ask (see `streams.topology.nodes.OperatorContext`)."""

    __slots__ = ("_connected", "_schedules", "_task", "children", "drop", "node", "record", "wall_clock_ms")

    def __init__(self, task: TaskState, node: str, connected: tuple[str, ...], children: Mapping[str, Process]) -> None:
        self.node = node
        self.record = task.record
        self.children = children
        self.drop = task.drop
        self.wall_clock_ms = task.now_ms
        self._task = task
        self._connected = connected
        self._schedules = 0

    def store(self, name: str) -> Any:
        """Return a store that the node is connected to, or a global one."""
        if name in self._connected and name in self._task.stores:
            return self._task.stores[name]
        if name in self._task.global_stores:
            return self._task.global_stores[name]
        known = ", ".join(sorted({*self._connected, *self._task.global_stores})) or "none"
        raise TopologyError(f"{self.node} is not connected to a store {name!r} (it is to: {known}): name it in stores=")

    def moment(self, name: str, *, of: str | None = None) -> TaskMoment:
        """Return the time of that name among the node's own, or among those shared under *of*."""
        return self._task.moment(f"{self.node if of is None else of}/{name}")

    def schedule(self, interval_ms: int, is_stream_time: bool, callback: Callable[[int], None]) -> Callable[[], None]:
        """Call *callback* every *interval_ms*: in stream time at its multiples, as soon as there is a record; in
        wall-clock time counted from now."""
        if interval_ms <= 0:
            raise TopologyError(f"{self.node}: the interval of a punctuation must be greater than 0, not {interval_ms}")
        if is_stream_time:
            self._schedules += 1
            kept = self.moment(f"punctuation-{self._schedules}")
            punctuation = Punctuation(interval_ms, callback, kept)
            self._task.stream_time.add(max(0, kept.value), punctuation)
        else:
            punctuation = Punctuation(interval_ms, callback, None)
            self._task.wall_clock.add(self._task.now_ms() + interval_ms, punctuation)
        return punctuation.cancel

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call *callback* when the task ends."""
        self._task.closers.append(callback)

    def on_rollback(self, callback: Callable[[], None]) -> None:
        """Call *callback* after stores went back to an earlier state."""
        self._task.rollbacks.append(callback)
