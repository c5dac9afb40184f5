"""One node (Kafka Streams: KafkaStreams): its lifecycle, and what the rest of the process may ask of it.

Reads go straight to the stores on the caller's thread; writes go through `table`. Nothing here decides who owns what;
it only looks at what the stream thread has made true. Any thread may use a node; the `async` methods belong to an event
loop.
"""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from streams.clock import Clock, Deadline
from streams.config import RuntimeConfig
from streams.errors import Draining, LeaseExpired, LogUnavailable, NotOwner, Restoring, Unavailable
from streams.log.base import Log, TopicSpec
from streams.records import TopicPartition
from streams.runtime.events import Damaged
from streams.runtime.metrics import RuntimeMetrics
from streams.runtime.section import SectionState
from streams.runtime.states import TaskState
from streams.runtime.table import FencedTable
from streams.runtime.task import QUARANTINE_STORE, StreamTask
from streams.runtime.thread import StreamThread
from streams.runtime.waiters import are_applied
from streams.stores.base import Getter, StoreFactory
from streams.topology.graph import Topology

logger = logging.getLogger(__name__)

_MAX_QUARANTINE_SCAN = 1000  # for each task; whoever has more poison than that has another problem than sorting it


@dataclass(frozen=True, slots=True)
class TaskHealth:
    """How a task stands. `position` and `end` are sums over its topics; `lag_records` counts the offsets
    that are left, `percent` is how much of the way is done."""

    partition: int
    state: str
    position: int
    end: int
    lag_records: int
    percent: float
    rebuilds: int


@dataclass(frozen=True, slots=True)
class QuarantinedRecord:
    """Where a record lies that could not be processed, and why. `at_ms`: the record's timestamp, Unix time in ms."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """How the node stands. Ready: it owns partitions, all of them are active, and it takes writes."""

    is_live: bool
    is_ready: bool
    is_draining: bool
    section: str
    lease_left_s: float
    queued_commands: int
    tasks: Sequence[TaskHealth]


class TaskReader:
    """Reads one store of one active task. Any thread; valid until the task leaves, then its calls fail."""

    __slots__ = ("_clock", "_node", "_store", "_task", "get")

    def __init__(self, node: "StreamsNode", task: StreamTask, store: str, clock: Clock) -> None:
        self.get: Getter = task.getters[store]
        self._node = node
        self._task = task
        self._store = store
        self._clock = clock

    @property
    def partition(self) -> int:
        return self._task.partition

    @property
    def positions(self) -> Mapping[str, int]:
        """Topic to applied position."""
        return self._task.positions

    def scan(
        self, *, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return rows in key order; it blocks, and raises StoreDamaged rather than give a part as the whole."""
        return self._task.store.scan(self._store, start=start, stop=stop, limit=limit)

    def check_lease(self) -> None:
        """Raise LeaseExpired when another node may own the partition by now. To be called after the read, right
        before the answer: a process that was paused in between must not answer from the past."""
        if self._clock.monotonic() >= self._node.lease_until:
            raise LeaseExpired("the ownership of this partition could not be confirmed", partition=self.partition)

    def staleness_ms(self) -> int:
        """Return by how many ms the rows may be behind at most: 0 while the lease runs."""
        return max(0, round((self._clock.monotonic() - self._node.lease_until) * 1000))

    def explain(self, error: Exception) -> Exception:
        """Return what an error of `get` means (StoreDamaged, StoreClosed, OSError); any other is returned as it is."""
        return self._task.store.explain(error)

    def report_damage(self, error: BaseException) -> None:
        """Tell the node that a read met damage; the task is rebuilt."""
        self._node.report_damage(self.partition, str(error))


class StreamsNode:
    """A topology, its log and its stores, running in this process."""

    def __init__(
        self,
        *,
        topology: Topology,
        topics: Sequence[TopicSpec],
        log: Log,
        stores: StoreFactory,
        config: RuntimeConfig,
        clock: Clock,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self.node_id = config.node_id
        self.role = "owner"
        self.metrics = RuntimeMetrics()
        self._topology = topology
        self._log = log
        self._clock = clock
        self._reader = log.open_reader()
        self.table = FencedTable(clock=clock, max_queued=config.max_queued_commands, wakeup=self._reader.wakeup)
        self._readers: dict[str, list[TaskReader | None]] = {}
        self._is_draining = False
        self._end_offsets: asyncio.Future[Mapping[TopicPartition, int]] | None = None
        self.thread = StreamThread(
            topology=topology,
            topics=topics,
            log=log,
            stores=stores,
            table=self.table,
            reader=self._reader,
            config=config,
            clock=clock,
            metrics=self.metrics,
            on_change=self._refresh_readers,
            on_fatal=on_fatal,
        )

    def start(self) -> None:
        """Begin in the background: topics, group, restore. Returns at once; `health` tells how far it is."""
        self.thread.start()

    def stop(self, deadline: Deadline) -> None:
        """Refuse new commands, answer the accepted ones, leave the group, close everything. Blocks until *deadline* at
        most; idempotent. Not on an event loop."""
        self._is_draining = True
        self.table.start_draining()
        drain_until = Deadline(min(deadline.at, self._clock.monotonic() + deadline.remaining_s(self._clock) * 0.6))
        pause = threading.Event()  # nobody sets it: a wait that needs no clock of its own
        while self.thread.is_alive and not self.thread.is_idle and not drain_until.has_passed(self._clock):
            pause.wait(0.01)
        membership = self.thread.membership
        if membership is not None:
            membership.leave(deadline)
        self.thread.stop(deadline)
        self._log.close()

    @property
    def partitions(self) -> int:
        """How many partitions there are. Raises Unavailable while the log has not told yet."""
        count = self.thread.partitions
        if not count:
            raise Unavailable("the log has not been reached yet", retry_after_s=2.0)
        return count

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """The log's id of each topic. Raises Unavailable while the log has not told yet."""
        identity = self.thread.identity
        if identity is None:
            raise Unavailable("the log has not been reached yet", retry_after_s=2.0)
        return identity.topic_ids

    def store_sizes(self) -> Mapping[int, int]:
        """Return the bytes on disk of each open task. Any thread."""
        return {p: task.store.size_bytes() for p, task in list(self.thread.tasks.items()) if not task.is_closed}

    @property
    def lease_until(self) -> float:
        """Until when no other node can own what this one owns, on the monotonic clock in seconds."""
        membership = self.thread.membership
        return membership.lease_until if membership is not None else 0.0

    @property
    def sequence(self) -> int:
        """Odd while records of several tasks are being applied. A reader that found nothing in one store after
        looking into another looks again when this was odd or has changed meanwhile."""
        return self.thread.sequence

    def reader(self, store: str, partition: int) -> TaskReader:
        """Return the reader of an active task. Raises Restoring, NotOwner or Draining; KeyError: no such store."""
        reader = self._readers[store][partition] if self._readers else None
        if reader is None:
            raise self._why_not(partition)
        return reader

    async def barrier(self, partitions: Iterable[int], deadline: Deadline) -> None:
        """Return once everything is applied that was committed when this was called (a *strict* read follows).

        One look at the log serves all callers that wait for it; a caller never joins a look that began before it.
        Raises Unavailable at the deadline.
        """
        wanted = frozenset(partitions)
        while self._end_offsets is not None:
            await asyncio.wait([self._end_offsets], timeout=deadline.remaining_s(self._clock))
            if deadline.has_passed(self._clock):
                raise Unavailable("the log did not tell its end in time")
            await asyncio.sleep(0)
            if self._end_offsets is not None and not self._end_offsets.done():
                break  # Begun after us by another caller: it serves us as well.
        if self._end_offsets is None:
            self._end_offsets = asyncio.ensure_future(self._look_at_ends(deadline))
            self._end_offsets.add_done_callback(self._ends_seen)
        try:
            ends = await asyncio.wait_for(asyncio.shield(self._end_offsets), deadline.remaining_s(self._clock))
        except (TimeoutError, LogUnavailable) as error:
            raise Unavailable("the log did not tell its end in time") from error
        await self.wait_applied({place: end for place, end in ends.items() if place.partition in wanted}, deadline)

    async def wait_applied(self, targets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        """Return once every target position is applied here. Raises Unavailable at the deadline."""
        tasks = self.thread.tasks
        if are_applied(tasks, targets):
            return
        loop = asyncio.get_running_loop()
        applied = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(applied.set)

        handle = self.thread.waiters.add(targets, wake)
        try:
            if not are_applied(tasks, targets):
                await asyncio.wait_for(applied.wait(), deadline.remaining_s(self._clock))
        except TimeoutError as error:
            raise Unavailable("the position is not applied here yet") from error
        finally:
            self.thread.waiters.remove(handle)

    def report_damage(self, partition: int, reason: str) -> None:
        """Have the task of *partition* rebuilt: a read met damage. Any thread."""
        for readers in self._readers.values():
            readers[partition] = None
        self.thread.post(Damaged(partition, reason))

    def health(self) -> NodeHealth:
        """Return how the node and its tasks stand. Any thread."""
        tasks = [self._task_health(task) for _, task in sorted(self.thread.tasks.items())]
        is_active = bool(tasks) and all(task.state == TaskState.ACTIVE.value for task in tasks)
        lease_left_s = max(0.0, self.lease_until - self._clock.monotonic())
        return NodeHealth(
            is_live=self.thread.is_alive,
            is_ready=is_active
            and not self._is_draining
            and self.thread.section_state is SectionState.OPEN
            and lease_left_s > 0,
            is_draining=self._is_draining,
            section=self.thread.section_state.value,
            lease_left_s=lease_left_s,
            queued_commands=self.table.queued,
            tasks=tasks,
        )

    def quarantine(self, limit: int) -> list[QuarantinedRecord]:
        """Return up to *limit* quarantined records, the newest first among those looked at. It blocks a little."""
        found: list[QuarantinedRecord] = []
        for task in list(self.thread.tasks.values()):
            rows = task.store.scan(QUARANTINE_STORE, limit=_MAX_QUARANTINE_SCAN)
            found += [QuarantinedRecord(**json.loads(row)) for _, row in rows]
        found.sort(key=lambda record: record.at_ms, reverse=True)
        return found[:limit]

    def _task_health(self, task: StreamTask) -> TaskHealth:
        lag = task.lag_records()
        total = sum((task.barrier or {}).values())
        return TaskHealth(
            partition=task.partition,
            state=task.state.value,
            position=sum(task.positions.values()),
            end=sum(task.positions.values()) + lag,
            lag_records=lag,
            percent=100.0 if not total else round(100 * (total - lag) / total, 1),
            rebuilds=task.rebuilds,
        )

    def _refresh_readers(self) -> None:
        """Replace the table of readers whole, so that a reader of it never sees a half-made one."""
        readers: dict[str, list[TaskReader | None]] = {
            store: [None] * self.thread.partitions for store in self._topology.stores
        }
        for task in self.thread.tasks.values():
            if task.state is TaskState.ACTIVE:
                for store in self._topology.stores:
                    readers[store][task.partition] = TaskReader(self, task, store, self._clock)
        self._readers = readers

    def _why_not(self, partition: int) -> Unavailable:
        if self._is_draining:
            return Draining("this node is stopping", retry_after_s=2.0)
        task = self.thread.tasks.get(partition)
        if task is None or task.state is TaskState.SUSPENDED:
            return NotOwner(f"partition {partition} has no owner here yet", partition=partition)
        return Restoring(
            f"partition {partition} is restoring",
            partition=partition,
            lag_records=task.lag_records(),
            retry_after_s=1.0,
        )

    async def _look_at_ends(self, deadline: Deadline) -> Mapping[TopicPartition, int]:
        places = [TopicPartition(topic, p) for p in range(self.partitions) for topic in self._topology.topics]
        return await asyncio.to_thread(self._log.end_offsets, places, deadline)

    def _ends_seen(self, future: "asyncio.Future[Mapping[TopicPartition, int]]") -> None:
        self._end_offsets = None
        if not future.cancelled():
            future.exception()  # Every caller may have gone at its own deadline; it is nobody's unhandled error then.
