"""Those who wait until positions are applied: position tokens and strict reads. Any thread registers; the stream thread
calls back after each commit."""

import threading
from collections.abc import Callable, Mapping

from streams.records import TopicPartition
from streams.runtime.task import StreamTask


class Waiters:
    """Callbacks with the positions that they wait for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[Mapping[TopicPartition, int], Callable[[], None]]] = {}
        self._next = 0

    def add(self, targets: Mapping[TopicPartition, int], callback: Callable[[], None]) -> int:
        """Call *callback* once, on the stream thread, when all *targets* are applied after now; return a handle.

        The caller looks at the positions again after this, since they may have been reached just before.
        """
        with self._lock:
            self._next += 1
            self._waiting[self._next] = (targets, callback)
            return self._next

    def remove(self, handle: int) -> None:
        """Forget a waiter, whether or not it was called."""
        with self._lock:
            self._waiting.pop(handle, None)

    def applied(self, tasks: Mapping[int, StreamTask]) -> None:
        """Call back whoever has waited long enough."""
        if not self._waiting:
            return
        with self._lock:
            done = [handle for handle, (targets, _) in self._waiting.items() if are_applied(tasks, targets)]
            callbacks = [self._waiting.pop(handle)[1] for handle in done]
        for callback in callbacks:
            callback()


def are_applied(tasks: Mapping[int, StreamTask], targets: Mapping[TopicPartition, int]) -> bool:
    """Say whether every target offset is applied in its task."""
    for (topic, partition), end in targets.items():
        task = tasks.get(partition)
        if task is None or task.positions.get(topic, 0) < end:
            return False
    return True
