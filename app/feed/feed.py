"""The change feed of this node: where a listener begins, what he gets next, and how many there may be.

Every node serves all partitions, from the topic itself: no other node is asked, so it goes on whatever happens to the
owners, and on an observer, too. Event loop only; reading happens on the threads of `tail` and `catchup`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from app.feed.catchup import CatchUp
from app.feed.errors import BEGINNING, FeedExpired, TooManyListeners
from app.feed.events import Answer, Event, answer_from
from app.feed.position import Position, Seqs, Signer, horizon_s
from app.feed.ring import SHARED_RESULTS, Ring
from app.feed.tail import Tail
from app.profiles.results import BadCursor
from streams.clock import Clock, Deadline
from streams.errors import Draining, LogUnavailable
from streams.log.base import Log

NOW = "now"
MAX_RESULTS = SHARED_RESULTS
#: An answer ends with the result that makes it larger than this, whatever its limit.
ANSWER_BYTES = 1024 * 1024
_READ_S = 5.0
#: For so long after the last listener the tail goes on: one who polls comes back.
_TAIL_RESTS_AFTER_S = 60.0
#: The server closes a connection within so long after its answer has ended.
_CONNECTION_ENDS_S = 3.0
#: How often the settings of the topic are asked for.
_SETTINGS_AGE_S = 300.0
#: The tail may know for so long of no end of the log, and "nothing new" is still an answer.
_SILENT_S = 10
#: Kafka's default of delete.retention.ms.
_KAFKA_DELETE_RETENTION_MS = 86_400_000
#: Listeners that are woken at a time; then requests get their turn.
_WOKEN_AT_A_TIME = 50
#: The pause after a round of waking, for each listener that was woken, and at most.
_PAUSE_S = 0.00005
_LONGEST_PAUSE_S = 0.1
#: How soon a listener looks into the log again while the tail has not reached him.
_TAIL_BEGINS_S = 0.2


class Node(Protocol):
    """What is asked of the node (`streams.runtime.node.StreamsNode`). Each raises Unavailable before the log was
    reached."""

    @property
    def partitions(self) -> int: ...

    @property
    def topic_ids(self) -> Mapping[str, str]: ...


class ConnectionCounter(Protocol):
    """Where listeners are counted out of the connections that requests need (`app.server.limits.EdgeStats`)."""

    listeners: int


class Feed:
    """See the module. It begins with the first request, and `stop` ends it."""

    def __init__(
        self, *, log: Log, topic: str, node: Node, signer: Callable[[], Signer], clock: Clock, max_listeners: int
    ) -> None:
        """*signer* raises Unavailable before the log was reached."""
        self._log = log
        self._topic = topic
        self._node = node
        self._signer = signer
        self._clock = clock
        self._max_listeners = max_listeners
        self._catchup = CatchUp(log=log, topic=topic, clock=clock)
        self._tail = Tail(log=log, topic=topic, clock=clock, begun=self._begin, told=self._take)
        self._edge: ConnectionCounter | None = None
        self._known_seqs: Seqs | None = None
        self._retention: tuple[float, int] | None = None
        self._ring: Ring | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._waking: asyncio.Task[None] | None = None
        self._must_wake = False
        self._resting: asyncio.TimerHandle | None = None
        self._leaving = 0
        self.is_draining = False
        self.listeners = 0
        #: Results that were sent to listeners, and listeners that did not read theirs.
        self.events_sent = 0
        self.slow_listeners = 0

    @property
    def catch_up_reads(self) -> int:
        """Reads of the log for those whom the ring could not serve."""
        return self._catchup.reads

    @property
    def ring_bytes(self) -> int:
        """About what the ring takes."""
        return self._ring.size_bytes if self._ring is not None else 0

    def watch_edge(self, edge: ConnectionCounter | None) -> None:
        """Count listeners there, too, so that they take no connection from requests."""
        self._edge = edge

    @property
    def seqs(self) -> Seqs:
        """Known once the log was reached. Raises Unavailable before."""
        if self._known_seqs is None:
            self._known_seqs = Seqs(
                signer=self._signer(),
                topic=self._topic,
                topic_id=self._node.topic_ids[self._topic],
                partitions=self._node.partitions,
            )
        return self._known_seqs

    def check_room(self) -> None:
        """Raise Draining or TooManyListeners when nobody can begin to listen."""
        if self.is_draining:
            raise Draining("this node is stopping", retry_after_s=2.0)
        if self.listeners >= self._max_listeners:
            raise TooManyListeners(f"{self.listeners} listeners wait already")

    async def position(self, since: str, partition: int | None, *, parameter: str) -> Position:
        """Return the place that *since* means: `0`, `now`, or a `seq` that came as *parameter*.

        Raises BadCursor (forged, or of another partition than *partition*), FeedExpired, LogUnavailable, Unavailable.
        """
        seqs = self.seqs
        scope = range(seqs.partitions) if partition is None else (partition,)
        moment_s = self._clock.time_ms() // 1000
        if since == BEGINNING:
            return Position(tuple(0 for _ in scope), partition, moment_s, is_whole=False)
        if since == NOW:
            ends = await self._catchup.ends(scope, self._soon())
            return Position(tuple(ends[one] for one in scope), partition, moment_s, is_whole=True)
        try:
            position = seqs.position(since, parameter).narrowed(partition)
        except ValueError:
            raise BadCursor(parameter) from None
        await self.check_age(position)
        return position

    async def check_age(self, position: Position) -> None:
        """Raise FeedExpired when the log may have lost tombstones behind *position*; LogUnavailable when the topic's
        settings are not known yet."""
        age_s = self._clock.time_ms() / 1000 - position.moment_s
        if age_s > horizon_s(position, await self._delete_retention_ms()):
            raise FeedExpired("deletions may be gone from the log")

    async def read(self, position: Position, *, limit: int, is_listener: bool = False) -> tuple[Answer, int]:
        """Return what is behind *position* now, and how many records are left behind the answer. Everything that was
        acknowledged before the call is in it or behind it. Raises FeedExpired, LogUnavailable, Overloaded."""
        reading = await self._catchup.read(
            dict(position.items()), limit=limit, deadline=self._soon(), is_listener=is_listener
        )
        answer = answer_from(position, reading.runs, self.seqs, limit=limit, limit_bytes=ANSWER_BYTES)
        pending = sum(max(0, reading.ends[one] - offset) for one, offset in answer.position.items())
        if not pending:
            renewed = answer.position.renewed(reading.moment_s)
            answer = Answer(answer.results, renewed, self.seqs.text(renewed))
        return answer, pending

    def listen(self, position: Position) -> "Listener":
        """Return a listener at *position*; whoever asks closes it. Raises Draining, TooManyListeners."""
        self.check_room()
        self._count(1)
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        self._tail.follow(self.seqs.partitions)
        return Listener(self, position)

    def leave(self) -> None:
        """A listener has closed."""
        self._count(-1)
        if not self.listeners:
            loop = asyncio.get_running_loop()
            self._resting = loop.call_later(_TAIL_RESTS_AFTER_S, self._rest)

    def drain(self) -> None:
        """Let every listener end now, with its place, and no other begin. Reading goes on. Idempotent."""
        self.is_draining = True
        self._wake()

    async def stop(self) -> None:
        """End the threads, before the log is closed. Idempotent."""
        self.drain()
        await asyncio.gather(asyncio.to_thread(self._tail.stop), self._catchup.stop())

    @property
    def ring(self) -> Ring | None:
        """The last changes; None while the tail has not begun. Another object each time that it begins anew."""
        return self._ring

    def is_stale(self, position: Position) -> bool:
        """Whether nothing was heard of the log behind *position* for a while, so that nothing new proves nothing."""
        return self._clock.time_ms() / 1000 - position.moment_s > _SILENT_S

    async def wait(self, timeout_s: float) -> None:
        """Return when there may be something new, at the latest after *timeout_s*."""
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        timer = loop.call_later(timeout_s, _set, woken)
        self._waiting.add(woken)
        try:
            await woken
        finally:
            timer.cancel()
            self._waiting.discard(woken)

    def remaining_s(self, deadline: Deadline) -> float:
        """Return the seconds that are left of *deadline*."""
        return deadline.remaining_s(self._clock)

    def after(self, seconds: float) -> Deadline:
        """Return the moment that lies *seconds* from now."""
        return Deadline.after(seconds, self._clock)

    def _count(self, change: int) -> None:
        """Count somebody in or out. His connection goes some moments after him: until then it is not one of those that
        others may have, or many who leave together would turn requests away."""
        self.listeners += change
        if change < 0:
            self._leaving += 1
            asyncio.get_running_loop().call_later(_CONNECTION_ENDS_S, self._has_left)
        self._tell_edge()

    def _has_left(self) -> None:
        self._leaving -= 1
        self._tell_edge()

    def _tell_edge(self) -> None:
        if self._edge is not None:
            self._edge.listeners = min(self._max_listeners, self.listeners + self._leaving)

    def _soon(self) -> Deadline:
        return Deadline.after(_READ_S, self._clock)

    async def _delete_retention_ms(self) -> int:
        now = self._clock.monotonic()
        if self._retention is None or now - self._retention[0] > _SETTINGS_AGE_S:
            try:
                found = await self._catchup.settings(self._soon())
                self._retention = now, int(found.get("delete.retention.ms", _KAFKA_DELETE_RETENTION_MS))
            except LogUnavailable:
                if self._retention is None:
                    raise
        return self._retention[1]

    def _rest(self) -> None:
        if not self.listeners:
            self._tail.rest()
            self._ring = None

    # Told by the tail, on the event loop.

    def _begin(self, position: Position) -> None:
        self._ring = Ring(self.seqs, position)
        self._wake()

    def _take(self, pieces: Sequence[tuple[Sequence[Event], Position]]) -> None:
        ring = self._ring
        if ring is None:
            return
        for events, after in pieces:
            ring.add(events, after)
        if any(events for events, _ in pieces):
            self._wake()

    def _wake(self) -> None:
        self._must_wake = True
        if self._waking is None:
            self._waking = asyncio.get_running_loop().create_task(self._wake_all())

    async def _wake_all(self) -> None:
        """Wake who waits, some at a time. With many, the next round waits a little: meanwhile changes come together."""
        while self._must_wake:
            self._must_wake = False
            waiting = list(self._waiting)
            for start in range(0, len(waiting), _WOKEN_AT_A_TIME):
                for woken in waiting[start : start + _WOKEN_AT_A_TIME]:
                    _set(woken)
                await asyncio.sleep(0)
            await asyncio.sleep(min(_LONGEST_PAUSE_S, len(waiting) * _PAUSE_S))
        self._waking = None


class Listener:
    """Somebody who follows. Holds a place and a number, no data. Event loop only; one `next` at a time."""

    __slots__ = ("_feed", "_is_open", "_number", "_ring", "position")

    def __init__(self, feed: Feed, position: Position) -> None:
        self.position = position
        self._feed = feed
        self._ring: Ring | None = None
        self._number: int | None = None
        self._is_open = True

    async def next(self, *, limit: int, timeout_s: float) -> Answer | None:
        """Return the next answer with results, and move on behind it; None after *timeout_s*, or when the node stops.

        `position` may have moved on either way. Raises FeedExpired, LogUnavailable.
        """
        feed = self._feed
        deadline = feed.after(timeout_s)
        is_first = True
        while not feed.is_draining:
            answer = self._from_ring(limit)
            if answer is None:
                answer = await self._from_log(limit)
            self.position = answer.position
            if answer.results:
                return answer
            remaining_s = feed.remaining_s(deadline)
            if remaining_s <= 0 and not is_first:
                return None
            is_first = False
            await feed.wait(remaining_s if self._number is not None else min(remaining_s, _TAIL_BEGINS_S))
        return None

    def pending(self) -> int:
        """Return about how many records of the log lie behind the place; 0 while that is not known."""
        ring = self._feed.ring
        if ring is None:
            return 0
        return sum(max(0, ring.head.offsets[partition] - offset) for partition, offset in self.position.items())

    def close(self) -> None:
        """Idempotent."""
        if self._is_open:
            self._is_open = False
            self._feed.leave()

    def _from_ring(self, limit: int) -> Answer | None:
        ring = self._feed.ring
        if ring is not self._ring or self._number is None:
            self._ring = ring
            self._number = ring.join(self.position) if ring is not None else None
        if ring is None or self._number is None:
            return None
        read = ring.read(self._number, self.position, limit=limit, limit_bytes=ANSWER_BYTES)
        if read is None:
            self._number = None
            return None
        self._number, answer = read
        return answer

    async def _from_log(self, limit: int) -> Answer:
        await self._feed.check_age(self.position)
        answer, _pending = await self._feed.read(self.position, limit=limit, is_listener=True)
        return answer


def _set(woken: "asyncio.Future[None]") -> None:
    if not woken.done():
        woken.set_result(None)
