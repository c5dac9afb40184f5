"""Bugs that only a cluster can have, for `tests.support.buggy_service`: who owns what, and what travels between nodes.

Each patches classes of the product, as those of one node do. Nothing of this is known to the product.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import app.cluster.router
import app.http.forward
from app.profiles.claims import Release, Unclaimed
from app.profiles.ground import Ground
from app.profiles.results import ProfileNotFound
from app.profiles.rows import email_key_of
from app.profiles.settlement import Settlement
from app.profiles.topics import PROFILE_STORE
from streams.clock import Deadline
from streams.errors import LeaseExpired, NotOwner, Restoring
from streams.http.peers import HttpPeers
from streams.log.kafka.departed import Departed
from streams.log.kafka.membership import KafkaMembership
from streams.log.kafka.transactions import Transactions
from streams.queries.peers import PeerLost, PeerReply, PeerRequest, PeerUnreachable
from streams.queries.routing import Here, Need, Step, Wait, decide
from streams.records import TopicPartition
from streams.runtime.barrier import Barrier
from streams.runtime.events import OwnershipEvents
from streams.runtime.node import StreamsNode
from streams.runtime.reader import TaskReader


def zombie_not_fenced() -> None:
    """Transactions carry no proof of ownership, nobody ends those of who has left, and who has lost a partition without
    a word goes on with it."""
    Transactions._send_offsets = lambda self, producer, positions, ownership: None  # type: ignore[method-assign]
    Transactions._commit_offsets = lambda self, positions, ownership, operation: None  # type: ignore[method-assign]
    Departed.fence = lambda self, *_: None  # type: ignore[method-assign]
    OwnershipEvents.on_lost = lambda self, partitions: None  # type: ignore[method-assign]
    KafkaMembership.lease_until = property(lambda self: math.inf)  # type: ignore[method-assign, assignment]


def no_barrier_at_take_over() -> None:
    """A new owner serves what it has, without reading what the old one wrote to the end."""
    fence = Transactions.fence

    def fence_only(self: Transactions, *arguments: Any) -> dict[TopicPartition, int]:
        return dict.fromkeys(fence(self, *arguments), 0)

    Transactions.fence = fence_only  # type: ignore[method-assign]


def strict_without_barrier() -> None:
    """A strict read is answered from what is there."""

    async def strict(self: Barrier, partitions: Iterable[int], deadline: Deadline) -> None: ...

    Barrier.strict = strict  # type: ignore[method-assign]


def lease_not_checked_after_the_read() -> None:
    """Who was the owner when the request came answers, however long that took."""
    TaskReader.check_lease = lambda self: None  # type: ignore[method-assign]


def position_not_waited_for() -> None:
    """A token is taken as if it had been reached."""

    async def applied(self: Barrier, targets: Mapping[TopicPartition, int], deadline: Deadline) -> None: ...

    Barrier.applied = applied  # type: ignore[method-assign]


def staleness_understated() -> None:
    """A copy says that it is up to date."""
    TaskReader.staleness_ms = lambda self: 0  # type: ignore[method-assign]


def copies_answer_as_owners() -> None:
    """Whoever has a copy answers, as if it were the owner."""
    StreamsNode.reader = StreamsNode.replica  # type: ignore[method-assign]
    StreamsNode.owns = StreamsNode.follows  # type: ignore[method-assign]
    TaskReader.check_lease = lambda self: None  # type: ignore[method-assign]


def forwarded_twice() -> None:
    """A write goes to its owner twice, and nobody knows that it is the same."""
    forward = HttpPeers.forward

    async def forward_again(self: HttpPeers, node_id: str, request: PeerRequest, deadline: Deadline) -> PeerReply:
        if request.method != b"GET":
            await forward(self, node_id, request, deadline)
        return await forward(self, node_id, request, deadline)

    HttpPeers.forward = forward_again  # type: ignore[method-assign]
    app.http.forward._origin_of = lambda caller, partition, partitions: None


def lost_taken_as_not_sent() -> None:
    """No answer from the owner is taken to mean that it has done nothing."""
    forward = HttpPeers.forward

    async def forward_or_deny(self: HttpPeers, node_id: str, request: PeerRequest, deadline: Deadline) -> PeerReply:
        try:
            return await forward(self, node_id, request, deadline)
        except PeerLost as error:
            raise PeerUnreachable(str(error)) from error

    HttpPeers.forward = forward_or_deny  # type: ignore[method-assign]
    app.http.forward._origin_of = lambda caller, partition, partitions: None


def not_here_is_not_found() -> None:
    """A partition that is on its way to another node is answered as if the profile did not exist."""
    row = Ground.row

    def row_or_nothing(self: Ground, store: str, partition: int, key: bytes, **options: Any) -> Any:
        try:
            return row(self, store, partition, key, **options)
        except (NotOwner, Restoring, LeaseExpired) as error:
            raise ProfileNotFound(key.decode(), None) from error

    def decide_at_once(view: Any, partition: int, need: Need, local: Any, **options: Any) -> Step:
        step = decide(view, partition, need, local, **options)
        return Here() if isinstance(step, Wait) and need is not Need.WRITE else step

    Ground.row = row_or_nothing  # type: ignore[method-assign]
    app.cluster.router.decide = decide_at_once


def released_before_the_commit() -> None:
    """The old e-mail is free as soon as the new one is claimed, before the profile is written."""
    claim = Settlement._claim

    async def claim_and_release(self: Settlement, command: Any, needed: Unclaimed, attempt: Any, deadline: Any) -> Any:
        claimed = await claim(self, command, needed, attempt, deadline)
        row, _ = self._ground.row(PROFILE_STORE, command.partitions[0], needed.uid)
        if row is not None:
            await self._release(Release(email_key_of(row), needed.uid, 1 << 40))
            await asyncio.sleep(0.01)
        return claimed

    Settlement._claim = claim_and_release  # type: ignore[method-assign]


def never_held() -> None:
    """Whoever is asked whether a profile has an e-mail says no."""

    async def held(self: Settlement, uid: bytes, email_key: bytes, deadline: Deadline) -> bool:
        return False

    Settlement.held = held  # type: ignore[method-assign]


CLUSTER_BUGS: Mapping[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        zombie_not_fenced,
        no_barrier_at_take_over,
        strict_without_barrier,
        lease_not_checked_after_the_read,
        position_not_waited_for,
        staleness_understated,
        copies_answer_as_owners,
        forwarded_twice,
        lost_taken_as_not_sent,
        not_here_is_not_found,
        released_before_the_commit,
        never_held,
    )
}
