"""A small search server of our own for tests: real HTTP, external versions as Elasticsearch and OpenSearch keep them,
and faults that a test chooses. It knows what the sink uses and nothing else: any other request is answered 500, and
noted in `unexpected`.

That it does what the real ones do is shown by `tests/app/replication/test_search_contract.py`, which runs over all of
them. Strict on purpose: searches see what was refreshed and no more, names of indices and aliases share one space, and
`require_alias` is obeyed.
"""

import contextlib
import fnmatch
import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

MAX_TERM_BYTES = 32_766  # Lucene's, of a keyword


class Fault(Enum):
    """What becomes of a bulk request."""

    DROPPED = "the connection is closed, nothing was done"
    CUT = "done, and the connection is closed in the middle of the answer"
    BUSY = "429 as a whole, nothing was done"
    SOME_BUSY = "every second item is answered 429"
    UNAVAILABLE = "503, nothing was done"
    FULL = "every item meets a block of the flood stage, nothing was done"
    GARBAGE = "done, and the answer is no JSON"
    SHORT = "done, and the answer tells of fewer items"
    SLOW = "done after a while that is longer than the client waits"


class Reply(NamedTuple):
    status: int
    document: object


@dataclass
class Index:
    """One index. `docs`: by id, (version, source). `seen`: the same as of the last refresh."""

    body: Mapping[str, Any]
    aliases: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    docs: dict[str, tuple[int, Any]] = field(default_factory=dict)
    seen: dict[str, tuple[int, Any]] = field(default_factory=dict)


class FakeSearch:
    """The server. `choose` decides about each bulk request, on the server's threads; None: no fault."""

    def __init__(self, *, slow_s: float = 1.0, tls: ssl.SSLContext | None = None) -> None:
        """*slow_s*: of `Fault.SLOW`. *tls*: with it, the server speaks https."""
        self.choose: Callable[[], Fault | None] = lambda: None
        self.limit_bytes = 100 * 1024 * 1024
        self.authorization: str | None = None
        self.unexpected: list[str] = []
        self.bulks = 0
        self.items = 0
        self.faults: list[Fault] = []
        self.indices: dict[str, Index] = {}
        self.slow_s = slow_s
        self._tls = tls
        self._lock = threading.RLock()
        self._scrolls: dict[str, list[Any]] = {}
        self._server: _Server | None = None
        self._port = 0
        self.up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    def up(self) -> None:
        """Listen, on the port of before."""
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.search = self
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections, and break those that are open; what is stored stays."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.break_connections()

    def held(self, alias: str) -> dict[str, Any]:
        """Return what searchers of *alias* find once all is refreshed, by id."""
        with self._lock:
            (index,) = [one for one in self.indices.values() if alias in one.aliases]
            wanted = index.aliases[alias].get("filter", {"match_all": {}})
            return {name: source for name, (_, source) in index.docs.items() if _matches(source, wanted)}

    def answer(self, method: str, target: str, body: bytes) -> Reply:
        """Return what a server answers."""
        parts = urlsplit(target)
        path = parts.path.strip("/").split("/")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with self._lock:
            found = self._route(method, path, query, body)
            if found is None:
                self.unexpected.append(f"{method} {target}")
                return Reply(500, {"error": {"type": "unexpected"}})
            return found

    def _route(self, method: str, path: Sequence[str], query: Mapping[str, str], body: bytes) -> Reply | None:
        match (method, *path):
            case ("GET", "_alias", alias):
                found = {
                    name: {"aliases": {alias: one.aliases[alias]}}
                    for name, one in self.indices.items()
                    if alias in one.aliases
                }
                return Reply(200, found) if found else Reply(404, {"error": f"alias [{alias}] missing", "status": 404})
            case ("HEAD", name):
                return Reply(200 if self._resolve(name) else 404, None)
            case ("PUT", name):
                return self._create(name, json.loads(body))
            case ("DELETE", "_search", "scroll"):
                return Reply(200 if self._scrolls.pop(json.loads(body)["scroll_id"], None) is not None else 404, {})
            case ("DELETE", name):
                return Reply(200, {}) if self.indices.pop(name, None) else _missing(name)
            case ("GET", pattern, "_mapping"):
                names = fnmatch.filter(self.indices, pattern)
                if not names and "*" not in pattern:
                    return _missing(pattern)
                return Reply(200, {name: {"mappings": self.indices[name].body["mappings"]} for name in names})
            case ("POST", "_aliases"):
                return self._change_aliases(json.loads(body)["actions"])
            case ("POST", "_search", "scroll"):
                return self._page(json.loads(body)["scroll_id"])
            case ("DELETE", name, "_doc", key):
                found = self._resolve(name)
                return Reply(200, {}) if found and found.docs.pop(key, None) else _missing(name)
            case (_, name, operation):
                return self._of_index(method, name, operation, query, body)
        return None

    def _of_index(self, method: str, name: str, operation: str, query: Mapping[str, str], body: bytes) -> Reply | None:
        if (method, operation) == ("POST", "_bulk"):
            return self._bulk(name, body, requires_alias=query.get("require_alias") == "true")
        index = self._resolve(name)
        if (method, operation) == ("POST", "_mget"):
            ids = json.loads(body)["ids"]
            if index is None:
                error = {"type": "index_not_found_exception"}
                return Reply(200, {"docs": [{"_id": one, "error": error} for one in ids]})
            docs = [
                {"_id": one, "found": True, "_source": index.docs[one][1]}
                if one in index.docs
                else {"_id": one, "found": False}
                for one in ids
            ]
            return Reply(200, {"docs": docs})
        if index is None:
            return _missing(name)
        if (method, operation) == ("POST", "_refresh"):
            index.seen = dict(index.docs)
            return Reply(200, {})
        if (method, operation) == ("PUT", "_settings"):
            index.settings.update(json.loads(body)["index"])
            return Reply(200, {})
        if (method, operation) == ("POST", "_search"):
            return self._search(name, index, json.loads(body), is_scrolled="scroll" in query)
        return None

    def _resolve(self, name: str) -> Index | None:
        found = [one for key, one in self.indices.items() if key == name or name in one.aliases]
        return found[0] if len(found) == 1 else None

    def _create(self, name: str, body: Mapping[str, Any]) -> Reply:
        if name in self.indices:
            return Reply(400, {"error": {"type": "resource_already_exists_exception", "reason": name}})
        for alias, what in body.get("aliases", {}).items():
            if what.get("is_write_index") and self._writers(alias):
                return Reply(500, {"error": {"type": "illegal_state_exception", "reason": "more than one write index"}})
        self.indices[name] = Index(body, dict(body.get("aliases", {})), dict(body["settings"]["index"]))
        return Reply(200, {})

    def _writers(self, alias: str) -> list[str]:
        return [name for name, one in self.indices.items() if one.aliases.get(alias, {}).get("is_write_index")]

    def _change_aliases(self, actions: Sequence[Mapping[str, Any]]) -> Reply:
        for action in actions:
            for what in action.values():
                if what["index"] not in self.indices:
                    return _missing(what["index"])
        for action in actions:
            ((kind, what),) = action.items()
            if kind == "remove_index":
                del self.indices[what["index"]]
            elif kind == "add":
                self.indices[what["index"]].aliases[what["alias"]] = {
                    key: value for key, value in what.items() if key in ("filter", "is_write_index")
                }
            elif self.indices[what["index"]].aliases.pop(what["alias"], None) is None:
                return Reply(404, {"error": {"type": "aliases_not_found_exception"}})
        return Reply(200, {})

    def _bulk(self, name: str, body: bytes, *, requires_alias: bool) -> Reply:
        if not body.endswith(b"\n"):
            return Reply(400, {"error": {"type": "illegal_argument_exception"}})
        lines = body.splitlines()
        index = self._resolve(name)
        if index is None and not requires_alias:  # as `action.auto_create_index` has it by default
            index = self.indices[name] = Index({"mappings": {}})
        is_missing = index is None or (requires_alias and name in self.indices)
        items = []
        for action, source in zip(lines[::2], lines[1::2], strict=True):
            what = json.loads(action)["index"]
            self.items += 1
            if is_missing or index is None:
                items.append(_refusal(404, "index_not_found_exception", f"no such index [{name}]"))
            else:
                items.append({"index": _put(index, what, source)})
        return Reply(200, {"items": items})

    def _search(self, name: str, index: Index, body: Mapping[str, Any], *, is_scrolled: bool) -> Reply:
        wanted = [body.get("query", {"match_all": {}}), index.aliases.get(name, {}).get("filter", {"match_all": {}})]
        hits = [
            {"_id": key, "_source": source}
            for key, (_, source) in index.seen.items()
            if all(_matches(source, one) for one in wanted)
        ]
        size = body.get("size", 10)
        if not is_scrolled:
            return Reply(200, _hits(hits[:size]))
        scroll = f"scroll-{len(self._scrolls)}-{time.monotonic_ns()}"
        self._scrolls[scroll] = [size, hits]
        return self._page(scroll)

    def _page(self, scroll: str) -> Reply:
        if scroll not in self._scrolls:
            return Reply(404, {"error": {"type": "search_context_missing_exception"}})
        size, hits = self._scrolls[scroll]
        self._scrolls[scroll][1] = hits[size:]
        return Reply(200, {"_scroll_id": scroll, **_hits(hits[:size])})

    def fault_of(self, lines: int) -> Fault | None:
        """Return what becomes of the next bulk request, of so many lines."""
        with self._lock:
            self.bulks += 1
            fault = self.choose()
            if fault is not None:
                self.faults.append(fault)
            return fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    search: FakeSearch

    def __init__(self, *arguments: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections break all the time here."""

    def break_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: the client would wait for the second one
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def _serve(self) -> None:
        search = self.server.search
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if search.authorization is not None and self.headers.get("Authorization") != search.authorization:
            return self._send(Reply(401, {"error": {"type": "security_exception"}}))
        if not self.path.partition("?")[0].endswith("/_bulk"):
            return self._send(search.answer(self.command, self.path, body))
        if self.headers.get("Content-Type") != "application/x-ndjson":
            return self._send(Reply(406, {"error": {"type": "content_type_header_exception"}}))
        if len(body) > search.limit_bytes:
            return self._send(Reply(413, {"error": {"type": "content_too_long"}}))
        return self._bulk(body)

    def _bulk(self, body: bytes) -> None:
        search = self.server.search
        lines = len(body.splitlines())
        match search.fault_of(lines):
            case Fault.DROPPED:
                self.close_connection = True
            case Fault.BUSY:
                self._send(Reply(429, {"error": {"type": "es_rejected_execution_exception"}}))
            case Fault.UNAVAILABLE:
                self._send(Reply(503, {"error": {"type": "cluster_block_exception"}}))
            case Fault.FULL:
                block = _refusal(429, "cluster_block_exception", "disk usage exceeded flood-stage watermark")
                self._send(Reply(200, {"items": [block] * (lines // 2)}))
            case Fault.SOME_BUSY:
                self._send_some_busy(body)
            case Fault.CUT:
                self._send(search.answer(self.command, self.path, body), is_cut=True)
            case Fault.GARBAGE:
                search.answer(self.command, self.path, body)
                self._send(Reply(200, None), text=b"<html>")
            case Fault.SHORT:
                status, document = search.answer(self.command, self.path, body)
                assert isinstance(document, dict)
                self._send(Reply(status, {"items": document["items"][1:]}))
            case Fault.SLOW:
                answer = search.answer(self.command, self.path, body)
                time.sleep(search.slow_s)
                self._send(answer)
            case _:
                self._send(search.answer(self.command, self.path, body))

    def _send_some_busy(self, body: bytes) -> None:
        """Carry out every second item."""
        lines = body.splitlines(keepends=True)
        pairs = [b"".join(lines[at : at + 2]) for at in range(0, len(lines), 2)]
        status, document = self.server.search.answer(self.command, self.path, b"".join(pairs[::2]))
        assert isinstance(document, dict)
        done = iter(document["items"])
        busy = _refusal(429, "es_rejected_execution_exception", "queue full")
        self._send(Reply(status, {"items": [busy if at % 2 else next(done) for at in range(len(pairs))]}))

    def _send(self, reply: Reply, *, text: bytes | None = None, is_cut: bool = False) -> None:
        data = text if text is not None else b"" if reply.document is None else json.dumps(reply.document).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if is_cut else data)
        if is_cut:
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815  # the names that http.server calls


def _put(index: Index, what: Mapping[str, Any], source: bytes) -> dict[str, Any]:
    """Write one document, in the servers' order: first it is parsed, then its version is looked at."""
    document = json.loads(source)
    for name in ("created_at", "updated_at"):
        try:
            datetime.fromisoformat(document.get(name) or "2026-01-01")
        except ValueError:
            reason = f"failed to parse field [{name}] of type [date]. Preview of field's value: '{document[name]}'"
            return dict(_refusal(400, "document_parsing_exception", reason)["index"])
    for name in ("uid", "email", "username"):
        if len(str(document.get(name, "")).encode()) > MAX_TERM_BYTES:
            reason = f'Document contains at least one immense term in field="{name}"'
            return dict(_refusal(400, "illegal_argument_exception", reason)["index"])
    known = index.docs.get(what["_id"])
    version = int(what["version"])
    is_newer = known is None or version > known[0] or (what["version_type"] == "external_gte" and version == known[0])
    if not is_newer:
        return dict(_refusal(409, "version_conflict_engine_exception", "version conflict")["index"])
    index.docs[what["_id"]] = (version, document)
    return {"status": 200 if known else 201}


def _refusal(status: int, kind: str, reason: str) -> dict[str, Any]:
    return {"index": {"status": status, "error": {"type": kind, "reason": reason}}}


def _missing(name: str) -> Reply:
    return Reply(
        404, {"error": {"type": "index_not_found_exception", "reason": f"no such index [{name}]"}, "status": 404}
    )


def _hits(hits: Sequence[Any]) -> dict[str, Any]:
    return {"_shards": {"failed": 0}, "hits": {"hits": list(hits)}}


def _matches(source: Any, query: Mapping[str, Any]) -> bool:
    """Evaluate the few queries that are used."""
    ((kind, what),) = query.items()
    if kind == "match_all":
        return True
    if kind == "bool":
        return not _matches(source, what["must_not"])
    if kind == "exists":
        return _value(source, what["field"]) is not None
    assert kind == "term", kind
    ((name, value),) = what.items()
    return bool(_value(source, name) == value)


def _value(source: Any, path: str) -> Any:
    for name in path.split("."):
        source = source.get(name) if isinstance(source, dict) else None
    return source
