"""Claims of e-mails between nodes: what one asks another by an operation of the peers, and how it is encoded.

Nothing is decided here. Each operation is JSON of a list one way and of a plain value the other. Invariants: an
operation is asked of the owner that the newest view names, and once more when the first answer is lost; an answer is
taken from whoever could prove that he is the owner, since settling proves it.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from orjson import JSONDecodeError, dumps, loads

from app.profiles.settlement import Settlement
from app.profiles.uids import UID_LENGTH
from streams.clock import Backoff, Clock, Deadline
from streams.cluster import ClusterView, NodeInfo
from streams.errors import NotOwner, Unavailable
from streams.queries.peers import Caller, PeerLost, Peers, PeerUnreachable

T = TypeVar("T")

CLAIM_OPERATION = "claim"
HELD_OPERATION = "held"
RELEASE_OPERATION = "release"

_WAIT_S = 0.2  # for a newer view, before what moves is tried again

Operation = Callable[[bytes, Caller], Awaitable[bytes]]


class ViewingNode(Protocol):
    """This node, as far as it knows who owns what (`streams.runtime.node.StreamsNode`)."""

    @property
    def info(self) -> NodeInfo: ...

    @property
    def view(self) -> ClusterView: ...

    async def wait_view(self, after_epoch: int, deadline: Deadline) -> ClusterView: ...

    def owns(self, partition: int) -> bool: ...


class RemoteClaims:
    """The other owners (`app.profiles.ports.Owners`). Event loop only."""

    def __init__(self, *, node: ViewingNode, peers: Peers, clock: Clock) -> None:
        self._node = node
        self._peers = peers
        self._clock = clock

    def is_mine(self, partition: int) -> bool:
        """See Owners."""
        return self._node.owns(partition)

    async def wait(self, deadline: Deadline) -> None:
        """See Owners."""
        if deadline.has_passed(self._clock):
            raise NotOwner("the partitions did not come to rest in time")
        with suppress(Unavailable):
            until = min(deadline.at, self._clock.monotonic() + _WAIT_S)
            await self._node.wait_view(self._node.view.epoch, Deadline(until))

    async def claim(
        self, partition: int, email_key: bytes, uid: bytes, version: int, deadline: Deadline
    ) -> bytes | None:
        """See Owners."""
        holder = await self._call(partition, CLAIM_OPERATION, [email_key.decode(), uid.decode(), version], deadline)
        return None if holder is None else _uid(holder)

    async def held(self, partition: int, uid: bytes, email_key: bytes, deadline: Deadline) -> bool:
        """See Owners."""
        answer = await self._call(partition, HELD_OPERATION, [uid.decode(), email_key.decode()], deadline)
        return answer is not False  # whatever is no clear no

    async def release(
        self, partition: int, email_key: bytes, uid: bytes, version: int | None, deadline: Deadline
    ) -> None:
        """See Owners."""
        await self._call(partition, RELEASE_OPERATION, [email_key.decode(), uid.decode(), version], deadline)

    async def _call(self, partition: int, operation: str, request: object, deadline: Deadline) -> Any:
        """Have the owner of *partition* answer. While it moves, or its owner cannot be reached, newer views are waited
        for. Raises PeerLost when he may have acted, or Unavailable at *deadline*."""
        body = dumps(request)
        backoff = Backoff(initial_s=0.02, maximum_s=0.2)
        was_lost = False
        while True:
            view = self._node.view
            owner = view.owner_of(partition)
            if owner is not None and owner.node_id != self._node.info.node_id:
                try:
                    return _decoded(loads, await self._peers.call(owner.node_id, operation, body, deadline))
                except PeerLost:
                    if was_lost or deadline.has_passed(self._clock):
                        raise
                    was_lost = True  # asked twice is as good as a message that came twice: the model has those
                except PeerUnreachable:
                    pass
            with suppress(Unavailable):
                until = min(deadline.at, self._clock.monotonic() + backoff.next_s())
                await self._node.wait_view(view.epoch, Deadline(until))
            if deadline.has_passed(self._clock) or self._node.owns(partition):
                raise NotOwner("the partition is moving, or its owner cannot be reached", partition=partition)


class Alone:
    """The `Owners` of a node that has no peers: whatever it does not own, nobody does yet."""

    def is_mine(self, partition: int) -> bool:
        """See Owners."""
        return True

    async def wait(self, deadline: Deadline) -> None:
        """See Owners."""
        raise NotOwner("there is no other node, so nothing moves")

    async def claim(
        self, partition: int, email_key: bytes, uid: bytes, version: int, deadline: Deadline
    ) -> bytes | None:
        """See Owners."""
        raise NotOwner("there is no other node", partition=partition)

    async def held(self, partition: int, uid: bytes, email_key: bytes, deadline: Deadline) -> bool:
        """See Owners."""
        raise NotOwner("there is no other node", partition=partition)

    async def release(
        self, partition: int, email_key: bytes, uid: bytes, version: int | None, deadline: Deadline
    ) -> None:
        """See Owners."""
        raise NotOwner("there is no other node", partition=partition)


ALONE = Alone()


def claim_operations(settlement: Settlement) -> Mapping[str, Operation]:
    """Return the operations that peers may ask for, by name. Each raises Unavailable when this node is not the owner,
    or cannot prove that it is. Event loop only."""

    async def claim(body: bytes, caller: Caller) -> bytes:
        email, uid, version = _decoded(_claim_request, body)
        holder = await settlement.claim(email, uid, version, caller.deadline)
        return dumps(None if holder is None else holder.decode())

    async def held(body: bytes, caller: Caller) -> bytes:
        uid, email = _decoded(_held_request, body)
        return dumps(await settlement.held(uid, email, caller.deadline))

    async def release(body: bytes, caller: Caller) -> bytes:
        email, uid, version = _decoded(_release_request, body)
        await settlement.release(email, uid, version, caller.deadline)
        return dumps(None)

    return {CLAIM_OPERATION: claim, HELD_OPERATION: held, RELEASE_OPERATION: release}


def _claim_request(body: bytes) -> tuple[bytes, bytes, int]:
    email, uid, version = loads(body)
    return _email(email), _uid(uid), _version(version)


def _held_request(body: bytes) -> tuple[bytes, bytes]:
    uid, email = loads(body)
    return _uid(uid), _email(email)


def _release_request(body: bytes) -> tuple[bytes, bytes, int | None]:
    email, uid, version = loads(body)
    return _email(email), _uid(uid), None if version is None else _version(version)


def _decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except (JSONDecodeError, ValueError, TypeError) as error:
        raise Unavailable("what a peer sent makes no sense") from error


def _email(text: object) -> bytes:
    if not isinstance(text, str) or "@" not in text:
        raise ValueError("not an e-mail's key")
    return text.encode()


def _uid(text: object) -> bytes:
    if not isinstance(text, str) or len(text) != UID_LENGTH:
        raise ValueError("not a uid")
    return text.encode()


def _version(number: object) -> int:
    if type(number) is not int or number < 1:
        raise ValueError("not a version")
    return number
