"""An HTTP/1.1 client for load: one kept-alive connection on asyncio streams, so that calls and returns are timed here.

It parses what the service sends and nothing more. Invariant: after any error the connection is closed, and the error
tells whether a byte of the request can have reached the service.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """A whole answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class NotSentError(Exception):
    """Nobody listens: the request certainly had no effect."""


class NoAnswerError(Exception):
    """The request was sent, at least in part, and no whole answer came."""


class Client:
    """One connection to one node, made anew when it is needed. One task uses it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self,
        method: str,
        target: str,
        document: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 15.0,
    ) -> Reply:
        """Send one request and return the answer. Raises NotSentError, or NoAnswerError (after *timeout_s*, too)."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._address[0]}:{self._address[1]}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        body = b""
        if document is not None:
            body = json.dumps(document).encode()
            if not headers or "Content-Type" not in headers:
                lines.append("Content-Type: application/json")
            lines.append(f"Content-Length: {len(body)}")
        data = "\r\n".join([*lines, "", ""]).encode() + body
        reader, writer = await self._connect(timeout_s)
        try:
            writer.write(data)
            async with asyncio.timeout(timeout_s):
                reply = await _read(reader, has_body=method != "HEAD")
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
            self.close()
            raise NoAnswerError(f"{type(error).__name__}: {error}") from error
        except BaseException:
            self.close()
            raise
        if reply.headers.get("connection", "").lower() == "close":
            self.close()
        return reply

    def close(self) -> None:
        """Drop the connection. Idempotent."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _connect(self, timeout_s: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is not None and (self._streams[0].at_eof() or self._streams[1].is_closing()):
            self.close()
        if self._streams is None:
            try:
                async with asyncio.timeout(timeout_s):
                    self._streams = await asyncio.open_connection(*self._address)
            except (OSError, TimeoutError) as error:
                raise NotSentError(str(error)) from error
        return self._streams


async def _read(reader: asyncio.StreamReader, *, has_body: bool) -> Reply:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *rest = head[:-4].decode("latin-1").split("\r\n")
    status = int(first.split(" ", 2)[1])
    headers: dict[str, str] = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        length = int(headers.get("content-length", "0"))
        body = await reader.readexactly(length) if has_body and length and status not in (204, 304) else b""
    return Reply(status, headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readline()
    return b"".join(parts)
