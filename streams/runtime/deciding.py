"""Makes groups of the commands that wait: decides them one after the other, each on what those before it leave behind.

Nothing is appended here. Owned by the stream thread. Invariant: a command whose partitions are not ready is not
decided; one for a partition that ails is alone in its group.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from streams.errors import NotTaken, RecordRefused, Restoring, StoreError, StreamsError, Unavailable
from streams.runtime.ailing import Ailing
from streams.runtime.commands import Command, Decided, Refused
from streams.runtime.group import Group, GroupView, Overlay
from streams.runtime.table import FencedTable, Pending
from streams.runtime.task import StreamTask
from streams.topology.graph import Topology

logger = logging.getLogger(__name__)

_NEAR_RECORDS = 20_000  # with a longer lag to the barrier, waiting commands are refused at once, not at their deadline
_MAX_GROUP_BYTES = 768 * 1024  # below Kafka's default max.request.size of 1 MiB, headers and framing included


class Decider:
    """Takes commands from the table; answers those that write nothing and wait for nothing."""

    def __init__(
        self,
        *,
        topology: Topology,
        table: FencedTable,
        tasks: Mapping[int, StreamTask],
        ailing: Ailing,
        why_not_ready: Callable[[Command], Unavailable | None],
        max_group_commands: int,
        on_damage: Callable[[int, str], None],
    ) -> None:
        self._topology = topology
        self._table = table
        self._tasks = tasks
        self._ailing = ailing
        self._why_not_ready = why_not_ready
        self._max_group_commands = max_group_commands
        self._on_damage = on_damage
        self._told_bug = ""
        self._solo_commands = 0  # so many go one by one: one of them is refused, and the log does not say where

    def take_apart(self, group: Group, error: BaseException, owned: Collection[int]) -> None:
        """The log refuses a record of *group*, or *error* is a bug that its records have met on their way. Where it has
        more commands than one, those that may have made the record are decided one by one from now on, and the others
        together; so each bug is its command's alone, and none is met for ever."""
        pendings = group.pendings
        refusal = error if isinstance(error, RecordRefused) else None
        if refusal is None:
            self._tell(error)
        if len(pendings) == 1:
            self._ailing.written(place.partition for place in group.partitions)
            self._table.answer(pendings[0], Refused(_refusal(error)))
            return
        blamed = frozenset[int]() if refusal is None else refusal.partitions.intersection(owned)
        if blamed:
            suspects = [one for one in pendings if not blamed.isdisjoint(one.command.partitions)]
            self._ailing.separate(blamed, len(suspects))
        else:
            self._solo_commands = len(pendings)
        self._table.give_back(pendings)

    def _tell(self, bug: BaseException) -> None:
        """Log *bug*: once, however often its group is taken apart."""
        if repr(bug) != self._told_bug:
            self._told_bug = repr(bug)
            logger.error("append failed", exc_info=bug)

    def next_group(self, below: Sequence[Overlay]) -> Group:
        """Return the commands that are to be appended next, and those that wait for an earlier group with them.
        *below*: the overlays of the groups that are not applied yet, oldest first."""
        group = Group(GroupView(self._tasks, self._topology, below))
        pendings = self._table.take(1 if self._solo_commands else self._max_group_commands)
        self._solo_commands = max(0, self._solo_commands - 1)
        apart: list[Pending] = []
        for index, pending in enumerate(pendings):
            if group.is_solo or group.size_bytes > _MAX_GROUP_BYTES:
                apart += pendings[index:]
                break
            is_solo = self._ailing.takes_one(pending.command.partitions)
            if self._why_not_ready(pending.command) is not None:
                self.sort((pending,))
            elif is_solo and group.members:
                apart.append(pending)
            else:
                self._decide(pending, group)
                group.is_solo = is_solo and bool(group.records)
        self._table.give_back(apart)
        return group

    def sort(self, pendings: Iterable[Pending]) -> None:
        """Park those of *pendings* that can be decided soon, and refuse the others now: where a partition is another
        node's the caller can turn to it, and where a restore or an outage is long he should not wait for it."""
        for pending in pendings:
            obstacle = self._why_not_ready(pending.command)
            if obstacle is None or self._is_short(obstacle):
                self._table.park(pending)
            else:
                self._table.answer(pending, Refused(obstacle))

    def _is_short(self, obstacle: Unavailable) -> bool:
        if isinstance(obstacle, NotTaken) and obstacle.partition is not None:
            return not self._ailing.is_chronic(obstacle.partition)
        return isinstance(obstacle, Restoring) and obstacle.lag_records <= _NEAR_RECORDS

    def _decide(self, pending: Pending, group: Group) -> None:
        view = group.view
        view.is_overlay_read = False
        try:
            records, result = pending.command.decide(view)
            if records:
                group.add(pending, records, result)
            elif view.is_overlay_read:
                group.members.append((pending, result, ()))
            else:
                self._table.answer(pending, Decided(result, {}))
        except StoreError as failure:
            assert view.failed_partition is not None, "only the view reads stores"
            self._on_damage(view.failed_partition, str(failure))
            why = "the store of this partition is being rebuilt"
            self._table.answer(pending, Refused(Restoring(why, partition=view.failed_partition, lag_records=0)))
        except StreamsError as refusal:
            self._table.answer(pending, Refused(refusal))
        except Exception as bug:
            logger.exception("command failed")
            self._table.answer(pending, Refused(bug))


def _refusal(error: BaseException) -> RecordRefused:
    """Return *error* as its command is told."""
    if isinstance(error, RecordRefused):
        return type(error)(str(error), error.partitions)
    refusal = RecordRefused(f"its records could not be written: {type(error).__name__}: {error}")
    refusal.__cause__ = error
    return refusal
