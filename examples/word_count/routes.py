"""The routes of the tutorial, for any instance. What they ask is answered by whoever has it, one hop away at most.

    GET  /state/keyvalue/{store}/{key}                  {"key":..,"value":..}
    GET  /state/keyvalues/{store}/all                   [{"key":..,"value":..}, ..] of all instances
    GET  /state/keyvalues/{store}/range/{from}/{to}     the same, both bounds included
    GET  /state/windowed/{store}/{key}/{from}/{to}      [{"key":"{key}@{start}","value":..}, ..], times in Unix ms
    GET  /state/instances[/{store}]                     [{"host":..,"port":..,"storeNames":[..]}, ..]
    GET  /state/instance/{store}/{key}                  who has this key
    POST /chuck-says, /lines                            something to count

A path is divided before it is decoded, so a word may be anything. With `?scope=local` this instance alone is asked.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import falcon
import falcon.asgi

from examples.answering import array, segments_of, text_of
from examples.word_count.facts import draw
from streams.errors import NotOwner
from streams.http.paths import Parameters, instance_of
from streams.http.problems import KEY_NOT_FOUND, problem
from streams.http.stores import answer_problem
from streams.queries.asking import CLUSTER, LOCAL, MAX_LIMIT, BadParameter
from streams.queries.stores import Entry, Options, Page, StoreQueries
from streams.serdes import JSON

_GET = ("GET", "HEAD")


class Line(NamedTuple):
    """A record to be sent. `timestamp_ms` None: now."""

    text: str
    timestamp_ms: int | None = None


#: Sends lines; they are durable when it returns. Raises StreamsError.
Send = Callable[[Sequence[Line]], Awaitable[None]]


class StateRoutes:
    """Answers `/state`. Event loop only."""

    def __init__(self, queries: StoreQueries, *, address: str) -> None:
        """*address*: of this instance, for the others."""
        self._queries = queries
        self._address = address

    def mount(self, app: falcon.asgi.App[Any, Any]) -> None:
        """Add the routes to *app*."""
        app.add_sink(self.answer, prefix=re.compile("/state(?:/|$)"))

    async def answer(self, req: Any, resp: Any, ws: object = None, **_: Any) -> None:
        """Answer one request."""
        if resp is None:
            return  # a WebSocket, which is refused by not being accepted
        if req.method not in _GET:
            raise falcon.HTTPMethodNotAllowed(_GET)
        resp.cache_control = ["no-store"]
        resp.content_type = falcon.MEDIA_JSON
        found = await self._find(segments_of(req.scope)[1:], _options(req))
        if found is None:
            missing = problem(KEY_NOT_FOUND, "the store has no such key", instance=instance_of(req.scope))
            answer_problem(resp, missing)
        elif isinstance(found, AsyncIterator):
            resp.stream = await array(found)
        else:
            resp.data = JSON.serialize(found)

    async def _find(self, words: list[str], options: Options) -> Any:
        queries = self._queries
        match words:
            case ["keyvalue", store, key]:
                entry = await queries.get(store, key, options=options)
                return None if entry is None else _plain(entry)
            case ["keyvalues", store, "all"]:
                return _walk(lambda cursor: queries.all(store, limit=MAX_LIMIT, cursor=cursor, options=options))
            case ["keyvalues", store, "range", low, high]:
                return _walk(
                    lambda cursor: queries.range(store, low, high, limit=MAX_LIMIT, cursor=cursor, options=options)
                )
            case ["windowed", store, key, begin, end]:
                from_ms, to_ms = _time(begin, "from"), _time(end, "to")
                return _walk(
                    lambda cursor: queries.window(
                        store, key, from_ms, to_ms, limit=MAX_LIMIT, cursor=cursor, options=options
                    )
                )
            case ["instances"]:
                return await self._instances(None)
            case ["instances", store]:
                await queries.metadata_of(store)  # which knows whether there is such a store
                return await self._instances(store)
            case ["instance", store, key]:
                return await self._instance(store, key)
        raise falcon.HTTPNotFound(description="no such route; a slash in a word is written %2F")

    async def _instances(self, store: str | None) -> list[dict[str, Any]]:
        document = await self._queries.metadata()
        everywhere: list[str] = document["global_stores"]
        found = []
        for instance in document["instances"]:
            names = sorted([*(name for name, owned in instance["active"].items() if owned), *everywhere])
            if names and (store is None or store in names):
                found.append(_instance(instance["address"], names))
        # Instances that have global tables alone are in no group, and do not know each other.
        return found or [_instance(self._address, everywhere)]

    async def _instance(self, store: str, key: str) -> dict[str, Any]:
        document = await self._queries.metadata_of_key(store, key)
        if store in (await self._queries.metadata())["global_stores"]:
            return _instance(self._address, [store])
        for instance in document["instances"]:
            if instance["role"] == "owner":
                return _instance(instance["address"], [store])
        raise NotOwner("nobody has this key at the moment", partition=document["partition"])


class ProducerRoutes:
    """Answers `POST /chuck-says` and `POST /lines`. Event loop only."""

    def __init__(self, send: Send, *, random: Random, now_ms: Callable[[], int]) -> None:
        self._send = send
        self._random = random
        self._now_ms = now_ms

    def mount(self, app: falcon.asgi.App[Any, Any]) -> None:
        """Add the routes to *app*."""
        app.add_route("/chuck-says", self, suffix="fact")
        app.add_route("/lines", self, suffix="lines")

    async def on_post_fact(self, req: Any, resp: Any) -> None:
        """Send the fact in the body, or one of our own, and tell which."""
        fact = (await text_of(req)).strip() or draw(self._random)
        timestamp_ms = self._now_ms()
        await self._send([Line(JSON.serialize({"fact": fact}).decode(), timestamp_ms)])
        resp.content_type = falcon.MEDIA_JSON
        resp.data = JSON.serialize({"timestamp": timestamp_ms, "fact": fact})

    async def on_post_lines(self, req: Any, resp: Any) -> None:
        """Send each line of the body."""
        timestamp_ms = Parameters(req.scope["query_string"]).number("timestamp")
        if timestamp_ms is not None and timestamp_ms < 0:
            raise BadParameter("timestamp", "timestamp is a time in Unix milliseconds")
        lines = [Line(line, timestamp_ms) for line in (await text_of(req)).splitlines()]
        if lines:
            await self._send(lines)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = JSON.serialize({"lines": len(lines)})


async def _walk(page_after: Callable[[str | None], Awaitable[Page]]) -> AsyncIterator[dict[str, Any]]:
    """Yield the entries of a list, a page at a time."""
    cursor: str | None = None
    while True:
        page = await page_after(cursor)
        for entry in page.entries:
            yield _plain(entry)
        cursor = page.next
        if cursor is None:
            return


def _plain(entry: Entry) -> dict[str, Any]:
    key = entry.key
    return {"key": key if isinstance(key, str) else f"{key.key}@{key.start_ms}", "value": entry.value}


def _instance(address: str, stores: Sequence[str]) -> dict[str, Any]:
    parts = urlsplit(address)
    return {"host": parts.hostname, "port": parts.port, "storeNames": list(stores)}


def _options(req: Any) -> Options:
    return Options(scope=Parameters(req.scope["query_string"]).text("scope", LOCAL, CLUSTER) or CLUSTER)


def _time(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise BadParameter(name, f"{name} is a time in Unix milliseconds")
    return min(int(text[:30]), (1 << 63) - 1)
