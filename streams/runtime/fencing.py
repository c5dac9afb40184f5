"""Fences of the write section, one after another, until one succeeds that was begun after the last reason to fence.

Owned by the stream thread; no waiting here. A log that is slow, not away, needs more time, and every attempt that is
given up begins anew and makes it slower still: so each has half as much time again as the one before, up to a bound.
Invariant: `barrier` is that of a fence which no later reason has made worthless.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future

from streams.clock import Backoff, Clock, Deadline
from streams.errors import GenerationPassed, LogUnavailable
from streams.log.base import LogWriter, Ownership
from streams.records import TopicPartition

logger = logging.getLogger(__name__)

#: How long the group may take to say what is owned in its next generation, before a fence is tried again.
_NEXT_OWNERSHIP_S = 0.5
_MORE_PATIENCE = 1.5
_MOST_PATIENCE = 3.0


class Fencing:
    """Asks *writer* for a fence whenever one is required and none is under way."""

    def __init__(self, writer: LogWriter, clock: Clock, wakeup: Callable[[], None], timeout_s: float) -> None:
        """*wakeup* is called when a fence has ended; *timeout_s* bounds the first."""
        self.barrier: Mapping[TopicPartition, int] = {}
        self._writer = writer
        self._clock = clock
        self._wakeup = wakeup
        self._timeout_s = timeout_s
        self._patience = 1.0
        self._fence: Future[Mapping[TopicPartition, int]] | None = None
        self._is_stale = False  # begun before the latest reason to fence: its barrier proves nothing
        self._begin_at = 0.0
        self._backoff = Backoff(initial_s=0.02, maximum_s=1.0)

    @property
    def has_news(self) -> bool:
        """Whether a fence has ended that `advance` has not seen."""
        return self._fence is not None and self._fence.done()

    def barrier_of(self, partition: int, topics: Iterable[str]) -> Mapping[str, int] | None:
        """Return topic to offset for one task; None when the log could not tell all of its ends."""
        ends = {topic: self.barrier.get(TopicPartition(topic, partition)) for topic in topics}
        known = {topic: end for topic, end in ends.items() if end is not None}
        return known if len(known) == len(ends) else None

    def require(self) -> None:
        """What is under way proves nothing any more; begin a new fence as soon as possible."""
        self._is_stale = True
        self._begin_at = self._clock.monotonic()

    def require_later(self, error: BaseException) -> None:
        """As `require`, after *error*: the next fence begins a little later, and later each time. When the group has
        gone on it could only fail, and would delay the one that the next ownership requires."""
        self._is_stale = True
        has_passed = isinstance(error, GenerationPassed)
        self._begin_at = self._clock.monotonic() + (_NEXT_OWNERSHIP_S if has_passed else self._backoff.next_s())

    def succeeded(self) -> None:
        """All is well again: the next failure is a first one."""
        self._backoff.reset()
        self._patience = 1.0

    def advance(self, ownership: Ownership | None) -> bool:
        """Look at the fence under way, begin the one that is due; return whether `barrier` is new. *ownership* None:
        nothing may be begun now."""
        if self.has_news and self._take():
            return True
        if ownership is None or self._fence is not None or self._clock.monotonic() < self._begin_at:
            return False
        self._is_stale = False
        self._fence = self._writer.fence(ownership, Deadline.after(self._timeout_s * self._patience, self._clock))
        self._fence.add_done_callback(lambda _: self._wakeup())
        return self.has_news and self._take()

    def raise_barrier(self, targets: Mapping[TopicPartition, int]) -> None:
        """What was committed since the fence counts as well."""
        if targets:
            raised = {at: max(end, self.barrier.get(at, 0)) for at, end in targets.items()}
            self.barrier = {**self.barrier, **raised}

    def _take(self) -> bool:
        fence, self._fence = self._fence, None
        assert fence is not None
        if self._is_stale:
            return False
        error = fence.exception()
        if error is not None:
            logger.warning("fence failed", extra={"kind": type(error).__name__, "reason": str(error)})
            if isinstance(error, LogUnavailable):
                self._patience = min(self._patience * _MORE_PATIENCE, _MOST_PATIENCE)
            self.require_later(error)
            return False
        self.barrier = fence.result()
        return True
