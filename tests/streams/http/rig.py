"""Nodes that consist of nothing but their edge: the real gate and the real peers, a server of a few lines on loopback,
and a handler for what clients ask. The server can be told to misbehave, and keeps every byte that it gets.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from streams.clock import Clock, Deadline, SystemClock
from streams.cluster import NOWHERE, ClusterView, NodeInfo, Placement
from streams.http.gate import Operation, PeerGate, Visit
from streams.http.peers import HttpPeers, PeerSettings
from streams.http.signing import HEADER, Keys, derive_keys
from streams.queries.peers import Caller, Headers, PeerReply, PeerRequest

SECRET = b"a secret of the tests"
LOCAL = "http://127.0.0.1:1"
CLOCK = SystemClock()
QUICK = PeerSettings(ping_interval_s=0.05)


def keys_of(secret: bytes = SECRET) -> Keys:
    return derive_keys(secret, application_id="tests", own_address=LOCAL)


def soon(seconds: float = 5.0) -> Deadline:
    return Deadline.after(seconds, CLOCK)


def get(target: bytes = b"/api/profile/1", headers: Headers = ()) -> PeerRequest:
    return PeerRequest(b"GET", target, headers, b"")


def view_of(*nodes: NodeInfo, epoch: int = 1) -> ClusterView:
    placements = tuple(Placement(node.node_id) for node in nodes)
    return ClusterView(epoch, {node.node_id: node for node in nodes}, placements)


Handler = Callable[[PeerRequest, Caller], Awaitable[PeerReply]]


async def hello_world(request: PeerRequest, caller: Caller) -> PeerReply:
    return PeerReply(200, [(b"content-type", b"text/plain")], b"hello " + caller.node_id.encode())


@dataclass
class Server:
    """HTTP/1.1 with keep-alive and Content-Length, for `answer`. What is set may be changed at any time."""

    answer: Callable[[PeerRequest, str], Awaitable[PeerReply]]
    is_frozen: bool = False
    closes_unanswered: int = 0
    delay_s: float = 0.0
    ping_delay_s: float = 0.0
    requests: list[PeerRequest] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    port: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                request = await self._read(reader)
                is_ping = request.target == b"/peers/ping"
                if not is_ping:
                    self.requests.append(request)
                if self.is_frozen:  # the port stays open
                    await asyncio.Event().wait()
                if self.closes_unanswered and not is_ping:
                    self.closes_unanswered -= 1
                    return
                await asyncio.sleep(self.ping_delay_s if is_ping else self.delay_s)
                writer.write(encode(await self.answer(request, writer.get_extra_info("peername")[0])))
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> PeerRequest:
        head = await reader.readuntil(b"\r\n\r\n")
        self.received += head
        line, *fields = head[:-4].split(b"\r\n")
        method, target, _ = line.split(b" ")
        headers = [(name.lower(), value.strip()) for name, _, value in (field.partition(b":") for field in fields)]
        body = await reader.readexactly(int(dict(headers).get(b"content-length", b"0")))
        self.received += body
        return PeerRequest(method, target, headers, body)


def encode(reply: PeerReply) -> bytes:
    fields = [(name, value) for name, value in reply.headers if name != b"content-length"]
    fields.append((b"content-length", b"%d" % len(reply.body)))
    head = b"".join(b"%s: %s\r\n" % pair for pair in fields)
    return b"HTTP/1.1 %d Whatever\r\n%s\r\n%s" % (reply.status, head, reply.body)


@dataclass
class Node:
    """One node of a cluster. `view`: what its gate tells; `offered`: what its peers told."""

    info: NodeInfo
    keys: Keys
    server: Server
    gate: PeerGate
    peers: HttpPeers
    handler: Handler = hello_world
    view: ClusterView = NOWHERE
    offered: list[ClusterView] = field(default_factory=list)

    async def serve(self, request: PeerRequest, client_host: str) -> PeerReply:
        """What the entry of an application does."""
        method, target, headers, body = request[:4]
        if not any(name == HEADER for name, _ in headers):
            return PeerReply(200, [], b"a client's own request")
        entered = await self.gate.enter(method, target, headers, body, client_host=client_host)
        if isinstance(entered, Visit):
            with entered as caller:
                reply = await self.handler(PeerRequest(method, target, entered.headers, body), caller)
                return reply._replace(headers=[*reply.headers, entered.proof])
        return entered

    def set_view(self, view: ClusterView) -> None:
        self.view = view
        self.peers.set_view(view)


async def start_node(
    name: str,
    *,
    incarnation: str = "1",
    secret: bytes = SECRET,
    operations: Mapping[str, Operation] = {},
    positions: Mapping[int, int] = {},
    settings: PeerSettings = QUICK,
    clock: Clock = CLOCK,
    port: int = 0,
) -> Node:
    server = Server(lambda request, host: node.serve(request, host))
    await server.start(port)
    info = NodeInfo(name, incarnation, f"http://127.0.0.1:{server.port}")
    keys = keys_of(secret)
    gate = PeerGate(info, keys, clock, lambda: node.view, lambda: positions, operations)
    peers = HttpPeers(
        node=info, keys=keys, clock=CLOCK, offer_view=lambda view: node.offered.append(view), settings=settings
    )
    node = Node(info, keys, server, gate, peers)
    return node


async def stop_node(node: Node) -> None:
    await node.peers.stop()
    await node.server.stop()


@asynccontextmanager
async def cluster(*names: str, **options: object) -> AsyncIterator[list[Node]]:
    """Nodes that know each other."""
    nodes = [await start_node(name, **options) for name in names]  # type: ignore[arg-type]
    try:
        for node in nodes:
            node.set_view(view_of(*(one.info for one in nodes)))
        yield nodes
    finally:
        for node in nodes:
            await stop_node(node)


async def until(condition: Callable[[], object], within_s: float = 5.0) -> float:
    """Wait for *condition* and return the seconds that it took."""
    started = CLOCK.monotonic()
    while not condition():
        assert CLOCK.monotonic() - started < within_s, "it did not come true in time"
        await asyncio.sleep(0.002)
    return CLOCK.monotonic() - started
