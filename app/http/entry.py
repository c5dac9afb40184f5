"""The outermost layer of the HTTP edge: one ASGI application around falcon's.

It gives each request its id and its start, refuses what falcon must not see, answers the commonest reads by
`app/http/fastpath.py`, and hands everything else to falcon. It reads no body.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import quote

from app.cluster.assembly import Gate
from app.http.context import CALLER, DUE, HEADERS, RECEIVE, REQUEST_ID, STARTED, RequestIds
from app.http.fastpath import NOT_PLAIN, FastPath, ProxiedPath
from app.http.headers import usable_request_id
from app.http.ports import Metrics
from app.http.problems import MEDIA_PROBLEM, Problem
from app.http.profiles import PROFILES_PATH
from app.http.search import SEARCH_PATH
from app.observability import logs
from streams.clock import Clock, Deadline
from streams.queries.peers import PeerReply

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]

#: A request with this header comes from another node.
PEER_HEADER = b"profile-peer"
MAX_PEER_BODY_BYTES = 1024 * 1024

_PROFILE_ROUTE = PROFILES_PATH + "/{uid}"
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")


class Entry:
    """The ASGI application. Event loop only."""

    def __init__(
        self,
        *,
        api: AsgiApp,
        fast_path: FastPath,
        clock: Clock,
        metrics: Metrics,
        request_timeout_s: float,
        proxied_path: ProxiedPath | None,
        gate: Gate | None,
    ) -> None:
        """*api*: the falcon application, which answers all that is not plain. *proxied_path* and *gate* are None on a
        node that is alone."""
        self.api = api
        #: Who is told that the server starts and stops. Here, since a layer of its own would cost every request.
        self.lifespan: AsgiApp | None = None
        self._fast = fast_path
        self._proxied = proxied_path
        self._gate = gate
        self._monotonic = clock.monotonic
        self._observe = metrics.observe_request
        self._ids = RequestIds()
        self._timeout_s = request_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        started = self._monotonic()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        problem = _refusal(scope, headers)
        if problem is not None:
            await self._refuse(scope, headers, problem, send)
            return
        if PEER_HEADER in headers and self._gate is not None:
            await self._from_peer(self._gate, scope, receive, send, started)
            return
        if scope["method"] == "GET" and NOT_PLAIN.isdisjoint(headers):
            path = scope["path"]
            request_id = self._ids.next()
            if path == SEARCH_PATH:
                route = SEARCH_PATH
                answer = self._fast.search(scope, request_id)
            else:
                route = _PROFILE_ROUTE
                answer = self._fast.profile(scope, request_id)
            if answer is None and self._proxied is not None:
                due = Deadline(started + self._timeout_s)
                proxied = self._proxied.search if path == SEARCH_PATH else self._proxied.profile
                answer = await proxied(scope, request_id, due)
            if answer is not None:
                await send({"type": "http.response.start", "status": 200, "headers": answer[0]})
                await send({"type": "http.response.body", "body": answer[1]})
                self._observe("GET", route, 200, self._monotonic() - started)
                return
        else:
            request_id = self._request_id(headers)
        logs.REQUEST_ID.set(request_id)
        scope[REQUEST_ID] = request_id
        scope[STARTED] = started
        scope[DUE] = started + self._timeout_s
        scope[HEADERS] = headers
        scope[RECEIVE] = receive
        await self.api(scope, _without_body(receive), send)

    async def _from_peer(self, gate: Gate, scope: Scope, receive: Receive, send: Send, started: float) -> None:
        """Answer what another node sent: an operation by the gate, a forwarded request as if its client were here."""
        body = await _whole_body(receive)
        if body is None:
            return  # the connection ended, or somebody sends what no node does
        client = scope.get("client")
        target = scope.get("raw_path") or quote(scope["path"]).encode()
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        host = client[0] if client else None
        entered = await gate.enter(scope["method"].encode(), target, scope["headers"], body, client_host=host)
        if isinstance(entered, PeerReply):
            await send({"type": "http.response.start", "status": entered.status, "headers": list(entered.headers)})
            await send({"type": "http.response.body", "body": entered.body})
            return
        with entered as caller:
            headers = dict(entered.headers)
            scope["headers"] = [*entered.headers, (b"content-length", b"%d" % len(body))]
            request_id = self._request_id(headers)
            logs.REQUEST_ID.set(request_id)
            scope[REQUEST_ID] = request_id
            scope[STARTED] = started
            scope[DUE] = caller.deadline.at
            scope[HEADERS] = headers
            scope[CALLER] = caller
            scope[RECEIVE] = _of_body(body)
            await self.api(scope, _without_body(_of_body(b"")), _proving(send, entered.proof))

    def _request_id(self, headers: dict[bytes, bytes]) -> str:
        given = headers.get(b"x-request-id")
        return (usable_request_id(given.decode("latin-1")) if given is not None else None) or self._ids.next()

    async def _refuse(self, scope: Scope, headers: dict[bytes, bytes], problem: Problem, send: Send) -> None:
        request_id = self._request_id(headers)
        status = problem.type.status
        body = problem.body(instance=quote(scope["path"][:512], errors="replace"), request_id=request_id)
        answer = [
            (b"content-type", MEDIA_PROBLEM.encode()),
            (b"x-request-id", request_id.encode()),
            (b"content-length", b"%d" % len(body)),
            # A proxy may have read such a head otherwise, a folded Content-Length for one, and then what follows is not
            # where we look for it (RFC 9112 section 11.2).
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": answer})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
        self._observe("other", "none", status, 0.0)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
        else:
            await (self.lifespan or self.api)(scope, receive, send)


def _refusal(scope: Scope, headers: dict[bytes, bytes]) -> Problem | None:
    """Return why the request cannot be served whatever it asks for, or None."""
    if b"" in headers:  # how gunicorn's C parser hands on a folded line (RFC 9112 section 5.2)
        return Problem(400, "a header field has no name")
    if b"transfer-encoding" in headers and not _is_chunked_alone(scope["headers"]):
        return Problem(501, "the body's transfer coding is not supported")
    host = headers.get(b"host")
    if host is None:
        if scope["http_version"] == "1.1":
            return Problem(400, "HTTP/1.1 asks for a Host header (RFC 9112 section 3.2)")
    elif _HOST.fullmatch(host) is None:
        return Problem(400, "the Host header is not a host")
    if not scope["path"].startswith(("/", "*")):
        return Problem(400, "the target is not a path")
    if not scope["query_string"].isascii():
        return Problem(400, "the query string is not percent-encoded")  # falcon fails on it
    return None


def _is_chunked_alone(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Say whether the body comes as it is: the parser undoes `chunked`, and leaves any coding before it in place."""
    return all(value.lower() == b"chunked" for name, value in headers if name == b"transfer-encoding")


async def _whole_body(receive: Receive) -> bytes | None:
    """Return a peer's body, None when it ended early or is larger than any of ours."""
    chunks: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return None
        chunk: bytes = event.get("body", b"")
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_PEER_BODY_BYTES:
            return None
        if not event.get("more_body", False):
            return b"".join(chunks)


def _of_body(body: bytes) -> Receive:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _proving(send: Send, proof: tuple[bytes, bytes]) -> Send:
    """Return a send that adds the gate's proof to the answer's header."""

    async def with_proof(event: dict[str, Any]) -> None:
        if event["type"] == "http.response.start":
            event["headers"] = [*event["headers"], proof]
        await send(event)

    return with_proof


def _without_body(receive: Receive) -> Receive:
    """Return a receive whose first event is an empty body.

    Falcon takes one event before it routes. Were that the real one, a client that asks for `100 Continue` would be told
    to send a body that is refused by its header alone, and one that announces a body for a GET would make it wait.
    """
    is_first = True

    async def after_first() -> dict[str, Any]:
        nonlocal is_first
        if is_first:
            is_first = False
            return {"type": "http.request", "body": b"", "more_body": False}
        return await receive()

    return after_first
