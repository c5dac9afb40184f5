"""The tasks of this node: opens them, has the reader follow them, removes them.

Owned by the stream thread; other threads look into `opened`. Which tasks there should be is decided elsewhere.
"""

import logging
from collections.abc import Callable, Iterable, Mapping

from streams.clock import Clock
from streams.records import TopicPartition
from streams.runtime.states import TaskState
from streams.runtime.task import StreamTask
from streams.stores.base import StoreFactory, StoreIdentity
from streams.topology.graph import Topology

logger = logging.getLogger(__name__)


class Tasks:
    """All open tasks, by partition."""

    def __init__(
        self,
        *,
        topology: Topology,
        stores: StoreFactory,
        clock: Clock,
        on_poison: Callable[[str, str], None],
        assign: Callable[[Mapping[TopicPartition, int]], None],
    ) -> None:
        """*assign* gives the reader a new assignment."""
        self.opened: dict[int, StreamTask] = {}
        #: What the stores are made from; None until the log was reached.
        self.identity: StoreIdentity | None = None
        self._topology = topology
        self._stores = stores
        self._clock = clock
        self._on_poison = on_poison
        self._assign = assign

    def on_disk(self) -> frozenset[int]:
        """Return the partitions of which there is state, after removing what is of none."""
        assert self.identity is not None
        found = frozenset(self._stores.tasks())
        partitions = frozenset(range(self.identity.partitions))
        for task in found - partitions:
            self._stores.wipe(task)  # of a topic that had more partitions
        return found & partitions

    def open(self, partitions: frozenset[int]) -> None:
        """Open those of *partitions* that are not open yet, and follow them."""
        assert self.identity is not None
        missing = sorted(partitions - self.opened.keys())
        for partition in missing:
            task = StreamTask(
                partition,
                topology=self._topology,
                stores=self._stores,
                identity=self.identity,
                clock=self._clock,
                on_poison=self._on_poison,
            )
            task.move_to(TaskState.STANDBY)
            self.opened[partition] = task
        if missing:
            self.assign_reader()

    def remove(self, partitions: Iterable[int]) -> None:
        """Close the tasks of *partitions* and delete their state."""
        for partition in partitions:
            logger.info("task removed", extra={"task": partition})
            self.opened.pop(partition).discard()
        self.assign_reader()

    def assign_reader(self) -> None:
        """Have the reader read every task from its own position on."""
        positions: dict[TopicPartition, int] = {}
        for task in self.opened.values():
            positions.update(task.topic_partitions())
        self._assign(positions)

    def close(self) -> None:
        """Close all stores."""
        for task in self.opened.values():
            task.close()
