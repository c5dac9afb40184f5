"""Tells the operator how a restore goes: percent, rate and time left, every few seconds. Owned by the stream thread."""

import logging
from collections.abc import Sequence

from streams.clock import Clock
from streams.runtime.task import StreamTask

logger = logging.getLogger(__name__)

_INTERVAL_S = 2.0


class RestoreProgress:
    """One restore of one or more tasks, from its first report to its last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_at = 0.0
        self._reported_at = 0.0
        self._total = 0

    def report(self, restoring: Sequence[StreamTask]) -> None:
        """Note the tasks that still restore; log a line when the interval has passed, and one at the end."""
        now = self._clock.monotonic()
        left = sum(task.lag_records() for task in restoring)
        if not restoring:
            if self._total:
                logger.info("restored", extra={"records": self._total, "seconds": round(now - self._began_at, 1)})
            self._total = 0
            return
        if left > self._total:
            self._began_at = self._reported_at = now
            self._total = left
        if now - self._reported_at < _INTERVAL_S or not left:
            return
        self._reported_at = now
        done = self._total - left
        rate = done / max(now - self._began_at, 1e-3)
        logger.info(
            "restoring",
            extra={
                "percent": round(100 * done / self._total, 1),
                "records_per_s": round(rate),
                "seconds_left": round(left / rate) if rate else None,
                "tasks": [task.partition for task in restoring],
            },
        )
