"""The newest view of the cluster that this node knows, and those who wait for a newer one.

A view comes from the node's own membership or from a peer's answer; the greater epoch wins. It is a hint: nothing here
decides who owns what.
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
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[int, Callable[[], None]]] = {}
        self._next = 0

    def offer(self, view: ClusterView) -> None:
        """Keep *view* if it is newer than what is known, and wake whoever waits for it."""
        with self._lock:
            if view.epoch <= self.newest.epoch:
                return
            self.newest = view
            self.changed_at = self._clock.monotonic()
            due = [handle for handle, (after_epoch, _) in self._waiting.items() if after_epoch < view.epoch]
            callbacks = [self._waiting.pop(handle)[1] for handle in due]
        for callback in callbacks:
            callback()

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
