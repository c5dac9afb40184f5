"""`/stores`: questions to the state stores over HTTP, for any falcon.asgi application (`mount`). It translates between
HTTP and `streams.queries.reads`, and decides nothing.

A long answer is streamed as lines of JSON (`Accept: application/x-ndjson`) a page at a time, as fast as the client
takes it. Its last line says that it was the last: without one the answer was cut off.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote

import falcon.asgi
import orjson
from falcon.asgi import Request, Response

from streams.clock import Deadline
from streams.errors import StreamsError
from streams.http.paths import Parameters, Target, instance_of, target_of
from streams.http.problems import KEY_NOT_FOUND, MEDIA_PROBLEM, Problem, plain_problem, problem, problem_of
from streams.queries.asking import (
    ALL,
    CLUSTER,
    GET,
    LOCAL,
    OWNER,
    PREFIX,
    RANGE,
    SESSION,
    STRICT,
    WINDOW,
    Ask,
    BadParameter,
    Freshness,
    Part,
)
from streams.queries.reads import RawPage, StoreReads
from streams.queries.text import BASE64, json_entry, key_of, prefix_of
from streams.stores.typed import after_prefix
from streams.topology.stores import StoreSpec

MEDIA_JSON = "application/json"
MEDIA_LINES = "application/x-ndjson"
COUNT = "approximate-num-entries"
DEFAULT_LIMIT = 100
_STREAM_PAGE = 500
_DEADLINE_S = 10.0
_MAX_DEADLINE_S = 60.0
_MAX_STALENESS = re.compile(
    r"(?:^|[,;])\s*max-staleness\s*=\s*\"?(\d{1,9}(?:\.\d{1,3})?)\"?\s*(?:[,;]|$)", re.IGNORECASE
)
METHODS = "GET, HEAD, OPTIONS"
_KINDS = (GET, ALL, RANGE, PREFIX, WINDOW, SESSION, COUNT)


async def answer_read(
    req: Request, resp: Response | None, answer: Callable[[Response, str], Awaitable[None]], *, refusal: str
) -> None:
    """Answer one request to what is only read: GET and HEAD by *answer*, which gets the request's path as its instance;
    every error as a problem. *resp* None: a WebSocket, which is refused by not being accepted."""
    if resp is None:
        return
    resp.set_header("Cache-Control", "no-store")
    instance = instance_of(req.scope)
    if req.method == "OPTIONS":
        resp.status = 204
        resp.set_header("Allow", METHODS)
    elif req.method not in ("GET", "HEAD"):
        answer_problem(resp, plain_problem(405, refusal, instance=instance, headers={"Allow": METHODS}))
    else:
        try:
            await answer(resp, instance)
        except StreamsError as error:
            answer_problem(resp, problem_of(error, instance=instance))


def mount_stores(app: falcon.asgi.App[Any, Any], reads: StoreReads, *, path: str = "/stores") -> None:
    """Have *app* answer everything below *path*. Routes of its own there go before."""
    app.add_sink(Stores(reads, words=path.count("/") + 2), re.compile(re.escape(path) + "(?:/|$)"))


class Stores:
    """The responder. Event loop only."""

    def __init__(self, reads: StoreReads, *, words: int) -> None:
        """*words*: how many segments of a path come before the key."""
        self._reads = reads
        self._words = words

    async def __call__(self, req: Request, resp: Response | None, ws: object = None, **_: Any) -> None:
        """Answer one request."""

        async def answer(resp: Response, instance: str) -> None:
            await self._answer(req, resp, target_of(req.scope, self._words), instance)

        await answer_read(req, resp, answer, refusal="a store is only read")

    async def _answer(self, req: Request, resp: Response, target: Target, instance: str) -> None:
        given = Parameters(req.scope["query_string"])
        depth = self._words - 2  # the segments of the mount itself
        if len(target.words) == depth and target.rest is None:
            stores = {name: spec.kind.value for name, spec in self._reads.stores.items()}
            answer_json(resp, orjson.dumps({"stores": [{"store": name, "kind": stores[name]} for name in stores]}))
            return
        kind = target.words[-1] if len(target.words) == self._words else ""
        spec = self._reads.spec(target.words[depth]) if len(target.words) > depth else None
        if spec is None or kind not in _KINDS or (target.rest is not None and kind in (ALL, RANGE, COUNT)):
            answer_problem(resp, plain_problem(404, "there is no such question to a store", instance=instance))
            return
        scope = given.text("scope", LOCAL, CLUSTER) or CLUSTER
        is_partial = given.text("partial", "true", "false") == "true"
        deadline = deadline_of(req, self._reads)
        if kind == COUNT:
            counted = await self._reads.count(spec.name, deadline, scope=scope, is_partial=is_partial)
            answer_json(resp, orjson.dumps(counted.document(spec.name, scope)))
            return
        ask = _ask(spec, kind, target.rest, given, _freshness(req, given))
        cursor = given.text("cursor")
        if kind != GET and _takes_lines(req):
            total = given.number("limit")
            ask = ask._replace(limit=_STREAM_PAGE if total is None else min(_STREAM_PAGE, max(0, total)))
            first = await self._reads.ask(ask, deadline, scope=scope, cursor=cursor, is_partial=is_partial)
            resp.content_type = MEDIA_LINES
            resp.stream = self._lines(ask, first, total, scope, is_partial, instance)
            return
        page = await self._reads.ask(ask, deadline, scope=scope, cursor=cursor, is_partial=is_partial)
        if kind == GET:
            self._answer_one(resp, spec, page, instance)
            return
        if page.next is not None:
            resp.set_header("Link", f'<{_next_link(req, page.next)}>; rel="next"')
        items = b",".join(json_entry(spec, place, row) for place, row in page.rows)
        tail = orjson.dumps({"next": page.next, "partitions": parts(page.parts), "missing": page.missing})
        answer_json(resp, b'{"items":[%s],%s' % (items, tail[1:]))

    def _answer_one(self, resp: Response, spec: StoreSpec, page: RawPage, instance: str) -> None:
        if not page.rows:
            found = problem(KEY_NOT_FOUND, "the store has no such key", instance=instance, partitions=parts(page.parts))
            answer_problem(resp, found)
            return
        entry = json_entry(spec, *page.rows[0])
        answer_json(resp, b'%s,"partitions":%s}' % (entry[:-1], orjson.dumps(parts(page.parts))))

    async def _lines(
        self, ask: Ask, page: RawPage, total: int | None, scope: str, is_partial: bool, instance: str
    ) -> AsyncIterator[bytes]:
        """Yield the lines of *page* and of those after it, *total* at most, and one that ends them."""
        spec, count = self._reads.spec(ask.store), 0
        missing: set[int] = set()
        while True:
            lines = b"".join(json_entry(spec, place, row) + b"\n" for place, row in page.rows)
            count += len(page.rows)
            missing.update(page.missing)
            if lines:
                yield lines
            left = None if total is None else total - count
            if page.next is None or (left is not None and left <= 0):
                break
            ask = ask._replace(limit=_STREAM_PAGE if left is None else min(_STREAM_PAGE, left))
            deadline = Deadline.after(_DEADLINE_S, self._reads.clock)
            try:
                page = await self._reads.ask(ask, deadline, scope=scope, cursor=page.next, is_partial=is_partial)
            except StreamsError as error:
                refused = problem_of(error, instance=instance)
                yield b'{"problem":%s,"next":%s,"count":%d}\n' % (refused.body, orjson.dumps(page.next), count)
                return
        end = {"next": page.next, "count": count, "partitions": parts(page.parts), "missing": sorted(missing)}
        yield orjson.dumps({"end": end}) + b"\n"


def answer_problem(resp: Response, found: Problem) -> None:
    """Make *found* the answer."""
    resp.status = found.status
    resp.content_type = MEDIA_PROBLEM
    resp.data = found.body
    for name, value in found.headers.items():
        resp.set_header(name, value)


def answer_json(resp: Response, body: bytes) -> None:
    """Make *body* the answer."""
    resp.content_type = MEDIA_JSON
    resp.data = body


def parts(found: object) -> object:
    """Return who told of which partition, as a document."""
    assert isinstance(found, list | tuple)
    return [part._asdict() for part in found if isinstance(part, Part)]


def deadline_of(req: Request, reads: StoreReads) -> Deadline:
    """Return when the answer is due. Raises BadParameter."""
    text = req.get_header("Request-Timeout")
    if text is None:
        return Deadline.after(_DEADLINE_S, reads.clock)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise BadParameter("Request-Timeout", "Request-Timeout is a number of seconds")
    return Deadline.after(min(seconds, _MAX_DEADLINE_S), reads.clock)


def _ask(spec: StoreSpec, kind: str, rest: bytes | None, given: Parameters, freshness: Freshness) -> Ask:
    """Return the question. Raises BadParameter."""
    encoding = given.text("encoding", BASE64)
    limit = given.number("limit")
    ask = Ask(spec.name, kind, limit=DEFAULT_LIMIT if limit is None else limit, freshness=freshness)
    if kind == ALL:
        return ask
    if kind == RANGE:
        low, high = given.raw("from"), given.raw("to")
        return ask._replace(
            low=b"" if low is None else key_of(spec.key, low, encoding=encoding, parameter="from"),
            high=None if high is None else key_of(spec.key, high, encoding=encoding, parameter="to") + b"\0",
        )
    if rest is None:
        rest = given.raw("key" if kind != PREFIX else PREFIX)
        if rest is None:
            raise BadParameter("key", "the key is missing: it is the end of the path, or the parameter `key`")
    if kind == PREFIX:
        prefix = prefix_of(spec.key, rest, encoding=encoding)
        return ask._replace(low=prefix, high=after_prefix(prefix))
    ask = ask._replace(key=key_of(spec.key, rest, encoding=encoding, parameter="key"))
    if kind == GET:
        return ask._replace(limit=1)
    from_ms, to_ms = given.number("from"), given.number("to")
    return ask._replace(from_ms=0 if from_ms is None else from_ms, to_ms=ask.to_ms if to_ms is None else to_ms)


def _freshness(req: Request, given: Parameters) -> Freshness:
    """Return how fresh the answer has to be. Raises BadParameter."""
    consistency = given.text("consistency", OWNER, STRICT)
    prefer = _MAX_STALENESS.search(req.get_header("Prefer") or "")
    return Freshness(consistency or OWNER, float(prefer[1]) if prefer is not None else None)


def _takes_lines(req: Request) -> bool:
    return MEDIA_LINES in (req.get_header("Accept") or "")


def _next_link(req: Request, cursor: str) -> str:
    sent: bytes = req.scope["query_string"]
    kept = [pair for pair in sent.split(b"&") if pair and not pair.startswith(b"cursor=")]
    return "?" + "&".join([*(quote(pair, safe="=%+&") for pair in kept), f"cursor={cursor}"])
