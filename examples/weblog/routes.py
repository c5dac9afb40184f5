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

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

import falcon.asgi
from falcon.asgi import Request, Response

from examples.answering import array
from examples.weblog import topology
from streams.errors import StreamsError
from streams.http.paths import Parameters, instance_of
from streams.http.problems import KEY_NOT_FOUND, Problem, plain_problem, problem, problem_of
from streams.http.stores import MEDIA_JSON, METHODS, answer_json, answer_problem
from streams.queries.asking import BadParameter
from streams.serdes import JSON

_MAX_DIGITS = 18


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

    def __init__(self, hosts: Hosts, *, now_ms: Callable[[], int]) -> None:
        self._hosts = hosts
        self._now_ms = now_ms

    def mount(self, app: falcon.asgi.App[Any, Any]) -> None:
        """Add the routes to *app*."""
        app.add_sink(self, "/weblog/")

    async def __call__(self, req: Request, resp: Response | None, ws: object = None, **_: Any) -> None:
        """Answer one request."""
        if resp is None:
            return  # a WebSocket, which is refused by not being accepted
        instance = instance_of(req.scope)
        if req.method == "OPTIONS":
            resp.status = 204
            resp.set_header("Allow", METHODS)
            return
        try:
            found = await self._find(req, instance)
        except StreamsError as error:
            found = problem_of(error, instance=instance)
        if isinstance(found, Problem):
            answer_problem(resp, found)
        elif isinstance(found, AsyncIterator):
            resp.content_type, resp.stream = MEDIA_JSON, found
        else:
            answer_json(resp, JSON.serialize(found))

    async def _find(self, req: Request, instance: str) -> Any:
        """Return the answer: a value, an array in pieces, or a problem. Raises StreamsError."""
        if req.method not in ("GET", "HEAD"):
            return plain_problem(405, "the log is only read", instance=instance, headers={"Allow": METHODS})
        what, *rest = _segments(req)
        stores = _STORES.get(what)
        if stores is None:
            return _no_such_question(instance)
        match rest:
            case ["ALL"]:
                return await array(self._hosts.entries(stores.total, None, None))
            case ["COUNT"]:
                return await self._hosts.count(stores.total)
            case ["range", from_host, to_host]:
                return await array(self._hosts.entries(stores.total, from_host, to_host))
            case ["win", host]:
                return await self._hosts.windows(stores.windowed, host, 0, self._now_ms())
            case ["win", host, from_, to]:
                return await self._hosts.windows(stores.windowed, host, _time("from", from_), _time("to", to))
            case ["check", host] if what == "access":
                return await self._hosts.contains(topology.SEEN_HOSTS, host)
            case [host]:
                return await self._number(stores.total, host, instance)
            case []:
                given = Parameters(req.scope["query_string"]).text("host")
                if given is None:
                    raise BadParameter(
                        "host", "the host is missing: it is the end of the path, or the parameter `host`"
                    )
                return await self._number(stores.total, given, instance)
        return _no_such_question(instance)

    async def _number(self, store: str, host: str, instance: str) -> Any:
        found = await self._hosts.get(store, host)
        return problem(KEY_NOT_FOUND, "no line of this host was read", instance=instance) if found is None else found


def _no_such_question(instance: str) -> Problem:
    return plain_problem(404, "no such question; a slash in a host is written %2F", instance=instance)


def _segments(req: Request) -> list[str]:
    """Return the path behind `/weblog/`, divided before it was decoded."""
    raw: bytes = req.scope.get("raw_path") or req.path.encode()
    try:
        return [unquote_to_bytes(each).decode() for each in raw.partition(b"?")[0].split(b"/")[2:]]
    except UnicodeDecodeError as error:
        raise BadParameter("host", "the path is not UTF-8") from error


def _time(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
        raise BadParameter(name, f"{name} is a time in Unix milliseconds")
    return int(text)
