"""Addresses that members advertise: what is not a node's is never connected to, and what does not prove to be the node
that the view names gets nothing but a ping.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from streams.cluster import NodeInfo
from streams.http.addresses import AddressRules, PeerAddress
from streams.http.transport import Sending, Transport
from streams.queries.peers import PeerRequest, PeerUnreachable
from tests.streams.http.rig import Node, cluster, soon, start_node, stop_node, until, view_of

FAR = AddressRules("http://10.0.0.1:8080", has_secret=True)
NEAR = AddressRules("http://127.0.0.1:8080", has_secret=False)
SECRETS = [(b"authorization", b"Bearer hunter2"), (b"cookie", b"session=hunter2"), (b"x-user", b"content-of-a-user")]
REQUEST = PeerRequest(b"PUT", b"/api/profile/content-of-a-user", SECRETS, b"content-of-a-user")


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.2:80",
        "ftp://10.0.0.2:80",
        "http://10.0.0.2",
        "http://10.0.0.2:80/",
        "http://10.0.0.2:80/path",
        "http://10.0.0.2:80?x",
        "http://10.0.0.2:80#x",
        "http://user@10.0.0.2:80",
        "http://user:password@10.0.0.2:80",
        "http://10.0.0.2:80@evil:80",
        "http://10.0.0.2:0",
        "http://10.0.0.2:65536",
        "http://10.0.0.2:80\n",
        "http://10.0.0.2 :80",
        "http://[::1:80",
        "http://[fe80::1%25eth0]:80",
        "http://:80",
        "",
        "http://10.0.0.1:8080",
        "HTTP://10.0.0.1:8080",
        "http://127.0.0.1:80",
        "http://[::1]:80",
        "http://[::ffff:127.0.0.1]:80",
        "http://169.254.169.254:80",
        "http://[::ffff:169.254.169.254]:80",
        "http://[2002:a9fe:a9fe::1]:80",
        "http://[fe80::1]:80",
        "http://0.0.0.0:80",
        "http://[::]:80",
        "http://224.0.0.1:80",
        "http://[ff02::1]:80",
        "http://255.255.255.255:80",
    ],
)
def test_what_is_no_peers_address_is_refused(address: str) -> None:
    """By its text alone, before anything is resolved or connected."""
    with pytest.raises(ValueError):
        FAR.parse(address)


@pytest.mark.parametrize(
    ("rules", "address", "parsed"),
    [
        (FAR, "http://10.0.0.2:8080", PeerAddress("http", "10.0.0.2", 8080)),
        (FAR, "https://node-2.example:443", PeerAddress("https", "node-2.example", 443)),
        (FAR, "http://[fd00::2]:80", PeerAddress("http", "fd00::2", 80)),
        (NEAR, "http://127.0.0.1:8081", PeerAddress("http", "127.0.0.1", 8081)),
        (NEAR, "http://localhost:8081", PeerAddress("http", "localhost", 8081)),
    ],
)
def test_a_peers_address_is_taken_apart(rules: AddressRules, address: str, parsed: PeerAddress) -> None:
    """Loopback is right for who is on loopback itself."""
    assert rules.parse(address) == parsed


def test_without_a_secret_there_are_no_peers_elsewhere() -> None:
    """Nobody could prove to be one."""
    with pytest.raises(ValueError, match="secret"):
        NEAR.parse("http://10.0.0.2:8080")


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f.0.0.1", "017700000001"])
def test_names_are_judged_by_what_they_resolve_to(host: str) -> None:
    """At the moment of connecting, so that neither odd spellings nor a name that changes its mind get past."""

    async def run() -> None:
        recorder = Recorder()
        async with recorder.listening() as port:
            transport = Transport(rules=FAR, connect_timeout_s=1, max_reply_bytes=100)
            address = PeerAddress("http", host, port)
            with pytest.raises(PeerUnreachable):
                await transport.send(address, b"GET", b"/", (), b"", Sending())
            await transport.close()
        assert recorder.connections == 0

    asyncio.run(run())


@dataclass
class Recorder:
    """A listener of whoever is up to no good: it keeps every byte, and answers as `answers_with` or passes all on."""

    answers_with: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    relay_to: int | None = None
    received: bytearray = field(default_factory=bytearray)
    connections: int = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.relay_to is not None:
                there, back = await asyncio.open_connection("127.0.0.1", self.relay_to)
            while data := await reader.read(65536):
                self.received += data
                if self.relay_to is None:
                    writer.write(self.answers_with)
                else:
                    back.write(data)
                    writer.write(await there.read(65536))
        finally:
            writer.close()


async def try_everything(node: Node, victim: str) -> None:
    """Have *node* send *victim* a user's request, and a question of its own, a few times."""
    for _ in range(3):
        with pytest.raises(PeerUnreachable):
            await node.peers.forward(victim, REQUEST, soon(0.3))
        with pytest.raises(PeerUnreachable):
            await node.peers.call(victim, "claim", b"content-of-a-user", soon(0.3))


def assert_got_pings_only(received: bytes) -> None:
    assert b"hunter2" not in received
    assert b"content-of-a-user" not in received
    assert received.count(b"HTTP/1.1\r\n") == received.count(b"POST /peers/ping HTTP/1.1\r\n")


@pytest.mark.parametrize("has_known_name", [False, True])
def test_a_listener_that_cannot_sign_gets_pings_only(has_known_name: bool) -> None:
    """A rogue member puts a listener of his own into the view, as a new node or in the place of a known one."""

    async def run() -> None:
        recorder = Recorder()
        async with cluster("a", "b") as (a, b), recorder.listening() as port:
            name = "b" if has_known_name else "rogue"
            rogue = NodeInfo(name, b.info.incarnation, f"http://127.0.0.1:{port}")
            a.set_view(view_of(a.info, b.info, rogue))  # the later of one name replaces the earlier
            await try_everything(a, name)
            assert recorder.connections > 0
            assert_got_pings_only(recorder.received)
            assert a.peers.is_suspected(name)

    asyncio.run(run())


def test_a_listener_that_passes_pings_on_gains_nothing() -> None:
    """The address is signed too: what a node answers to a ping that went another way does not verify."""

    async def run() -> None:
        recorder = Recorder()
        async with cluster("a", "b") as (a, b), recorder.listening() as port:
            recorder.relay_to = b.server.port
            a.set_view(view_of(a.info, NodeInfo("b", b.info.incarnation, f"http://127.0.0.1:{port}")))
            await try_everything(a, "b")
            assert recorder.connections > 0
            assert_got_pings_only(recorder.received)
            assert b.server.requests == []

    asyncio.run(run())


def test_another_nodes_address_does_not_make_a_node() -> None:
    """Two names on one address: the one whose node answers there is used, the other gets nothing."""

    async def run() -> None:
        async with cluster("a", "b") as (a, b):
            a.set_view(view_of(a.info, b.info, NodeInfo("rogue", "1", b.info.address)))
            await try_everything(a, "rogue")
            assert b.server.requests == []
            assert (await a.peers.forward("b", REQUEST, soon())).status == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    "address", ["http://169.254.169.254:80", "http://user@127.0.0.1:{port}", "http://127.0.0.1:{port}/x", "own"]
)
def test_a_refused_address_is_not_even_pinged(address: str) -> None:
    """And the reason can be shown to the operator."""

    async def run() -> None:
        recorder = Recorder()
        async with cluster("a", "b") as (a, b), recorder.listening() as port:
            where = a.info.address if address == "own" else address.format(port=port)
            a.set_view(view_of(a.info, b.info, NodeInfo("rogue", "1", where)))
            await try_everything(a, "rogue")
            assert recorder.connections == 0
            assert where in a.peers.refused["rogue"]
            await until(lambda: not a.peers.is_suspected("b"))
            a.set_view(view_of(a.info, b.info))
            assert not a.peers.refused

    asyncio.run(run())


def test_a_node_of_another_secret_is_no_peer() -> None:
    """It can neither answer our pings nor be answered by us."""

    async def run() -> None:
        async with cluster("a") as (a,):
            stranger = await start_node("b", secret=b"the secret of another cluster")
            try:
                a.set_view(view_of(a.info, stranger.info))
                stranger.set_view(view_of(a.info, stranger.info))
                await try_everything(a, "b")
                await try_everything(stranger, "a")
                assert a.server.requests == stranger.server.requests == []
            finally:
                await stop_node(stranger)

    asyncio.run(run())
