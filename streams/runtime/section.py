"""The write section: decides commands in groups, appends each group in one transaction, learns what became of it.

Owned by the stream thread. One group is being appended at a time; groups whose append is known to have succeeded wait
for their read-back while the next one is decided on top of them. The states of the section:

    CLOSED --own--> FENCING --barrier taken--> SETTLING --group settled--> OPEN
       ^               ^          |                                       ^  |
       |               |          '---- no group of unknown outcome ------'  |
       '-- give_up all +----------- any error of an append, a new generation'

Invariants:
1. A command is decided only while the section is OPEN and its partitions are ready (owned, and their tasks have applied
   the barrier of the last fence), on all that is applied plus all that is committed and not applied yet (the overlay).
   An answer that leaned on the overlay waits for its group. A partition that restores, or for which the log takes
   nothing (`ailing.py`), keeps nobody else waiting.
2. The records of one group become visible to readers together: until a group's fate is known and all its records were
   read back, the batches of its partitions are held. That is for partitions that this node owns: one that was given up
   follows the log like every other copy, and what other nodes write is not held at all.
3. After an unknown outcome nothing is decided until a fence and a barrier have shown what is in the log. A group is
   atomic, so what one of its partitions shows is true of all.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from streams.clock import Clock, Deadline
from streams.errors import (
    LogError,
    NotOwner,
    NotTaken,
    OutcomeUnknown,
    PartitionsUnavailable,
    RecordRefused,
    Restoring,
    Unavailable,
)
from streams.log.base import LogWriter, Ownership
from streams.records import RecordBatch, TopicPartition
from streams.runtime.ailing import Ailing
from streams.runtime.commands import Command, Decided
from streams.runtime.committed import CommittedGroups
from streams.runtime.deciding import Decider
from streams.runtime.fencing import Fencing
from streams.runtime.group import Flights, Group, Held, append_with
from streams.runtime.metrics import RuntimeMetrics
from streams.runtime.states import SectionState, TaskState
from streams.runtime.table import FencedTable
from streams.runtime.task import StreamTask
from streams.topology.graph import Topology

logger = logging.getLogger(__name__)

_MAX_UNAPPLIED_GROUPS = 4  # committed groups that may wait for their read-back before the next one waits, too
_READ_BACK_S = 2.0  # a partition that does not give back for so long what was committed holds up nobody any more


class WriteSection:
    """Groups of commands on their way into the log. The stream thread only, but for the properties."""

    def __init__(
        self,
        *,
        topology: Topology,
        table: FencedTable,
        tasks: Mapping[int, StreamTask],
        writer: LogWriter,
        clock: Clock,
        wakeup: Callable[[], None],
        metrics: RuntimeMetrics,
        max_group_commands: int,
        append_timeout_s: float,
        on_damage: Callable[[int, str], None],
        flights: Flights,
    ) -> None:
        self.state = SectionState.CLOSED
        self.ownership: Ownership | None = None
        #: What is owned and not given up since; replaced whole, any thread may look.
        self.owned: frozenset[int] = frozenset()
        self._ready: set[int] = set()  # of these: the barrier of the last fence is applied
        self._topology = topology
        self._table = table
        self._tasks = tasks
        self._writer = writer
        self._clock = clock
        self._wakeup = wakeup
        self._metrics = metrics
        self._append_timeout_s = append_timeout_s
        self._flights = flights
        self._held = Held()
        self._fencing = Fencing(writer, clock, wakeup, append_timeout_s)
        self._group: Group | None = None  # being appended, or of unknown outcome
        self._committed = CommittedGroups(table=table, clock=clock, metrics=metrics, position=self._position)
        self._ailing = Ailing(writer, clock, wakeup, append_timeout_s)
        self._decider = Decider(
            topology=topology,
            table=table,
            tasks=tasks,
            ailing=self._ailing,
            why_not_ready=self.why_not_ready,
            max_group_commands=max_group_commands,
            on_damage=on_damage,
        )

    @property
    def is_idle(self) -> bool:
        """Whether no group is under way."""
        return self._group is None and not self._committed.unanswered

    @property
    def has_room(self) -> bool:
        """Whether another group could be begun."""
        return self._group is None and len(self._committed.groups) < _MAX_UNAPPLIED_GROUPS

    @property
    def has_news(self) -> bool:
        """Whether the log has finished something that `advance` has not seen."""
        append = self._group.append if self._group is not None else None
        return (append is not None and append.done()) or self._fencing.has_news or self._ailing.has_news

    @property
    def is_appending(self) -> bool:
        """Whether the writer is at work on an append."""
        return self._group is not None and self._group.append is not None

    @property
    def _is_unknown(self) -> bool:
        return self._group is not None and self._group.append is None

    def own(self, ownership: Ownership) -> None:
        """Write under *ownership* from now on, after a fence. What was in flight is settled by that fence."""
        self.give_up(self.owned - ownership.partitions)
        self.ownership = ownership
        self.owned = ownership.partitions
        self._fence()
        self._table.unpark()

    def give_up(self, partitions: frozenset[int]) -> None:
        """Write no more to *partitions*, and go on with the rest; commands that wait for them are refused at once. A
        group in flight keeps its fate: known when its append ends, else found out by the next owner's fence; its
        callers are told at their deadlines."""
        self.owned -= partitions
        self._ready -= partitions
        self._ailing.keep(self.owned)
        self._committed.stop_awaiting(partitions)
        self._table.unpark()
        if not self.owned:
            self.ownership = None
            self._fencing.require()
            self.state = SectionState.CLOSED

    def advance(self) -> None:
        """Look at what has ended since the last call: an append, a fence. Called once a turn."""
        group = self._group
        if group is not None and group.append is not None and group.append.done():
            self._settle(group, group.append)
        may_fence = self.state is SectionState.FENCING and not self.is_appending
        if self._fencing.advance(self.ownership if may_fence else None):
            self._ready.clear()
            if self._group is not None:
                self.state = SectionState.SETTLING
            else:
                self._open()
            self._ailing.note(one for one in self.owned if self.barrier_of(one) is None)
        self._look()
        if not self.is_idle:
            self._expire_members()
            self._mind_late()
        self._note_flights()

    def barrier_of(self, partition: int) -> Mapping[str, int] | None:
        """Return topic to offset that task *partition* must reach to be ready; None while no fence has told."""
        if self.state not in (SectionState.SETTLING, SectionState.OPEN):
            return None
        return self._fencing.barrier_of(partition, self._topology.topics)

    @property
    def unready(self) -> frozenset[int]:
        """The owned partitions that have not applied the barrier yet."""
        return self.owned - self._ready

    @property
    def ailing(self) -> frozenset[int]:
        """The owned partitions for which the log takes nothing for now. Any thread."""
        return self._ailing.partitions

    def set_ready(self, partition: int) -> None:
        """The task of *partition* is active and has applied its `barrier_of`."""
        self._ready.add(partition)
        self._table.unpark()

    def settle(self) -> None:
        """Leave SETTLING once the partitions of the group of unknown outcome have applied the barrier; for those that
        have none, since nobody leads them, nobody waits."""
        if self.state is not SectionState.SETTLING:
            return
        group = self._group
        if group is not None:
            barrier = self._fencing.barrier
            if any(place.partition in self.unready and place in barrier for place in group.partitions):
                return
            self._settle_by_evidence(group)
        self._open()

    def why_not_ready(self, command: Command) -> Unavailable | None:
        """Return why *command* cannot be decided now, or None when its partitions are ready."""
        for partition in command.partitions:
            if partition not in self.owned:
                return NotOwner(f"this node does not own partition {partition}", partition=partition)
            if self._ailing.takes_nothing(partition):
                return NotTaken(f"the log takes nothing for partition {partition} now", partition=partition)
            if partition not in self._ready:
                lag = self._tasks[partition].lag_records()
                return Restoring(f"partition {partition} is restoring", partition=partition, lag_records=lag)
        return None

    def start_group(self) -> None:
        """Decide what waits in the table and append it as one group, if the section is open and has room."""
        if not self._table.queued:
            return
        if self.state is not SectionState.OPEN or self.ownership is None:
            self._decider.sort(self._table.take(self._table.queued))
            return
        if not self.has_room:
            return
        group = self._decider.next_group(self._committed.overlays)
        if group.records:
            self._append(group, self.ownership)
        elif group.members:  # They only read the overlay: they wait for the group that made it.
            self._committed.groups[-1].members.extend(group.members)

    def hold(self, batches: Sequence[RecordBatch]) -> list[RecordBatch]:
        """Take what was read and return what may be applied now; the rest is held (invariant 2)."""
        if not batches or (self.is_idle and not self._held):
            return list(batches)
        self._held.add(batches, note_events=self._group is not None)
        return self.release()

    def release(self) -> list[RecordBatch]:
        """Return held batches that may be applied now: all of a group that is complete, and what no group touches."""
        if not self._held:
            return []
        ready = self._committed.release(self._held)
        return ready + self._held.take_except(self._blocked_by_group() | self._committed.awaited)

    def _blocked_by_group(self) -> frozenset[TopicPartition]:
        """Return where the group that is being appended, or is of unknown outcome, may have records."""
        if self._group is None:
            return frozenset()
        blocked = frozenset(place for place in self._group.partitions if place.partition in self.owned)
        if self._is_unknown and self.state is SectionState.SETTLING:
            ends = {place: end for place, end in self._fencing.barrier.items() if place in blocked}
            if self._held.has_all(ends, self._position):
                return frozenset()  # Fenced and read to the barrier: there is no more of it.
        return blocked

    def is_holding(self, partition: int) -> bool:
        """Say whether something that was read of *partition* is not applied yet."""
        return self._held.has_any(partition)

    def forget_held(self, partition: int) -> None:
        """Drop what is held for task *partition*, whose reading begins anew: applying it would leave a gap."""
        self._held.drop(partition)

    def rebuilding(self, partition: int) -> None:
        """Task *partition* begins anew: it has to come to the end of all that was committed before it is ready again,
        and nobody waits until then for what it reads back."""
        self._ready.discard(partition)
        self._fencing.raise_barrier(self._committed.stop_awaiting((partition,)))
        self._table.unpark()

    def applied(self) -> None:
        """After batches were applied: answer whoever is applied now."""
        self._committed.answer_applied()
        self._note_flights()

    def _note_flights(self) -> None:
        self._flights.note(self._committed.overlays, self._group, unready=self.unready)

    def _position(self, partition: TopicPartition) -> int:
        task = self._tasks.get(partition.partition)
        return task.positions.get(partition.topic, 0) if task is not None else 0

    def _append(self, group: Group, ownership: Ownership) -> None:
        group.begun_at = self._clock.monotonic()
        group.ownership = ownership
        first = self._topology.topics[0]
        written = {place.partition for place in group.partitions}
        positions = {partition: self._tasks[partition].positions[first] for partition in written}
        deadline = Deadline.after(self._append_timeout_s, self._clock)
        self._group = group
        self._note_flights()
        group.append = append_with(self._writer, group.records, ownership, positions, deadline)
        if group.append.done():
            self._settle(group, group.append)
        else:
            group.append.add_done_callback(lambda _: self._wakeup())

    def _settle(self, group: Group, append: Future[Mapping[TopicPartition, int]]) -> None:
        """The append has ended: committed, certainly not appended, or unknown."""
        error = append.exception()
        if error is None:
            self._group = None
            self._held.events.clear()
            self._ailing.written(place.partition for place in group.partitions)
            self._await(group, append.result())
            return
        self._metrics.append_failed(error)
        if isinstance(error, OutcomeUnknown):
            logger.warning("append outcome unknown", extra={"commands": len(group.members), "reason": str(error)})
            group.append = None
            self._fence()
            return
        self._group = None
        if isinstance(error, RecordRefused) or not isinstance(error, LogError):
            self._decider.take_apart(group, error, self.owned)
        else:
            if isinstance(error, PartitionsUnavailable):
                self._ailing.note(error.partitions & self.owned)
            logger.warning("append failed", extra={"commands": len(group.members), "reason": str(error)})
            self._table.give_back(group.pendings)  # Nothing was appended: decided again inside their deadlines.
        if not isinstance(error, RecordRefused):
            self._fence(error)

    def _await(self, group: Group, targets: Mapping[TopicPartition, int]) -> None:
        """*group* is in the log. Its callers wait until it is applied here; a partition that restores or was given up
        holds nobody else up."""
        group.targets = targets = {at: targets[at] for at in group.partitions}
        active = {number for number in self.owned if self._tasks[number].state is TaskState.ACTIVE}
        awaited = {at: end for at, end in targets.items() if at.partition in active}
        self._fencing.raise_barrier({at: end for at, end in targets.items() if at not in awaited})
        self._committed.add(group, awaited)

    def _settle_by_evidence(self, group: Group) -> None:
        """The barrier is applied wherever there is one for *group*: what can be read of it tells whether it is in the
        log as a whole, or never will be."""
        self._group = None
        read = {place for place in group.partitions if place.partition in self._ready}
        evidence = group.evidence_in(read)
        if read < group.partitions:  # The rest is another node's, or out of reach.
            self._flights.doubt(group)
        if not evidence:
            self._table.answer_unknown(group.pendings)
            return
        is_there = all(self._held.has_event(record.headers) for record in evidence)
        logger.info("append settled", extra={"commands": len(group.members), "is_written": is_there})
        if not is_there:
            self._table.give_back(group.pendings)
            return
        group.targets = self._fencing.barrier
        for pending, result, records in group.members:
            if {TopicPartition(record[0], record[1]) for record in records} & group.partitions <= read:
                self._table.answer(pending, Decided(result, group.positions_of(records)))
        self._table.answer_unknown(group.pendings)  # the others: who reads them cannot see them yet

    def _look(self) -> None:
        """Take what a look at the partitions that ail has shown: where there was no barrier, there may be one."""
        look = self._ailing.advance(is_fenced=self.state in (SectionState.SETTLING, SectionState.OPEN))
        if look is not None:
            barrier = self._fencing.barrier
            self._fencing.raise_barrier({place: end for place, end in look.ends.items() if place not in barrier})
            self._table.unpark()

    def _mind_late(self) -> None:
        """Hold up nobody for what a partition does not give back."""
        late = self._committed.late(self._clock.monotonic() - _READ_BACK_S, self._held)
        for group in self._committed.unanswered if late else ():
            if any(place.partition in late for place in group.partitions):
                self._flights.doubt(group)
        for partition in late:
            self.rebuilding(partition)
        self._ailing.note(late)

    def _expire_members(self) -> None:
        """Tell callers whose deadline has passed that the outcome is not known (yet)."""
        now = self._clock.monotonic()
        under_way = [self._group] if self._group is not None else []
        begun = [pending for group in (*self._committed.unanswered, *under_way) for pending in group.pendings]
        self._table.answer_unknown(pending for pending in begun if pending.deadline_at <= now)
        is_resting = self._is_unknown and self.state in (SectionState.CLOSED, SectionState.SETTLING)
        if is_resting and all(pending.is_answered for pending in under_way[0].pendings):
            self._flights.doubt(under_way[0])
            self._group = None  # Nobody wants to know any more; a partition of it may take long to restore, or be gone.
            self._held.events.clear()

    def _fence(self, failure: BaseException | None = None) -> None:
        if failure is not None:
            self._fencing.require_later(failure)
        else:
            self._fencing.require()
        self._ailing.fenced()
        self.state = SectionState.FENCING if self.ownership is not None else SectionState.CLOSED

    def _open(self) -> None:
        self.state = SectionState.OPEN
        self._fencing.succeeded()
        self._table.unpark()
