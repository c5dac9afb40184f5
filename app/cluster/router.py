"""Gets one request answered by whoever may answer it: here, by its owner, or by a follower, trying again inside the
request's deadline.

`streams.queries.routing` decides each step; this carries it out and learns from what comes back. Invariants: a write
is sent again only when the node before has certainly not acted; what a peer sent is answered here or refused, and never
sent on.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from app.cluster.ports import ClusterNode
from app.cluster.trail import Trail
from app.profiles.requests import STRICT, Origin, ReadOptions
from app.profiles.results import ClaimElsewhere, WriteOutcomeUnknown
from app.profiles.uids import text_of
from streams.clock import Clock, Deadline
from streams.cluster import ClusterView
from streams.errors import Draining, NotOwner, Restoring, Unavailable
from streams.queries.fanout import local_of
from streams.queries.peers import OWNER, REPLICA, PeerLost, PeerReply, PeerRequest, Peers, PeerUnreachable
from streams.queries.routing import Forward, Here, Local, Need, Refuse, Step, decide, decide_for_peer

T = TypeVar("T")

MISDIRECTED = 421
#: Between nodes only: the header names the uid whose owner can finish a search.
SEE_OTHER = 303
CLAIM_HEADER = b"profile-claim"

_PAUSE_S = 0.02  # before what failed is tried again; doubled each time
_MAX_PAUSE_S = 0.2
_HOME_SHARE = 0.5  # of the time left that a copy here may take to catch up, while the owner could answer at once


class OwnerUnreachable(Unavailable):
    """Nobody who has the partition could be reached in time. Nothing was done."""


class Misdirected(Exception):
    """A peer asked for what this node has not: he gets our view."""

    def __init__(self, partition: int) -> None:
        super().__init__(f"partition {partition} is not here")


class Answered(Exception):
    """Another node has answered: the reply goes to the client as it is."""

    def __init__(self, node_id: str, reply: PeerReply) -> None:
        super().__init__(f"answered by {node_id}")
        self.reply = reply
        #: How many nodes after this one saw the request; a search can have two.
        self.hops = 1


class ClaimFound(Exception):
    """The owner of an e-mail knows its claim, and not the profile: the owner of *uid* is to be asked, by the node that
    the client chose."""

    def __init__(self, uid: str) -> None:
        super().__init__("the claim names a profile of another owner")
        self.uid = uid


@dataclass(slots=True)
class Errand:
    """One request on its way. `request` makes what is sent to a peer; the argument is the hop. `origin`: of a write."""

    partition: int
    need: Need
    deadline: Deadline
    request: Callable[[str], PeerRequest]
    trail: Trail
    origin: Origin | None = None
    uid: str = ""
    excluded: set[str] = field(default_factory=set)
    failure: Exception | None = None
    pause_s: float = _PAUSE_S


class Asked(NamedTuple):
    """How a request is to be answered here: with these options, before this deadline."""

    options: ReadOptions
    deadline: Deadline


class Router:
    """Event loop only."""

    def __init__(self, *, node: ClusterNode, peers: Peers, clock: Clock) -> None:
        self._node = node
        self._peers = peers
        self._clock = clock

    @property
    def view(self) -> ClusterView:
        """The newest view known here."""
        return self._node.view

    async def run(
        self, errand: Errand, options: ReadOptions, call: Callable[[ReadOptions, Deadline], Awaitable[T]]
    ) -> T:
        """Return what *call* gives when the request is answered here. Raises Answered when another node answers,
        ClaimFound, WriteOutcomeUnknown, OwnerUnreachable or whatever keeps this node from answering at the deadline."""
        node_id = self._node.info.node_id
        while True:
            step = self._next(errand)
            errand.trail.begin()
            if isinstance(step, Here):
                asked = self._asked(step, errand, options)
                try:
                    result = await call(*asked)
                except (NotOwner, Restoring) as error:
                    if not self._is_worth_another_try(error, errand, step):
                        raise
                    errand.failure = error
                except Unavailable as error:
                    if not step.is_replica:
                        raise
                    errand.failure = error
                else:
                    errand.trail.note(_proof_of(step, asked.options))
                    return result
                errand.trail.note(f"here; failed={type(errand.failure).__name__}")
                errand.excluded.add(node_id)
                if errand.need is Need.WRITE:
                    await self._pause(errand)
            elif isinstance(step, Forward):
                await self._forward(step, errand)
            else:
                await self._pause(errand)
            if errand.deadline.has_passed(self._clock):
                raise errand.failure or OwnerUnreachable("nobody answered in time", partition=errand.partition)

    def _next(self, errand: Errand) -> Step:
        return decide(
            self._node.view,
            errand.partition,
            errand.need,
            self.local(errand.partition),
            is_suspected=self._peers.is_suspected,
            excluded=errand.excluded,
        )

    def local(self, partition: int) -> Local:
        """Return what this node is to *partition*."""
        return local_of(self._node, partition)

    def _asked(self, step: Here, errand: Errand, options: ReadOptions) -> Asked:
        if not step.is_replica:
            return Asked(options, errand.deadline)
        if step.is_strict:
            return Asked(options._replace(consistency=STRICT, is_replica=True), errand.deadline)
        deadline = errand.deadline
        owner = self._node.view.owner_of(errand.partition)
        if owner is not None and not self._peers.is_suspected(owner.node_id):
            deadline = Deadline.after(deadline.remaining_s(self._clock) * _HOME_SHARE, self._clock)
        return Asked(options._replace(is_replica=True), deadline)

    def _is_worth_another_try(self, error: Unavailable, errand: Errand, step: Here) -> bool:
        """Say whether the partition may be served elsewhere, or here a little later."""
        if _is_for_the_caller(error, errand.partition, errand.need):
            return False
        if step.is_replica or isinstance(error, NotOwner):
            return True
        return len(self._node.view.nodes) > 1  # alone, a restore may take longer than anybody should wait

    async def _forward(self, step: Forward, errand: Errand) -> None:
        """Have another node answer: raises what `run` raises, or returns when the errand must go on."""
        hop = REPLICA if step.is_replica else OWNER
        known = self._node.view.epoch
        try:
            reply = await self._peers.forward(step.node_id, errand.request(hop), errand.deadline)
        except PeerLost as error:
            errand.trail.note(f"{hop}={step.node_id}; lost")
            if errand.need is Need.WRITE:
                assert errand.origin is not None, "a write draws its ids before it is sent"
                raise WriteOutcomeUnknown(errand.origin.uid or errand.uid, text_of(errand.origin.event_id)) from error
        except PeerUnreachable:
            errand.trail.note(f"{hop}={step.node_id}; unreachable")
        else:
            errand.trail.note(f"{hop}={step.node_id}; status={reply.status}")
            if reply.status == SEE_OTHER:
                raise ClaimFound(dict(reply.headers)[CLAIM_HEADER].decode("latin-1"))
            if reply.status != MISDIRECTED:
                raise Answered(step.node_id, reply)
            with suppress(ValueError):
                self._node.offer_view(ClusterView.decode(reply.body))
            if self._node.view.epoch > known:
                errand.excluded.clear()
                return
        errand.failure = OwnerUnreachable("the owner cannot be reached", partition=errand.partition)
        errand.excluded.add(step.node_id)

    async def _pause(self, errand: Errand) -> None:
        """Wait for a newer view, or a moment; then everybody is worth a try again."""
        errand.trail.begin()
        until = Deadline(min(errand.deadline.at, self._clock.monotonic() + errand.pause_s))
        errand.pause_s = min(errand.pause_s * 2, _MAX_PAUSE_S)
        await self.wait_view(until)
        errand.excluded.clear()
        errand.trail.note("waited")

    async def wait_view(self, until: Deadline) -> None:
        """Return when a newer view is there, or at *until*."""
        with suppress(Unavailable):
            await self._node.wait_view(self._node.view.epoch, until)

    async def run_for_peer(
        self,
        partition: int,
        need: Need,
        hop: str,
        options: ReadOptions,
        call: Callable[[ReadOptions], Awaitable[T]],
    ) -> T:
        """Return what *call* gives, for a request that a peer forwarded. Raises Misdirected: nothing was done."""
        step = decide_for_peer(need, self.local(partition), is_replica=hop == REPLICA)
        if isinstance(step, Refuse):
            raise Misdirected(partition)
        if step.is_replica:
            options = options._replace(consistency=STRICT, is_replica=True)
        try:
            return await call(options)
        except (NotOwner, Restoring, Draining) as error:
            if _is_for_the_caller(error, partition, need):
                raise
            raise Misdirected(partition) from error


def _is_for_the_caller(error: Unavailable, partition: int, need: Need) -> bool:
    """Say whether no other try helps: a search has found a claim, and has only its profile still to read; a command
    needs a second partition, which is not here."""
    return isinstance(error, ClaimElsewhere) or (need is Need.WRITE and error.partition not in (None, partition))


def _proof_of(step: Here, options: ReadOptions) -> str:
    place = "copy" if step.is_replica else "owner"
    if options.consistency == STRICT:
        return f"here={place}; proof=barrier"
    if options.position is not None:
        return f"here={place}; proof=position"
    if options.max_staleness_s is not None:
        return f"here={place}; proof=staleness"
    return f"here={place}; proof=lease"
