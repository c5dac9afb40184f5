"""Stores without a changelog: their rows are those of every batch since they were empty last, or there are none."""

import pytest

from streams.application.topics import runnable
from streams.dsl import Processor, StreamsBuilder
from streams.dsl.api import KStream
from streams.errors import NotOwner
from streams.operators.processors import ProcessorRecord
from streams.records import ProducerRecord, Record
from streams.runtime.commands import EVENT_ID
from streams.runtime.local_rows import LocalRow, LocalRows
from streams.runtime.processing import ProcessingBounds
from streams.stores.base import StoreIdentity
from streams.stores.memory import MemoryStoreFactory, MemoryTaskStore
from streams.testing import FakeClock, Fault, GroupMembership, MemoryGroup, MemoryLog
from streams.topology.subtopology import ProcessorTopology
from tests.streams.runtime.processing_rig import ProcessingRig

TOPICS = {"in": 1, "out": 1}
GREAT = b"\xff" * 40


class Count(Processor[str, str, str, str]):
    """Forwards how often the key was seen, as the store without a changelog and as the other has it."""

    def process(self, record: ProcessorRecord[str, str]) -> None:
        seen = []
        for name in ("local", "logged"):
            store = self.context.store(name)
            store.put(record.key, (store.get(record.key) or 0) + 1)
            seen.append(store.get(record.key))
        self.context.forward(record.key, "{} {}".format(*seen))


def counting() -> ProcessorTopology:
    builder = StreamsBuilder("app")
    builder.add_store("local", key=str, value=int, is_logged=False)
    builder.add_store("logged", key=str, value=int)
    stream: KStream[str, str] = builder.stream("in", key=str, value=str)
    stream.process(Count, stores=["local", "logged"]).to("out")
    return runnable(builder.build(), None)


def put(rig: ProcessingRig, number: int) -> None:
    rig.log.put(*(ProducerRecord("in", 0, b"k", b"v", (), n) for n in range(number)))


def seen(rig: ProcessingRig) -> list[tuple[int, int]]:
    found = [(record.value or b"").split() for record in rig.log.dump("out")]
    return [(int(local), int(logged)) for local, logged in found]


def test_it_has_no_topic_and_survives_a_restart() -> None:
    """Rows and position are in the store together."""
    node = ProcessingRig(counting(), TOPICS, bounds=ProcessingBounds(batch_records=4)).start()
    assert [name for name in node.subtopology.state.topics if "local" in name] == []
    put(node, 10)
    node.turn(12)
    node.dies()
    again = ProcessingRig(counting(), TOPICS, log=node.log, clock=node.clock, stores=node.stores).start()
    put(again, 3)
    again.turn(6)
    assert seen(again) == [(n, n) for n in range(1, 14)]


def test_it_is_empty_where_nobody_knows_its_rows() -> None:
    """On another machine; and on the first one again, which does not know what the other has done."""
    node = ProcessingRig(counting(), TOPICS).start()
    put(node, 3)
    node.turn(6)
    node.dies()
    other = ProcessingRig(counting(), TOPICS, log=node.log, clock=node.clock, node_id="n2").start()
    put(other, 2)
    other.turn(6)
    other.dies()
    assert seen(other)[3:] == [(1, 4), (2, 5)]
    back = ProcessingRig(counting(), TOPICS, log=node.log, clock=node.clock, stores=node.stores).start()
    put(back, 1)
    back.turn(6)
    assert seen(back)[5:] == [(1, 6)], "what it had kept is not what was processed"


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.UNKNOWN_LOST, Fault.UNKNOWN_WRITTEN, Fault.UNKNOWN_LATE])
def test_whatever_became_of_an_append_the_rows_are_right(fault: Fault) -> None:
    """Those of a batch that is in the log are there, and those of one that is not are not."""
    node = ProcessingRig(counting(), TOPICS, bounds=ProcessingBounds(batch_records=4)).start()
    put(node, 10)
    node.log.faults += [fault, fault]
    for _ in range(80):
        node.clock.advance(0.3)
        node.turn()
    assert seen(node) == [(n, n) for n in range(1, 11)]
    assert not node.processing.failed


def test_a_store_that_is_rebuilt_begins_empty() -> None:
    """The other one is made anew from its changelog."""
    node = ProcessingRig(counting(), TOPICS).start()
    put(node, 3)
    node.turn(6)
    node.node.report_damage(0, "chosen by the test")
    node.turn(6)
    put(node, 1)
    node.turn(6)
    assert seen(node)[3:] == [(1, 4)]


def test_who_only_follows_says_nothing_of_it() -> None:
    """An empty copy must not be taken for a store without the key."""
    clock = FakeClock()
    group = MemoryGroup(clock=clock, session_timeout_s=3.0, rebalance_timeout_s=5.0)
    log = MemoryLog(clock=clock, group=group)
    nodes = [
        ProcessingRig(counting(), TOPICS, log=log, clock=clock, node_id=name, num_standby_replicas=1)
        for name in ("n1", "n2")
    ]
    for node in nodes:
        assert node.thread.bootstrap()
    for _ in range(60):
        clock.advance(0.05)
        for node in nodes:
            assert isinstance(node.thread.membership, GroupMembership)
            node.thread.membership.step()
            node.turn()
    (owner,) = [node for node in nodes if node.thread.owned]
    (follower,) = [node for node in nodes if not node.thread.owned]
    assert follower.node.replica("logged", 0)
    assert owner.node.replica("local", 0)
    with pytest.raises(NotOwner):
        follower.node.replica("local", 0)


class Store:
    """Rows of one store in memory, fed through `LocalRows`."""

    def __init__(self) -> None:
        factory = MemoryStoreFactory(max_age_ms=None, clock=FakeClock())
        self.inner: MemoryTaskStore = factory.open(0, ["s"], StoreIdentity({"t": "id"}, 1, 1))
        self.local = LocalRows(["s"])
        self.position = 0

    def apply(self, *events: bytes, fails: bool = False) -> dict[bytes, bytes]:
        batch = self.inner.batch()
        headers = [((EVENT_ID, event),) for event in events]
        records = [Record("t", 0, self.position, 0, b"k", b"", each) for each in headers]
        self.local.put(records, batch, self.inner)
        if fails:
            self.local.failed()
        else:
            self.position += len(events)
            self.inner.commit(batch, {"t": self.position})
            self.local.committed()
        return dict(self.inner.scan("s"))


def row(key: bytes, value: bytes | None = b"v") -> LocalRow:
    return ("s", key, value)


def test_rows_come_with_their_record() -> None:
    """Not before, in the order of the batches, and once more after a commit that failed."""
    store = Store()
    store.local.expect(b"1", [row(b"a"), row(b"b")])
    store.local.expect(b"2", [row(b"a", None), row(GREAT)])
    assert store.apply() == {}
    assert store.apply(b"1", b"2", fails=True) == {}
    assert store.apply(b"1") == {b"a": b"v", b"b": b"v"}
    assert store.apply(b"2") == {b"b": b"v", GREAT: b"v"}


def test_a_record_of_somebody_else_empties_the_store() -> None:
    """Also in the middle of one's own, and also of keys that hardly anybody has."""
    store = Store()
    store.local.expect(b"1", [row(b"a"), row(GREAT)])
    store.apply(b"1")
    assert store.apply(b"theirs") == {}
    for event in (b"2", b"3"):
        store.local.expect(event, [row(event)])
    assert store.apply(b"2", b"theirs", b"3") == {b"3": b"v"}


def test_a_batch_that_is_missing_is_a_gap() -> None:
    """What came after it does not stand alone; what was given back is none."""
    store = Store()
    for event in (b"1", b"2", b"3"):
        store.local.expect(event, [row(event)])
    store.local.forget(b"1")
    assert store.apply(b"2") == {b"2": b"v"}
    store.local.expect(b"4", [row(b"4")])
    assert store.apply(b"4") == {}, "3 was never seen"
