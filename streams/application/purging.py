"""Deletes from repartition topics what is processed (Kafka Streams: `repartition.purge.interval.ms`). Their retention
is without end, because a record may be older than any, and wait for its turn all the same.
"""

import logging
import threading
from collections.abc import Sequence

from streams.clock import Clock, Deadline
from streams.errors import LogError
from streams.log.base import Log
from streams.records import TopicPartition
from streams.runtime.processing import Processing

logger = logging.getLogger(__name__)

_INTERVAL_S = 30.0
_TIMEOUT_S = 10.0


class Purger:
    """Does it every half a minute, for the tasks that are owned here, on a thread of its own."""

    def __init__(
        self, processings: Sequence[Processing], log: Log, clock: Clock, interval_s: float = _INTERVAL_S
    ) -> None:
        self._processings = processings
        self._log = log
        self._clock = clock
        self._interval_s = interval_s
        self._done: dict[TopicPartition, int] = {}
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="purging", daemon=True)

    def start(self) -> None:
        """Begin, if there is anything to do."""
        if any(each.subtopology.repartition_topics for each in self._processings):
            self._thread.start()

    def stop(self, deadline: Deadline) -> None:
        """Idempotent."""
        self._is_stopping.set()
        if self._thread.is_alive():
            self._thread.join(deadline.remaining_s(self._clock))

    def purge(self) -> None:
        """Delete what is processed now, as the stores say: whoever takes a task over begins there or later. Raises
        LogError."""
        wanted: dict[TopicPartition, int] = {}
        for each in self._processings:
            internal = {each.subtopology.repartition_name(name) for name in each.subtopology.repartition_topics}
            wanted |= {place: end for place, end in each.positions().items() if place.topic in internal}
        news = {place: end for place, end in wanted.items() if end > self._done.get(place, 0)}
        if news:
            self._log.delete_before(news, Deadline.after(_TIMEOUT_S, self._clock))
            self._done.update(news)

    def _run(self) -> None:
        while not self._is_stopping.wait(self._interval_s):
            try:
                self.purge()
            except LogError as error:
                logger.warning("repartition topics not purged", extra={"reason": str(error)})
