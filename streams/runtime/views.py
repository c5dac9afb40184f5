"""The newest view of the cluster that this node knows, and those who wait for a newer one.

A view comes from the node's own membership or from a peer's answer; the greater epoch wins, until the group itself is
seen to count anew: Kafka forgets one that has been empty for a week. It is a hint: nothing here decides who owns what.
"""

import asyncio
import threading
from collections.abc import Callable

from streams.clock import Clock, Deadline
from streams.cluster import NOWHERE, ClusterView
from streams.errors import Unavailable


class Views:
    """Any thread offers and looks; `wait` belongs to an event loop."""

    def __init__(self, clock: Clock) -> None:
        #: Replaced whole; any thread may look.
        self.newest: ClusterView = NOWHERE
        #: When it came, on the monotonic clock in seconds.
        self.changed_at = clock.monotonic()
        self._clock = clock
        self._own_epoch = NOWHERE.epoch  # of the last view of the own membership
        self._void_epoch = NOWHERE.epoch  # up to this one, peers tell of a group that is no more
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[int, Callable[[], None]]] = {}
        self._next = 0

    def offer(self, view: ClusterView) -> None:
        """Keep *view*, which a peer sent, if it is newer than what is known, and wake whoever waits for it."""
        with self._lock:
            if view.epoch <= max(self.newest.epoch, self._void_epoch):
                return
            callbacks = self._keep(view)
        for callback in callbacks:
            callback()

    def offer_own(self, view: ClusterView) -> None:
        """Take *view* of the own membership, which tells one after the other: an epoch that is not greater than its
        last one is no older map, but that of a group which is counted anew, or has lost all its members."""
        with self._lock:
            if view.epoch < self._own_epoch:
                self._void_epoch = max(self._void_epoch, self.newest.epoch)
            is_newest = view.epoch <= self._own_epoch or view.epoch > self.newest.epoch
            self._own_epoch = view.epoch
            callbacks = self._keep(view) if is_newest else []
        for callback in callbacks:
            callback()

    def _keep(self, view: ClusterView) -> list[Callable[[], None]]:
        self.newest = view
        self.changed_at = self._clock.monotonic()
        due = [handle for handle, (after_epoch, _) in self._waiting.items() if after_epoch < view.epoch]
        return [self._waiting.pop(handle)[1] for handle in due]

    async def wait(self, after_epoch: int, deadline: Deadline) -> ClusterView:
        """Return a view newer than *after_epoch*, at once if there is one. Raises Unavailable at *deadline*."""
        loop = asyncio.get_running_loop()
        is_there = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(is_there.set)

        with self._lock:
            if self.newest.epoch > after_epoch:
                return self.newest
            self._next += 1
            handle = self._next
            self._waiting[handle] = (after_epoch, wake)
        try:
            await asyncio.wait_for(is_there.wait(), deadline.remaining_s(self._clock))
        except TimeoutError as error:
            raise Unavailable("no newer view of the cluster came in time") from error
        finally:
            with self._lock:
                self._waiting.pop(handle, None)
        return self.newest
