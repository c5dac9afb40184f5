"""What a node follows without owning it: how far behind each task is in time, when a newcomer is warm, and when a task
that nobody wants any more may go. Decided here, done by the stream thread.
"""

import math
from collections.abc import Callable, Collection, Mapping

from streams.clock import Backoff, Clock
from streams.cluster import ClusterView
from streams.records import TopicPartition
from streams.runtime.task import StreamTask

_LOOK_INTERVAL_S = 0.05  # between two looks at how far the tasks are; adds as much to what they are said to be behind
_WARM_S = 1.0  # a task that held all of the log so short a time ago is caught up


class Following:
    """Looks at all tasks once in a while. The stream thread only."""

    def __init__(self, *, node_id: str, clock: Clock, cleanup_delay_s: float) -> None:
        """*cleanup_delay_s*: how long a task stays open that is neither owned nor followed."""
        self._node_id = node_id
        self._clock = clock
        self._cleanup_delay_s = cleanup_delay_s
        self._look_at = -math.inf
        self._ask_at = -math.inf
        self._backoff = Backoff(initial_s=1.0, maximum_s=30.0)
        self._unused_since: dict[int, float] = {}

    def is_due(self) -> bool:
        """Say whether it is time for the next look."""
        now = self._clock.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + _LOOK_INTERVAL_S
        return True

    def note_caught_up(
        self,
        tasks: Mapping[int, StreamTask],
        caught_up_at: Callable[[TopicPartition], float],
        is_holding: Callable[[int], bool],
    ) -> None:
        """Note in each task when it was last known to have applied all that the log held. *caught_up_at*: the
        reader's; what it has handed over is applied, but for tasks of which something is held (*is_holding*)."""
        for partition, task in tasks.items():
            if not is_holding(partition):
                task.set_caught_up(min(caught_up_at(place) for place in task.topic_partitions()))

    def must_rebalance(self, view: ClusterView, tasks: Mapping[int, StreamTask]) -> bool:
        """Say whether the group should divide anew: all that this node is to warm up is warm. Says so once, and again
        after a while as long as the group's view does not change that."""
        warming = [number for number, place in enumerate(view.placements) if self._node_id in place.warming]
        if not warming:
            self._backoff.reset()
            self._ask_at = -math.inf
            return False
        now = self._clock.monotonic()
        if now < self._ask_at or not all(self._is_warm(tasks.get(number), now) for number in warming):
            return False
        self._ask_at = now + self._backoff.next_s()
        return True

    def unused(self, tasks: Collection[int], wanted: Collection[int]) -> list[int]:
        """Return those of *tasks* that have not been among *wanted* for the whole delay."""
        now = self._clock.monotonic()
        since = self._unused_since
        self._unused_since = {task: since.get(task, now) for task in tasks if task not in wanted}
        return [task for task, start in self._unused_since.items() if now - start >= self._cleanup_delay_s]

    @staticmethod
    def _is_warm(task: StreamTask | None, now: float) -> bool:
        return task is not None and now - task.caught_up_at <= _WARM_S
