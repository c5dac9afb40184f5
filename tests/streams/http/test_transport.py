"""HTTP/1.1 as nodes speak it: how an answer is read however it arrives, what is refused, and which connections serve
again.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import uvloop

from streams.http.addresses import AddressRules, PeerAddress
from streams.http.transport import Sending, Transport
from streams.queries.peers import Headers, PeerLost, PeerReply, PeerUnreachable
from tests.streams.http.rig import until

RULES = AddressRules("http://127.0.0.1:1", has_secret=True)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Script:
    """Answers each request with the next of `answers`, in pieces of `piece` bytes; after None it closes. Between two
    pieces it waits for `may_go_on`, if there is one."""

    answers: Sequence[bytes | None]
    piece: int = 100_000
    may_go_on: asyncio.Event | None = None
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                body = await reader.readexactly(int(length or b"0"))
                answer = self.answers[len(self.requests)]
                self.requests.append(head + body)
                if answer is None:
                    return
                for at in range(0, len(answer), self.piece):
                    writer.write(answer[at : at + self.piece])
                    if self.may_go_on is not None:
                        await self.may_go_on.wait()
                    elif self.piece < len(answer):
                        await asyncio.sleep(0.001)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@dataclass
class Client:
    """A transport that asks one place."""

    transport: Transport
    port: int
    sending: Sending = field(default_factory=Sending)

    async def send(self, method: bytes = b"POST", headers: Headers = (), body: bytes = b"{}") -> PeerReply:
        self.sending = Sending()
        address = PeerAddress("http", "127.0.0.1", self.port)
        return await self.transport.send(address, method, b"/x", headers, body, self.sending)


@asynccontextmanager
async def client_of(script: Script) -> AsyncIterator[Client]:
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    transport = Transport(rules=RULES, connect_timeout_s=1, max_reply_bytes=1000)
    try:
        yield Client(transport, server.sockets[0].getsockname()[1])
    finally:
        await transport.close()
        server.close()


@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_an_answer_is_whole_however_it_arrives(piece: int) -> None:
    """Also behind interim answers, and on uvloop, which the service runs on."""
    answer = b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 201 Ja\r\nX-One:  a b \t\r\ncontent-length: 3\r\n\r\nabc"

    async def run() -> None:
        script = Script([answer, OK], piece)
        async with client_of(script) as client:
            assert await client.send() == (201, [(b"x-one", b"a b"), (b"content-length", b"3")], b"abc")
            assert (await client.send()).body == b"ok"
        assert script.connections == 1
        assert script.requests[0] == (
            b"POST /x HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 2\r\n\r\n{}" % client.port
        )

    uvloop.run(run())


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 No\r\nContent-Length: 5000\r\n\r\n"),
    ],
)
def test_an_answer_without_body_ends_with_its_header(method: bytes, answer: bytes) -> None:
    """Whatever length it tells; the connection serves the next request."""

    async def run() -> None:
        script = Script([answer, OK])
        async with client_of(script) as client:
            assert (await client.send(method, body=b"")).body == b""
            assert (await client.send()).body == b"ok"
        assert script.connections == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\0\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
        b"SSH-2.0-x\r\n\r\n",
        None,
    ],
)
def test_an_answer_that_nodes_do_not_give_is_none(answer: bytes | None) -> None:
    """Whatever could be read in two ways, or without end; its connection is not used again."""

    async def run() -> None:
        script = Script([answer, OK])
        async with client_of(script) as client:
            with pytest.raises(PeerLost):
                await client.send()
            assert client.sending.has_connection
            assert (await client.send()).body == b"ok"
        assert script.connections == 2
        assert len(script.requests) == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_a_connection_that_ends_serves_nobody_else(first: bytes) -> None:
    """The peer said so before it closed it."""

    async def run() -> None:
        script = Script([first, OK])
        async with client_of(script) as client:
            assert [(await client.send()).body for _ in range(2)] == [b"ok", b"ok"]
        assert script.connections == 2

    asyncio.run(run())


def test_the_answer_to_a_request_that_was_given_up_reaches_nobody() -> None:
    """Its connection ends with it: the next request has another one."""

    async def run() -> None:
        may_go_on = asyncio.Event()
        script = Script([OK.replace(b"ok", b"no"), OK], piece=len(OK) - 1, may_go_on=may_go_on)
        async with client_of(script) as client:
            asking = asyncio.create_task(client.send())
            await until(lambda: script.requests)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            may_go_on.set()
            assert (await client.send()).body == b"ok"
        assert script.connections == 2

    asyncio.run(run())


def test_a_request_that_would_be_read_as_two_is_not_sent() -> None:
    """A line break in a field is refused before there is a connection."""

    async def run() -> None:
        script = Script([OK])
        async with client_of(script) as client:
            for value in (b"a\r\nx-other: b", b"a\nb", b"a\rb", b"a\0b"):
                with pytest.raises(PeerUnreachable):
                    await client.send(headers=[(b"x-one", value)])
                assert not client.sending.has_connection
        assert script.connections == 0

    asyncio.run(run())


def test_requests_at_the_same_time_have_a_connection_each() -> None:
    """And those that follow use them again, the last one first."""

    async def run() -> None:
        script = Script([OK] * 5, piece=10)
        async with client_of(script) as client:
            await asyncio.gather(*(client.send() for _ in range(3)))
            assert script.connections == 3
            await client.send()
            await client.send()
        assert script.connections == 3

    asyncio.run(run())
