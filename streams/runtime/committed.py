"""Groups that are in the log for certain and wait until they can be read here: only then their callers are answered.

Owned by the stream thread. Invariant: groups are answered in the order of their commits, since an answer may lean on
what an earlier group decided.
"""

from collections.abc import Callable, Iterable, Mapping

from streams.clock import Clock
from streams.records import RecordBatch, TopicPartition
from streams.runtime.commands import Decided
from streams.runtime.group import Group, Held, Overlay
from streams.runtime.metrics import RuntimeMetrics
from streams.runtime.table import FencedTable


class CommittedGroups:
    """The committed groups that are not applied yet, oldest first."""

    def __init__(
        self,
        *,
        table: FencedTable,
        clock: Clock,
        metrics: RuntimeMetrics,
        position: Callable[[TopicPartition], int],
    ) -> None:
        """*position* tells what is applied."""
        self.groups: list[Group] = []
        self._table = table
        self._clock = clock
        self._metrics = metrics
        self._position = position

    @property
    def overlays(self) -> list[Overlay]:
        """The rows that are committed and not applied."""
        return [group.overlay for group in self.groups]

    @property
    def awaited(self) -> frozenset[TopicPartition]:
        """The partitions of which something is awaited."""
        return frozenset[TopicPartition]().union(*(group.awaited for group in self.groups))

    def add(self, group: Group, awaited: Mapping[TopicPartition, int]) -> None:
        """Take *group*, which waits for *awaited*; without any, it is answered as soon as those before it are."""
        group.awaited = awaited
        self.groups.append(group)
        self.answer_applied()

    def stop_awaiting(self, partitions: Iterable[int]) -> Mapping[TopicPartition, int]:
        """Wait no longer for what is written to *partitions*; return what was awaited of them."""
        gone = frozenset(partitions)
        ends: dict[TopicPartition, int] = {}
        for group in self.groups:
            ends.update({at: end for at, end in group.awaited.items() if at.partition in gone})
            group.awaited = {at: end for at, end in group.awaited.items() if at.partition not in gone}
        self.answer_applied()
        return ends

    def release(self, held: Held) -> list[RecordBatch]:
        """Take from *held* the batches of all groups of which everything was read."""
        ready: list[RecordBatch] = []
        for group in self.groups:
            if not held.has_all(group.awaited, self._position):
                break
            ready += held.take_until(group.awaited)
        return ready

    def answer_applied(self) -> None:
        """Answer the members of every group that is applied now."""
        while self.groups:
            group = self.groups[0]
            if any(self._position(partition) < end for partition, end in group.awaited.items()):
                return
            self.groups.pop(0)
            self._metrics.group_applied(len(group.members), self._clock.monotonic() - group.begun_at)
            for pending, result, records in group.members:
                self._table.answer(pending, Decided(result, group.positions_of(records)))
