"""Who is in the cluster and who has which partition: the values that nodes tell each other. No behaviour beyond
look-ups and their encoding; nothing here does I/O.

A view is a hint, never a proof: only an owner's own state says that it may serve. Of two views the one with the greater
epoch is newer; the epoch is the generation of the group that made it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

MEMBER = "member"
OBSERVER = "observer"


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One process. `incarnation` differs from one start of a node to the next; `address` is `http://host:port`, as its
    peers reach it; `rack` may be empty."""

    node_id: str
    incarnation: str
    address: str
    rack: str = ""
    role: str = MEMBER


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one partition lives, by node ids. `owner` None: it is being handed over. `standbys` follow it and may serve
    reads; `warming` follow it in order to become its owner or to replace a standby, and are not caught up yet."""

    owner: str | None
    standbys: Sequence[str] = ()
    warming: Sequence[str] = ()

    @property
    def followers(self) -> Sequence[str]:
        """All that follow the partition without owning it, the best first."""
        return (*self.standbys, *self.warming)


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The whole map. `placements` has one entry for each partition, by its number. `nodes` are those that take part;
    `refused` says which members were given nothing, and why: ask `refusal_of`, since two processes may claim one node
    id of which only one is refused."""

    epoch: int
    nodes: Mapping[str, NodeInfo]
    placements: Sequence[Placement]
    refused: Mapping[str, str] = field(default_factory=dict)

    def owner_of(self, partition: int) -> NodeInfo | None:
        """Return the owner, None while there is none or this view is of fewer partitions."""
        if partition >= len(self.placements):
            return None
        owner = self.placements[partition].owner
        return self.nodes.get(owner) if owner is not None else None

    def followers_of(self, partition: int) -> Sequence[NodeInfo]:
        """Return the nodes that follow *partition*, standbys before those that still warm up."""
        if partition >= len(self.placements):
            return ()
        return [self.nodes[one] for one in self.placements[partition].followers if one in self.nodes]

    def owned_by(self, node_id: str) -> frozenset[int]:
        """Return the partitions that *node_id* owns."""
        return frozenset(number for number, place in enumerate(self.placements) if place.owner == node_id)

    def followed_by(self, node_id: str) -> frozenset[int]:
        """Return the partitions that *node_id* follows without owning them."""
        return frozenset(number for number, place in enumerate(self.placements) if node_id in place.followers)

    def refusal_of(self, node: NodeInfo) -> str | None:
        """Return why *node* was given nothing, None if it takes part (or is not known): with it, it must stop."""
        return self.refused.get(refusal_key(node))

    def encode(self) -> bytes:
        """Return the view as compact JSON."""
        document = {
            "epoch": self.epoch,
            "nodes": [asdict(node) for node in self.nodes.values()],
            "placements": [[place.owner, list(place.standbys), list(place.warming)] for place in self.placements],
            "refused": dict(self.refused),
        }
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> "ClusterView":
        """Return what `encode` was called on. Raises ValueError for anything else; the bytes may come from anybody."""
        try:
            document = json.loads(data)
            nodes = [NodeInfo(**node) for node in document["nodes"]]
            return cls(
                epoch=int(document["epoch"]),
                nodes={node.node_id: node for node in nodes},
                placements=tuple(
                    Placement(owner, tuple(standbys), tuple(warming))
                    for owner, standbys, warming in document["placements"]
                ),
                refused=dict(document["refused"]),
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a view of a cluster: {type(error).__name__}") from error


def refusal_key(node: NodeInfo) -> str:
    """Return the name of this very process in `ClusterView.refused`."""
    return f"{node.node_id}/{node.incarnation}"


#: The view before anything is known.
NOWHERE = ClusterView(epoch=-1, nodes={}, placements=())


class Member(Protocol):
    """What a node tells the group about itself. Any thread may ask; nothing blocks."""

    @property
    def info(self) -> NodeInfo: ...

    @property
    def num_standby_replicas(self) -> int: ...

    @property
    def settings(self) -> Mapping[str, str]:
        """What must be the same on every node, by name (partition count, formats, a digest of the secret, ...). What
        differs is told to everybody, but for values whose names end in `_SECRET`."""
        ...

    def positions(self) -> Mapping[int, int]:
        """Return, for each partition of which this node holds state, the sum of the applied offsets of its topics:
        what differs between two nodes is the lag of the one behind."""
        ...


@dataclass(frozen=True, slots=True)
class LoneMember:
    """The `Member` of a node that is alone, and of tests."""

    info: NodeInfo
    num_standby_replicas: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    get_positions: Callable[[], Mapping[int, int]] = dict

    def positions(self) -> Mapping[int, int]:
        return self.get_positions()

    @classmethod
    def named(cls, node_id: str) -> "LoneMember":
        """Return a member of which nothing but the name matters."""
        return cls(NodeInfo(node_id, "1", f"http://{node_id}:1"))
