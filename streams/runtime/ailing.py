"""Owned partitions that the log takes nothing for, while it goes on taking what is for the others.

    well --append failed for it, or no barrier--> ailing --a look finds it writable--> on probation --append--> well
                                                    ^                                       |
                                                    '--------------- append failed ---------'

An ailing partition gets no commands. One on probation gets them one by one, each in a group of its own: so that it
costs nobody else's group, and a record that the log refuses is found. Owned by the stream thread; nothing waits here.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from streams.clock import Backoff, Clock, Deadline
from streams.log.base import LogWriter, Look

logger = logging.getLogger(__name__)

_PATIENCE_S = 2.0  # an election takes less: for so long commands wait
_MAX_PAUSE_S = 10.0


@dataclass(eq=False)
class _Illness:
    """Of one partition. `solos`: how many commands still go one by one; 0 while it takes none."""

    since: float
    look_at: float
    solos: int = 0
    backoff: Backoff = field(default_factory=lambda: Backoff(initial_s=0.1, maximum_s=_MAX_PAUSE_S))


class Ailing:
    """Which partitions ail, and looks at them."""

    def __init__(self, writer: LogWriter, clock: Clock, wakeup: Callable[[], None], timeout_s: float) -> None:
        """*wakeup* is called when a look has ended; *timeout_s* bounds each."""
        #: Those that take nothing; replaced whole, any thread may look.
        self.partitions: frozenset[int] = frozenset()
        self._writer = writer
        self._clock = clock
        self._wakeup = wakeup
        self._timeout_s = timeout_s
        self._ill: dict[int, _Illness] = {}
        self._look: Future[Look] | None = None
        self._is_stale = False  # begun before the latest fence: its ends prove nothing

    @property
    def has_news(self) -> bool:
        """Whether a look has ended that `advance` has not seen."""
        return self._look is not None and self._look.done()

    def takes_nothing(self, partition: int) -> bool:
        """Say whether *partition* gets no commands now."""
        illness = self._ill.get(partition)
        return illness is not None and not illness.solos

    def takes_one(self, partitions: Iterable[int]) -> bool:
        """Say whether a command for *partitions* has to go alone."""
        return bool(self._ill) and any(partition in self._ill for partition in partitions)

    def is_chronic(self, partition: int) -> bool:
        """Say whether *partition* ails for so long that nobody should wait for it."""
        illness = self._ill.get(partition)
        return illness is not None and self._clock.monotonic() >= illness.since + _PATIENCE_S

    def note(self, partitions: Iterable[int]) -> None:
        """The log takes nothing for *partitions*: look at them, each time a little later."""
        now = self._clock.monotonic()
        for partition in partitions:
            illness = self._ill.get(partition)
            if illness is None:
                logger.warning("partition takes no writes", extra={"partition": partition})
                self._ill[partition] = _Illness(now, now)
            elif illness.solos:
                illness.solos, illness.look_at = 0, now + illness.backoff.next_s()
        self._changed()

    def separate(self, partitions: Iterable[int], commands: int) -> None:
        """The log refuses a record of *commands* for *partitions*: the next that many go one by one."""
        now = self._clock.monotonic()
        for partition in partitions:
            self._ill.setdefault(partition, _Illness(now, now)).solos = commands
        self._changed()

    def written(self, partitions: Iterable[int]) -> None:
        """The log took, or refused for what it is, a command for *partitions*."""
        if not self._ill:
            return
        for partition in set(partitions) & self._ill.keys():
            illness = self._ill[partition]
            illness.solos -= 1
            if illness.solos <= 0:
                del self._ill[partition]
                logger.info("partition takes writes again", extra={"partition": partition})
        self._changed()

    def keep(self, owned: Collection[int]) -> None:
        """Forget what is not *owned* any more."""
        for partition in [partition for partition in self._ill if partition not in owned]:
            del self._ill[partition]
        self._changed()

    def fenced(self) -> None:
        """Another fence has begun: a look under way proves nothing."""
        self._is_stale = True

    def advance(self, *, is_fenced: bool) -> Look | None:
        """Look at the look under way, begin one that is due when *is_fenced*; return what one has shown."""
        seen = self._take() if self.has_news else None
        if seen is not None or self._look is not None or not is_fenced or not self._ill:
            return seen
        now = self._clock.monotonic()
        due = frozenset(one for one, illness in self._ill.items() if not illness.solos and illness.look_at <= now)
        if not due:
            return None
        for partition in due:
            self._ill[partition].look_at = now + min(self._ill[partition].backoff.next_s(), 1.0)
        self._is_stale = False
        self._look = self._writer.look(due, Deadline.after(self._timeout_s, self._clock))
        self._look.add_done_callback(lambda _: self._wakeup())
        return self._take() if self.has_news else None

    def _take(self) -> Look | None:
        look, self._look = self._look, None
        assert look is not None
        if self._is_stale or look.exception() is not None:
            return None
        for partition in look.result().writable & self._ill.keys():
            if not self._ill[partition].solos:
                self._ill[partition].solos = 1
        self._changed()
        return look.result()

    def _changed(self) -> None:
        self.partitions = frozenset(one for one, illness in self._ill.items() if not illness.solos)
