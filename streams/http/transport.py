"""One HTTP request to one address, over connections that are kept alive. It knows nothing of nodes and signatures.

What it keeps: it sends a request at most once, and says whether it can have been sent at all. Whether the other side
had read a request before it closed the connection cannot be known, not even if it closed without a word.
"""

import asyncio
import socket
import ssl
from dataclasses import dataclass, field

from streams.http.addresses import AddressRules, PeerAddress
from streams.http.connection import Connection, encode_request
from streams.queries.peers import Headers, PeerLost, PeerReply, PeerUnreachable

_KEEP_ALIVE_S = 30.0  # shorter than any server keeps an idle connection, so that none is used that is just being closed


@dataclass(slots=True)
class Sending:
    """How far a request has come. `has_connection`: from here on the other side may have read it."""

    has_connection: bool = False


@dataclass(slots=True)
class Transport:
    """Connections to peers. Event loop only; no limit of its own, which would be a queue: whoever calls counts."""

    rules: AddressRules
    connect_timeout_s: float
    max_reply_bytes: int
    _open: dict[Connection, PeerAddress] = field(default_factory=dict)
    _idle: dict[PeerAddress, list[Connection]] = field(default_factory=dict)
    _tls: ssl.SSLContext | None = None

    async def send(
        self, address: PeerAddress, method: bytes, target: bytes, headers: Headers, body: bytes, sending: Sending
    ) -> PeerReply:
        """Send a request and return the whole answer, with names in lower case. *target* is clean. Raises
        PeerUnreachable and PeerLost. The caller bounds the time, and finds in *sending* how far it came."""
        try:
            request = encode_request(_authority(address), method, target, headers, body)
            connection = self._take(address) or await self._connect(address)
        except (OSError, ValueError) as error:
            raise PeerUnreachable(f"{_place(address)} cannot be reached: {type(error).__name__}") from error
        sending.has_connection = True
        try:
            reply = await connection.ask(method, request)
        except (OSError, ValueError) as error:
            # The error's text may quote what was sent.
            raise PeerLost(f"no answer of {_place(address)}: {type(error).__name__}") from error
        except BaseException:
            connection.abort()  # its answer is still to come
            raise
        if connection.is_usable:
            self._idle.setdefault(address, []).append(connection)
        return reply

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        for connection in list(self._open):
            connection.abort()

    def _take(self, address: PeerAddress) -> Connection | None:
        """Return an idle connection, the one that was used last."""
        idle = self._idle.get(address)
        oldest = asyncio.get_running_loop().time() - _KEEP_ALIVE_S
        while idle:
            connection = idle.pop()
            if connection.is_usable and connection.idle_since > oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self, address: PeerAddress) -> Connection:
        """Connect. Names are resolved, and what they mean is judged, each time: a check beforehand would say nothing
        about what the name means a moment later. Raises OSError and ValueError."""
        loop = asyncio.get_running_loop()
        is_tls = address.scheme == "https"
        if is_tls and self._tls is None:
            self._tls = ssl.create_default_context()
        async with asyncio.timeout(self.connect_timeout_s):
            places = await self.rules.resolve(address.host, address.port, socket.AF_UNSPEC)
            failure = OSError("no address")
            for ip, family in places:
                try:
                    # Each gets its share of the time, so that a silent first one does not hide the second.
                    async with asyncio.timeout(self.connect_timeout_s / len(places)):
                        _, connection = await loop.create_connection(
                            lambda: Connection(self._forget, max_reply_bytes=self.max_reply_bytes),
                            ip,
                            address.port,
                            family=family,
                            flags=socket.AI_NUMERICHOST,
                            ssl=self._tls if is_tls else None,
                            server_hostname=address.host if is_tls else None,
                        )
                except OSError as error:
                    failure = error
                else:
                    if not connection.is_usable:
                        raise ConnectionResetError
                    self._open[connection] = address
                    return connection
        raise failure

    def _forget(self, connection: Connection) -> None:
        address = self._open.pop(connection, None)
        idle = self._idle.get(address, []) if address is not None else []
        if connection in idle:
            idle.remove(connection)
        if address is not None and not idle:
            self._idle.pop(address, None)


def _authority(address: PeerAddress) -> bytes:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}".encode()


def _place(address: PeerAddress) -> str:
    return f"{address.scheme}://{address.host}:{address.port}"
