"""The port to the other nodes of the cluster: forward a client's request to a node, or ask it something of our own.

Protocols and values only; `streams.http.peers` provides the real one. Whoever calls decides what a failure means; what
he needs for that is whether the other node can have acted: `PeerUnreachable` says no, `PeerLost` says perhaps.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from streams.clock import Deadline
from streams.cluster import ClusterView
from streams.errors import Unavailable

Headers = Sequence[tuple[bytes, bytes]]

#: As whom the other node is asked to answer a client's request: the owner, or a follower that may be behind.
OWNER = "owner"
REPLICA = "replica"

NO_EXTRA: Mapping[str, str] = MappingProxyType({})


class PeerUnreachable(Unavailable):
    """The other node was not reached, or refused before it looked at the request: it has certainly not acted."""


class PeerLost(Unavailable):
    """The request was sent and no answer came: the other node may have acted, or may yet do so."""


class PeerRequest(NamedTuple):
    """A request of a client. `target`: path and query as received; `headers`: names in lower case. `hop`: OWNER or
    REPLICA. `extra`: at most a kilobyte that travels signed, for the application."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes
    hop: str = OWNER
    extra: Mapping[str, str] = NO_EXTRA


class PeerReply(NamedTuple):
    """The whole answer, of any status. `headers`: names in lower case, without those of the connection."""

    status: int
    headers: Headers
    body: bytes


class Caller(NamedTuple):
    """Who sent a request that came from a peer, and by when he wants the answer. `node_id` is authenticated. `epoch` is
    that of the newest view that he knows. `hop` and `extra` as in his PeerRequest; `hop` is empty for an operation."""

    node_id: str
    deadline: Deadline
    epoch: int
    hop: str = ""
    extra: Mapping[str, str] = NO_EXTRA


class Peers(Protocol):
    """The other nodes. One event loop."""

    async def forward(self, node_id: str, request: PeerRequest, deadline: Deadline) -> PeerReply:
        """Have *node_id* answer *request*, once, and return its answer as it is. Raises PeerUnreachable, PeerLost (also
        when the node is suspected to be dead while it is waited for, or at *deadline*)."""
        ...

    async def call(self, node_id: str, operation: str, body: bytes, deadline: Deadline) -> bytes:
        """Have *node_id* carry out one of the operations between nodes and return its result. Raises PeerUnreachable
        (also when it refuses: it does not own what the operation is about, or is overloaded) and PeerLost."""
        ...

    def is_suspected(self, node_id: str) -> bool:
        """Say whether *node_id* has not answered for some hundred milliseconds, or is not known at all."""
        ...

    def set_view(self, view: ClusterView) -> None:
        """From now on the nodes of *view* are the peers."""
        ...
