"""The routes of the tutorial, in its envelopes, for any instance. Whoever has what is asked for answers, one hop away
at most; lists and numbers are of all instances, or with `?scope=local` of this one.

    GET  /                                     {}
    GET  /metadata[/stores/{store}]            {"result":[{"host":..,"port":..,"state-store-names":[..]}, ..]}
    GET  /metadata/stores/{store}/key/{key}    {"result":{..}}
    GET  /stores/{store}/get/{key}             {"response":value}
    GET  /stores/{store}/all                   {"result":[{"key":..,"value":..}, ..]}
    GET  /stores/{store}/range?from=&to=       the same, both bounds included, each may be missing
    GET  /stores/{store}/approximate-num-entries
    POST /topics/{topic}                       lines of key--value; {"result":number}

A path is divided before it is decoded, so a key may be anything; the empty one is a path that ends with a slash.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import falcon
import falcon.asgi

from examples.answering import array, mount_errors, segments_of, text_of
from examples.food_orders.topology import CUSTOMER_TOPIC, ORDER_TOPIC
from streams.errors import NotOwner
from streams.http.paths import Parameters, instance_of
from streams.http.problems import KEY_NOT_FOUND, problem
from streams.http.stores import answer_problem
from streams.queries.asking import CLUSTER, LOCAL, MAX_LIMIT, BadParameter
from streams.queries.stores import Options, StoreQueries
from streams.serdes import JSON

SEPARATOR = "--"
_GET = ("GET", "HEAD")


class Pair(NamedTuple):
    """A record to be sent."""

    key: str
    value: str


#: Sends pairs to a topic; they are durable when it returns. Raises StreamsError.
Send = Callable[[str, Sequence[Pair]], Awaitable[None]]


class FoodRoutes:
    """Event loop only."""

    def __init__(self, queries: StoreQueries, *, send: Send) -> None:
        self._queries = queries
        self._send = send

    def mount(self, app: falcon.asgi.App[Any, Any]) -> None:
        """Have *app* answer all routes, and every error as a problem (RFC 9457)."""
        app.add_sink(self.answer, prefix=re.compile("/(?:(?:stores|metadata|topics)(?:/|$)|$)"))
        mount_errors(app)

    async def answer(self, req: Any, resp: Any, ws: object = None, **_: Any) -> None:
        """Answer one request."""
        if resp is None:
            return  # a WebSocket, which is refused by not being accepted
        words = segments_of(req.scope)
        resp.cache_control = ["no-store"]
        resp.content_type = falcon.MEDIA_JSON
        match words:
            case ["topics", topic]:
                if req.method != "POST":
                    raise falcon.HTTPMethodNotAllowed(["POST"])
                pairs = pairs_of(await text_of(req))
                if topic not in (CUSTOMER_TOPIC, ORDER_TOPIC):
                    raise falcon.HTTPNotFound(description=f"the topics are {CUSTOMER_TOPIC} and {ORDER_TOPIC}")
                await self._send(topic, pairs)
                resp.data = JSON.serialize({"result": len(pairs)})
                return
        if req.method not in _GET:
            raise falcon.HTTPMethodNotAllowed(_GET)
        found = await self._find(words, Parameters(req.scope["query_string"]))
        if found is None:
            missing = problem(KEY_NOT_FOUND, "the store has no such key", instance=instance_of(req.scope))
            answer_problem(resp, missing)
        elif isinstance(found, AsyncIterator):
            resp.stream = await array(found, before=b'{"result":[', after=b"]}")
        else:
            resp.data = JSON.serialize(found)

    async def _find(self, words: list[str], given: Parameters) -> Any:
        queries = self._queries
        options = Options(scope=given.text("scope", LOCAL, CLUSTER) or CLUSTER)
        match words:
            case [""]:
                return {}
            case ["metadata"]:
                return {"result": await self._instances(None)}
            case ["metadata", "stores", store]:
                await queries.metadata_of(store)  # which knows whether there is such a store
                return {"result": await self._instances(store)}
            case ["metadata", "stores", store, "key", key]:
                return {"result": await self._instance(store, key)}
            case ["stores", store, "get", key]:
                entry = await queries.get(store, key, options=options)
                return None if entry is None else {"response": entry.value}
            case ["stores", store, "all"]:
                return self._walk(store, None, None, options)
            case ["stores", store, "range"]:
                return self._walk(store, given.text("from"), given.text("to"), options)
            case ["stores", store, "approximate-num-entries"]:
                return {"result": await queries.approximate_num_entries(store, options=options)}
        raise falcon.HTTPNotFound(description="route not found; a slash in a key is written %2F")

    async def _walk(
        self, store: str, low: str | None, high: str | None, options: Options
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield entries, a page at a time."""
        cursor: str | None = None
        while True:
            page = await self._queries.range(store, low, high, limit=MAX_LIMIT, cursor=cursor, options=options)
            for entry in page.entries:
                yield {"key": entry.key, "value": entry.value}
            cursor = page.next
            if cursor is None:
                return

    async def _instances(self, store: str | None) -> list[dict[str, Any]]:
        """Return the instances that have partitions of *store*, or any."""
        document = await self._queries.metadata()
        described = [_describe(instance) for instance in document["instances"]]
        return [each for each in described if (store in each[_NAMES] if store is not None else each[_NAMES])]

    async def _instance(self, store: str, key: str) -> dict[str, Any]:
        document = await self._queries.metadata_of_key(store, key)
        owners = {instance["node_id"] for instance in document["instances"] if instance["role"] == "owner"}
        for instance in (await self._queries.metadata())["instances"]:
            if instance["node_id"] in owners:
                return _describe(instance)
        raise NotOwner("nobody has this key at the moment", partition=document["partition"])


_NAMES = "state-store-names"


def _describe(instance: dict[str, Any]) -> dict[str, Any]:
    parts = urlsplit(instance["address"])
    names = sorted(name for name, owned in instance["active"].items() if owned)
    return {"host": parts.hostname, "port": parts.port, _NAMES: names}


def pairs_of(text: str) -> list[Pair]:
    """Return the key and the value of each line. Raises BadParameter for a line without a separator."""
    pairs = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        key, found, value = line.partition(SEPARATOR)
        if not found:
            raise BadParameter("body", f"line {number} has no {SEPARATOR} between key and value; nothing was sent")
        pairs.append(Pair(key, value))
    return pairs
