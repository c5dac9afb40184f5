"""One kept-alive HTTP/1.1 connection to a peer: a request, the whole answer, the next request. It knows no pool.

It reads no more of HTTP than nodes speak with each other: an answer has one Content-Length or no body at all. Whatever
is not exactly that (a transfer coding, two lengths, bytes behind the end) is refused and ends the connection, so there
is nothing to read in two ways.
"""

import asyncio
import re
from collections.abc import Callable
from typing import cast

from streams.queries.peers import Headers, PeerReply

_MAX_HEAD_BYTES = 64 * 1024  # a position token may be long
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\0]*)?")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_WITHOUT_BODY = frozenset((204, 304))
_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))


class Connection(asyncio.Protocol):
    """Event loop only. *on_end* is called once, when the connection is gone."""

    def __init__(self, on_end: Callable[["Connection"], None], *, max_reply_bytes: int) -> None:
        self._on_end = on_end
        self._max_reply_bytes = max_reply_bytes
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[PeerReply] | None = None
        self._is_head_request = False
        self._head = b""
        self._status: int | None = None  # of the answer whose body is being read
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._left = 0
        #: Whether another request may be sent.
        self.is_usable = True
        #: The loop's time at which the last answer was complete.
        self.idle_since = 0.0

    def ask(self, method: bytes, request: bytes) -> "asyncio.Future[PeerReply]":
        """Send *request*, which `encode_request` made. Raises nothing: the future fails with OSError when the
        connection ends before the answer is whole, with ValueError when it is not HTTP as nodes speak it. Whoever stops
        waiting for it must `abort`."""
        assert self._transport is not None
        assert self._answer is None
        answer = self._answer = asyncio.get_running_loop().create_future()
        self._is_head_request = method == b"HEAD"
        self._transport.write(request)
        return answer

    def abort(self) -> None:
        """End the connection at once. Idempotent."""
        self.is_usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by type

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc if isinstance(exc, OSError) else ConnectionResetError("the connection was closed"))
        self._on_end(self)

    def eof_received(self) -> None:
        """The peer sends no more: the transport closes itself, and until it has, nobody may use this."""
        self.is_usable = False

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.abort()  # nobody asked
            return
        try:
            while self._status is None:
                head, end, data = (self._head + data).partition(b"\r\n\r\n")
                self._head = b"" if end else head
                self._read_head(head, is_whole=bool(end))
                if not end:
                    return
            self._read_body(data)
        except ValueError as error:
            self._fail(error)
            self.abort()

    def _read_head(self, head: bytes, *, is_whole: bool) -> None:
        """Take in status and fields; of an interim answer (1xx) nothing is kept. Raises ValueError."""
        if len(head) > _MAX_HEAD_BYTES:
            raise ValueError("the answer's header is too large")
        if not is_whole:
            return
        line, *lines = head.split(b"\r\n")
        found = _STATUS_LINE.fullmatch(line)
        if found is None or not head.count(b"\n") == head.count(b"\r") == len(lines) or b"\0" in head:
            raise ValueError("the answer is not HTTP/1.1")
        status = int(found[2])
        if status < 200:
            return
        headers: list[tuple[bytes, bytes]] = []
        length: bytes | None = None
        for field in lines:
            name, colon, value = field.partition(b":")
            if not colon or _TOKEN.fullmatch(name) is None:
                raise ValueError("the answer has a malformed header field")
            name, value = name.lower(), value.strip(b" \t")
            headers.append((name, value))
            if name == b"content-length":
                if length is not None or not value.isdigit() or len(value) > 18:
                    raise ValueError("the answer's length is not one number")
                length = value
            elif name == b"transfer-encoding":
                raise ValueError("the answer has a transfer coding")
            elif name == b"connection" and b"close" in value.lower():
                self.is_usable = False
        if found[1] == b"0":
            self.is_usable = False
        if self._is_head_request or status in _WITHOUT_BODY:
            self._left = 0
        elif length is None:
            raise ValueError("the answer has no length")
        else:
            self._left = int(length)
            if self._left > self._max_reply_bytes:
                raise ValueError("the answer is too large")
        self._status = status
        self._headers = headers

    def _read_body(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("bytes behind the end of the answer")
        self._parts.append(data)
        if self._left == 0:
            self._end_answer()

    def _end_answer(self) -> None:
        assert self._transport is not None
        assert self._answer is not None
        assert self._status is not None
        parts = self._parts
        reply = PeerReply(self._status, self._headers, parts[0] if len(parts) == 1 else b"".join(parts))
        self._status = None
        self._headers, self._parts = [], []
        if self._transport.get_write_buffer_size():
            self.is_usable = False  # it answered without having read all
        loop = self._answer.get_loop()
        self.idle_since = loop.time()
        answer, self._answer = self._answer, None
        if not answer.done():
            answer.set_result(reply)
        if not self.is_usable:
            self.abort()

    def _fail(self, error: Exception) -> None:
        self.is_usable = False
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)


def encode_request(host: bytes, method: bytes, target: bytes, headers: Headers, body: bytes) -> bytes:
    """Return the bytes of a request. Raises ValueError if a part of it would be read as something else."""
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: " + host]
    lines += [name + b": " + value for name, value in headers]
    if body or method in _WITH_BODY:
        lines.append(b"Content-Length: %d" % len(body))
    head = b"\r\n".join(lines)
    if not head.count(b"\n") == head.count(b"\r") == len(lines) - 1 or b"\0" in head:
        raise ValueError("a header field has a line break in it")
    return b"%b\r\n\r\n%b" % (head, body)
