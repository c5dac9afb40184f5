"""Who of the peers is there: each is pinged several times a second, over connections of its own, so that load looks
like load and not like death. A ping is also how an address proves whose it is, how the peer's clock becomes known, and
how views spread. Nothing of a client is sent from here.

A watch of one peer is not yet trusted, alive, or suspected; only an answer, signed by the very start of the node that
the view names, makes it alive. Suspicion is a hint for whoever would wait: it never takes anything from anybody.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from streams.clock import Clock, Deadline
from streams.cluster import NOWHERE, ClusterView, NodeInfo
from streams.http.addresses import AddressRules
from streams.http.exchange import Exchange, PeerRefused, Recipient
from streams.http.hello import PING, PREFIX, Hello
from streams.http.signing import Message
from streams.http.transport import Sending, Transport
from streams.queries.peers import PeerLost, PeerUnreachable

logger = logging.getLogger(__name__)

_SHORTEST_S = 0.02
_STALL_S = 0.1  # a timer that is later than this says that it is this node that stood still


@dataclass(slots=True)
class Watch:
    """One start of one peer. `waiting`: what ends as soon as the peer is suspected."""

    to: Recipient
    is_alive: bool = False
    answered_at: float = 0.0
    has_grace: bool = True
    waiting: set[asyncio.Timeout] = field(default_factory=set)
    in_flight: Counter[str] = field(default_factory=Counter)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    asking: list[asyncio.Future[None]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    @contextmanager
    def ends_with(self, timeout: asyncio.Timeout) -> Iterator[None]:
        """Let *timeout* expire at once when the peer becomes suspected."""
        self.waiting.add(timeout)
        try:
            yield
        finally:
            self.waiting.discard(timeout)

    def suspect(self) -> None:
        """From now on nobody waits for the peer who could do anything else."""
        self.is_alive = False
        now = asyncio.get_running_loop().time()
        for timeout in self.waiting:
            if not timeout.expired():
                timeout.reschedule(now)


class Liveness:
    """Event loop only. *offer_view* gets every newer view that a peer answers with."""

    def __init__(
        self,
        *,
        exchange: Exchange,
        transport: Transport,
        rules: AddressRules,
        clock: Clock,
        offer_view: Callable[[ClusterView], None],
        interval_s: float,
        suspect_after_s: float,
        prefix: bytes = PREFIX,
    ) -> None:
        self._exchange = exchange
        self._transport = transport
        self._rules = rules
        self._clock = clock
        self._offer_view = offer_view
        self._interval_s = interval_s
        self._suspect_after_s = suspect_after_s
        self._message = Message(b"POST", prefix + PING.encode(), (), b"")
        self._watches: dict[str, Watch] = {}
        self._heard_epoch = NOWHERE.epoch
        self.epoch = NOWHERE.epoch
        #: Why the address of a node in the view is not used, by node id.
        self.refused: dict[str, str] = {}

    def set_view(self, view: ClusterView) -> None:
        """From now on watch the nodes of *view*; those that stay are not asked anew who they are."""
        self.epoch = view.epoch
        own_id = self._exchange.node.node_id
        peers = {node_id: info for node_id, info in view.nodes.items() if node_id != own_id}
        for node_id in self._watches.keys() - peers.keys():
            self._end(node_id)
        self.refused = {node_id: why for node_id, why in self.refused.items() if node_id in peers}
        for node_id, info in peers.items():
            watch = self._watches.get(node_id)
            if watch is not None and _is_same(watch.to.info, info):
                continue
            self._end(node_id)
            self._begin(info)

    def find(self, node_id: str) -> Watch:
        """Return the watch of *node_id*. Raises PeerUnreachable if there is no such peer, or its address is refused."""
        watch = self._watches.get(node_id)
        if watch is None:
            why = self.refused.get(node_id)
            raise PeerUnreachable(f"node {node_id} is no peer: {why}" if why else f"node {node_id} is not known")
        return watch

    def is_suspected(self, node_id: str) -> bool:
        watch = self._watches.get(node_id)
        return watch is None or not watch.is_alive

    async def probe(self, watch: Watch, deadline: Deadline) -> None:
        """Return when the peer has answered a ping that was sent after this call. Raises PeerUnreachable after
        *deadline*, or the time after which a peer is suspected, whichever is first."""
        answer = asyncio.get_running_loop().create_future()
        watch.asking.append(answer)
        watch.wake.set()
        try:
            async with asyncio.timeout(min(self._suspect_after_s, deadline.remaining_s(self._clock))):
                await answer
        except TimeoutError:
            raise PeerUnreachable(f"node {watch.to.info.node_id} does not answer") from None

    def nudge(self, watch: Watch, epoch: int) -> None:
        """Ping the peer soon if *epoch*, which it knows, is news; once for each epoch."""
        if epoch > self.epoch and epoch > self._heard_epoch:
            self._heard_epoch = epoch
            watch.wake.set()

    def learn(self, watch: Watch, hello: Hello) -> None:
        """Take in what the peer told of itself, and what it knows of the cluster."""
        if _is_same_start(hello, watch.to.info):
            watch.to.clock.learn(hello.now_ms, self._clock)
        if hello.view is not None and hello.view.epoch > self.epoch:
            self._offer_view(hello.view)

    def note_answer(self, watch: Watch) -> None:
        """The peer answered something else, signed: as good a sign of life as a ping, and a busy peer gives many."""
        watch.answered_at = self._clock.monotonic()

    async def stop(self) -> None:
        """Stop watching. Idempotent."""
        tasks = [watch.task for watch in self._watches.values() if watch.task is not None]
        for node_id in list(self._watches):
            self._end(node_id)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, info: NodeInfo) -> None:
        try:
            address = self._rules.parse(info.address)
        except ValueError as error:
            why = f"{info.address!r} is refused: {error}"
            if self.refused.get(info.node_id) != why:
                logger.warning("peer_address_refused", extra={"peer": info.node_id, "reason": why})
            self.refused[info.node_id] = why
            return
        self.refused.pop(info.node_id, None)
        watch = Watch(Recipient(info, address))
        watch.task = asyncio.get_running_loop().create_task(self._run(watch), name=f"ping {info.node_id}")
        self._watches[info.node_id] = watch

    def _end(self, node_id: str) -> None:
        watch = self._watches.pop(node_id, None)
        if watch is not None:
            watch.suspect()
            assert watch.task is not None
            watch.task.cancel()

    async def _run(self, watch: Watch) -> None:
        while True:
            asked, watch.asking = watch.asking, []
            watch.wake.clear()
            if await self._ping(watch):
                self._has_answered(watch)
                for answer in asked:
                    if not answer.done():
                        answer.set_result(None)
                wait_s = self._interval_s
            else:
                watch.asking = asked + watch.asking  # the next ping may still be in time for them
                wait_s = self._after_failure(watch)
            await _rest(watch, wait_s)

    async def _ping(self, watch: Watch) -> bool:
        """Say whether the peer answered, and proved who it is."""
        patience_s = self._suspect_after_s
        if watch.is_alive:
            patience_s = max(_SHORTEST_S, watch.answered_at + patience_s - self._clock.monotonic())
        deadline = Deadline.after(patience_s, self._clock)
        try:
            async with asyncio.timeout(patience_s):
                reply, _ = await self._exchange.ask(
                    self._transport, watch.to, self._message, Sending(), deadline=deadline, epoch=self.epoch
                )
            hello = Hello.decode(reply.body)
            self.learn(watch, hello)
        except PeerRefused as refused:
            self.learn(watch, refused.refusal.hello)
            return False
        except (PeerUnreachable, PeerLost, TimeoutError):
            return False
        except Exception:
            logger.exception("ping_failed", extra={"peer": watch.to.info.node_id})
            return False
        return _is_same_start(hello, watch.to.info)

    def _has_answered(self, watch: Watch) -> None:
        watch.answered_at = self._clock.monotonic()
        watch.has_grace = True
        if not watch.is_alive:
            watch.is_alive = True
            logger.info("peer_alive", extra={"peer": watch.to.info.node_id, "address": watch.to.info.address})

    def _after_failure(self, watch: Watch) -> float:
        """Suspect the peer if it is time to, and return the seconds until the next ping."""
        if not watch.is_alive:
            return self._interval_s
        now = self._clock.monotonic()
        overdue_s = now - (watch.answered_at + self._suspect_after_s)
        if overdue_s < 0:
            return min(self._interval_s, max(_SHORTEST_S, -overdue_s))
        if overdue_s > _STALL_S and watch.has_grace:
            # This node was stopped, or short of processor time: that says nothing of the other.
            watch.has_grace = False
            watch.answered_at = now
            return 0.0
        watch.suspect()
        logger.info("peer_suspected", extra={"peer": watch.to.info.node_id, "address": watch.to.info.address})
        return self._interval_s


async def _rest(watch: Watch, wait_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await watch.wake.wait()


def _is_same(one: NodeInfo, other: NodeInfo) -> bool:
    return (one.node_id, one.incarnation, one.address) == (other.node_id, other.incarnation, other.address)


def _is_same_start(hello: Hello, info: NodeInfo) -> bool:
    return (hello.node_id, hello.incarnation) == (info.node_id, info.incarnation)
