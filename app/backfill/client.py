"""One kept-alive connection to a running service: a request, its whole answer, and the next one, also after a failure.

It decides nothing but which of the given addresses is next: after a failure, the next one. The HTTP is that of
`streams.http.connection`.
"""

import asyncio
import ssl
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from app.backfill.errors import WrongFiles
from streams.http.connection import Connection, encode_request
from streams.queries.peers import PeerReply

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 30.0  # the service answers within 10 s, or within its PROFILES_REQUEST_TIMEOUT_MS
_MAX_ANSWER_BYTES = 16 * 1024 * 1024


class Place(NamedTuple):
    """Where a service is. `path` stands before each target, where a proxy has put the service below one."""

    host: str
    port: int
    authority: bytes
    path: bytes
    tls: ssl.SSLContext | None


class NoAnswer(Exception):
    """No whole answer came: the service may have acted or not."""


def place_of(url: str) -> Place:
    """Return the place that *url* names. Raises WrongFiles."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise WrongFiles(f"{url} is not the address of a service: http://host:port")
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    path = parts.path.rstrip("/").encode("ascii", "replace")
    return Place(parts.hostname, port or (443 if tls else 80), parts.netloc.encode("idna"), path, tls)


class Client:
    """One connection at a time, by one task."""

    def __init__(self, places: Sequence[Place], first: int) -> None:
        """*first*: which of *places* is asked to begin with, so that several clients spread over them."""
        self._places = places
        self._at = first % len(places)
        self._connection: Connection | None = None

    async def ask(self, method: bytes, target: bytes, body: bytes = b"", media_type: bytes | None = None) -> PeerReply:
        """Return the answer, with header names in lower case. Raises NoAnswer; the next request goes to the next
        place."""
        headers = [] if media_type is None else [(b"Content-Type", media_type)]
        try:
            place = self._places[self._at]
            connection = await self._connected(place)
            request = encode_request(place.authority, method, place.path + target, headers, body)
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                return await connection.ask(method, request)
        except (OSError, TimeoutError, ValueError) as error:
            self.move_on()
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        except BaseException:
            self.close()
            raise

    def move_on(self) -> None:
        """Let the next request go to the next place."""
        self.close()
        self._at = (self._at + 1) % len(self._places)

    def close(self) -> None:
        """End the connection. Idempotent."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    async def _connected(self, place: Place) -> Connection:
        if self._connection is not None and self._connection.is_usable:
            return self._connection
        self.close()
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(lambda _: None, max_reply_bytes=_MAX_ANSWER_BYTES),
                place.host,
                place.port,
                ssl=place.tls,
            )
        self._connection = connection
        return connection
