"""What the room between this node and the others needs of the node (`streams.runtime.node.StreamsNode`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from streams.clock import Deadline
from streams.cluster import ClusterView, NodeInfo
from streams.queries.metadata import PositionsOf


class MapNode(Protocol):
    """This node, as far as the map of the cluster needs it."""

    @property
    def info(self) -> NodeInfo: ...

    @property
    def partitions(self) -> int: ...

    @property
    def view(self) -> ClusterView: ...

    @property
    def view_age_s(self) -> float: ...


class ClusterNode(MapNode, Protocol):
    """This node among the others. Event loop."""

    def offer_view(self, view: ClusterView) -> None: ...

    async def wait_view(self, after_epoch: int, deadline: Deadline) -> ClusterView: ...

    def owns(self, partition: int) -> bool: ...

    def follows(self, partition: int) -> bool:
        """Say whether this node has a copy of *partition*, owned or not."""
        ...


@dataclass(frozen=True, slots=True)
class Members:
    """Who is there and how far. *positions_of*: what a node last told; *is_suspected*: of the other nodes."""

    node: MapNode
    positions_of: PositionsOf
    is_suspected: Callable[[str], bool]


def only(node: MapNode, positions: Callable[[], Mapping[int, int]]) -> Members:
    """Return the members where there is but one node."""
    return Members(node, lambda _: positions(), lambda _: False)
