"""Several nodes on one log and one group, in one thread and from one seed: nodes join, leave, die, stand still and come
back, appends are lost or late, tasks warm up, while clients write and read.

After every step at most one node may answer plain reads of a partition; every read is checked against what was
acknowledged before it began, what a replica says about its age against the log's past, and at the end, when all is
healed, every partition has one owner, the log holds what was acknowledged and nothing that was denied, and every store
is the fold of the log. A failing seed replays it.
"""

import os
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from streams.cluster import OBSERVER
from streams.errors import LeaseExpired, RecordRefused, StoreClosed, Unavailable
from streams.records import Record, TopicPartition, header
from streams.runtime.commands import Decided, Refused, Unknown
from streams.runtime.committed import CommittedGroups
from streams.runtime.events import Lost
from streams.runtime.reader import TaskReader
from streams.runtime.states import TaskState
from streams.runtime.task import StreamTask
from streams.runtime.tenure import Tenures
from streams.stores.memory import MemoryStoreFactory
from streams.testing import FakeClock, Fault, GroupMembership, MemoryGroup, MemoryLog
from streams.testing.log import MemoryWriter
from tests.streams.runtime.rig import INDEX, PARTITIONS, ROWS, Put, Rig

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "90"))
STEPS = 350
KEYS = [b"a", b"b"]
FAULTS = [Fault.UNAVAILABLE, Fault.UNKNOWN_WRITTEN, Fault.UNKNOWN_LATE, Fault.UNKNOWN_LOST] + [Fault.PENDING] * 4
FAULTS += [Fault.REFUSED, Fault.TOO_LARGE]
SESSION_S = 3.0

Place = tuple[str, int, bytes]


@dataclass(eq=False)
class Node:
    """One process of the cluster."""

    name: str
    rig: Rig
    is_paused: bool = False
    is_stalled: bool = False  # the stream thread stands still, the member of the group does not
    revoking: Any = None  # set: it is leaving
    #: Partitions that were active after the last step.
    active: frozenset[int] = frozenset()

    @property
    def membership(self) -> GroupMembership:
        membership = self.rig.thread.membership
        assert isinstance(membership, GroupMembership)
        return membership


@dataclass(eq=False)
class Read:
    """A plain read on its way: reader taken, then the row, then the lease checked, with anything in between."""

    node: Node
    place: Place
    reader: TaskReader
    must_see: int  # the offset of the last acknowledged write, when it began; -1: none
    row: Any = ...


@dataclass
class Counts:
    """That the run was worth something."""

    answered: int = 0
    refused_by_lease: int = 0
    decided: int = 0
    unknown: int = 0
    takeovers: int = 0
    kept: int = 0
    stale_reads: int = 0
    decided_beside: int = 0  # writes that were acknowledged while a partition that they did not touch had no leader
    events: dict[str, int] = field(default_factory=dict)


class Cluster:
    """One random run."""

    def __init__(self, seed: int, counts: Counts) -> None:
        self.random = random.Random(seed)
        self.clock = FakeClock()
        self.group = MemoryGroup(clock=self.clock, session_timeout_s=SESSION_S, rebalance_timeout_s=5.0)
        self.log = MemoryLog(clock=self.clock, group=self.group)
        self.stores: dict[str, MemoryStoreFactory] = {}
        self.nodes: list[Node] = []
        self.puts: list[tuple[Node, Put]] = []
        self.answers: dict[Put, Any] = {}
        self.acknowledged: dict[Place, int] = {}  # the offset of the last acknowledged write of a key
        self.reads: list[Read] = []
        self.past: list[tuple[float, dict[TopicPartition, int]]] = []
        self.counts = counts
        for name in ("n1", "n2", "n3"):
            self.start(name)
        self.start("o1", role=OBSERVER)
        self.rounds(12)

    # What happens.

    def run(self, steps: int) -> None:
        actions: list[Callable[[], None]] = [self.turn] * 14 + [self.look] * 6 + [self.put] * 5 + [self.complete] * 3
        actions += [self.begin_read] * 4 + [self.go_on_reading] * 6 + [self.read_replica] * 2 + [self.wait] * 4
        actions += [self.fault, self.land, self.withhold, self.release, self.damage, self.take_away, self.bring_back]
        actions += [self.rare] * 2
        for _ in range(steps):
            self.random.choice(actions)()
            self.check()
        self.heal()
        self.judge()

    def rare(self) -> None:
        actions = [
            self.kill,
            self.leave,
            self.pause,
            self.pause,
            self.stall,
            self.join,
            self.join,
            self.resume,
            self.resume,
        ]
        action = self.random.choice([*actions, self.rebalance])
        if self.random.random() < 0.4:
            self.counts.events[action.__name__] = self.counts.events.get(action.__name__, 0) + 1
            action()

    def start(self, name: str, **config: Any) -> None:
        stores = self.stores.setdefault(name, MemoryStoreFactory(max_age_ms=None, clock=self.clock))
        rig = Rig(
            log=self.log,
            stores=stores,
            clock=self.clock,
            node_id=name,
            num_standby_replicas=1,
            state_cleanup_delay_s=20.0,
            **config,
        )
        assert rig.thread.bootstrap()
        self.nodes.append(Node(name, rig))

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes if not node.is_paused]

    def some(self) -> Node:
        return self.random.choice(self.running or self.nodes)

    def turn(self) -> None:
        if self.running:
            node = self.some()
            if not node.is_stalled:
                node.rig.turn()
            self.collect(node)
            if node.revoking is not None and node.revoking.is_set():
                self.end(node)

    def look(self) -> None:
        if self.running:
            node = self.some()
            if node.revoking is None:
                node.membership.step()

    def put(self) -> None:
        draw = self.random
        partition = draw.randrange(PARTITIONS)
        places = [(ROWS, partition)]
        if draw.random() < 0.4:
            places.append((INDEX, partition if draw.random() < 0.7 else draw.randrange(PARTITIONS)))
        expected: Any = draw.choice([..., None, *(put.value for _, put in self.puts[-4:])])
        put = Put(draw.choice(KEYS), b"v%d" % len(self.puts), places=tuple(places), expected=expected)
        owners = [node for node in self.nodes if node.rig.node.owns(partition)]
        node = draw.choice(owners) if owners and draw.random() < 0.9 else draw.choice(self.nodes)
        if node.revoking is None:
            self.puts.append((node, put))
            node.rig.submit(put, seconds=draw.choice([1, 4, 10]))

    def complete(self) -> None:
        if self.log.pending:
            self.log.complete()

    def fault(self) -> None:
        self.log.faults.append(self.random.choice(FAULTS))

    def land(self) -> None:
        self.log.land()

    def withhold(self) -> None:
        place = TopicPartition(self.random.choice([ROWS, INDEX]), self.random.randrange(PARTITIONS))
        self.log.withhold(place)

    def release(self) -> None:
        self.log.release()

    def take_away(self) -> None:
        """A partition, or a task's both, loses its leader, in the middle of whatever goes on."""
        if self.random.random() < 0.5:
            partition = self.random.randrange(PARTITIONS)
            for topic in self.random.choice([(ROWS,), (INDEX,), (ROWS, INDEX)]):
                self.log.take_away(TopicPartition(topic, partition))

    def bring_back(self) -> None:
        self.log.bring_back()

    def wait(self) -> None:
        self.clock.advance(self.random.choice([0.02, 0.1, 0.1, 0.4]))

    def damage(self) -> None:
        node, partition = self.some(), self.random.randrange(PARTITIONS)
        if self.random.random() < 0.1 and partition in node.rig.thread.tasks:
            node.rig.node.report_damage(partition, "chosen by the simulation")
            node.active -= {partition}

    def rebalance(self) -> None:
        self.some().membership.rebalance()

    def pause(self) -> None:
        self.some().is_paused = True
        if self.random.random() < 0.5:
            self.rounds(4, seconds=1.0)  # the others go on without it

    def stall(self) -> None:
        """A node stands still long enough to be put out, then only its member of the group comes back at once."""
        node = self.some()
        node.is_paused = True
        self.rounds(6, seconds=0.9)
        node.is_paused, node.is_stalled = False, True
        self.rounds(6, seconds=0.1)

    def resume(self) -> None:
        for node in self.nodes:
            node.is_paused = node.is_stalled = False

    def join(self) -> None:
        free = [name for name in ("n1", "n2", "n3", "n4") if all(node.name != name for node in self.nodes)]
        if free:
            self.start(self.random.choice(free))

    def kill(self) -> None:
        """The process is gone between two turns; what it left open in the log is decided later, or never."""
        node = self.random.choice(self.nodes)
        if node.name == "o1" or len(self.nodes) <= 3:
            return
        self.collect(node)
        self.forget(node)
        if self.random.random() < 0.5:  # started again at once, it ends the session of its last life
            self.group.remove(node.membership._member_id)
            self.start(node.name)
        elif self.random.random() < 0.5:
            self.rounds(5, seconds=0.8)

    def leave(self) -> None:
        """A node stops in order: gives up what it owns, then leaves."""
        node = self.some()
        if node.name == "o1" or len(self.nodes) <= 3 or node.revoking is not None or node.membership._revocation:
            return
        listener: Any = node.membership._listener
        node.rig.node.table.start_draining()
        node.revoking = listener.begin_revocation(node.rig.thread.owned)
        node.active = frozenset()

    def end(self, node: Node) -> None:
        node.membership._reported = None
        node.membership.leave(None)  # type: ignore[arg-type]
        node.rig.thread.close()
        self.collect(node)
        self.forget(node)

    def forget(self, node: Node) -> None:
        for owner, put in self.puts:
            if owner is node and put not in self.answers:
                self.answers[put] = Unknown(put.event_id)
        self.reads = [read for read in self.reads if read.node is not node]
        self.nodes.remove(node)
        for task in node.rig.thread.tasks.values():
            task.store.close()

    def rounds(self, count: int, *, seconds: float = 0.3) -> None:
        """Everybody who is not paused has turns while time passes."""
        for _ in range(count):
            self.clock.advance(seconds)
            for node in self.running:
                if node.revoking is None:
                    node.membership.step()
                node.rig.turn(0 if node.is_stalled else 2)
                self.collect(node)
                if node.revoking is not None and node.revoking.is_set():
                    self.end(node)
            self.check()

    # What clients see.

    def collect(self, node: Node) -> None:
        for put, outcome in node.rig.sink.outcomes.items():
            if put in self.answers:
                continue
            self.answers[put] = outcome
            self.counts.unknown += isinstance(outcome, Unknown)
            if isinstance(outcome, Decided) and outcome.result[0] == "put":
                self.counts.decided += 1
                self.counts.decided_beside += bool(self.log.away) and self.log.away.isdisjoint(put.places)
                for topic, partition in put.places:
                    place = (topic, partition, put.key)
                    self.acknowledged[place] = max(self.acknowledged.get(place, -1), self.offset_of(place, put.value))

    def offset_of(self, place: Place, value: bytes | None) -> int:
        """Return the offset at which the key got the value, -1 when it has none."""
        found = [r.offset for r in self.records(place) if r.value == value]
        assert found or value is None, "acknowledged, or read, and not in the log"
        return found[0] if found else -1

    def records(self, place: Place) -> list[Record]:
        topic, partition, key = place
        return [r for r in self.log._records.get(TopicPartition(topic, partition), ()) if r.key == key]

    def begin_read(self) -> None:
        node = self.some()
        place = (self.random.choice([ROWS, INDEX]), self.random.randrange(PARTITIONS), self.random.choice(KEYS))
        try:
            reader = node.rig.node.reader(f"{place[0]}.store", place[1])
        except Unavailable:
            return
        self.reads.append(Read(node, place, reader, self.acknowledged.get(place, -1)))

    def go_on_reading(self) -> None:
        going = [read for read in self.reads if not read.node.is_paused]
        if not going:
            return
        read = self.random.choice(going)
        if read.row is ...:
            try:
                read.row = read.reader.get(read.place[2])
            except StoreClosed:
                self.reads.remove(read)
            return
        self.reads.remove(read)
        try:
            read.reader.check_lease()
        except LeaseExpired:
            self.counts.refused_by_lease += 1
            return
        self.counts.answered += 1
        assert self.offset_of(read.place, read.row) >= read.must_see, "a plain read missed an acknowledged write"

    def read_replica(self) -> None:
        """A replica holds all that the log held as long ago as it says that it may be behind."""
        node = self.some()
        for partition in range(PARTITIONS):
            try:
                reader = node.rig.node.replica(f"{ROWS}.store", partition)
            except Unavailable:
                continue
            if reader.staleness_ms() == 0:
                continue  # An owner under its lease: it holds all that was acknowledged, which plain reads check.
            then = self.clock.monotonic() - reader.staleness_ms() / 1000 - 0.001
            for at, ends in reversed(self.past):
                if at < then:
                    for topic, position in reader.positions.items():
                        assert position >= ends.get(TopicPartition(topic, partition), 0), "staler than it said"
                    self.counts.stale_reads += 1
                    break

    # What must hold.

    def check(self) -> None:
        """At most one node answers for a partition; what a node keeps through a rebalance stays active."""
        now = self.clock.monotonic()
        self.past.append((now, {place: len(records) for place, records in self.log._records.items()}))
        for partition in range(PARTITIONS):
            answering = [node.name for node in self.nodes if may_answer(node, partition)]
            assert len(answering) <= 1, f"{answering} answer for partition {partition}"
        for node in self.nodes:
            tasks = node.rig.thread.tasks
            active = frozenset(p for p, task in tasks.items() if task.state is TaskState.ACTIVE)
            reported = node.membership._reported
            kept = node.active & (reported.partitions if reported is not None else frozenset())
            if reported is not None and node.membership._revocation is None and node.revoking is None:
                gone = [p for p in kept - active if not tasks[p].rebuilds]
                assert not gone, f"{node.name} stopped serving {gone} that it keeps"
                self.counts.kept += bool(kept)
            self.counts.takeovers += bool(active - node.active)
            is_lost = any(isinstance(event, Lost) for event in node.rig.thread._events)
            node.active = active if reported is not None and not is_lost else frozenset()

    def heal(self) -> None:
        self.log.faults.clear()
        self.log.fence_faults.clear()
        self.log.bring_back()
        self.resume()
        for _ in range(60):
            self.log.release()
            while self.log.pending:
                self.log.complete()
            self.rounds(1, seconds=0.6)
        self.log.land()
        self.rounds(4, seconds=0.1)

    def judge(self) -> None:
        for partition in range(PARTITIONS):
            answering = [node.name for node in self.nodes if may_answer(node, partition)]
            assert len(answering) == 1, f"{answering} own partition {partition} when all is healed"
        records = [record for topic in (ROWS, INDEX) for record in self.log.dump(topic)]
        self.judge_outcomes(records)
        self.judge_conditions(records)
        fold = {(r.topic, r.partition, r.key): r.value for r in records}
        for node in self.nodes:
            for partition, task in node.rig.thread.tasks.items():
                for topic in (ROWS, INDEX):
                    expected = {k: v for (t, p, k), v in fold.items() if (t, p) == (topic, partition)}
                    found = dict(task.store.scan(f"{topic}.store"))
                    assert found == expected, f"{node.name} does not hold the fold of {topic}-{partition}"

    def judge_outcomes(self, records: list[Record]) -> None:
        written: dict[Any, int] = {}
        for record in records:
            event = header(record.headers, "ce_id")
            written[event] = written.get(event, 0) + 1
        for _, put in self.puts:
            outcome, times = self.answers[put], written.get(_event(put), 0)
            assert times in (0, len(put.places)), "a group is in the log by half, or twice"
            if isinstance(outcome, Decided):
                assert bool(times) == (outcome.result[0] == "put"), "acknowledged but lost, or refused but written"
            elif isinstance(outcome, Refused):
                assert isinstance(outcome.error, Unavailable | RecordRefused), outcome.error
                assert times == 0, "said to be not written, and is in the log"

    def judge_conditions(self, records: list[Record]) -> None:
        """Each conditional write stands directly behind the value that it asked for."""
        by_event = {_event(put): put for _, put in self.puts}
        last: dict[Any, Any] = {}
        for record in records:
            place = (record.topic, record.partition, record.key)
            put = by_event[header(record.headers, "ce_id")]
            if put.expected is not ... and put.places[0] == (record.topic, record.partition):
                assert last.get(place) == put.expected, "a conditional write on another state than it asked for"
            last[place] = record.value


def may_answer(node: Node, partition: int) -> bool:
    try:
        node.rig.node.reader(f"{ROWS}.store", partition).check_lease()
    except (Unavailable, LeaseExpired):
        return False
    return True


def _event(put: Put) -> bytes:
    return str(uuid.UUID(bytes=put.event_id)).encode()


def run_histories(seeds: range, counts: Counts) -> None:
    for seed in seeds:
        try:
            Cluster(seed, counts).run(STEPS)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.parametrize("block", range(3))
def test_random_histories_of_a_cluster_keep_every_promise(block: int) -> None:
    """One owner answers, acknowledged is kept and visible, denied is never written, stores equal the fold."""
    counts = Counts()
    run_histories(range(block * SEEDS // 3, (block + 1) * SEEDS // 3), counts)
    assert min(counts.answered, counts.decided, counts.refused_by_lease, counts.takeovers, counts.stale_reads) > 0
    assert counts.decided_beside > 0, "no write went on beside a partition without a leader"


def no_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log takes appends of whoever has ever owned, and nothing decides what is open."""
    monkeypatch.setattr(MemoryWriter, "may_append", lambda self, ownership: True)
    monkeypatch.setattr(MemoryWriter, "_end_what_is_open", lambda self, ownership: None)


def no_barrier(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task is active as soon as it is owned, however far it has read."""
    monkeypatch.setattr(StreamTask, "has_reached", lambda self, barrier: True)


def lease_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has a reader answers."""
    monkeypatch.setattr(TaskReader, "check_lease", lambda self: None)


def no_tenure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any lease of the node is good enough, also one that began after the partition was lost."""
    monkeypatch.setattr(Tenures, "end", lambda self, partitions: None)


def answered_at_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers do not wait until their write can be read."""
    monkeypatch.setattr(CommittedGroups, "_is_applied", lambda self, ends: True)


BUGS = [no_fence, no_barrier, lease_not_checked, no_tenure, answered_at_commit]


@pytest.mark.parametrize("bug", BUGS)
def test_the_judge_finds_seeded_bugs(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each bug, put in on purpose, is caught within some histories."""
    bug(monkeypatch)
    with pytest.raises(AssertionError, match="seed"):
        run_histories(range(300), Counts())
