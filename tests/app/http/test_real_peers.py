"""The edge with the real gate and the real peers, over sockets: what the fakes take for granted holds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streams.clock import SystemClock
from streams.cluster import ClusterView, NodeInfo
from streams.http.gate import Operation, PeerGate
from streams.http.peers import HttpPeers
from streams.queries.peers import PeerReply, PeerRequest
from tests.app.http.cluster import Nodes, ask
from tests.app.http.test_forward import email_of
from tests.streams.http.rig import QUICK, Server, keys_of, until

CLOCK = SystemClock()
JSON = [(b"content-type", b"application/json")]


@asynccontextmanager
async def connected(nodes: Nodes) -> AsyncIterator[dict[str, Server]]:
    """Join the nodes by sockets on loopback until every one knows that the others are alive."""
    servers: dict[str, Server] = {}
    peers: dict[str, HttpPeers] = {}
    for name, member in nodes.members.items():
        servers[name] = Server(lambda request, host, member=member: ask(member.api, request, host))  # type: ignore[misc]
        await servers[name].start()
    infos = {name: NodeInfo(name, "1", f"http://127.0.0.1:{server.port}") for name, server in servers.items()}
    view = ClusterView(1, infos, nodes["a"].cluster_node.view.placements)
    for name, member in nodes.members.items():
        node = member.cluster_node
        node.info, node.view = infos[name], view
        operations = {key: Operation(run) for key, run in member.operations.items()}
        gate = PeerGate(node.info, keys_of(), CLOCK, lambda node=node: node.view, dict, operations)  # type: ignore[misc]
        peers[name] = HttpPeers(node=node.info, keys=keys_of(), clock=CLOCK, offer_view=node.offer_view, settings=QUICK)
        member.open(peers[name], gate)
        peers[name].set_view(view)
    try:
        pairs = [(peers[name], other) for name in infos for other in infos if other != name]
        await until(lambda: not any(one.is_suspected(other) for one, other in pairs))
        yield servers
    finally:
        for name in infos:
            await peers[name].stop()
            await servers[name].stop()


async def send(nodes: Nodes, name: str, method: bytes, target: str, body: bytes = b"") -> PeerReply:
    return await ask(nodes[name].api, PeerRequest(method, target.encode(), JSON if body else [], body))


def test_the_five_steps_over_sockets() -> None:
    """Signed extras, problem bodies, batches and the list pass the real gate; a dead owner's reads fail over."""

    async def scenario() -> None:
        nodes = Nodes()
        email = email_of("a")
        async with connected(nodes) as servers:
            body = b'{"username":"bob","email":"%b"}' % email.encode()
            created = await send(nodes, "b", b"POST", "/api/profile", body)
            headers = dict(created.headers)
            path = headers[b"location"].decode()
            assert (created.status, headers[b"via"]) == (201, b"1.1 b")
            drawn = path.rpartition("/")[2]
            assert nodes["a"].table.commands[-1].uid == drawn  # type: ignore[attr-defined]
            read = await send(nodes, "c", b"GET", path)
            assert (read.status, dict(read.headers)[b"etag"]) == (200, b'"1"')
            assert b"hops=1" in dict(read.headers)[b"profile-served-by"]
            found = await send(nodes, "b", b"GET", f"/api/search?email={email.replace('@', '%40')}&consistency=owner")
            assert (found.status, found.body) == (200, read.body)
            taken = await send(nodes, "c", b"POST", "/api/profile", body)
            assert (taken.status, dict(taken.headers)[b"content-type"]) == (409, b"application/problem+json")
            page = await send(nodes, "c", b"GET", "/api/profile")
            assert drawn.encode() in page.body
            await servers["a"].stop()
            reads = [await send(nodes, name, b"GET", path) for name in "bc"]
            assert [reply.status for reply in reads] == [200, 200]
            assert all(b"b; role=standby" in dict(reply.headers)[b"profile-served-by"] for reply in reads)
            assert (await send(nodes, "c", b"DELETE", path)).status == 503

    asyncio.run(scenario())
