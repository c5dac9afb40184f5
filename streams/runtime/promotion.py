"""Makes tasks active: those that are owned and have applied the barrier of the last fence. The stream thread's."""

import logging
from collections.abc import Callable, Mapping

from streams.clock import Clock
from streams.runtime.housekeeping import Housekeeper
from streams.runtime.metrics import RuntimeMetrics
from streams.runtime.progress import RestoreProgress
from streams.runtime.section import WriteSection
from streams.runtime.states import TaskState
from streams.runtime.task import StreamTask
from streams.runtime.tenure import Tenures

logger = logging.getLogger(__name__)


class Promotion:
    """From RESTORING to ACTIVE, and back to STANDBY."""

    def __init__(
        self,
        tasks: Mapping[int, StreamTask],
        tenures: Tenures,
        housekeeper: Housekeeper,
        clock: Clock,
        metrics: RuntimeMetrics,
        on_change: Callable[[], None],
    ) -> None:
        """*on_change* is told of tasks that have become active, before anybody is told that they are ready."""
        #: Of the tenures, when the group said what is owned.
        self.stamp = 0
        self._tasks = tasks
        self._tenures = tenures
        self._housekeeper = housekeeper
        self._clock = clock
        self._metrics = metrics
        self._on_change = on_change
        self._given_at: dict[int, float] = {}  # of partitions that are on their way to being active
        self._progress = RestoreProgress(clock)

    def turn(self, section: WriteSection) -> None:
        """Promote what has reached its barrier, and tell *section* which partitions are ready."""
        if not section.unready:
            section.settle()
            return
        is_changed = False
        ready: list[int] = []
        restoring: list[StreamTask] = []
        for partition in section.unready:
            task = self._tasks[partition]
            fenced = section.barrier_of(partition)
            if fenced is None:
                restoring.append(task)
                continue
            older: Mapping[str, int] = task.barrier or {}
            task.barrier = {topic: max(end, older.get(topic, 0)) for topic, end in fenced.items()}
            if not task.has_reached(task.barrier) or not self._begin_tenure(task):
                restoring.append(task)
                continue
            if task.state is not TaskState.ACTIVE:
                task.move_to(TaskState.ACTIVE)
                given_at = self._given_at.pop(partition, None)
                if given_at is not None:
                    self._metrics.handed_over(self._clock.monotonic() - given_at)
                self._housekeeper.write(task, task.mark_caught_up)
                is_changed = True
            ready.append(partition)
        if is_changed:
            self._on_change()  # First: who is told that this node is ready must not find that it is restoring.
            active = sorted(p for p, task in self._tasks.items() if task.state is TaskState.ACTIVE)
            logger.info("partitions active", extra={"partitions": active})
        for partition in ready:
            section.set_ready(partition)
        self._progress.report(restoring)
        section.settle()

    def take_over(self, task: StreamTask, given_at: float) -> None:
        """The group gave the partition of *task* to this node at *given_at*, on the monotonic clock in seconds, or said
        again that it is."""
        if task.state is not TaskState.ACTIVE:
            self._given_at.setdefault(task.partition, given_at)
        self.restore(task)

    def restore(self, task: StreamTask) -> None:
        """The partition of *task* is owned now: it has to reach a barrier, unless it was active all the time."""
        if task.state is not TaskState.ACTIVE:
            task.move_to(TaskState.RESTORING)

    def retire(self, task: StreamTask) -> None:
        """*task* only follows from now on: its partition is owned no more, or its state begins anew."""
        self._tenures.interrupt(task.partition)
        self._given_at.pop(task.partition, None)
        task.tenure = None
        task.move_to(TaskState.STANDBY)

    def _begin_tenure(self, task: StreamTask) -> bool:
        """Say whether the partition is still this node's, as far as the group's own thread knows."""
        task.tenure = self._tenures.begin(task.partition, self.stamp)
        return task.tenure is not None
