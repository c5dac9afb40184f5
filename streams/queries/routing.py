"""Where a request for one partition goes: answered here, sent to another node, or kept until the map changes.

Pure decisions on what a node knows at this moment; whoever asks carries them out, and asks again with what he learned.
A map is a hint: a wrong decision costs a hop that is refused, never a wrong answer.
"""

from collections.abc import Callable, Set
from enum import Enum
from typing import NamedTuple

from streams.cluster import ClusterView


class Need(Enum):
    """What an answer must rest on. WRITE: the owner alone may act. OWNER: the owner's lease, or else a barrier.
    STRICT: a barrier, at whoever has the state. STALE: the caller's own bound, at whoever keeps it."""

    WRITE = "write"
    OWNER = "owner"
    STRICT = "strict"
    STALE = "stale"


class Here(NamedTuple):
    """Answer on this node. `is_replica`: from state that this node follows without owning it; `is_strict`: after the
    strict barrier, whatever the caller asked for."""

    is_replica: bool = False
    is_strict: bool = False


class Forward(NamedTuple):
    """Have another node answer. `is_replica`: it is asked as a follower, and takes the barrier before it answers."""

    node_id: str
    is_replica: bool = False


class Wait(NamedTuple):
    """Nobody can answer now: wait for another map, or for a node that comes back."""


class Refuse(NamedTuple):
    """Answer 421: this node was asked by a peer and has not what he looks for."""


Step = Here | Forward | Wait


class Local(NamedTuple):
    """What this node is to the partition: the owner that may serve, or an open copy of it."""

    node_id: str
    owns: bool
    follows: bool
    is_observer: bool = False


def decide(
    view: ClusterView,
    partition: int,
    need: Need,
    local: Local,
    *,
    is_suspected: Callable[[str], bool],
    excluded: Set[str],
) -> Step:
    """Return the next step for a client's request. *excluded*: the nodes, perhaps this one, that have failed it since
    it last waited."""

    def is_usable(node_id: str) -> bool:
        return node_id != local.node_id and node_id not in excluded and not is_suspected(node_id)

    can_serve = local.node_id not in excluded
    if local.owns and can_serve:
        return Here()
    has_copy = (local.follows or local.owns) and can_serve and need is not Need.WRITE
    if has_copy and (need is Need.STRICT or (local.is_observer and need is Need.OWNER)):
        return Here(is_replica=True, is_strict=True)
    if has_copy and need is Need.STALE:
        return Here(is_replica=True)
    owner = view.owner_of(partition)
    if owner is not None and is_usable(owner.node_id):
        return Forward(owner.node_id)
    if need is Need.WRITE:
        return Wait()
    if has_copy:
        return Here(is_replica=True, is_strict=True)
    for follower in view.followers_of(partition):
        if is_usable(follower.node_id):
            return Forward(follower.node_id, is_replica=True)
    return Wait()


def decide_for_peer(need: Need, local: Local, *, is_replica: bool) -> Here | Refuse:
    """Return what to do with a request that a peer forwarded, as to a follower when *is_replica*. It is never sent on:
    two nodes whose maps differ would pass it to and fro."""
    if local.owns:
        return Here()
    if is_replica and local.follows and need is not Need.WRITE:
        return Here(is_replica=True, is_strict=True)
    return Refuse()
