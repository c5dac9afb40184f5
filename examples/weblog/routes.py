"""The routes of the tutorial, for any instance: whoever has the rows of a host answers.

    /weblog/access/{host}                     how many lines; bytes instead of access: how many bytes they sent
    /weblog/access/ALL, COUNT                 [[host, number], ..] of all; how many hosts there are, about
    /weblog/access/range/{from}/{to}          [[host, number], ..] of the hosts in between, both included
    /weblog/access/win/{host}[/{from}/{to}]   [[start of the minute, number], ..]; times in Unix ms
    /weblog/access/check/{host}               whether the host was ever seen, in the opinion of a Bloom filter
    /weblog/access?host=ALL                   for hosts with the name of a route

A path is divided before it is decoded, so a host may contain what it likes. What is not there is 404, and what nobody
can tell now 503, where the original answered 0 and 500.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

import falcon
import falcon.asgi

from examples.weblog import topology
from streams.errors import Unavailable
from streams.serdes import JSON

_MAX_MS = (1 << 63) - 1


class Hosts(Protocol):
    """What is asked of the stores, over all instances. Each raises Unavailable when it cannot be told now."""

    async def get(self, store: str, host: str) -> int | None:
        """Return the number of *host*, or None."""
        ...

    def entries(self, store: str, from_host: str | None, to_host: str | None) -> AsyncIterator[tuple[str, int]]:
        """Yield hosts and numbers in the order of the hosts' bytes; both bounds included, None for no bound."""
        ...

    async def count(self, store: str) -> int:
        """Return about how many hosts there are."""
        ...

    async def windows(self, store: str, host: str, from_ms: int, to_ms: int) -> list[tuple[int, int]]:
        """Return start and number of the windows of *host* that begin within these times, both included."""
        ...

    async def contains(self, store: str, host: str) -> bool:
        """Say whether *host* may have been added; False is certain."""
        ...


class _Stores(NamedTuple):
    total: str
    windowed: str


_STORES: Mapping[str, _Stores] = {
    "access": _Stores(topology.ACCESS_COUNT, topology.WINDOWED_ACCESS_COUNT),
    "bytes": _Stores(topology.BYTES_SUM, topology.WINDOWED_BYTES_SUM),
}


class WeblogRoutes:
    """Answers everything below `/weblog/`. Event loop only."""

    def __init__(self, hosts: Hosts, *, now_ms: Any) -> None:
        """*now_ms*: a function that returns Unix time."""
        self._hosts = hosts
        self._now_ms = now_ms

    def mount(self, app: falcon.asgi.App[Any, Any]) -> None:
        """Add the routes to *app*."""
        app.add_sink(self.answer, prefix="/weblog/")
        app.add_error_handler(Unavailable, refuse)

    async def answer(self, req: Any, resp: Any, **_: Any) -> None:
        """Answer one request."""
        if req.method not in ("GET", "HEAD"):
            raise falcon.HTTPMethodNotAllowed(["GET", "HEAD"])
        resp.content_type = falcon.MEDIA_JSON
        found = await self._find(_segments(req), req)
        if isinstance(found, AsyncIterator):
            resp.stream = await _array(found)
        else:
            resp.data = JSON.serialize(found)

    async def _find(self, segments: list[str], request: falcon.asgi.Request) -> Any:
        what, *rest = segments
        stores = _STORES.get(what)
        if stores is None:
            raise falcon.HTTPNotFound(description="there are /weblog/access and /weblog/bytes")
        match rest:
            case ["ALL"]:
                return self._hosts.entries(stores.total, None, None)
            case ["COUNT"]:
                return await self._hosts.count(stores.total)
            case ["range", from_host, to_host]:
                return self._hosts.entries(stores.total, from_host, to_host)
            case ["win", host]:
                return await self._hosts.windows(stores.windowed, host, 0, self._now_ms())
            case ["win", host, from_, to]:
                return await self._hosts.windows(stores.windowed, host, _time(from_, "from"), _time(to, "to"))
            case ["check", host] if what == "access":
                return await self._hosts.contains(topology.SEEN_HOSTS, host)
            case [host]:
                return await self._number(stores.total, host)
            case []:
                return await self._number(stores.total, request.get_param("host", required=True))
        raise falcon.HTTPNotFound(description="no such route; a slash in the name of a host is written %2F")

    async def _number(self, store: str, host: str) -> int:
        found = await self._hosts.get(store, host)
        if found is None:
            raise falcon.HTTPNotFound(description="no line of this host was read")
        return found


async def refuse(
    _request: falcon.asgi.Request, _response: falcon.asgi.Response, error: Unavailable, _params: Any
) -> None:
    """Answer 503 for what cannot be told now: the client should come again."""
    raise falcon.HTTPServiceUnavailable(description=str(error), retry_after=max(1, round(error.retry_after_s)))


def _segments(request: falcon.asgi.Request) -> list[str]:
    """Return the path behind `/weblog/`, divided before it was decoded."""
    raw: bytes = request.scope.get("raw_path") or request.path.encode()
    path = raw.partition(b"?")[0].decode("latin-1")
    try:
        return [unquote(segment, errors="strict") for segment in path.split("/")[2:]]
    except UnicodeDecodeError:
        raise falcon.HTTPBadRequest(description="the path is not UTF-8") from None


def _time(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text[:30]) > _MAX_MS:
        raise falcon.HTTPBadRequest(description=f"{name} is a time in Unix milliseconds, not {text[:40]!r}")
    return int(text)


async def _array(entries: AsyncIterator[tuple[str, int]]) -> AsyncIterator[bytes]:
    """Return the JSON array of *entries* in pieces. The first entry is looked for before anything is sent, so that an
    error can still be answered; a later one breaks the answer off, which no client takes for a whole one."""
    first = await anext(entries, None)

    async def pieces() -> AsyncIterator[bytes]:
        if first is None:
            yield b"[]"
            return
        yield b"[" + JSON.serialize(first)
        async for entry in entries:
            yield b"," + JSON.serialize(entry)
        yield b"]"

    return pieces()
