"""`/api/changes`: the change feed over HTTP, in one answer, as a long poll, or as an event stream (WHATWG HTML, 9.2).

Parameters become values here, and answers become bytes; what follows what is decided by `app/feed`. Nothing is written
to a client before the last piece has gone: whoever does not read is cut off by the server's own limit, and can go on
from the last `seq` that he has.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from falcon.asgi import Request, Response

from app.feed.errors import BEGINNING, FeedExpired
from app.feed.events import Answer, Result
from app.feed.feed import MAX_RESULTS, Feed, Listener
from app.feed.position import Position
from app.http.context import RECEIVE, header, parameter
from app.http.problems import Problem
from app.http.profiles import MEDIA_JSON
from streams.clock import Clock
from streams.errors import LogUnavailable, StreamsError

CHANGES_PATH = "/api/changes"
MEDIA_EVENTS = "text/event-stream"
NORMAL, LONGPOLL, EVENTSOURCE = FEEDS = ("normal", "longpoll", "eventsource")
DEFAULT_LIMIT = 100
MAX_TIMEOUT_MS = 60_000
DEFAULT_TIMEOUT_MS = 30_000
MIN_HEARTBEAT_MS = 1_000
DEFAULT_HEARTBEAT_MS = 30_000
LAST_EVENT_ID = "Last-Event-ID"

_RETRY_MS = 3_000
#: A stream without changes tells its place anew after so long: a place expires.
_PLACE_AGE_S = 60
#: How long a stream waits after the log could not be read.
_PAUSE_S = 1.0
#: A piece that has waited for its client for so long when the connection ends, had a slow client.
_SLOW_S = 5.0
_NUMBER = re.compile(r"[0-9]{1,7}")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for. `limit` None: a stream without an end. `since_name`: which parameter `since` came as."""

    feed: str
    since: str
    since_name: str
    partition: int | None
    has_docs: bool
    limit: int | None
    timeout_s: float
    heartbeat_s: float


class Changes:
    """The change feed."""

    def __init__(self, feed: Feed, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock

    async def on_get(self, req: Request, resp: Response) -> None:
        wish = _wish(req, lambda: self._feed.seqs.partitions)
        resp.set_header("Cache-Control", "no-store")
        if wish.feed != NORMAL:
            self._feed.check_room()
        position = await self._feed.position(wish.since, wish.partition, parameter=wish.since_name)
        if wish.feed == EVENTSOURCE:
            resp.content_type = MEDIA_EVENTS
            resp.set_header("X-Accel-Buffering", "no")  # nginx would collect events before it passes them on
            resp.stream = EventStream(self._feed, self._feed.listen(position), wish, self._clock, req.scope[RECEIVE])
            return
        resp.content_type = MEDIA_JSON
        if wish.feed == LONGPOLL:
            resp.data = await self._poll(req, wish, position)
            return
        answer, pending = await self._feed.read(position, limit=wish.limit or DEFAULT_LIMIT)
        resp.data = self._document(answer, pending, wish)

    async def on_head(self, req: Request, resp: Response) -> None:
        """As GET, but nobody waits or listens."""
        wish = _wish(req, lambda: self._feed.seqs.partitions)
        resp.set_header("Cache-Control", "no-store")
        position = await self._feed.position(wish.since, wish.partition, parameter=wish.since_name)
        if wish.feed == EVENTSOURCE:
            resp.content_type = MEDIA_EVENTS
            resp.set_header("X-Accel-Buffering", "no")
            resp.stream = _nothing()  # or falcon would give a length
            return
        resp.content_type = MEDIA_JSON
        resp.data = self._document(*await self._feed.read(position, limit=wish.limit or DEFAULT_LIMIT), wish)

    async def _poll(self, req: Request, wish: Wish, position: Position) -> bytes:
        listener = self._feed.listen(position)
        watch = _Watch(req.scope[RECEIVE])
        try:
            answer = await listener.next(limit=wish.limit or DEFAULT_LIMIT, timeout_s=wish.timeout_s)
            if answer is None:
                has_moved = listener.position.offsets != position.offsets
                if not has_moved and not self._feed.is_draining and self._feed.is_stale(listener.position):
                    raise LogUnavailable("the log was not heard of, so that nothing is known of changes")
                answer = Answer((), listener.position, self._feed.seqs.text(listener.position))
            return self._document(answer, listener.pending(), wish)
        finally:
            watch.close()
            listener.close()

    def _document(self, answer: Answer, pending: int, wish: Wish) -> bytes:
        self._feed.events_sent += len(answer.results)
        has_offset = wish.partition is not None
        results = [_result(result, has_docs=wish.has_docs, has_offset=has_offset) for result in answer.results]
        return b'{"results":[%b],"last_seq":"%b","pending":%d}' % (b",".join(results), answer.seq.encode(), pending)


class EventStream:
    """The body of an event stream, piece by piece, as falcon takes it. One task of the event loop uses it."""

    def __init__(
        self,
        feed: Feed,
        listener: Listener,
        wish: Wish,
        clock: Clock,
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
    ) -> None:
        self._feed = feed
        self._listener = listener
        self._heartbeat_s = wish.heartbeat_s
        self._has_docs = wish.has_docs
        self._has_offset = wish.partition is not None
        self._left = wish.limit
        self._monotonic = clock.monotonic
        self._receive = receive
        self._watch: _Watch | None = None
        self._told_moment_s = 0
        self._handed_at: float | None = None
        self._is_over = False

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> bytes:
        self._handed_at = None
        if self._is_over:
            raise StopAsyncIteration
        if self._watch is None:
            self._watch = _Watch(self._receive)
            piece = b"retry: %d\n" % _RETRY_MS + self._place()
        else:
            piece = await self._piece()
        self._handed_at = self._monotonic()
        return piece

    async def close(self) -> None:
        """Called by falcon however the answer ends. Idempotent."""
        if self._watch is not None:
            self._watch.close()
        if self._handed_at is not None and self._monotonic() - self._handed_at >= _SLOW_S:
            self._feed.slow_listeners += 1
            self._handed_at = None
        self._listener.close()

    async def _piece(self) -> bytes:
        try:
            limit = MAX_RESULTS if self._left is None else min(MAX_RESULTS, self._left)
            answer = await self._listener.next(limit=limit, timeout_s=self._heartbeat_s)
        except FeedExpired:
            self._is_over = True  # the client comes again with its place, and is told 410
            return b": expired\n\n"
        except StreamsError:  # the log is away: it comes back, or the client goes
            await self._feed.wait(_PAUSE_S)
            return b": ping\n\n"
        if answer is None:
            if self._feed.is_draining:
                self._is_over = True
                return self._place()
            return self._heartbeat()
        if self._left is not None:
            self._left -= len(answer.results)
            self._is_over = self._left <= 0
        self._told_moment_s = answer.position.moment_s
        self._feed.events_sent += len(answer.results)
        return _events(answer, has_docs=self._has_docs, has_offset=self._has_offset)

    def _heartbeat(self) -> bytes:
        """Return a comment; with the place when that has become younger meanwhile."""
        if self._listener.position.moment_s - self._told_moment_s >= _PLACE_AGE_S:
            return b": ping\n" + self._place()
        return b": ping\n\n"

    def _place(self) -> bytes:
        """Return an event without data: it moves the client's place on, and dispatches nothing."""
        position = self._listener.position
        self._told_moment_s = position.moment_s
        return b"id: %b\n\n" % self._feed.seqs.text(position).encode()


class _Watch:
    """Ends the request's task when the client goes, so that nobody waits for changes that nobody reads."""

    def __init__(self, receive: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        self._request = asyncio.current_task()
        self._task = asyncio.get_running_loop().create_task(self._run(receive))

    def close(self) -> None:
        self._task.cancel()

    async def _run(self, receive: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if self._request is not None:
            self._request.cancel()


def _wish(req: Request, partitions: Callable[[], int]) -> Wish:
    """Return what *req* asks for. Raises Problem (400); Unavailable when the partitions are not known yet."""
    feed = _word(req, "feed", FEEDS) or NORMAL
    last_event_id = header(req, LAST_EVENT_ID.lower().encode())
    since = last_event_id or parameter(req, "since") or BEGINNING
    partition = _number(req, "partition", 0, 9_999)
    if partition is not None and partition >= (count := partitions()):
        raise Problem("invalid-parameter", f"there are partitions 0 to {count - 1}", parameter="partition")
    limit = _number(req, "limit", 1, MAX_RESULTS)
    timeout_ms = _number(req, "timeout", 0, MAX_TIMEOUT_MS)
    heartbeat_ms = _number(req, "heartbeat", MIN_HEARTBEAT_MS, MAX_TIMEOUT_MS)
    return Wish(
        feed=feed,
        since=since,
        since_name=LAST_EVENT_ID if last_event_id else "since",
        partition=partition,
        has_docs=_word(req, "include_docs", ("true", "false")) == "true",
        limit=limit,
        timeout_s=(DEFAULT_TIMEOUT_MS if timeout_ms is None else timeout_ms) / 1000,
        heartbeat_s=(heartbeat_ms or DEFAULT_HEARTBEAT_MS) / 1000,
    )


def _word(req: Request, name: str, words: tuple[str, ...]) -> str | None:
    text = parameter(req, name)
    if text is not None and text not in words:
        raise Problem("invalid-parameter", f"{name} is one of {', '.join(words)}", parameter=name)
    return text


def _number(req: Request, name: str, low: int, high: int) -> int | None:
    text = parameter(req, name)
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is None or not low <= int(text) <= high:
        raise Problem("invalid-parameter", f"{name} is a number from {low} to {high}", parameter=name)
    return int(text)


def _result(result: Result, *, has_docs: bool, has_offset: bool) -> bytes:
    """Return the JSON of a result, on one line."""
    seq, event = result
    version = b"null" if event.version is None else b"%d" % event.version
    rest = b',"deleted":true' if event.body is None else b',"doc":' + event.body if has_docs else b""
    if has_offset:
        rest = b',"offset":%d%b' % (event.offset, rest)
    return b'{"seq":"%b","uid":"%b","version":%b%b}' % (seq.encode(), event.uid, version, rest)


def _events(answer: Answer, *, has_docs: bool, has_offset: bool) -> bytes:
    """Return the events of *answer*, made once for all who get it."""
    key = has_docs, has_offset
    rendered = answer.rendered.get(key)
    if rendered is None:
        rendered = answer.rendered[key] = b"".join(
            [
                b"id: %b\nevent: %b\ndata: %b\n\n"
                % (
                    result.seq.encode(),
                    b"deleted" if result.event.body is None else b"profile",
                    _result(result, has_docs=has_docs, has_offset=has_offset),
                )
                for result in answer.results
            ]
        )
    return rendered


async def _nothing() -> Any:
    return
    yield b""
