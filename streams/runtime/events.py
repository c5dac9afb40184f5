"""What other threads tell the stream thread: changes of ownership, and damage met by a read.

Nothing is decided here. Two promises: a revocation does not return to the group before the stream thread has said that
nothing of the partitions is in flight, or the bound has passed; and no reader answers under a tenure that ended here.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from streams.cluster import ClusterView
from streams.log.base import Ownership
from streams.runtime.tenure import Tenures

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assigned:
    """These partitions are owned now, under this snapshot. `stamp`: of the tenures, see there."""

    ownership: Ownership
    stamp: int = 0


@dataclass(frozen=True, slots=True)
class Revoked:
    """These partitions have to be given up; `is_released` is set when they are."""

    partitions: frozenset[int]
    is_released: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Lost:
    """These partitions belong to somebody else already."""

    partitions: frozenset[int]


@dataclass(frozen=True, slots=True)
class Damaged:
    """A read met damage in the store of a task."""

    partition: int
    reason: str


@dataclass(frozen=True, slots=True)
class ViewChanged:
    """The newest map of the cluster."""

    view: ClusterView


Event = Assigned | Revoked | Lost | Damaged | ViewChanged


class OwnershipEvents:
    """The listener that a membership reports to."""

    def __init__(self, *, post: Callable[[Event], None], tenures: Tenures, revoke_timeout_s: float) -> None:
        """*post* queues an event for the stream thread and rouses it; any thread may call it."""
        self._post = post
        self._tenures = tenures
        self._revoke_timeout_s = revoke_timeout_s

    def on_assigned(self, ownership: Ownership) -> None:
        self._post(Assigned(ownership, self._tenures.stamp))

    def begin_revocation(self, partitions: frozenset[int]) -> threading.Event:
        """Have *partitions* given up; the event is set when nothing of them is in flight any more."""
        self._tenures.end(partitions)
        event = Revoked(partitions)
        self._post(event)
        return event.is_released

    def on_revoked(self, partitions: frozenset[int]) -> None:
        if not self.begin_revocation(partitions).wait(self._revoke_timeout_s):
            # The group goes on without us; the fence of the next owner aborts what we left open.
            logger.warning("revocation not finished in time", extra={"partitions": sorted(partitions)})

    def on_lost(self, partitions: frozenset[int]) -> None:
        self._tenures.end(partitions)
        self._post(Lost(partitions))

    def on_view(self, view: ClusterView) -> None:
        self._post(ViewChanged(view))
