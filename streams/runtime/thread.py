"""The stream thread: one loop that owns all tasks and their writes, the write section and the reader.

One turn: take events (ownership, damage), look what the log has finished, decide and append the next group, read,
apply, answer. Everything that changes state happens in a turn, one thing after the other; other threads only post
events, submit commands to the table and read. No turn waits for the log: slow calls are futures.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from streams.clock import Backoff, Clock, Deadline
from streams.cluster import NOWHERE, ClusterView
from streams.config import RuntimeConfig
from streams.errors import LogError, LogUnavailable, OffsetOutOfRange, Restoring, StoreDamaged, Unavailable
from streams.log.base import Log, LogReader, LogWriter, Membership, TopicSpec
from streams.records import RecordBatch, TopicPartition
from streams.runtime.commands import Command, Refused
from streams.runtime.events import Assigned, Damaged, Event, OwnershipEvents, Revoked, ViewChanged
from streams.runtime.housekeeping import Housekeeper
from streams.runtime.member import NodeMember
from streams.runtime.metrics import RuntimeMetrics
from streams.runtime.progress import RestoreProgress
from streams.runtime.section import SectionState, WriteSection
from streams.runtime.states import TaskState
from streams.runtime.table import FencedTable
from streams.runtime.task import StreamTask
from streams.runtime.waiters import Waiters
from streams.stores.base import StoreFactory, StoreIdentity
from streams.topology.graph import Topology

logger = logging.getLogger(__name__)

_IDLE_POLL_S = 0.1  # how long a turn without work waits; submissions, futures and events end the wait
_CHUNK_RECORDS = 512  # records between two yields while reads are served: a commit holds the interpreter's lock
_NEAR_RECORDS = 20_000  # with a longer lag to the barrier, waiting commands are refused at once, not at their deadline
_DISK_RETRY_S = 1.0


class StreamThread:
    """Runs the loop. Every method but `post`, `stop` and the properties belongs to the thread itself, or to a test that
    calls `run_once` instead of starting it."""

    def __init__(
        self,
        *,
        topology: Topology,
        topics: Sequence[TopicSpec],
        log: Log,
        stores: StoreFactory,
        table: FencedTable,
        reader: LogReader,
        config: RuntimeConfig,
        clock: Clock,
        metrics: RuntimeMetrics,
        on_change: Callable[[], None],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        """*on_change* is told after a task has changed its state; *on_fatal* ends the process: the log's topics are not
        fit to run on, or the disk or a bug stopped the loop."""
        self.tasks: dict[int, StreamTask] = {}
        self.membership: Membership | None = None
        self.partitions = 0
        self.view: ClusterView = NOWHERE  # replaced whole; any thread may look
        self.sequence = 0  # odd while a turn's records are being applied to several tasks
        self.waiters = Waiters()
        self._topology = topology
        self._topics = topics
        self._log = log
        self._stores = stores
        self._table = table
        self._reader = reader
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._on_change = on_change
        self._on_fatal = on_fatal
        self._events: deque[Event] = deque()
        self._revocations: list[Revoked] = []
        self._is_closed = False
        self._writer: LogWriter | None = None
        self._section: WriteSection | None = None
        #: What the stores are made from; None until the log was reached.
        self.identity: StoreIdentity | None = None
        self._progress = RestoreProgress(clock)
        self._is_settled = False  # every owned task is active
        self._housekeeper = Housekeeper(clock, self.post)
        self._retry_disk_at = 0.0
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream-thread", daemon=True)

    def start(self) -> None:
        """Start the loop in its thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the loop runs. Any thread."""
        return self._thread.is_alive()

    @property
    def is_idle(self) -> bool:
        """Whether no accepted write is under way. Any thread."""
        section = self._section
        return not self._table.queued and (section is None or section.is_idle)

    @property
    def section_state(self) -> SectionState:
        """What the write section does. Any thread."""
        return self._section.state if self._section is not None else SectionState.CLOSED

    def post(self, event: Event) -> None:
        """Queue *event* for the next turn, and rouse the loop. Any thread."""
        self._events.append(event)
        if self._is_closed:
            self._release_revocations()
        self._reader.wakeup()

    def stop(self, deadline: Deadline) -> None:
        """End the loop and close stores and writer. Not from the thread itself. Idempotent."""
        self._is_stopping.set()
        self._reader.wakeup()
        if self._thread.is_alive():
            self._thread.join(deadline.remaining_s(self._clock))
        if self._thread.is_alive():
            logger.error("stream thread did not stop in time")

    def run_once(self, timeout_s: float = 0.0) -> None:
        """Do one turn; wait up to *timeout_s* for something to do."""
        section = self._section
        assert section is not None
        self._take_events(section)
        section.advance()
        self._apply(section, section.release())  # read before the append was known to have succeeded
        section.start_group()
        self._table.flush()  # what is known by now must not wait for the log
        self._apply(section, section.hold(self._poll(section, timeout_s)))
        self._promote(section)
        self._table.expire_queued(section.why_not_ready)
        self._table.flush()
        self._housekeeper.turn(self.tasks, is_open=section.state is SectionState.OPEN)

    def bootstrap(self) -> bool:
        """Check or create the topics and join the group; False when the log cannot be reached yet. Raises LogError for
        topics on which this application must not run."""
        try:
            infos = self._log.ensure_topics(self._topics, Deadline.after(self._config.start_timeout_s, self._clock))
        except LogUnavailable as error:
            logger.warning("log unavailable at start", extra={"reason": str(error)})
            return False
        counts = {info.partitions for info in infos.values()}
        if len(counts) != 1:
            raise LogError(
                f"the topics must have one partition count: { {i.name: i.partitions for i in infos.values()} }"
            )
        (partitions,) = counts
        self.identity = StoreIdentity(
            topic_ids={name: info.topic_id for name, info in infos.items()},
            partitions=partitions,
            format_version=self._config.format_version,
        )
        membership = self._log.open_membership(self._topology.topics, NodeMember(self._config, self.tasks))
        self._writer = self._log.open_writer(self._topology.topics, membership)
        self._section = WriteSection(
            topology=self._topology,
            table=self._table,
            tasks=self.tasks,
            writer=self._writer,
            clock=self._clock,
            wakeup=self._reader.wakeup,
            metrics=self._metrics,
            max_group_commands=self._config.max_group_commands,
            append_timeout_s=self._config.append_timeout_s,
            on_damage=lambda partition, reason: self.post(Damaged(partition, reason)),
        )
        self.partitions = partitions
        self.membership = membership
        self._on_change()
        membership.start(OwnershipEvents(post=self.post, revoke_timeout_s=self._config.append_timeout_s))
        return True

    def _run(self) -> None:
        backoff = Backoff(initial_s=0.2, maximum_s=5.0)
        try:
            while not self._is_stopping.is_set() and not self.bootstrap():
                self._table.expire_queued(lambda _: None)
                self._table.flush()
                self._is_stopping.wait(backoff.next_s())
            while not self._is_stopping.is_set():
                self.run_once(_IDLE_POLL_S)
        except BaseException as error:  # noqa: BLE001 - whatever it is, somebody has to end the process for it
            self._on_fatal(error)
        finally:
            self.close()

    def close(self) -> None:
        """Answer what still waits, then close writer, reader and stores."""
        for pending in self._table.take(self._table.queued):
            self._table.answer(pending, Refused(Unavailable("this node stopped before the command was begun")))
        self._table.flush()
        self._is_closed = True
        self._release_revocations()
        if self._writer is not None:
            self._writer.close(Deadline.after(1.0, self._clock))
        self._reader.close()
        for task in self.tasks.values():
            task.close()
        self._on_change()

    def _release_revocations(self) -> None:
        """Nothing is in flight any more once the loop has ended: nobody need wait for it. Any thread."""
        for event in (*self._revocations, *self._events):
            if isinstance(event, Revoked):
                event.is_released.set()

    def _take_events(self, section: WriteSection) -> None:
        while self._events:
            event = self._events.popleft()
            if isinstance(event, Assigned):
                self._metrics.rebalances += 1
                logger.info("partitions assigned", extra={"partitions": sorted(event.ownership.partitions)})
                section.own(event.ownership)
                self._assign(event.ownership.partitions)
            elif isinstance(event, ViewChanged):
                self.view = event.view
            elif isinstance(event, Damaged):
                task = self.tasks[event.partition]
                self._rebuild(task, event.reason, reached=task.positions)
            else:
                logger.info("partitions given up", extra={"partitions": sorted(event.partitions)})
                section.disown()
                self._suspend(event.partitions)
                if isinstance(event, Revoked):
                    self._revocations.append(event)
        if self._revocations and not section.is_appending:
            for revoked in self._revocations:
                revoked.is_released.set()
            self._revocations.clear()

    def _assign(self, partitions: frozenset[int]) -> None:
        assert self.identity is not None
        for partition in sorted(partitions - self.tasks.keys()):
            self.tasks[partition] = StreamTask(
                partition,
                topology=self._topology,
                stores=self._stores,
                identity=self.identity,
                clock=self._clock,
                on_poison=self._metrics.poisoned,
            )
        for partition in partitions:
            task = self.tasks[partition]
            if task.state is not TaskState.ACTIVE:
                task.move_to(TaskState.RESTORING)
        self._is_settled = False
        self._assign_reader()
        self._on_change()

    def _assign_reader(self) -> None:
        positions: dict[TopicPartition, int] = {}
        for task in self.tasks.values():
            positions.update(task.topic_partitions())
        self._reader.assign(positions)

    def _suspend(self, partitions: frozenset[int]) -> None:
        for partition in partitions & self.tasks.keys():
            self.tasks[partition].barrier = None
            self.tasks[partition].move_to(TaskState.SUSPENDED)
        self._on_change()

    def _poll(self, section: WriteSection, timeout_s: float) -> list[RecordBatch]:
        if self._retry_disk_at > self._clock.monotonic():
            self._is_stopping.wait(min(timeout_s, _DISK_RETRY_S))
            return []
        self._table.is_consumer_waiting = True
        can_start = section.state is SectionState.OPEN and section.has_room and self._table.queued
        try:
            return self._reader.poll(0.0 if can_start or self._events or section.has_news else timeout_s)
        except OffsetOutOfRange as error:
            # The log has another history than the store: what the store had reached there means nothing.
            self._rebuild(self.tasks[error.partition], str(error), reached={})
            return []
        finally:
            self._table.is_consumer_waiting = False

    def _apply(self, section: WriteSection, batches: Sequence[RecordBatch]) -> None:
        """Apply *batches* and answer whoever waited for them."""
        if batches:
            self._apply_all(batches)
            section.applied()

    def _apply_all(self, batches: Sequence[RecordBatch]) -> None:
        by_task: dict[int, list[RecordBatch]] = {}
        for batch in batches:
            by_task.setdefault(batch.partition, []).append(batch)
        is_serving = any(task.state is TaskState.ACTIVE for task in self.tasks.values())
        self.sequence += 1
        try:
            for partition, mine in by_task.items():
                task = self.tasks.get(partition)
                if task is None:
                    continue
                for chunk in _chunks(mine) if is_serving else (mine,):
                    if not self._apply_to(task, chunk):
                        break  # What follows is read again; applied now, it would leave a gap.
        finally:
            self.sequence += 1
        self.waiters.applied(self.tasks)

    def _apply_to(self, task: StreamTask, batches: Sequence[RecordBatch]) -> bool:
        """Apply *batches*; False when that failed and the reading of this task begins anew."""
        try:
            self._metrics.records_applied += task.apply(batches)
        except StoreDamaged as error:
            self._rebuild(task, str(error), reached=task.positions)
        except OSError as error:
            # The disk is full or broken. What was read is read again from the store's position once it works.
            logger.error("store cannot be written", extra={"task": task.partition, "reason": str(error)})  # noqa: TRY400
            self._retry_disk_at = self._clock.monotonic() + _DISK_RETRY_S
            self._read_again(task)
        else:
            return True
        return False

    def _rebuild(self, task: StreamTask, reason: str, *, reached: Mapping[str, int]) -> None:
        """Begin the task anew. It must come at least to *reached*, as far as it was, before it may answer again."""
        owned = task.state in (TaskState.ACTIVE, TaskState.RESTORING)
        barrier = task.barrier or {}
        self._metrics.rebuilds += 1
        task.rebuild(reason)
        if owned:
            task.barrier = {topic: max(reached.get(topic, 0), barrier.get(topic, 0)) for topic in task.positions}
            task.move_to(TaskState.RESTORING)
            self._is_settled = False
        else:
            task.move_to(TaskState.SUSPENDED)
        self._read_again(task)
        self._on_change()

    def _read_again(self, task: StreamTask) -> None:
        """Read on from the task's own position, forgetting what was read beyond it."""
        if self._section is not None:
            self._section.forget_held(task.partition)
        self._assign_reader()

    def _promote(self, section: WriteSection) -> None:
        """Make tasks active that have reached their barrier, and open the section when all have."""
        ownership = section.ownership
        if ownership is None or (self._is_settled and section.state is SectionState.OPEN):
            return
        is_changed = False
        restoring: list[StreamTask] = []
        for partition in ownership.partitions:
            task = self.tasks[partition]
            if task.state is not TaskState.RESTORING:
                continue
            fenced = section.barrier_of(partition)
            if fenced is None:
                restoring.append(task)
                continue
            older: Mapping[str, int] = task.barrier or {}
            task.barrier = {topic: max(end, older.get(topic, 0)) for topic, end in fenced.items()}
            if task.has_reached(task.barrier):
                task.move_to(TaskState.ACTIVE)
                self._housekeeper.write(task, task.mark_caught_up)
                is_changed = True
            else:
                restoring.append(task)
        self._progress.report(restoring)
        section.open_if_caught_up()
        self._is_settled = not restoring
        if is_changed:
            active = sorted(p for p, task in self.tasks.items() if task.state is TaskState.ACTIVE)
            logger.info("partitions active", extra={"partitions": active})
            self._on_change()
        if restoring and sum(task.lag_records() for task in restoring) > _NEAR_RECORDS:
            self._refuse_waiting(section.why_not_ready)

    def _refuse_waiting(self, why: Callable[[Command], Unavailable | None]) -> None:
        """A long restore: whoever waits is told now."""
        for pending in self._table.take(self._table.queued):
            error = why(pending.command) or Restoring("restoring", partition=0, lag_records=0)
            self._table.answer(pending, Refused(error))


def _chunks(batches: Sequence[RecordBatch]) -> list[list[RecordBatch]]:
    """Cut *batches* into lists of at most `_CHUNK_RECORDS` records; small reads, the usual case, stay in one piece."""
    if sum(len(batch.records) for batch in batches) <= _CHUNK_RECORDS:
        return [list(batches)]
    chunks: list[list[RecordBatch]] = []
    for batch in batches:
        records = batch.records
        for start in range(0, max(1, len(records)), _CHUNK_RECORDS):
            part = records[start : start + _CHUNK_RECORDS]
            is_last = start + _CHUNK_RECORDS >= len(records)
            end = batch.next_offset if is_last else part[-1].offset + 1
            chunks.append([batch._replace(records=part, next_offset=end)])
    return chunks
