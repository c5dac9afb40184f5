"""Instances of one application behind real sockets in one process: the routes, the channel between instances with its
signatures, and the client. The nodes are those of `tests.streams.queries.rig`.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

import falcon.asgi
import falcon.testing

from streams.application import StreamsSettings
from streams.http.interactive import InteractiveQueries
from streams.http.peers import PeerSettings
from streams.queries.peers import PeerReply, PeerRequest
from streams.queries.remote import RemoteQueries
from streams.runtime.node import StreamsNode
from streams.topology.subtopology import ProcessorTopology
from tests.streams.http.rig import Server
from tests.streams.queries.rig import Cluster, everything

SECRET = b"a secret of the tests"


@dataclass
class Application:
    """What `InteractiveQueries` needs of an application."""

    topology: ProcessorTopology
    nodes: Sequence[tuple[Any, StreamsNode]]
    settings: StreamsSettings = field(default_factory=lambda: StreamsSettings(bootstrap_servers="several:1"))

    def node_of(self, store: str) -> StreamsNode:
        return next(node for subtopology, node in self.nodes if store in subtopology.stores)


@dataclass
class Instance:
    """One instance: its server, its queries, and a client of it."""

    name: str
    server: Server
    queries: InteractiveQueries
    app: Any
    remote: RemoteQueries

    async def get(self, target: str, **headers: str) -> PeerReply:
        """Send a raw request and return what comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        lines = [f"GET {target} HTTP/1.1", "Host: a", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head[:-4].split(b"\r\n")
        found = [(name.lower(), value.strip()) for name, _, value in (field.partition(b":") for field in fields)]
        body = await reader.readexactly(int(dict(found).get(b"content-length", b"0")))
        writer.close()
        return PeerReply(int(line.split()[1]), found, body)


async def run_asgi(app: Any, request: PeerRequest, host: str) -> PeerReply:
    """Have *app* answer one request, as a server does."""
    raw, _, query = request.target.partition(b"?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method.decode(),
        "scheme": "http",
        "path": unquote_to_bytes(raw).decode("utf-8", "replace"),
        "raw_path": raw,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": (host, 1),
        "server": ("127.0.0.1", 1),
    }
    events: list[dict[str, Any]] = []
    received = [{"type": "http.request", "body": request.body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if received:
            return received.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(event: dict[str, Any]) -> None:
        events.append(event)

    await app(scope, receive, send)
    start, *rest = events
    return PeerReply(start["status"], list(start["headers"]), b"".join(each.get("body", b"") for each in rest))


async def knock(app: Any, path: str) -> list[str]:
    """Ask *app* for a WebSocket, as a server does; return what it says to that."""
    said: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(event: dict[str, Any]) -> None:
        said.append(event["type"])

    await app(falcon.testing.create_scope_ws(path), receive, send)
    return said


@asynccontextmanager
async def instances(
    *names: str, standbys: int = 0, secret: bytes = SECRET
) -> AsyncIterator[tuple[Cluster, list[Instance]]]:
    """Instances that know each other."""
    servers = {name: Server(lambda request, host: run_asgi(None, request, host)) for name in names}
    for server in servers.values():
        await server.start()
    addresses = {name: f"http://127.0.0.1:{server.port}" for name, server in servers.items()}
    cluster = Cluster(everything(), names, standbys=standbys, addresses=addresses)
    found = []
    try:
        await asyncio.to_thread(cluster.start)
        for name in names:
            whole = cluster.topology.global_subtopology
            nodes = [(cluster.subtopology, cluster.nodes[name]), (whole, cluster.global_nodes[name])]
            settings = PeerSettings(ping_interval_s=0.05)
            queries = InteractiveQueries(Application(cluster.topology, nodes), secret=secret, peer_settings=settings)
            app = falcon.asgi.App()
            queries.mount(app)
            servers[name].answer = lambda request, host, app=app: run_asgi(app, request, host)
            await queries.start()
            found.append(Instance(name, servers[name], queries, app, RemoteQueries(addresses[name])))
        yield cluster, found
    finally:
        for instance in found:
            await instance.queries.stop()
        for server in servers.values():
            await server.stop()
        await asyncio.to_thread(cluster.stop)
