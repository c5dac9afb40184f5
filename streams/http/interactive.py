"""Interactive queries of a whole application over HTTP: its stores and metadata below paths of any falcon.asgi
application, and the channel on which its instances ask each other.

An application has one group of nodes for each sub-topology, so there is a gate, and a set of peers, for each: below
`/peers/<index>/`. Nothing here is started before the server says that it starts, since gates and peers belong to its
event loop.
"""

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import falcon.asgi
from falcon.asgi import Request, Response

from streams.clock import Clock, Deadline, SystemClock
from streams.errors import Unavailable
from streams.http.gate import Operation, PeerGate
from streams.http.hello import PREFIX
from streams.http.metadata import mount_metadata
from streams.http.peers import HttpPeers, PeerSettings
from streams.http.signing import Keys, derive_keys
from streams.http.stores import mount_stores
from streams.queries.counts import Counts
from streams.queries.cursors import Cursors
from streams.queries.fanout import FanOut
from streams.queries.local import LocalStores, QueryNode
from streams.queries.peers import PeerReply
from streams.queries.reads import Channel, StoreReads
from streams.queries.stores import StoreQueries
from streams.topology.subtopology import ProcessorTopology, SubTopology

logger = logging.getLogger(__name__)

_LOOK_S = 1.0  # after which the view is looked at again, if nobody said that it changed
_MAX_QUESTION_BYTES = 1 << 20


class LogSettings(Protocol):
    """Which log the application runs on."""

    @property
    def bootstrap_servers(self) -> str | None: ...


class QueriedApplication(Protocol):
    """The application (`streams.application.StreamsApplication`), as far as queries are concerned. It has nodes from
    its start on."""

    @property
    def topology(self) -> ProcessorTopology: ...

    @property
    def settings(self) -> LogSettings: ...

    def node_of(self, store: str) -> QueryNode:
        """Return the node that keeps *store*. Raises KeyError."""
        ...


class InteractiveQueries:
    """What can be asked of an application. Event loop only, from `start` on; `mount` is called before.

    `reads` answers in bytes, `stores` in Python; both raise Unavailable until the application has started."""

    def __init__(
        self,
        application: QueriedApplication,
        *,
        secret: bytes = b"",
        is_alone: bool | None = None,
        clock: Clock | None = None,
        peer_settings: PeerSettings | None = None,
    ) -> None:
        """*application* need not be started before `start`. *secret*: shared by all instances; empty will do while they
        are on this machine. *is_alone*: there are no other instances; None: there are none on the embedded log."""
        self._application = application
        self._clock = clock or SystemClock()
        self._secret = secret
        self._is_alone = application.settings.bootstrap_servers is None if is_alone is None else is_alone
        self._settings = peer_settings or PeerSettings()
        self._links: list[_Link] = []
        cursors = Cursors(secret, application_id=application.topology.application_id)
        self.reads = StoreReads(None, cursors=cursors, clock=self._clock)
        self.stores = StoreQueries(self.reads)

    def mount(self, app: falcon.asgi.App[Any, Any]) -> None:
        """Have *app* answer `/stores`, `/metadata` and `/peers`, and start and stop this with its server."""
        mount_stores(app, self.reads)
        mount_metadata(app, self.reads)
        app.add_sink(self._answer_peer, re.compile(PREFIX.decode()))
        app.add_middleware(_Lifespan(self))

    async def start(self) -> None:
        """Begin: the application has been started. Raises ConfigError when the secret does not do. Idempotent."""
        if not self.reads.is_bound:
            self.reads.bind(self._channels())
            for link in self._links:
                link.start()

    async def stop(self) -> None:
        """End all waiting for other instances. Idempotent."""
        await asyncio.gather(*(link.stop() for link in self._links))

    def _channels(self) -> list[Channel]:
        """Return a channel for each sub-topology that has stores, and for each topic of global tables."""
        topology = self._application.topology
        whole = topology.global_subtopology
        channels = []
        for subtopology in (*topology.subtopologies, *([] if whole is None else [whole])):
            stores_of: dict[int, tuple[QueryNode, list[str]]] = {}
            for store in subtopology.stores:
                if subtopology.changelog_of(store) is not None:
                    node = self._application.node_of(store)
                    stores_of.setdefault(id(node), (node, []))[1].append(store)
            for node, stores in stores_of.values():
                channels.append(self._channel(node, subtopology, stores))
        return channels

    def _channel(self, node: QueryNode, subtopology: SubTopology, stores: list[str]) -> Channel:
        local = LocalStores(node=node, subtopology=subtopology)
        countable = dict.fromkeys(stores)
        if self._is_alone or subtopology.is_global:
            return Channel(stores, local, Counts(node=node, stores=countable), self._clock)
        keys = derive_keys(
            self._secret, application_id=self._application.topology.application_id, own_address=node.info.address
        )
        link = _Link(node, keys, PREFIX + b"%d/" % subtopology.index, self._settings, self._clock)
        fan_out = FanOut(node=node, peers=link.peers, clock=self._clock)
        counts = Counts(node=node, stores=countable, peers=link.peers, fan_out=fan_out)
        link.open_gate({**local.operations(), **counts.operations()})
        self._links.append(link)
        return Channel(stores, local, counts, self._clock, link.peers, fan_out, link.ask_positions)

    async def _answer_peer(self, req: Request, resp: Response | None, ws: object = None, **_: Any) -> None:
        """Answer what another instance sent."""
        if resp is None:
            return  # a WebSocket, which is refused by not being accepted
        target: bytes = req.scope.get("raw_path") or req.scope["path"].encode("latin-1", "replace")
        if req.scope["query_string"]:
            target += b"?" + req.scope["query_string"]
        link = next((link for link in self._links if target.startswith(link.prefix)), None)
        body = await req.stream.read(_MAX_QUESTION_BYTES + 1)
        if link is None or len(body) > _MAX_QUESTION_BYTES:
            resp.status = 404
            return
        reply = await link.answer(
            req.method.encode(), target, list(req.scope["headers"]), body, req.scope.get("client")
        )
        resp.status = reply.status
        resp.data = reply.body
        for name, value in reply.headers:
            if name == b"content-type":
                resp.content_type = value.decode("latin-1")
            elif name != b"content-length":
                resp.set_header(name.decode("latin-1"), value.decode("latin-1"))


class _Link:
    """One sub-topology's way to the other instances and from them."""

    def __init__(self, node: QueryNode, keys: Keys, prefix: bytes, settings: PeerSettings, clock: Clock) -> None:
        self.prefix = prefix
        self._node = node
        self._keys = keys
        self._clock = clock
        self._gate: PeerGate | None = None
        self._task: asyncio.Task[None] | None = None
        self.peers = HttpPeers(
            node=node.info, keys=keys, clock=clock, offer_view=node.offer_view, settings=settings, prefix=prefix
        )

    def open_gate(self, operations: Mapping[str, Any]) -> None:
        node = self._node
        self._gate = PeerGate(
            node=node.info,
            keys=self._keys,
            clock=self._clock,
            get_view=lambda: node.view,
            get_positions=node.positions,
            operations={name: Operation(run) for name, run in operations.items()},
            max_forwarded=0,  # whatever is asked between instances is an operation
            prefix=self.prefix,
        )

    async def answer(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        client: Sequence[Any] | None,
    ) -> PeerReply:
        assert self._gate is not None
        host = client[0] if client else None
        entered = await self._gate.enter(method, target, headers, body, client_host=host)
        if isinstance(entered, PeerReply):
            return entered
        with entered:
            return PeerReply(404, [], b"")

    async def ask_positions(self, node_id: str, deadline: Deadline) -> Mapping[int, int] | None:
        return (await self.peers.describe(node_id, deadline)).positions

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._follow())
            self._task.add_done_callback(_tell_end)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self.peers.stop()

    async def _follow(self) -> None:
        """Keep the peers those of the newest view."""
        while True:
            view = self._node.view
            self.peers.set_view(view)
            while self._node.view.epoch == view.epoch:
                with suppress(Unavailable):
                    await self._node.wait_view(view.epoch, Deadline.after(_LOOK_S, self._clock))


def _tell_end(task: asyncio.Task[None]) -> None:
    """Log why the peers are followed no more, if that was not meant: from then on their map is an old one."""
    if not task.cancelled() and task.exception() is not None:
        logger.critical("the other instances are not followed any more", exc_info=task.exception())


class _Lifespan:
    """Falcon's middleware that hears of the server's start and end."""

    def __init__(self, queries: InteractiveQueries) -> None:
        self._queries = queries

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._queries.start()

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await self._queries.stop()
