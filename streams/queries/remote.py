"""Interactive queries for Python: the stores of an application elsewhere, over HTTP, with the methods of
`streams.queries.stores.StoreQueries`.

Values come as JSON says them: decimals as Decimal, bytes as bytes, keys of windows as `Windowed`; dataclasses as dicts.
Errors are those of the other class. Calls are made on threads, one connection each; nothing is sent twice.
"""

import asyncio
import http.client
import json
import re
import ssl
from base64 import b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from uuid import UUID

from streams.errors import ConfigError, Draining, LeaseExpired, NotOwner, Overloaded, Restoring, Unavailable
from streams.queries.asking import OWNER, BadCursor, BadParameter, NotHere, Part, TooStale, UnknownStore, WrongQuery
from streams.queries.counts import PartitionCount, StoreCount
from streams.queries.peers import PeerUnreachable
from streams.queries.stores import USUAL, Entry, Options, Page
from streams.serdes import JSON, Windowed

_LINES = 500  # that are read on a thread at a time
_GRACE_S = 5.0  # after the deadline that the other side keeps
_ERRORS: Mapping[str, type[Unavailable]] = {
    "not-here": NotHere,
    "too-stale": TooStale,
    "draining": Draining,
    "ownership-unsettled": NotOwner,
    "owner-unreachable": PeerUnreachable,
    "overloaded": Overloaded,
    "lease-expired": LeaseExpired,
}


class RemoteQueries:
    """Asks any instance of an application; that one finds out who knows. Safe for several tasks and event loops.

    Methods, pages and errors are those of `streams.queries.stores.StoreQueries`; Unavailable, too, when the instance
    does not answer.
    """

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None) -> None:
        """*url*: `http(s)://host:port` of an instance, perhaps with a path. *tls*: None for the system's authorities.
        Raises ConfigError for anything else; nothing is connected yet."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("the url of an application is http(s)://host:port")
        self._host, self._port = parts.hostname, parts.port
        self._is_tls = parts.scheme == "https"
        self._tls = tls
        self._root = parts.path.rstrip("/")

    async def get(self, store: str, key: Any, *, options: Options = USUAL) -> Entry | None:
        """Return the entry of *key*, None if there is none. Key-value and membership stores."""
        text, encoding = _text(key)
        document = await self._ask(f"/stores/{_quote(store)}/get/{_quote(text)}", {**encoding}, options)
        return None if document is None else _entry(document)

    async def all(self, store: str, *, limit: int = 100, cursor: str | None = None, options: Options = USUAL) -> Page:
        """Return the first *limit* entries, or those after *cursor*. All stores but membership stores."""
        return await self._page(store, "all", {"limit": limit, "cursor": cursor}, options)

    async def range(
        self,
        store: str,
        from_key: Any = None,
        to_key: Any = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        options: Options = USUAL,
    ) -> Page:
        """Return entries from *from_key* to *to_key*, both included, None for no bound, in the order of the keys'
        bytes. Key-value stores."""
        bounds: dict[str, Any] = {}
        if isinstance(from_key, bytes) or isinstance(to_key, bytes):
            bounds["encoding"] = "base64"
        for name, key in (("from", from_key), ("to", to_key)):
            bounds[name] = None if key is None else _text(key)[0]
        return await self._page(store, "range", {**bounds, "limit": limit, "cursor": cursor}, options)

    async def prefix(
        self, store: str, prefix: str | bytes, *, limit: int = 100, cursor: str | None = None, options: Options = USUAL
    ) -> Page:
        """Return the entries whose key's bytes begin with *prefix* (text: its UTF-8). Key-value stores."""
        text, encoding = _text(prefix)
        given = {**encoding, "limit": limit, "cursor": cursor}
        return await self._page(store, f"prefix/{_quote(text)}", given, options)

    async def window(
        self,
        store: str,
        key: Any,
        from_ms: int = 0,
        to_ms: int | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        options: Options = USUAL,
    ) -> Page:
        """Return the windows of *key* that start from *from_ms* to *to_ms*, both included. Window stores."""
        text, encoding = _text(key)
        given = {**encoding, "from": from_ms, "to": to_ms, "limit": limit, "cursor": cursor}
        return await self._page(store, f"window/{_quote(text)}", given, options)

    async def session(
        self,
        store: str,
        key: Any,
        from_ms: int = 0,
        to_ms: int | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        options: Options = USUAL,
    ) -> Page:
        """Return the sessions of *key* that touch the time from *from_ms* to *to_ms*, both included. Session stores."""
        text, encoding = _text(key)
        given = {**encoding, "from": from_ms, "to": to_ms, "limit": limit, "cursor": cursor}
        return await self._page(store, f"session/{_quote(text)}", given, options)

    async def scan(self, store: str, *, options: Options = USUAL) -> AsyncIterator[Entry]:
        """Yield every entry of *store* as it comes over one connection. It ends at the end, or raises."""
        path = self._path(f"/stores/{_quote(store)}/all", {}, options)
        connection = self._connect(options)
        with closing(connection):
            response = await asyncio.to_thread(_send, connection, path, _headers(options, "application/x-ndjson"))
            if response.status != http.HTTPStatus.OK:
                raise _error(response.status, await asyncio.to_thread(response.read)) or Unavailable("no list")
            while True:
                for line in await asyncio.to_thread(_read_lines, response):
                    document = _decode(line)
                    if "end" in document:
                        return
                    if "problem" in document:
                        raise _problem(document["problem"])
                    yield _entry(document)

    async def approximate_num_entries(self, store: str, *, options: Options = USUAL) -> int:
        """Return about how many rows *store* has."""
        return (await self.count(store, options=options)).rows

    async def count(self, store: str, *, options: Options = USUAL) -> StoreCount:
        """Return about how many rows *store* has, partition by partition."""
        document = await self._document(f"/stores/{_quote(store)}/approximate-num-entries", {}, options)
        counts = [
            PartitionCount(
                each["partition"],
                each["entries"],
                each["is_exact"],
                each["node_id"],
                each["role"],
                each["staleness_ms"],
            )
            for each in document["partitions"]
        ]
        return StoreCount(counts, document["missing"])

    async def stores(self) -> dict[str, str]:
        """Return the kind of each store, by its name."""
        document = await self._document("/stores", {}, USUAL)
        return {each["store"]: each["kind"] for each in document["stores"]}

    async def metadata(self) -> dict[str, Any]:
        """Return all instances and what they have."""
        return await self._document("/metadata", {}, USUAL)

    async def metadata_of(self, store: str) -> dict[str, Any]:
        """Return where the partitions of *store* are."""
        return await self._document(f"/metadata/stores/{_quote(store)}", {}, USUAL)

    async def metadata_of_key(self, store: str, key: Any) -> dict[str, Any]:
        """Return where *key* is, whether or not it has an entry."""
        text, encoding = _text(key)
        return await self._document(f"/metadata/stores/{_quote(store)}/key/{_quote(text)}", {**encoding}, USUAL)

    async def _page(self, store: str, question: str, given: dict[str, Any], options: Options) -> Page:
        document = await self._document(f"/stores/{_quote(store)}/{question}", given, options)
        parts = [Part(**part) for part in document["partitions"]]
        return Page([_entry(item) for item in document["items"]], document["next"], parts, document["missing"])

    async def _document(self, path: str, given: dict[str, Any], options: Options) -> dict[str, Any]:
        document = await self._ask(path, given, options)
        if document is None:
            raise UnknownStore("there is nothing of that kind")
        return document

    async def _ask(self, path: str, given: dict[str, Any], options: Options) -> dict[str, Any] | None:
        """Return what is answered, None for a key that is not there."""
        status, body = await asyncio.to_thread(self._call, self._path(path, given, options), options)
        if status != http.HTTPStatus.OK:
            error = _error(status, body)
            if error is None:
                return None
            raise error
        return _decode(body)

    def _call(self, path: str, options: Options) -> tuple[int, bytes]:
        with closing(self._connect(options)) as connection:
            response = _send(connection, path, _headers(options, "application/json"))
            try:
                return response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                raise Unavailable(f"the answer was cut off: {type(error).__name__}") from error

    def _path(self, path: str, given: dict[str, Any], options: Options) -> str:
        query = {name: value for name, value in given.items() if value is not None}
        if path.startswith("/stores/"):
            query |= {"scope": options.scope}
            if options.is_partial:
                query["partial"] = "true"
            if options.freshness.consistency != OWNER:
                query["consistency"] = options.freshness.consistency
        return self._root + path + ("?" + urlencode(query) if query else "")

    def _connect(self, options: Options) -> http.client.HTTPConnection:
        timeout_s = options.timeout_s + _GRACE_S
        if self._is_tls:
            tls = self._tls or ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)


def _send(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise PeerUnreachable(f"{connection.host} does not answer: {type(error).__name__}") from error


def _read_lines(response: http.client.HTTPResponse) -> list[bytes]:
    """Return the next lines, one at least. Raises Unavailable at an end that nothing announced."""
    lines: list[bytes] = []
    try:
        while len(lines) < _LINES:
            line = response.readline()
            if not line.endswith(b"\n"):
                raise Unavailable("the answer was cut off")
            lines.append(line)
            if line.startswith((b'{"end":', b'{"problem":')):
                break
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"the answer was cut off: {type(error).__name__}") from error
    return lines


def _headers(options: Options, accept: str) -> dict[str, str]:
    headers = {"Accept": accept, "Request-Timeout": f"{options.timeout_s:g}"}
    staleness_s = options.freshness.max_staleness_s
    if staleness_s is not None:
        headers["Prefer"] = f"max-staleness={staleness_s:.3f}"
    return headers


def _quote(text: str) -> str:
    """Return *text* as one segment of a path. Dots alone would be taken for directions by what lies between."""
    return quote(text, safe="") if text.strip(".") else text.replace(".", "%2E")


def _text(key: Any) -> tuple[str, dict[str, str]]:
    """Return a key as it is written in a URL, and the parameter that says how."""
    if isinstance(key, bytes):
        return urlsafe_b64encode(key).rstrip(b"=").decode(), {"encoding": "base64"}
    if isinstance(key, bool):
        return ("true" if key else "false"), {}
    if isinstance(key, str | int | float | Decimal | UUID):
        return str(key), {}
    return JSON.serialize(key).decode(), {}


def _entry(document: dict[str, Any]) -> Entry:
    key = document["key"]
    if isinstance(key, dict) and key.keys() == {"key", "window"}:
        window = key["window"]
        key = Windowed(_value(key["key"]), window["start"], window["end"])
    return Entry(_value(key), _value(document["value"]), document["timestamp_ms"])


def _value(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"base64"} and isinstance(value["base64"], str):
        return b64decode(value["base64"])
    return value


def _decode(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body, parse_float=Decimal)
    except ValueError as error:
        raise Unavailable("the answer is not JSON") from error
    if not isinstance(document, dict):
        raise Unavailable("the answer is not that of an application")
    return document


def _error(status: int, body: bytes) -> Exception | None:
    """Return the error that an answer means, None for a key that is not there."""
    try:
        document = json.loads(body)
        slug = str(document["type"]).removeprefix("/problems/")
    except (ValueError, KeyError, TypeError):
        return Unavailable(f"the answer was {status}")
    return None if slug == "key-not-found" else _problem(document)


def _problem(document: dict[str, Any]) -> Exception:
    slug = re.sub(".*/", "", str(document["type"]))
    detail, partition = str(document.get("detail", "")), document.get("partition")
    if slug == "bad-cursor":
        return BadCursor()
    if slug == "invalid-parameter":
        return BadParameter(str(document.get("parameter")), detail)
    if slug == "wrong-query":
        return WrongQuery(detail)
    if slug == "unknown-store" or document.get("status") == http.HTTPStatus.NOT_FOUND:
        return UnknownStore(detail)
    if slug == "restoring":
        return Restoring(detail, partition=partition or 0, lag_records=int(document.get("lag", 0)))
    return _ERRORS.get(slug, Unavailable)(detail, partition=partition)
