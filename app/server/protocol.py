"""gunicorn's ASGI protocol with deadlines: no client can hold a connection, or memory, longer than `EdgeLimits` allow.

The deadlines cost nothing while requests are served: once a second the worker asks each connection for its *phase* and
how long it has been in it, instead of arming and cancelling timers for every request. What the server itself answers
(a malformed head, a time-out, too many connections) is a problem document (RFC 9457) that never quotes the request.
Everything here runs on the event loop's thread.
"""

import asyncio
import uuid
from http import HTTPStatus
from typing import Any, Protocol

import orjson
from gunicorn.asgi.protocol import ASGIProtocol, _get_cached_date_header, _get_cached_status_line

from app.server.limits import EdgeLimits, EdgeStats

HEAD = "header"
BODY = "body"
IDLE = "idle"
WRITING = "write"
CLOSING = "close"

_READ_AHEAD_BYTES = 64 * 1024  # of a body that the application has not taken yet; then reading pauses
_FIRST_REQUEST_S = 1.0
_CLOSE_TIMEOUT_S = 2.0  # for the last bytes of a closed connection to leave

_PHRASES = {status.value: status.phrase for status in HTTPStatus}  # gunicorn's table has no 412, 421, 428
_DETAILS = {
    400: "The request is not valid HTTP/1.1.",
    408: "The request did not arrive in time.",
    414: "The request line is longer than this server accepts.",
    431: "The header fields are larger than this server accepts.",
    500: "The request could not be answered. The fault is the server's.",
    501: "The transfer coding is not supported.",
    503: "Too many connections are open already. Nothing was begun.",
}


class EdgeWorkerPort(Protocol):
    """What a connection needs of its worker."""

    limits: EdgeLimits
    stats: EdgeStats
    is_parting: bool

    def admit(self, protocol: "EdgeProtocol") -> bool:
        """Count the connection in and return True, or return False when there are too many."""
        ...

    def forget(self, protocol: "EdgeProtocol") -> None:
        """Count the connection out. Idempotent."""
        ...

    def refuse(self, transport: asyncio.Transport) -> None:
        """Answer that there are too many connections, and close."""
        ...


def problem_response(status: int, *, slug: str | None = None, retry_after_s: int | None = None) -> bytes:
    """Return a whole HTTP response that closes the connection. Without *slug* the type is `about:blank`: the status
    says it all (RFC 9457 section 4.2.1)."""
    phrase = HTTPStatus(status).phrase
    body = orjson.dumps(
        {
            "type": f"/problems/{slug}" if slug else "about:blank",
            "title": phrase,
            "status": status,
            "detail": _DETAILS.get(status, phrase),
            "request_id": str(uuid.uuid4()),
        }
    )
    retry_after = f"Retry-After: {retry_after_s}\r\n" if retry_after_s is not None else ""
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n"
        f"{retry_after}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


class EdgeProtocol(ASGIProtocol):  # type: ignore[misc]  # gunicorn ships no types
    """One connection."""

    def __init__(self, worker: Any) -> None:
        super().__init__(worker)
        self._max_buffer_size = _READ_AHEAD_BYTES
        self._received_bytes = 0
        self._received_at_message_end = 0
        self._answered_request = 0
        self._is_half_closed = False  # the client has sent all that it will ever send
        # The sweep's own notes: the phase it saw last, since when, and what had been received by the last progress.
        self._phase: tuple[str, int] | None = None
        self._phase_since = 0.0
        self._progress_bytes = 0
        self._progress_at = 0.0
        self._made_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made_at = self.worker.loop.time()
        if self.worker.admit(self):
            super().connection_made(transport)
        else:
            self.worker.refuse(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        # gunicorn's method without what cannot occur here: HTTP/2, WebSocket, uWSGI. It runs for every request.
        if self._feed_callback_parser(data) and not self._reading_paused:
            receiver = self._body_receiver
            if receiver is not None and receiver.buffered > _READ_AHEAD_BYTES:
                self._pause_reading()

    def eof_received(self) -> bool:
        """A client may close its half of the connection behind its last request and still wait for the answer.

        Not so when the application waits for the client to go, as it does while somebody listens to a feed: nobody
        closes his half then and stays, and whether he has gone would show only when something is sent to him.
        """
        receiver = self._body_receiver
        self._is_half_closed = (
            self._request_ready.is_set() and not self._closed and receiver is not None and receiver._complete
        )
        if self._is_half_closed and receiver._body_finished:
            receiver.signal_disconnect()
        return self._is_half_closed

    def sweep(self, now: float) -> None:
        """Look at the connection's deadlines; *now* is the loop's time in seconds."""
        phase = self.phase()
        if phase is None:
            self._phase = None
            return
        if phase == IDLE and self._is_half_closed:
            self.close()
            return
        key = (phase, self.req_count)
        if key != self._phase:
            self._phase = key
            self._phase_since = self._progress_at = now
            self._progress_bytes = self._received_bytes
            return
        if self._received_bytes != self._progress_bytes:
            self._progress_bytes = self._received_bytes
            self._progress_at = now
        if self._is_overdue(phase, now):
            self.expire(phase)

    def phase(self) -> str | None:
        """Return what the connection waits for its client to do, or None while the application has its request."""
        if self._closed:
            return CLOSING
        if self._flow_control is not None and self._flow_control.write_paused:
            return WRITING
        if not self._request_ready.is_set():
            is_fresh = self._received_bytes == self._received_at_message_end
            return IDLE if is_fresh and self._received_bytes else HEAD
        receiver = self._body_receiver
        if receiver is not None and not receiver._complete and not self._reading_paused:
            return BODY
        return None

    def has_sent_nothing(self) -> bool:
        """Say whether the client has sent no byte of a (next) request: closing the connection loses nothing."""
        return (
            not self._closed
            and not self._request_ready.is_set()
            and (self._received_bytes == self._received_at_message_end)
        )

    def is_about_to_ask(self, now: float) -> bool:
        """Say whether the client has connected so recently that its first request may still be on its way."""
        return not self._received_bytes and now - self._made_at < _FIRST_REQUEST_S

    def idle_since(self) -> float:
        """Return the loop's time at which the sweep first saw the connection in its phase."""
        return self._phase_since

    def has_rested(self, now: float, seconds: float) -> bool:
        """Say whether the sweep saw the connection idle so many *seconds* ago, and nothing was asked since."""
        return self._phase == (IDLE, self.req_count) and now - self._phase_since >= seconds

    def expire(self, phase: str) -> None:
        """End the connection, whose time in *phase* is over, with an answer where one can still be given."""
        self.worker.stats.timeouts[phase] += 1
        if phase in (CLOSING, WRITING):
            self.transport.abort()
            return
        if (phase == HEAD and not self.has_sent_nothing()) or (phase == BODY and not self._has_begun_answer()):
            self._safe_write(problem_response(408))
        self.close()

    def close(self) -> None:
        """Close after what is written already, and let the connection's own task see it."""
        self._close_transport()
        self._request_ready.set()

    def _has_begun_answer(self) -> bool:
        return bool(self._answered_request == self.req_count)

    def _is_overdue(self, phase: str, now: float) -> bool:
        limits: EdgeLimits = self.worker.limits
        age_s = now - self._phase_since
        if phase == IDLE:
            return age_s >= limits.idle_timeout_s
        if phase == HEAD:
            return age_s >= limits.header_timeout_s
        if phase == BODY:
            stalled_s = now - self._progress_at
            return age_s >= limits.body_timeout_s or stalled_s >= limits.body_timeout_s / 2
        if phase == WRITING:
            return age_s >= limits.write_timeout_s
        return age_s >= _CLOSE_TIMEOUT_S

    # What follows replaces details of gunicorn's protocol.

    def _on_message_complete(self) -> None:
        self._received_at_message_end = self._received_bytes
        if self._body_receiver is not None:
            self._body_receiver.set_complete()

    def _arm_keepalive_timer(self) -> None:
        """The connection is idle now. The sweep looks at such; a timer for each request would only cost time. But one
        whose client closed his half between the answer and this moment asks for nothing more, and must not count
        against the limit until the next sweep."""
        if self._is_half_closed:
            self.worker.loop.call_soon(self.close)

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        is_last = self._is_half_closed or self.worker.is_parting
        return is_last or bool(super()._will_close(request, response_requires_close))

    def _is_websocket_upgrade(self, request: Any) -> bool:
        """No: `Upgrade` is ignored, as RFC 9110 section 7.8 allows, so its handshake cannot escape the deadlines."""
        return False

    def _send_response_start(self, status: int, headers: Any, request: Any, close: bool = False) -> None:
        """Write the head without gunicorn's `Server` header: it names the product and helps nobody. Names and values
        are bytes, as ASGI demands. After an error with the application's own `Connection: close` nothing more is
        served: gunicorn alone would pass the word on and not keep it."""
        self._answered_request = self.req_count
        parts = [_get_cached_status_line(request.version, status, _PHRASES.get(status)), _get_cached_date_header()]
        is_last = status >= 400 and (b"connection", b"close") in headers
        if is_last:
            self._keepalive = 0
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"Connection: close\r\n\r\n" if close and not is_last else b"\r\n")
        self._response_buffer = b"".join(parts)

    def _send_error_response(self, status: int, _message: str, _extra_headers: Any = ()) -> None:
        """gunicorn's message may quote the request, so it is dropped."""
        self._safe_write(problem_response(status))
