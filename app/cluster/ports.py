"""What the room between this node and the others needs of the node (`streams.runtime.node.StreamsNode`)."""

from collections.abc import Mapping
from typing import Protocol

from streams.clock import Deadline
from streams.cluster import ClusterView, NodeInfo


class ClusterNode(Protocol):
    """This node among the others. Event loop."""

    @property
    def info(self) -> NodeInfo: ...

    @property
    def partitions(self) -> int: ...

    @property
    def view(self) -> ClusterView: ...

    def offer_view(self, view: ClusterView) -> None: ...

    async def wait_view(self, after_epoch: int, deadline: Deadline) -> ClusterView: ...

    def owns(self, partition: int) -> bool: ...

    def follows(self, partition: int) -> bool:
        """Say whether this node has a copy of *partition*, owned or not."""
        ...


class PeerPositions(Protocol):
    """How far the others are, as they last told."""

    def positions_of(self, node_id: str) -> Mapping[int, int] | None:
        """Return the position of each partition that *node_id* holds, None when it has not told."""
        ...
