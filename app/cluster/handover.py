"""The first step of a stop: this node's partitions go to the others while it still takes requests and passes them on.

Nothing is closed here. Invariant: bounded in time, whatever the group and the others do.
"""

import asyncio
from contextlib import suppress
from typing import Protocol

from app.cluster.ports import ClusterNode
from streams.clock import Clock, Deadline
from streams.cluster import ClusterView
from streams.errors import Unavailable

#: For the group to go on without this node, and for the others to say so.
_TAKE_OVER_S = 1.8
#: At least so long requests are still taken: clients with open connections are told to close them, and whoever looks at
#: `/readyz` once a second sees that this node stops.
_LINGER_S = 1.1


class LeavingNode(ClusterNode, Protocol):
    """A node that can leave its group (`streams.runtime.node.StreamsNode`)."""

    def leave(self, deadline: Deadline) -> None: ...


async def hand_over(node: LeavingNode, clock: Clock) -> None:
    """Leave the group and return when every partition has another owner, as the others say, and clients have had the
    time to turn to them. A node that is alone returns at once, and stays in the group. Event loop."""
    if not node.view.nodes.keys() - {node.info.node_id}:
        return
    deadline, linger = Deadline.after(_TAKE_OVER_S, clock), Deadline.after(_LINGER_S, clock)
    await asyncio.to_thread(node.leave, deadline)
    with suppress(Unavailable):
        while not _is_taken_over(view := node.view, node.info.node_id):
            await node.wait_view(view.epoch, deadline)
    await asyncio.sleep(linger.remaining_s(clock))


def _is_taken_over(view: ClusterView, node_id: str) -> bool:
    return node_id not in view.nodes and all(place.owner is not None for place in view.placements)
