"""The strict barrier: proof that everything is applied here that was committed when it was asked for.

One look at the log serves all callers that wait for it. Belongs to one event loop; it changes no state.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from streams.clock import Backoff, Clock, Deadline
from streams.errors import LogUnavailable, NotOwner, Unavailable
from streams.records import TopicPartition
from streams.runtime.task import StreamTask
from streams.runtime.waiters import Waiters, are_applied

Ends = Mapping[TopicPartition, int]


class Barrier:
    """Waits for positions and for the log's ends, in every open task, owned or followed."""

    def __init__(
        self,
        *,
        tasks: Mapping[int, StreamTask],
        waiters: Waiters,
        clock: Clock,
        look: Callable[[Deadline], Ends],
    ) -> None:
        """*look* asks the log for the ends of all partitions; it blocks, and is called on a pool thread. Partitions
        whose ends cannot be learned now are missing."""
        self._tasks = tasks
        self._waiters = waiters
        self._clock = clock
        self._look = look
        self._ends: asyncio.Future[Ends] | None = None

    async def strict(self, partitions: Iterable[int], deadline: Deadline) -> None:
        """Return once everything of *partitions* is applied that was committed when this was called. Raises NotOwner
        for a partition that is not followed here, Unavailable at the deadline."""
        wanted = frozenset(partitions)
        self._check_followed(wanted)
        backoff = Backoff(initial_s=0.05, maximum_s=1.0)
        while True:
            ends = await self._ends_after_now(deadline)
            missing = wanted - {place.partition for place in ends}
            if not missing:
                break
            pause_s = backoff.next_s()
            if pause_s >= deadline.remaining_s(self._clock):
                raise Unavailable("the log does not tell the end of a partition", partition=min(missing))
            await asyncio.sleep(pause_s)  # Nobody leads it now; in a moment somebody may.
        await self.applied({place: end for place, end in ends.items() if place.partition in wanted}, deadline)

    async def _ends_after_now(self, deadline: Deadline) -> Ends:
        """Return the ends as a look tells them that begins after this was called. Raises Unavailable."""
        while (earlier := self._ends) is not None:  # A look that has begun before us proves nothing to us.
            await asyncio.wait([earlier], timeout=deadline.remaining_s(self._clock))
            if deadline.has_passed(self._clock):
                raise Unavailable("the log did not tell its end in time")
            await asyncio.sleep(0)
            if self._ends is not None and self._ends is not earlier and not self._ends.done():
                break  # Begun after us by another caller: it serves us as well.
        if self._ends is None:
            self._ends = asyncio.ensure_future(asyncio.to_thread(self._look, deadline))
            self._ends.add_done_callback(self._seen)
        try:
            return await asyncio.wait_for(asyncio.shield(self._ends), deadline.remaining_s(self._clock))
        except (TimeoutError, LogUnavailable) as error:
            raise Unavailable("the log did not tell its end in time") from error

    async def applied(self, targets: Ends, deadline: Deadline) -> None:
        """Return once every target position is applied here. Raises NotOwner for a partition that is not followed here,
        Unavailable at the deadline."""
        if are_applied(self._tasks, targets):
            return
        self._check_followed({place.partition for place in targets})
        loop = asyncio.get_running_loop()
        applied = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(applied.set)

        handle = self._waiters.add(targets, wake)
        try:
            if not are_applied(self._tasks, targets):
                await asyncio.wait_for(applied.wait(), deadline.remaining_s(self._clock))
        except TimeoutError as error:
            raise Unavailable("the position is not applied here yet") from error
        finally:
            self._waiters.remove(handle)

    def _check_followed(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            if partition not in self._tasks:
                raise NotOwner(f"partition {partition} is not followed here", partition=partition)

    def _seen(self, future: "asyncio.Future[Ends]") -> None:
        self._ends = None
        if not future.cancelled():
            future.exception()  # Every caller may have gone at its own deadline; it is nobody's unhandled error then.
