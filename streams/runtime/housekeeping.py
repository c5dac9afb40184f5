"""Writes that no record asked for: noting that an idle store is still current, removing rows that have expired.

Owned by the stream thread. Each is small, can as well be done later, and must never stop anything: a full disk is
logged, damage is reported like damage that a read has met.
"""

import logging
from collections.abc import Callable, Mapping

from streams.clock import Clock
from streams.errors import StoreDamaged
from streams.runtime.events import Damaged
from streams.runtime.task import StreamTask

logger = logging.getLogger(__name__)

_CAUGHT_UP_INTERVAL_S = 600.0
_SWEEP_INTERVAL_S = 1.0  # between two sweeps, of one task each
_SWEEP_ROWS = 256
_CURRENT_S = 60.0  # a task, owned or followed, that held all of the log so short a time ago has missed no tombstone


class Housekeeper:
    """Keeps the stores of all tasks, a little in each turn."""

    def __init__(self, clock: Clock, post: Callable[[Damaged], None]) -> None:
        self._clock = clock
        self._post = post
        self._sweep_at = clock.monotonic()
        self._caught_up_at = clock.monotonic() + _CAUGHT_UP_INTERVAL_S
        self._sweeps = 0

    def turn(self, tasks: Mapping[int, StreamTask]) -> None:
        """Do what is due."""
        now = self._clock.monotonic()
        if now < self._sweep_at or not tasks:
            return
        self._sweep_at = now + _SWEEP_INTERVAL_S
        self._sweeps += 1
        task = tasks[sorted(tasks)[self._sweeps % len(tasks)]]
        self.write(task, lambda: task.sweep(_SWEEP_ROWS))
        if now >= self._caught_up_at:
            self._caught_up_at = now + _CAUGHT_UP_INTERVAL_S
            for each in tasks.values():
                if now - each.caught_up_at <= _CURRENT_S:
                    self.write(each, each.mark_caught_up)

    def write(self, task: StreamTask, write: Callable[[], object]) -> None:
        """Do one such write to *task*."""
        try:
            write()
        except StoreDamaged as error:
            self._post(Damaged(task.partition, str(error)))
        except OSError as error:
            logger.warning("store cannot be written", extra={"task": task.partition, "reason": str(error)})
