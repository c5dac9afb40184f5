"""Who has which partition, as a document for people and tools (Kafka Streams: StreamsMetadata). Pure functions.

What it tells is a hint of the moment, as every map: positions of other nodes are as old as their last word.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from streams.cluster import ClusterView, NodeInfo

#: The position of each partition that a node holds, by its id; None when it has not told.
PositionsOf = Callable[[str], Mapping[int, int] | None]
#: Whether a node, by its id, is suspected to be dead.
IsSuspected = Callable[[str], bool]


def nodes(view: ClusterView, is_suspected: IsSuspected) -> list[dict[str, Any]]:
    """Return the nodes of *view*, by id."""
    return [
        {
            "node_id": node.node_id,
            "address": node.address,
            "role": node.role,
            "rack": node.rack,
            "suspected": is_suspected(node.node_id),
        }
        for _, node in sorted(view.nodes.items())
    ]


def partitions(
    view: ClusterView, numbers: Sequence[int], positions_of: PositionsOf, is_suspected: IsSuspected
) -> list[dict[str, Any]]:
    """Return for each partition of *numbers* who owns and who follows it, how far each is, and by how many records each
    is behind the one farthest ahead; null where that is not known."""
    told = {node_id: positions_of(node_id) or {} for node_id in view.nodes}
    return [_partition(view, number, told, is_suspected) for number in numbers]


def _partition(
    view: ClusterView, number: int, told: Mapping[str, Mapping[int, int]], is_suspected: IsSuspected
) -> dict[str, Any]:
    place = view.placements[number] if number < len(view.placements) else None
    holders: list[tuple[str, NodeInfo]] = []
    if place is not None:
        roles = (("owner", (place.owner,)), ("standby", place.standbys), ("warming", place.warming))
        holders = [
            (role, view.nodes[node_id]) for role, ids in roles for node_id in ids if node_id and node_id in view.nodes
        ]
    end = max((told[node.node_id].get(number, 0) for _, node in holders), default=0)
    instances = []
    for role, node in holders:
        position = told[node.node_id].get(number)
        instances.append(
            {
                "node_id": node.node_id,
                "address": node.address,
                "role": role,
                "suspected": is_suspected(node.node_id),
                "position": position,
                "lag": None if position is None else end - position,
            }
        )
    return {"partition": number, "owner": place.owner if place is not None else None, "instances": instances}
