"""What the HTTP edge gets of the cluster, made in one place from the node, its peers and its reads."""

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from app.cluster.batches import Batches
from app.cluster.listing import ClusterListing
from app.cluster.ports import ClusterNode
from app.cluster.router import Router
from app.profiles.reads import Reads
from streams.clock import Clock
from streams.cluster import OBSERVER
from streams.queries.fanout import FanOut
from streams.queries.peers import Caller, Headers, PeerReply, Peers


class Visit(Protocol):
    """A forwarded request that the gate let in; leave the `with` block when it is answered."""

    @property
    def headers(self) -> Headers: ...

    @property
    def proof(self) -> tuple[bytes, bytes]:
        """The header that the answer must have."""
        ...

    def __enter__(self) -> Caller: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


class Gate(Protocol):
    """Where requests of peers come in (`streams.http.gate.PeerGate`)."""

    async def enter(
        self, method: bytes, target: bytes, headers: Headers, body: bytes, *, client_host: str | None
    ) -> PeerReply | Visit:
        """Answer a request of a peer, or return a client's request that he forwarded."""
        ...


@dataclass(frozen=True, slots=True)
class Cluster:
    """This node among the others."""

    node: ClusterNode
    peers: Peers
    gate: Gate
    router: Router
    listing: ClusterListing
    batches: Batches


def join(*, node: ClusterNode, peers: Peers, gate: Gate, reads: Reads, fan_out: FanOut, clock: Clock) -> Cluster:
    """Return the rooms between this node and the others. Event loop only, as are they all."""

    def owner_of(partition: int) -> str | None:
        owner = node.view.owner_of(partition)
        if owner is None or node.info.role == OBSERVER or node.owns(partition) or owner.node_id == node.info.node_id:
            return None
        return owner.node_id

    return Cluster(
        node,
        peers,
        gate,
        Router(node=node, peers=peers, clock=clock),
        ClusterListing(reads=reads, node=node, peers=peers, fan_out=fan_out),
        Batches(peers, partitions=lambda: node.partitions, owner_of=owner_of),
    )
