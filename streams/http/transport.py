"""One HTTP request to one address, through aiohttp: the only place of the package that uses it. It knows nothing of
nodes and signatures. What it keeps: it sends a request at most once, and says whether it can have been sent at all.

aiohttp sends a PUT or DELETE again by itself when a kept-alive connection turns out to be closed. Here nothing is sent
twice: whether the other side had read the first one cannot be known, not even if it closed without a word.
"""

import socket
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from streams.http.addresses import AddressRules, PeerAddress
from streams.queries.peers import Headers, PeerLost, PeerReply, PeerUnreachable

_OWN_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_KEEP_ALIVE_S = 30.0  # shorter than any server keeps an idle connection, so that it is this side that closes
_MAX_FIELD_BYTES = 32 * 1024  # a position token may be long


@dataclass(slots=True)
class Sending:
    """How far a request has come. `has_connection`: from here on the other side may have read it."""

    has_connection: bool = False


class Transport:
    """Connections to peers, kept alive. Event loop only; opened by the first request."""

    def __init__(self, *, rules: AddressRules, connect_timeout_s: float, max_reply_bytes: int) -> None:
        self._rules = rules
        self._connect_timeout_s = connect_timeout_s
        self._max_reply_bytes = max_reply_bytes
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self, address: PeerAddress, method: bytes, target: bytes, headers: Headers, body: bytes, sending: Sending
    ) -> PeerReply:
        """Send a request and return the whole answer, with names in lower case. *target* is clean. Raises
        PeerUnreachable and PeerLost. The caller bounds the time, and finds in *sending* how far it came."""
        session = self._session or self._open()
        path, _, query = target.decode("ascii").partition("?")
        url = URL.build(
            scheme=address.scheme, host=address.host, port=address.port, path=path, query_string=query, encoded=True
        )
        try:
            async with session.request(
                method.decode("ascii"),
                url,
                headers=[(name.decode("ascii"), value.decode()) for name, value in headers],
                data=body if body or method in (b"POST", b"PUT", b"PATCH") else None,
                allow_redirects=False,
                trace_request_ctx=sending,
            ) as response:
                content = await self._read(response)
                return PeerReply(
                    response.status, [(name.lower(), value) for name, value in response.raw_headers], content
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # ValueError: the answer is no HTTP, or aiohttp refuses to send the request.
            place = f"{address.scheme}://{address.host}:{address.port}"
            why = type(error.__cause__ or error).__name__  # the text of some quotes what was sent
            if sending.has_connection:
                raise PeerLost(f"no answer of {place}: {why}") from error
            raise PeerUnreachable(f"{place} cannot be reached: {why}") from error

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        parts = []
        size = 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > self._max_reply_bytes:
                response.close()
                raise ValueError("the answer is too large")
            parts.append(part)
        return b"".join(parts)

    def _open(self) -> aiohttp.ClientSession:
        progress = aiohttp.TraceConfig()
        progress.on_connection_create_end.append(_note_connection)
        progress.on_connection_reuseconn.append(_note_connection)
        self._session = aiohttp.ClientSession(
            # No limit here: it would be a queue without one. Whoever calls counts.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S, resolver=_Resolver(self._rules)),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=_OWN_HEADERS,
            max_field_size=_MAX_FIELD_BYTES,
            middlewares=(_send_once,),
            trace_configs=[progress],
        )
        return self._session


class _Resolver(AbstractResolver):
    """Resolves names of nodes to addresses that may be used, each time that a connection is made: a check beforehand
    would say nothing about what the name means a moment later."""

    def __init__(self, rules: AddressRules) -> None:
        self._rules = rules

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=ip, port=port, family=found, proto=0, flags=socket.AI_NUMERICHOST)
            for ip, found in await self._rules.resolve(host, port, family)
        ]

    async def close(self) -> None:
        """Nothing is kept."""


async def _note_connection(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: Any) -> None:
    context.trace_request_ctx.has_connection = True


async def _send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Hide a broken connection from aiohttp, which would send again."""
    try:
        return await handler(request)
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise aiohttp.ClientError from error
