"""Groups that are in the log for certain and wait until they can be read here: only then their callers are answered.

Owned by the stream thread. Invariants: groups are answered in the order of their commits, since an answer may lean on
what an earlier group decided; nobody is answered before all that he wrote was read here, also of partitions that this
node does not own any more: that a transaction is decided does not say that its markers are in every partition, and a
follower that asks the log for its end meanwhile would be told one that lies before it.
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
        self._loose: list[Group] = []  # applied but for what was written to partitions that are not awaited any more
        self._table = table
        self._clock = clock
        self._metrics = metrics
        self._position = position

    @property
    def overlays(self) -> list[Overlay]:
        """The rows that are committed and not applied."""
        return [group.overlay for group in self.groups]

    @property
    def unanswered(self) -> list[Group]:
        """All groups whose members wait."""
        return self.groups + self._loose

    @property
    def awaited(self) -> frozenset[TopicPartition]:
        """The partitions of which something is awaited."""
        return frozenset[TopicPartition]().union(*(group.awaited for group in self.groups))

    def add(self, group: Group, awaited: Mapping[TopicPartition, int]) -> None:
        """Take *group*, of which *awaited* is held and applied together, and holds up later groups; the rest of its
        targets only its own members wait for."""
        group.awaited = awaited
        group.committed_at = self._clock.monotonic()
        self.groups.append(group)
        self.answer_applied()

    def stop_awaiting(self, partitions: Iterable[int]) -> Mapping[TopicPartition, int]:
        """Hold up nothing any more for what is written to *partitions*; return what was awaited of them."""
        gone = frozenset(partitions)
        ends: dict[TopicPartition, int] = {}
        for group in self.groups:
            ends.update({at: end for at, end in group.awaited.items() if at.partition in gone})
            group.awaited = {at: end for at, end in group.awaited.items() if at.partition not in gone}
        self.answer_applied()
        return ends

    def late(self, committed_before: float, held: Held) -> frozenset[int]:
        """Return the partitions that have not told what was committed there so long ago."""
        late: set[int] = set()
        for group in self.groups:
            if group.committed_at > committed_before:
                break
            late.update(
                at.partition for at, end in group.awaited.items() if not held.has_all({at: end}, self._position)
            )
        return frozenset(late)

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
        while self.groups and self._is_applied(self.groups[0].awaited):
            self._loose.append(self.groups.pop(0))
        applied = [group for group in self._loose if self._is_applied(group.targets)]
        self._loose = [
            group
            for group in self._loose
            if group not in applied and not all(pending.is_answered for pending, _, _ in group.members)
        ]
        for group in applied:
            self._metrics.group_applied(len(group.members), self._clock.monotonic() - group.begun_at)
            for pending, result, records in group.members:
                self._table.answer(pending, Decided(result, group.positions_of(records)))

    def _is_applied(self, ends: Mapping[TopicPartition, int]) -> bool:
        return all(self._position(partition) >= end for partition, end in ends.items())
