"""The other nodes over HTTP: the port `streams.queries.peers`, with signed requests on kept-alive connections.

Nothing goes to an address that has not proved to be the node that the view names; nothing is sent twice unless the
peer certainly did not act on the first, or it is a read; nobody waits for a peer that is suspected to be dead.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from streams.clock import Clock, Deadline
from streams.cluster import ClusterView, NodeInfo
from streams.http.addresses import AddressRules
from streams.http.exchange import Exchange, PeerRefused
from streams.http.headers import answered_headers, clean_target, forwarded_headers
from streams.http.hello import PING, PREFIX, STALE, WITH_POSITIONS, Hello
from streams.http.liveness import Liveness, Watch
from streams.http.signing import CALL, Keys, Message
from streams.http.transport import Sending, Transport
from streams.queries.peers import NO_EXTRA, PeerLost, PeerReply, PeerRequest, PeerUnreachable

_READS = frozenset((b"GET", b"HEAD"))


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """How peers are asked. `max_in_flight`: requests to one peer at a time, of clients and of our own each; the
    connections are as many. Above it nobody queues: PeerUnreachable at once."""

    ping_interval_s: float = 0.2
    suspect_after_s: float = 0.5
    connect_timeout_s: float = 1.0
    max_in_flight: int = 128
    max_reply_bytes: int = 16 * 1024 * 1024


class HttpPeers:
    """Event loop only. It watches the peers from the first `set_view` until `stop`."""

    def __init__(
        self,
        *,
        node: NodeInfo,
        keys: Keys,
        clock: Clock,
        offer_view: Callable[[ClusterView], None],
        settings: PeerSettings = PeerSettings(),
        prefix: bytes = PREFIX,
    ) -> None:
        """*offer_view* gets every view of a peer that is newer than the one last set. *prefix*: of the peers' gates."""
        rules = AddressRules(own=node.address, has_secret=keys.is_secret)
        self._clock = clock
        self._settings = settings
        self._prefix = prefix
        self._via = node.node_id.encode()
        self._exchange = Exchange(node, keys, clock)
        self._transport = Transport(
            rules=rules, connect_timeout_s=settings.connect_timeout_s, max_reply_bytes=settings.max_reply_bytes
        )
        self._ping_transport = Transport(
            rules=rules, connect_timeout_s=settings.suspect_after_s, max_reply_bytes=settings.max_reply_bytes
        )
        self._liveness = Liveness(
            exchange=self._exchange,
            transport=self._ping_transport,
            rules=rules,
            clock=clock,
            offer_view=offer_view,
            interval_s=settings.ping_interval_s,
            suspect_after_s=settings.suspect_after_s,
            prefix=prefix,
        )
        #: How requests ended, by kind and outcome (`answered`, `unreachable`, `lost`), for metrics.
        self.outcomes: Counter[tuple[str, str]] = Counter()

    async def forward(self, node_id: str, request: PeerRequest, deadline: Deadline) -> PeerReply:
        """Have *node_id* answer a client's request. When it answers 421 its view was offered before this returns. A GET
        or HEAD whose connection breaks is sent once more."""
        target = clean_target(request.target)
        if target.startswith(PREFIX):
            raise PeerUnreachable(f"{PREFIX.decode()} is not for clients")
        message = Message(request.method, target, forwarded_headers(request.headers), request.body)
        watch = self._liveness.find(node_id)
        reply = await self._ask(watch, message, deadline, kind=request.hop, extra=request.extra)
        if reply.status == 421:
            with suppress(PeerUnreachable):  # then the client's answer has to do without a newer view
                await self._liveness.probe(watch, deadline)
        return reply._replace(headers=answered_headers(reply.headers, via=self._via))

    async def call(self, node_id: str, operation: str, body: bytes, deadline: Deadline) -> bytes:
        """Have *node_id* carry out one of the operations of its gate. What a refusal told was learned before."""
        message = Message(b"POST", self._prefix + operation.encode(), (), body)
        return (await self._ask(self._liveness.find(node_id), message, deadline)).body

    async def describe(self, node_id: str, deadline: Deadline) -> Hello:
        """Return what *node_id* tells of itself, with its positions. Raises PeerUnreachable and PeerLost."""
        return Hello.decode(await self.call(node_id, PING, WITH_POSITIONS, deadline))

    def is_suspected(self, node_id: str) -> bool:
        return self._liveness.is_suspected(node_id)

    def set_view(self, view: ClusterView) -> None:
        self._liveness.set_view(view)

    @property
    def refused(self) -> Mapping[str, str]:
        """Why the address of a node of the view is not used, by node id."""
        return self._liveness.refused

    async def stop(self) -> None:
        """End all waiting with PeerLost, and close the connections. Idempotent."""
        await self._liveness.stop()
        await self._transport.close()
        await self._ping_transport.close()

    async def _ask(
        self,
        watch: Watch,
        message: Message,
        deadline: Deadline,
        *,
        kind: str = CALL,
        extra: Mapping[str, str] = NO_EXTRA,
    ) -> PeerReply:
        counted = "call" if kind == CALL else "forward"
        outcome = "lost"
        if watch.in_flight[counted] >= self._settings.max_in_flight:
            raise PeerUnreachable(f"too many requests are on their way to node {watch.to.info.node_id}")
        watch.in_flight[counted] += 1
        try:
            if not watch.is_alive:
                await self._liveness.probe(watch, deadline)
            reply = await self._within(watch, message, deadline, kind, extra)
            outcome = "answered"
        except PeerUnreachable:
            outcome = "unreachable"
            raise
        else:
            return reply
        finally:
            watch.in_flight[counted] -= 1
            self.outcomes[counted, outcome] += 1

    async def _within(
        self, watch: Watch, message: Message, deadline: Deadline, kind: str, extra: Mapping[str, str]
    ) -> PeerReply:
        """Ask until the deadline, or, unless it is a write, until the peer is suspected."""
        sending = Sending()
        try:
            async with asyncio.timeout(deadline.remaining_s(self._clock)) as timeout:
                # A client's write that is on its way is waited for: to give it up gains nothing but an outcome that
                # nobody knows, and a node that has left the group still finishes what it was given.
                is_write = kind != CALL and message.method not in _READS
                with nullcontext() if is_write else watch.ends_with(timeout):
                    return await self._persist(watch, message, sending, deadline, kind, extra)
        except TimeoutError:
            node_id = watch.to.info.node_id
            why = "was not answered in time" if watch.is_alive else "is suspected to be dead"
            kind_of_error = PeerLost if sending.has_connection else PeerUnreachable
            raise kind_of_error(f"node {node_id} {why}") from None

    async def _persist(
        self,
        watch: Watch,
        message: Message,
        sending: Sending,
        deadline: Deadline,
        kind: str,
        extra: Mapping[str, str],
    ) -> PeerReply:
        """Ask, and once more where that is safe: the peer refused for its clock, or a read lost its connection."""
        may_repeat = True
        while True:
            sending.has_connection = False
            try:
                reply, epoch = await self._exchange.ask(
                    self._transport,
                    watch.to,
                    message,
                    sending,
                    deadline=deadline,
                    epoch=self._liveness.epoch,
                    kind=kind,
                    extra=extra,
                )
            except PeerRefused as refused:
                self._liveness.learn(watch, refused.refusal.hello)
                if refused.refusal.reason != STALE or not may_repeat:
                    raise
            except PeerLost:
                if message.method not in _READS or not may_repeat or not watch.is_alive:
                    raise
            else:
                self._liveness.note_answer(watch)
                self._liveness.nudge(watch, epoch)
                return reply
            may_repeat = False
