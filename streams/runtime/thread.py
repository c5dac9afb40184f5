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
from streams.cluster import NOWHERE, OBSERVER, ClusterView
from streams.config import RuntimeConfig
from streams.errors import ConfigError, LogError, LogUnavailable, OffsetOutOfRange, Unavailable
from streams.log.base import Log, LogReader, LogWriter, Membership, TopicSpec
from streams.records import RecordBatch
from streams.runtime.applying import DISK_RETRY_S, Applier
from streams.runtime.commands import Refused
from streams.runtime.events import Assigned, Damaged, Event, OwnershipEvents, Revoked, ViewChanged
from streams.runtime.following import Following
from streams.runtime.group import Flights
from streams.runtime.housekeeping import Housekeeper
from streams.runtime.member import NodeMember
from streams.runtime.metrics import RuntimeMetrics
from streams.runtime.promotion import Promotion
from streams.runtime.section import WriteSection
from streams.runtime.states import SectionState, TaskState
from streams.runtime.table import FencedTable
from streams.runtime.task import StreamTask
from streams.runtime.tasks import Tasks
from streams.runtime.tenure import Tenures
from streams.runtime.waiters import Waiters
from streams.stores.base import StoreFactory, StoreIdentity
from streams.topology.graph import Topology

logger = logging.getLogger(__name__)

_IDLE_POLL_S = 0.1  # how long a turn without work waits; submissions, futures and events end the wait


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
        member: NodeMember,
        config: RuntimeConfig,
        clock: Clock,
        metrics: RuntimeMetrics,
        on_change: Callable[[], None],
        on_view: Callable[[ClusterView], None],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        """*on_change* is told after a task has changed its state, *on_view* of each view of the group once it is
        obeyed; *on_fatal* ends the process: the log's topics are not fit to run on, the group refuses this node, or the
        disk or a bug stopped the loop."""
        self._tasks = Tasks(
            topology=topology, stores=stores, clock=clock, on_poison=metrics.poisoned, assign=reader.assign
        )
        self.tasks = self._tasks.opened  # by partition; any thread may look
        self.membership: Membership | None = None
        self.partitions = 0
        self.waiters = Waiters()
        self._topology = topology
        self._topics = topics
        self._log = log
        self._table = table
        self._reader = reader
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._member = member
        self._on_change = on_change
        self._on_view = on_view
        self._on_fatal = on_fatal
        self._events: deque[Event] = deque()
        self._revocations: list[Revoked] = []
        self._is_closed = False
        self._writer: LogWriter | None = None
        self._section: WriteSection | None = None
        self._tenures = Tenures()
        self.flights = Flights()
        self._view: ClusterView = NOWHERE  # the group's newest; peers may know a newer one
        self._is_joined = False
        self._following = Following(node_id=config.node_id, clock=clock, cleanup_delay_s=config.state_cleanup_delay_s)
        self._housekeeper = Housekeeper(clock, self.post)
        self._promotion = Promotion(self.tasks, self._tenures, self._housekeeper, clock, metrics, on_change)
        self._applier = Applier(
            tasks=self.tasks,
            waiters=self.waiters,
            metrics=metrics,
            clock=clock,
            rebuild=lambda task, reason: self._rebuild(task, reason, reached=task.positions),
            read_again=self._read_again,
        )
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
        return not self._table.waiting and (section is None or section.is_idle)

    @property
    def section_state(self) -> SectionState:
        """What the write section does. Any thread."""
        return self._section.state if self._section is not None else SectionState.CLOSED

    @property
    def identity(self) -> StoreIdentity | None:
        """What the stores are made from; None until the log was reached. Any thread."""
        return self._tasks.identity

    @property
    def owned(self) -> frozenset[int]:
        """The partitions that are this node's, be they ready or not. Any thread."""
        return self._section.owned if self._section is not None else frozenset()

    @property
    def ailing(self) -> frozenset[int]:
        """The partitions of `owned` for which the log takes nothing for now. Any thread."""
        return self._section.ailing if self._section is not None else frozenset()

    @property
    def is_serving(self) -> bool:
        """Whether every partition that is owned takes writes and answers reads; for an observer: whether each was
        caught up once. Any thread."""
        if self._config.role == OBSERVER:
            return bool(self.tasks) and all(task.is_serving for task in list(self.tasks.values()))
        section = self._section
        if section is None or not self._is_joined:
            return False
        # A partition that ails in the log is nothing that another node, or a restart, could mend.
        return not section.owned or (section.state is SectionState.OPEN and not section.unready - section.ailing)

    @property
    def sequence(self) -> int:
        """Odd while a turn's records are being applied to several tasks. Any thread."""
        return self._applier.sequence

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
        self._let_go(section)
        self._apply(section, section.release())  # read before the append was known to have succeeded
        section.start_group()
        self._table.flush()  # what is known by now must not wait for the log
        self._apply(section, section.hold(self._poll(section, timeout_s)))
        self._promotion.turn(section)
        self._table.expire_queued(section.why_not_ready)
        self._table.flush()
        self._follow(section)
        self._housekeeper.turn(self.tasks)

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
        self._tasks.identity = StoreIdentity(
            topic_ids={name: info.topic_id for name, info in infos.items()},
            partitions=partitions,
            format_version=self._config.format_version,
        )
        self._member.tasks = self.tasks
        membership = self._log.open_membership(self._topology.topics, self._member)
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
            flights=self.flights,
        )
        self.partitions = partitions
        self.membership = membership
        # Before joining, so that the group knows how far this node is; an observer follows everything.
        found = self._tasks.on_disk()
        self._tasks.open(frozenset(range(partitions)) if self._config.role == OBSERVER else found)
        self._on_change()
        events = OwnershipEvents(post=self.post, tenures=self._tenures, revoke_timeout_s=self._config.append_timeout_s)
        membership.start(events)
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
        self._table.unpark()
        for pending in self._table.take(self._table.queued):
            self._table.answer(pending, Refused(Unavailable("this node stopped before the command was begun")))
        self._table.flush()
        self._is_closed = True
        self._release_revocations()
        if self._writer is not None:
            self._writer.close(Deadline.after(1.0, self._clock))
        self._reader.close()
        self._tasks.close()
        self._on_change()

    def _release_revocations(self) -> None:
        """Nothing is in flight any more once the loop has ended: nobody need wait for it. Any thread."""
        for event in (*self._revocations, *self._events):
            if isinstance(event, Revoked):
                event.is_released.set()

    def _take_events(self, section: WriteSection) -> None:
        view = None
        while self._events:
            event = self._events.popleft()
            if isinstance(event, Assigned):
                self._own(section, event)
            elif isinstance(event, ViewChanged):
                view = event.view
                self._obey(view)
            elif isinstance(event, Damaged):
                if event.partition in self.tasks:
                    task = self.tasks[event.partition]
                    self._rebuild(task, event.reason, reached=task.positions)
            else:
                logger.info("partitions given up", extra={"partitions": sorted(event.partitions)})
                self._give_up(section, event.partitions)
                if isinstance(event, Revoked):
                    self._revocations.append(event)
                else:
                    self._is_joined = bool(section.owned)
        if view is not None:
            self._on_view(view)

    def _let_go(self, section: WriteSection) -> None:
        """Let revocations return when the append in flight has ended: before the next one begins, or under load there
        would always be one."""
        if self._revocations and not section.is_appending:
            for revoked in self._revocations:
                revoked.is_released.set()
            self._revocations.clear()

    def _own(self, section: WriteSection, event: Assigned) -> None:
        partitions, given_at = event.ownership.partitions, self._clock.monotonic()
        self._metrics.rebalances += 1
        logger.info("partitions assigned", extra={"partitions": sorted(partitions)})
        self._promotion.stamp = event.stamp
        self._give_up(section, section.owned - partitions)
        self._tasks.open(partitions)
        section.own(event.ownership)
        for partition in partitions:
            self._promotion.take_over(self.tasks[partition], given_at)
        self._is_joined = True  # last: who owns nothing yet, but has joined, is ready
        self._on_change()

    def _obey(self, view: ClusterView) -> None:
        """Follow what the group wants to be followed here. Raises ConfigError when it does not want this node."""
        reason = view.refusal_of(self._member.info)
        if reason is not None:
            raise ConfigError(f"the cluster refuses this node: {reason}")
        self._view = view
        self._tasks.open(view.followed_by(self._config.node_id))
        self._on_change()

    def _give_up(self, section: WriteSection, partitions: frozenset[int]) -> None:
        """Own *partitions* no more; their tasks go on following."""
        section.give_up(partitions)
        for partition in partitions & self.tasks.keys():
            self.tasks[partition].barrier = None
            self._promotion.retire(self.tasks[partition])
        self._on_change()

    def _follow(self, section: WriteSection) -> None:
        """Look after the tasks that follow: how far they are, whether they are warm, whether anybody wants them."""
        if not self._following.is_due():
            return
        self._following.note_caught_up(self.tasks, self._reader.caught_up_at, section.is_holding)
        view, node_id = self._view, self._config.node_id
        if view is NOWHERE or self._config.role == OBSERVER:
            return
        if self.membership is not None and self._following.must_rebalance(view, self.tasks):
            logger.info("warmed up", extra={"epoch": view.epoch})
            self.membership.rebalance()
        # By the view, too: when the log is away for long, everything is lost and nothing must be deleted for that.
        wanted = section.owned | view.owned_by(node_id) | view.followed_by(node_id)
        unused = self._following.unused(self.tasks.keys(), wanted)
        if unused:
            self._tasks.remove(unused)
            self._on_change()

    def _poll(self, section: WriteSection, timeout_s: float) -> list[RecordBatch]:
        if self._applier.retry_disk_at > self._clock.monotonic():
            self._is_stopping.wait(min(timeout_s, DISK_RETRY_S))
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
            self._applier.apply(batches)
            section.applied()

    def _rebuild(self, task: StreamTask, reason: str, *, reached: Mapping[str, int]) -> None:
        """Begin the task anew. It must come at least to *reached*, as far as it was, before it may answer again."""
        owned = task.state in (TaskState.ACTIVE, TaskState.RESTORING)
        barrier = task.barrier or {}
        self._metrics.rebuilds += 1
        if owned and self._section is not None:
            self._section.rebuilding(task.partition)
        self._promotion.retire(task)
        task.rebuild(reason)
        task.move_to(TaskState.STANDBY)
        if owned:
            task.barrier = {topic: max(reached.get(topic, 0), barrier.get(topic, 0)) for topic in task.positions}
            self._promotion.restore(task)
        self._read_again(task)
        self._on_change()

    def _read_again(self, task: StreamTask) -> None:
        """Read on from the task's own position, forgetting what was read beyond it."""
        if self._section is not None:
            self._section.forget_held(task.partition)
        self._tasks.assign_reader()
