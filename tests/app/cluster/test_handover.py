"""A node that stops hands over first: bounded, and not at all when there is nobody to take over."""

import asyncio

from app.cluster.handover import hand_over
from streams.clock import Deadline
from streams.cluster import NOWHERE, ClusterView, NodeInfo, Placement
from streams.errors import Unavailable
from streams.testing import FakeClock

OWN = NodeInfo("own", "1", "http://own:1")
OTHER = NodeInfo("other", "1", "http://other:1")
LEAVING_S = 0.7


def view(epoch: int, *nodes: NodeInfo, owner: str | None) -> ClusterView:
    return ClusterView(epoch, {node.node_id: node for node in nodes}, (Placement(owner),))


class Node:
    """A node whose views come one by one, each after a tenth of a second."""

    info = OWN
    partitions = 1
    view_age_s = 0.0

    def __init__(self, clock: FakeClock, *views: ClusterView) -> None:
        self.clock = clock
        self.view, *self.coming = views
        self.has_left = False

    def leave(self, deadline: Deadline) -> None:
        assert deadline.remaining_s(self.clock) > LEAVING_S
        self.clock.advance(LEAVING_S)
        self.has_left = True

    async def wait_view(self, after_epoch: int, deadline: Deadline) -> ClusterView:
        assert self.has_left
        if not self.coming:
            self.clock.advance(deadline.remaining_s(self.clock))
            raise Unavailable("no newer view")
        self.clock.advance(0.3)
        self.view = self.coming.pop(0)
        assert self.view.epoch > after_epoch
        return self.view

    def offer_view(self, view: ClusterView) -> None: ...

    def owns(self, partition: int) -> bool:
        return not self.has_left

    def follows(self, partition: int) -> bool:
        return True


def seconds_of(node: Node) -> float:
    before = node.clock.monotonic()
    asyncio.run(hand_over(node, node.clock))
    return node.clock.monotonic() - before


def test_a_node_that_is_alone_does_not_leave() -> None:
    """Nobody could take over, and its stop must not last longer for it."""
    for lonely in (NOWHERE, view(3, OWN, owner="own")):
        node = Node(FakeClock(), lonely)
        assert seconds_of(node) == 0
        assert not node.has_left


def test_it_goes_on_until_others_own_everything() -> None:
    """A view that still names it, or a partition without an owner, is not the end."""
    node = Node(
        FakeClock(),
        view(3, OWN, OTHER, owner="own"),
        view(4, OTHER, owner=None),
        view(5, OTHER, owner="other"),
        view(6, OTHER, owner="other"),
    )
    seconds_of(node)
    assert node.view.epoch == 5


def test_it_does_not_wait_for_ever() -> None:
    """The others may be gone, too."""
    node = Node(FakeClock(), view(3, OWN, OTHER, owner="own"))
    assert LEAVING_S < seconds_of(node) < 2
    assert node.has_left
