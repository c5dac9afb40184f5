"""Nodes that run a topology, on one log and one group, in one thread and from one seed: nodes die, stand still, leave
and come back, appends are lost, late, refused or of unknown outcome, partitions move, while records come in.

When all is healed, the outputs must be those of an undisturbed run: each input once, each count once and in its order.
A failing seed replays it.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from streams.application.topics import runnable
from streams.dsl import Processor, StreamsBuilder, tumbling
from streams.dsl.api import KStream
from streams.operators.processors import ProcessorRecord
from streams.partitioner import partition_for
from streams.processing import SubTopologyTask
from streams.records import ProducerRecord
from streams.runtime.local_rows import LocalRows
from streams.runtime.processing import ProcessingBounds
from streams.runtime.processing.run import Batch, PartitionRun
from streams.stores.memory import MemoryStoreFactory
from streams.testing import FakeClock, Fault, GroupMembership, MemoryGroup, MemoryLog
from streams.topology.subtopology import ProcessorTopology
from tests.streams.runtime.processing_rig import ProcessingRig
from tests.support.streaming_topologies import COUNTS, INPUT, SEEN, WINDOW_MS, WINDOWS, check_outputs

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "60"))
STEPS = 300
LOCAL = "local"
TOPICS = {INPUT: 3, SEEN: 2, COUNTS: 3, WINDOWS: 2, LOCAL: 3}
FAULTS = [Fault.UNAVAILABLE, Fault.UNKNOWN_WRITTEN, Fault.UNKNOWN_LATE, Fault.UNKNOWN_LOST, Fault.FENCED]
FAULTS += [Fault.PENDING] * 4 + [Fault.REFUSED] * 2
SESSION_S = 3.0


class CountHere(Processor[str, str, str, int]):
    """Counts in a store without a changelog."""

    def process(self, record: ProcessorRecord[str, str]) -> None:
        store = self.context.store(LOCAL)
        count = (store.get(record.key) or 0) + 1
        store.put(record.key, count)
        self.context.forward(record.key, count)


def topology() -> ProcessorTopology:
    builder = StreamsBuilder("sim")
    stream: KStream[str, str] = builder.stream(INPUT, key=str, value=str)
    builder.add_store(LOCAL, key=str, value=int, is_logged=False)
    stream.process(CountHere, stores=[LOCAL], value=int).to(LOCAL)
    stream.to(SEEN)
    grouped = stream.group_by_key()
    grouped.count(store="counts").to_stream().to(COUNTS)
    windows = grouped.windowed_by(tumbling(WINDOW_MS, grace_ms=3_600_000)).count(
        store="windows", retention_ms=7_200_000
    )
    windows.to_stream().to(WINDOWS)
    return runnable(builder.build(), None)


@dataclass(eq=False)
class Node:
    """One process."""

    name: str
    rig: ProcessingRig
    is_paused: bool = False
    is_stalled: bool = False  # the stream thread stands still, the group's member and the reading do not

    @property
    def membership(self) -> GroupMembership:
        membership = self.rig.thread.membership
        assert isinstance(membership, GroupMembership)
        return membership


@dataclass
class Counts:
    """That the runs were worth something."""

    processed: int = 0
    repeated: int = 0
    begun_empty: int = 0  # counts in a store without a changelog
    kept: int = 0
    events: dict[str, int] = field(default_factory=dict)


class Cluster:
    """One random run."""

    def __init__(self, seed: int, counts: Counts) -> None:
        self.random = random.Random(seed)
        self.clock = FakeClock()
        group = MemoryGroup(clock=self.clock, session_timeout_s=SESSION_S, rebalance_timeout_s=5.0)
        self.log = MemoryLog(clock=self.clock, group=group)
        self.topology = topology()
        self.stores: dict[str, MemoryStoreFactory] = {}
        self.nodes: list[Node] = []
        self.started = 0
        self.given: list[tuple[bytes, bytes, int]] = []
        self.counts = counts
        for name in ("n1", "n2"):
            self.start(name)
        self.rounds(12)

    def start(self, name: str) -> None:
        self.started += 1
        stores = self.stores.setdefault(name, MemoryStoreFactory(max_age_ms=None, clock=self.clock))
        rig = ProcessingRig(
            self.topology,
            TOPICS,
            log=self.log,
            clock=self.clock,
            stores=stores,
            node_id=f"{name}-{self.started}",  # the session of one that was killed may still last
            num_standby_replicas=1,
            state_cleanup_delay_s=20.0,
            append_timeout_s=2.0,
            bounds=ProcessingBounds(batch_records=7, timeout_s=5.0),
        )
        assert rig.thread.bootstrap()
        self.nodes.append(Node(name, rig))

    # What happens.

    def run(self, steps: int) -> None:
        actions: list[Callable[[], None]] = [self.turn] * 14 + [self.look] * 6 + [self.feed] * 6 + [self.read] * 10
        actions += [self.complete] * 3 + [self.wait] * 4 + [self.fault] * 2 + [self.land, self.withhold, self.release]
        actions += [self.damage, self.take_away, self.bring_back, self.rare, self.rare]
        for _ in range(steps):
            self.random.choice(actions)()
        self.heal()
        check_outputs(self.given, {topic: self.log.dump(topic) for topic in (SEEN, COUNTS, WINDOWS)}, "")
        self.check_local()

    def check_local(self) -> None:
        """A store without a changelog counts on from the last output, or from nothing; and so it lies there now."""
        last: dict[bytes, int] = {}
        for record in self.log.dump(LOCAL):
            assert record.key is not None
            assert record.value is not None
            count = int.from_bytes(record.value, "big")
            assert count in (1, last.get(record.key, 0) + 1), (record.key, last.get(record.key), count)
            self.counts.begun_empty += count == 1 and record.key in last
            last[record.key] = count
        assert len(self.log.dump(LOCAL)) == len(self.given)
        for node in self.nodes:
            for partition in node.rig.thread.owned:
                for key, row in node.rig.thread.tasks[partition].store.scan(LOCAL):
                    assert int.from_bytes(row[8:], "big") == last[key]
                    self.counts.kept += 1

    def feed(self) -> None:
        for _ in range(self.random.randrange(1, 12)):
            key, value = b"k%d" % self.random.randrange(6), b"id-%06d" % len(self.given)
            at_ms = 1_700_000_000_000 + len(self.given) * 100 + self.random.randrange(20_000)
            self.given.append((key, value, at_ms))
            self.log.put(ProducerRecord(INPUT, partition_for(key, TOPICS[INPUT]), key, value, (), at_ms))

    def alive(self) -> list[Node]:
        return [node for node in self.nodes if not node.is_paused]

    def one(self) -> Node | None:
        alive = self.alive()
        return self.random.choice(alive) if alive else None

    def turn(self) -> None:
        node = self.one()
        if node is not None and not node.is_stalled:
            node.rig.thread.run_once()

    def read(self) -> None:
        if (node := self.one()) is not None:
            node.rig.processing.turn()

    def look(self) -> None:
        if (node := self.one()) is not None:
            node.membership.step()

    def wait(self) -> None:
        self.clock.advance(self.random.choice([0.01, 0.05, 0.2, 0.7]))

    def fault(self) -> None:
        self.log.faults.append(self.random.choice(FAULTS))

    def complete(self) -> None:
        if self.log.pending:
            self.log.complete()

    def land(self) -> None:
        self.log.land()

    def withhold(self) -> None:
        place = self.random.choice(
            sorted(place for place in self.log._records if place.topic.startswith("sim-")) or [None]
        )
        if place is not None:
            self.log.withhold(place)

    def release(self) -> None:
        self.log.release()

    def take_away(self) -> None:
        places = sorted(self.log._records)
        if places:
            self.log.take_away(self.random.choice(places))

    def bring_back(self) -> None:
        self.log.bring_back()

    def damage(self) -> None:
        node = self.one()
        if node is not None and node.rig.thread.tasks and self.random.random() < 0.3:
            node.rig.node.report_damage(self.random.choice(sorted(node.rig.thread.tasks)), "chosen by the test")

    def rare(self) -> None:
        if self.random.random() < 0.5:
            action = self.random.choice(
                [self.kill, self.kill, self.pause, self.stall, self.resume, self.resume, self.join]
            )
            self.counts.events[action.__name__] = self.counts.events.get(action.__name__, 0) + 1
            action()

    def kill(self) -> None:
        if self.nodes:
            node = self.random.choice(self.nodes)
            self.nodes.remove(node)
            node.rig.dies()

    def join(self) -> None:
        missing = sorted({"n1", "n2", "n3"} - {node.name for node in self.nodes})
        if missing:
            self.start(missing[0])

    def pause(self) -> None:
        if (node := self.one()) is not None:
            node.is_paused = True

    def stall(self) -> None:
        if (node := self.one()) is not None:
            node.is_stalled = True

    def resume(self) -> None:
        for node in self.nodes:
            node.is_paused = node.is_stalled = False

    # The end.

    def rounds(self, count: int, seconds: float = 0.2) -> None:
        for _ in range(count):
            self.clock.advance(seconds)
            for node in self.nodes:
                node.membership.step()
                node.rig.turn(2)

    def heal(self) -> None:
        self.resume()
        self.log.faults.clear()
        while self.log.pending:
            self.log.complete()
        self.log.bring_back()
        self.log.release()
        for node in [node for node in self.nodes if node.rig.processing.failed]:
            self.nodes.remove(node)  # A record was refused alone; whoever mends that starts the process again.
            node.rig.dies()
        while len(self.nodes) < 2:
            self.join()
        for _ in range(60):
            self.rounds(10)
            if len(self.log.dump(SEEN)) >= len(self.given):
                break
        self.rounds(10)
        for node in self.nodes:
            assert not node.rig.fatal, node.rig.fatal
            assert not node.rig.processing.failed, node.rig.processing.failed
            self.counts.processed += node.rig.processing.counters.processed
            self.counts.repeated += node.rig.processing.counters.repeated


def run_seeds(seeds: range) -> Counts:
    counts = Counts()
    for seed in seeds:
        try:
            Cluster(seed, counts).run(STEPS)
        except BaseException:
            print(f"seed {seed}")
            raise
    return counts


@pytest.mark.timeout(300)
def test_whatever_happens_each_record_counts_once() -> None:
    """Random histories; each kind of event happens, and batches are given back and done again."""
    counts = run_seeds(range(SEEDS))
    print(counts)
    assert counts.processed > SEEDS * 50
    assert counts.repeated > SEEDS
    assert counts.begun_empty > SEEDS
    assert counts.kept > SEEDS
    assert counts.events.keys() >= {"kill", "join", "pause", "stall", "resume"}


def _keeps_its_engine(run: PartitionRun, batch: Batch) -> None:
    """The bug: a batch that was given back is done again by the engine that did it before."""
    engine, run._engine = run._engine, None
    ORIGINAL_TAKE_BACK(run, batch)
    run._engine = engine


ORIGINAL_TAKE_BACK = PartitionRun._take_back


def _commits_apart(run: PartitionRun, batch: Batch, output: Any, engine: SubTopologyTask) -> Any:
    """The bug: outputs in one append, the position in the next one."""
    group = list(ORIGINAL_GROUP(run, batch, output, engine))
    apart = [record for record in group if record.topic not in run._task.positions]
    log = FENCELESS[0]
    log._write([ProducerRecord(*record) for record in apart])
    return [record for record in group if record not in apart]


def _keeps_old_rows(*_: Any) -> None:
    """The bug: a node that owns a partition again goes on with what it had."""


ORIGINAL_GROUP = PartitionRun._group
FENCELESS: list[MemoryLog] = []


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("holder", "name", "bug"),
    [
        (PartitionRun, "_take_back", _keeps_its_engine),
        (PartitionRun, "_group", _commits_apart),
        (LocalRows, "_clear", _keeps_old_rows),
    ],
)
def test_a_seeded_bug_is_found(monkeypatch: pytest.MonkeyPatch, holder: type, name: str, bug: Any) -> None:
    """What this simulation is for."""
    monkeypatch.setattr(holder, name, bug)
    original = MemoryLog.__init__

    def remembered(log: MemoryLog, **options: Any) -> None:
        original(log, **options)
        FENCELESS[:] = [log]

    monkeypatch.setattr(MemoryLog, "__init__", remembered)
    with pytest.raises(AssertionError):
        run_seeds(range(40))


def test_nothing_is_processed_by_who_owns_nothing() -> None:
    """A standby follows the stores and reads no input."""
    cluster = Cluster(0, Counts())
    cluster.feed()
    cluster.rounds(10)
    for node in cluster.nodes:
        owned = node.rig.thread.owned
        assert set(node.rig.processing._runs) == set(owned)
