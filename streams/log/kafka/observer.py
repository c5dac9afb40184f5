"""The membership of a node that only looks: it reads the map of the group from outside, and never joins.

Invariants: it owns nothing and holds no lease; while the brokers are away, or the group divides its partitions anew,
the last map stays; when the group has lost all its members, the map says that nothing has an owner.
"""

import logging
import threading
from dataclasses import replace

from streams.clock import Clock, Deadline
from streams.cluster import NOWHERE, ClusterView, Placement
from streams.errors import LogUnavailable
from streams.log.base import OwnershipListener
from streams.log.kafka.assignor import view_of_assignment
from streams.log.kafka.topics import Topics

logger = logging.getLogger(__name__)

#: Between two looks. Whoever learns from a member that the map is old asks for one at once (`rebalance`).
_LOOK_INTERVAL_S = 1.0
_LOOK_TIMEOUT_S = 5.0


class KafkaObserver:
    """A `Membership` that is none."""

    lease_until = 0.0

    def __init__(self, group: str, topics: Topics, clock: Clock) -> None:
        self._group = group
        self._topics = topics
        self._clock = clock
        self._view = NOWHERE
        self._is_known_broken = False
        self._must_look = threading.Event()
        self._must_stop = False
        self._thread: threading.Thread | None = None

    def start(self, listener: OwnershipListener) -> None:
        self._thread = threading.Thread(target=self._run, args=(listener,), name="kafka-observer", daemon=True)
        self._thread.start()

    def rebalance(self) -> None:
        """Look at once. Any thread."""
        self._must_look.set()

    def leave(self, deadline: Deadline) -> None:
        self._must_stop = True
        self._must_look.set()
        if self._thread is not None:
            self._thread.join(deadline.remaining_s(self._clock))

    def _run(self, listener: OwnershipListener) -> None:
        while not self._must_stop:
            view = self._look()
            if view is not None and view != self._view:
                self._view = view
                logger.info("cluster_view_observed", extra={"generation": view.epoch, "nodes": sorted(view.nodes)})
                listener.on_view(view)
            self._must_look.wait(_LOOK_INTERVAL_S)
            self._must_look.clear()

    def _look(self) -> ClusterView | None:
        """Return the map as it is now, None when there is none to be had."""
        try:
            assignments = self._topics.assignments(self._group, Deadline.after(_LOOK_TIMEOUT_S, self._clock))
        except LogUnavailable as error:
            if not self._is_known_broken:
                logger.warning("kafka_group_not_seen", extra={"reason": str(error)})
            self._is_known_broken = True
            return None
        self._is_known_broken = False
        if assignments == []:
            return replace(self._view, nodes={}, placements=tuple(Placement(None) for _ in self._view.placements))
        views = [view for data in assignments or () if (view := view_of_assignment(data)) is not None]
        return max(views, key=lambda view: view.epoch, default=None)
