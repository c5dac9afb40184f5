"""What keeps the input of a sub-topology from being read: told in the log once, not each second, and in health for as
long as it lasts."""

import logging
from collections.abc import Callable, Iterable

from streams.clock import Clock, Deadline
from streams.errors import LogError, StreamsError, TopologyError
from streams.log.base import Log

logger = logging.getLogger(__name__)

_LOOK_S = 10.0  # between two looks whether quiet topics are still there
_TIMEOUT_S = 5.0


class Trouble:
    """One at a time. One thread writes; any may look at `reason`, which is empty while all is well."""

    def __init__(self, subtopology: int) -> None:
        self.reason = ""
        self._subtopology = subtopology

    def met(self, error: Exception) -> None:
        """Reading has failed for *error*, and will be tried again."""
        reason = f"{type(error).__name__}: {error}"
        if reason != self.reason:
            self.reason = reason
            bug = None if isinstance(error, StreamsError) else error
            extra = {"subtopology": self._subtopology}
            logger.error("the input cannot be read: %s", reason, extra=extra, exc_info=bug)

    def over(self) -> None:
        """Reading has succeeded."""
        if self.reason:
            logger.info("the input is read again", extra={"subtopology": self._subtopology})
            self.reason = ""


class Lookout:
    """Looks whether topics are still there: a log that is asked for records of one that is not says nothing."""

    def __init__(self, log: Log, topics: Iterable[str], clock: Clock) -> None:
        self._log = log
        self._topics = tuple(topics)
        self._clock = clock
        self._look_at = clock.monotonic() + _LOOK_S
        self._error: TopologyError | None = None

    def look(self, is_quiet: Callable[[float], bool]) -> TopologyError | None:
        """Return what the last look has found missing. There is a new one from time to time, if *is_quiet* says so of
        the input since a moment (monotonic, in seconds); it waits for the log, seconds at most."""
        now = self._clock.monotonic()
        if now < self._look_at:
            return self._error
        self._look_at = now + _LOOK_S
        if self._error is None and not is_quiet(now - _LOOK_S):
            return None
        try:
            found = self._log.describe_topics(self._topics, Deadline.after(_TIMEOUT_S, self._clock))
        except LogError:
            return self._error  # Nobody knows; that the log is away is told elsewhere.
        missing = ", ".join(sorted(set(self._topics) - found.keys()))
        self._error = TopologyError(f"there is no topic {missing} any more") if missing else None
        return self._error
