"""What every log promises: the invariants and docstrings of `streams.log.base`, over all back ends."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from streams.clock import Deadline, SystemClock
from streams.cluster import ClusterView, LoneMember
from streams.errors import Fenced, OffsetOutOfRange, RecordRefused, RecordTooLarge, TopicMismatch
from streams.log.base import Log, LogReader, LogWriter, Membership, Ownership, TopicSpec
from streams.log.local import LocalLog
from streams.records import Headers, ProducerRecord, Record, TopicPartition
from tests.contracts.conftest import LogHarness

CLOCK = SystemClock()
COMPACTED = {"cleanup.policy": "compact"}
WAIT_S = 30.0


class Member:
    """One node on the log: it joins, owns, fences, appends, reads."""

    def __init__(self, harness: LogHarness, *, partitions: int = 3) -> None:
        self._harness = harness
        self._partitions = partitions
        self.first, self.second = harness.prefix + "first", harness.prefix + "second"
        self.topics = (self.first, self.second)
        self.log: Log = harness.open()
        self.infos = self.log.ensure_topics([TopicSpec(name, COMPACTED, partitions) for name in self.topics], soon())
        self._joined = threading.Event()
        self.revoked: list[frozenset[int]] = []
        self.ownership = Ownership(-1, "", frozenset())
        self.membership: Membership = self.log.open_membership(self.topics, LoneMember.named("n1"))
        self.writer: LogWriter | None = None
        self._readers: list[LogReader] = []

    def on_assigned(self, ownership: Ownership) -> None:
        self.ownership = ownership
        if len(ownership.partitions) == self._partitions:
            self._joined.set()

    def on_revoked(self, partitions: frozenset[int]) -> None:
        self.revoked.append(partitions)

    def on_view(self, view: ClusterView) -> None: ...

    def on_lost(self, partitions: frozenset[int]) -> None:
        self.revoked.append(partitions)

    def join(self) -> "Member":
        self.membership.start(self)
        assert self._joined.wait(WAIT_S), "the member was not given its partitions"
        self.writer = self.log.open_writer(self.topics, self.membership)
        self.fence()
        return self

    def fence(self) -> Mapping[TopicPartition, int]:
        assert self.writer is not None
        return self.writer.fence(self.ownership, soon()).result(WAIT_S)

    def append(self, *records: ProducerRecord) -> Mapping[TopicPartition, int]:
        assert self.writer is not None
        written = {record.partition for record in records if record.topic in self.topics}
        ends = self.log.end_offsets([TopicPartition(self.first, number) for number in written], soon())
        positions = {at.partition: offset for at, offset in ends.items()}
        future = self.writer.append(records, ownership=self.ownership, positions=positions, deadline=soon())
        return future.result(WAIT_S)

    def put(self, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int = 0) -> int:
        """Append one record to the first topic and return the offset after it."""
        record = ProducerRecord(self.first, partition, key, value, headers)
        return self.append(record)[TopicPartition(self.first, partition)]

    def ends(self) -> dict[TopicPartition, int]:
        every = [TopicPartition(name, number) for name in self.topics for number in range(self._partitions)]
        return self.log.end_offsets(every, soon())

    def reader(self, positions: Mapping[TopicPartition, int]) -> LogReader:
        reader = self.log.open_reader()
        self._readers.append(reader)
        reader.assign(positions)
        return reader

    def read(self, at: TopicPartition, position: int = 0) -> list[Record]:
        """Return what lies between *position* and the end."""
        return read_until(self.reader({at: position}), {at: self.log.end_offsets([at], soon())[at]})[at]

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        if self.writer is not None:
            self.writer.close(soon())
        self.membership.leave(soon())
        self._harness.close()


@pytest.fixture
def members(log_factory: LogHarness) -> Iterator[Callable[[], Member]]:
    opened: list[Member] = []

    def open_member() -> Member:
        opened.append(Member(log_factory).join())
        return opened[-1]

    yield open_member
    for member in opened:
        member.close()


@pytest.fixture
def member(members: Callable[[], Member]) -> Member:
    return members()


def soon() -> Deadline:
    return Deadline.after(WAIT_S, CLOCK)


def read_until(reader: LogReader, ends: Mapping[TopicPartition, int]) -> dict[TopicPartition, list[Record]]:
    """Read until the position of each partition has reached its end; check what is true of every batch."""
    found: dict[TopicPartition, list[Record]] = {at: [] for at in ends}
    reached = {at: 0 for at, end in ends.items() if end}
    give_up_at = time.monotonic() + WAIT_S
    while any(reached[at] < ends[at] for at in reached):
        assert time.monotonic() < give_up_at, f"read up to {reached}, wanted {dict(ends)}"
        for batch in reader.poll(1.0):
            at = TopicPartition(batch.topic, batch.partition)
            assert batch.next_offset > reached[at], "a position never goes back"
            assert all(record.offset < batch.next_offset for record in batch.records)
            assert all((record.topic, record.partition) == at for record in batch.records)
            found[at] += batch.records
            reached[at] = batch.next_offset
    for records in found.values():
        offsets = [record.offset for record in records]
        assert offsets == sorted(set(offsets)), "offset order, each record once"
    return found


def values(records: Sequence[Record]) -> list[bytes | None]:
    return [record.value for record in records]


def test_a_reader_knows_since_when_it_has_everything(member: Member) -> None:
    """Never before it has; and from then on the moment follows the clock, with nothing new to read."""
    first, second = (TopicPartition(name, 0) for name in member.topics)
    member.put(b"k", b"1")
    reader = member.reader({first: 0, second: 0})
    assert reader.caught_up_at(first) == -math.inf
    give_up_at = time.monotonic() + WAIT_S
    handed_over = 0
    while reader.caught_up_at(first) == -math.inf or reader.caught_up_at(second) == -math.inf:
        assert time.monotonic() < give_up_at, "never caught up"
        handed_over += sum(len(batch.records) for batch in reader.poll(0.1))
    assert handed_over == 1, "caught up before the record was handed over"
    since = reader.caught_up_at(first)
    while reader.caught_up_at(first) < since + 1.0:
        assert time.monotonic() < give_up_at, "stood still"
        reader.poll(0.1)
        assert time.monotonic() - reader.caught_up_at(first) < 1.0, "an idle reader is current within a second"
    end = member.put(b"k", b"2")
    written_at = time.monotonic()
    position = 1
    while position < end:
        assert time.monotonic() < give_up_at, "the second record did not come"
        assert reader.caught_up_at(first) <= written_at, "a record that is in the log was not handed over"
        for batch in reader.poll(0.1):
            position = batch.next_offset
    reader.assign({first: 0, second: 0})
    assert reader.caught_up_at(first) == -math.inf, "it begins anew"


def test_a_record_comes_back_as_it_was_appended(member: Member) -> None:
    """Key, value, headers, topic and partition are kept to the byte; offset and time are the log's."""
    headers = (("a", b"1"), ("b", b""), ("a", b"2"), ("ü", "é".encode()))
    before_ms = CLOCK.time_ms()
    end = member.put(b"key", b"value", headers, partition=2)
    (record,) = member.read(TopicPartition(member.first, 2))
    assert record[:2] == (member.first, 2)
    assert record[4:] == (b"key", b"value", headers)
    assert type(record) is Record
    assert record.offset < end
    assert before_ms - 1000 <= record.timestamp_ms <= CLOCK.time_ms() + 1000


@pytest.mark.parametrize("value", [None, b"", b"\0", b"x" * 700_000], ids=["tombstone", "empty", "zero", "large"])
def test_every_kind_of_value_is_kept(member: Member, value: bytes | None) -> None:
    """A tombstone is not an empty value, and a large value is whole."""
    member.put(b"key", value, (("h", b"v"),))
    member.put(b"", value)
    records = member.read(TopicPartition(member.first, 0))
    assert values(records) == [value, value]
    assert [record.key for record in records] == [b"key", b""]
    assert [record.headers for record in records] == [(("h", b"v"),), ()]


def test_a_group_over_topics_and_partitions_is_appended_to_all(member: Member) -> None:
    """The result names each partition written, with the offset after its last record."""
    wanted = [
        ProducerRecord(member.first, 0, b"a", b"1"),
        ProducerRecord(member.second, 0, b"b", b"2"),
        ProducerRecord(member.first, 1, b"c", b"3"),
        ProducerRecord(member.first, 0, b"d", b"4"),
    ]
    ends = member.append(*wanted)
    assert set(ends) == {TopicPartition(r.topic, r.partition) for r in wanted}
    for at, end in ends.items():
        records = member.read(at)
        assert values(records) == [r.value for r in wanted if (r.topic, r.partition) == at]
        assert records[-1].offset == end - 1
    untouched = TopicPartition(member.second, 2)
    assert member.ends()[untouched] == 0


def test_a_group_that_is_refused_leaves_nothing(member: Member) -> None:
    """One record too large, and nothing of its group is in any partition, nor comes later; the next group is fine."""
    records = [
        ProducerRecord(member.first, 0, b"small", b"x"),
        ProducerRecord(member.first, 1, b"large", b"x" * 3_000_000),
    ]
    with pytest.raises(RecordTooLarge):
        member.append(*records)
    member.fence()
    member.put(b"next", b"y", partition=0)
    assert values(member.read(TopicPartition(member.first, 0))) == [b"y"]
    assert member.ends()[TopicPartition(member.first, 1)] == 0 or not member.read(TopicPartition(member.first, 1))


def test_records_keep_the_order_of_their_appends(member: Member) -> None:
    """Within a partition, order of the groups and order inside each group."""
    for group in range(20):
        member.append(*(ProducerRecord(member.first, 1, b"k%d" % i, b"%d-%d" % (group, i)) for i in range(10)))
    expected = [b"%d-%d" % (group, i) for group in range(20) for i in range(10)]
    assert values(member.read(TopicPartition(member.first, 1))) == expected


def test_a_position_says_where_reading_begins(member: Member) -> None:
    """From each record's offset on, exactly the records from there on come."""
    for i in range(5):
        member.put(b"k%d" % i, b"%d" % i)
    at = TopicPartition(member.first, 0)
    for i, record in enumerate(member.read(at)):
        assert values(member.read(at, record.offset)) == [b"%d" % j for j in range(i, 5)]


def test_a_long_partition_is_read_whole_and_does_not_starve_others(member: Member) -> None:
    """More records than one poll returns; a short partition comes along the way."""
    long, short = TopicPartition(member.first, 0), TopicPartition(member.second, 0)
    for group in range(12):
        member.append(*(ProducerRecord(*long, b"k%d" % i, b"%d" % (group * 500 + i)) for i in range(500)))
    member.append(ProducerRecord(*short, b"k", b"short"))
    reader = member.reader({long: 0, short: 0})
    found = read_until(reader, member.log.end_offsets([long, short], soon()))
    assert values(found[long]) == [b"%d" % i for i in range(6000)]
    assert values(found[short]) == [b"short"]


def test_a_reader_at_the_end_sees_what_comes(member: Member) -> None:
    """The next poll returns the new record, also when it began to wait before the append."""
    at = TopicPartition(member.first, 0)
    end = member.put(b"a", b"old")
    reader = member.reader({at: end})
    assert reader.poll(0.0) == []
    thread = threading.Thread(target=member.put, args=(b"a", b"new"))
    thread.start()
    found = read_until(reader, {at: end + 1})
    thread.join()
    assert values(found[at]) == [b"new"]


def test_assign_keeps_moves_and_drops(member: Member) -> None:
    """A kept partition goes on without gap or repetition, a moved one starts anew, a dropped one is silent."""
    kept, moved, dropped = (TopicPartition(member.first, number) for number in range(3))
    for partition in range(3):
        for i in range(3):
            member.put(b"k%d" % i, b"%d" % i, partition=partition)
    reader = member.reader({kept: 0, moved: 0, dropped: 0})
    ends = member.log.end_offsets([kept, moved, dropped], soon())
    read_until(reader, ends)
    reader.assign({kept: ends[kept], moved: 0})
    assert values(read_until(reader, {moved: ends[moved]})[moved]) == [b"0", b"1", b"2"]
    member.put(b"k", b"silent", partition=2)
    end = member.put(b"k", b"on", partition=0)
    assert values(read_until(reader, {kept: end})[kept]) == [b"on"]


def test_wakeup_ends_a_wait(member: Member) -> None:
    """A poll that waits returns at once, as does the next one when nobody waits; only one poll for each."""
    at = TopicPartition(member.first, 0)
    reader = member.reader({at: 0})
    reader.poll(0.5)
    reader.wakeup()
    began = time.monotonic()
    assert reader.poll(WAIT_S) == []
    timer = threading.Timer(0.1, reader.wakeup)
    timer.start()
    assert reader.poll(WAIT_S) == []
    timer.join()
    assert time.monotonic() - began < WAIT_S / 2
    began = time.monotonic()
    assert reader.poll(0.2) == []
    assert time.monotonic() - began >= 0.15


def test_a_position_beyond_the_end_is_out_of_range(member: Member) -> None:
    """The store that asks has parted from this log, and must hear it."""
    at = TopicPartition(member.first, 1)
    end = member.put(b"k", b"v", partition=1)
    reader = member.reader({at: end + 100})

    def poll_for_a_while() -> None:
        give_up_at = time.monotonic() + WAIT_S
        while time.monotonic() < give_up_at:
            reader.poll(0.5)

    with pytest.raises(OffsetOutOfRange) as caught:
        poll_for_a_while()
    assert (caught.value.topic, caught.value.partition, caught.value.offset) == (*at, end + 100)


def test_end_offsets_count_committed_records_only(member: Member) -> None:
    """Zero for an empty partition; what was acknowledged is below the end at once."""
    assert set(member.ends().values()) == {0}
    end = member.put(b"k", b"v")
    assert member.ends()[TopicPartition(member.first, 0)] >= end


def test_the_barrier_is_the_end_of_all_topics_of_the_owned_partitions(member: Member) -> None:
    """A fence says where everything lies that earlier writers wrote."""
    member.put(b"k", b"v", partition=1)
    barrier = member.fence()
    assert barrier == member.ends()


def test_a_look_shows_the_ends_of_some_tasks_and_that_they_take_appends(member: Member) -> None:
    """As the fence before it, for the tasks that are asked about, while all goes on; and what can be learned of ends
    is all of them when nothing is the matter."""
    assert member.writer is not None
    member.put(b"k", b"v", partition=1)
    barrier = member.fence()
    look = member.writer.look(frozenset({0, 1}), soon()).result(WAIT_S)
    assert look.writable == {0, 1}
    assert look.ends == {at: end for at, end in barrier.items() if at.partition in (0, 1)}
    end = member.put(b"k", b"w", partition=1)
    at = TopicPartition(member.first, 1)
    assert member.writer.look(frozenset({1}), soon()).result(WAIT_S).ends[at] >= end
    assert member.log.end_offsets(list(barrier), soon(), is_partial=True) == member.ends()


def test_a_fenced_writer_appends_nothing_any_more(member: Member) -> None:
    """A second writer's barrier holds: the first one's next append is refused and adds nothing, now or later."""
    old = member.writer
    assert old is not None
    member.put(b"k", b"old")
    member.writer = member.log.open_writer(member.topics, member.membership)
    barrier = member.fence()
    record = ProducerRecord(member.first, 0, b"k", b"zombie")
    future = old.append([record], ownership=member.ownership, positions={0: 1}, deadline=soon())
    with pytest.raises(Fenced):
        future.result(WAIT_S)
    old.close(soon())
    assert member.ends() == barrier
    member.put(b"k", b"new")
    assert values(member.read(TopicPartition(member.first, 0))) == [b"old", b"new"]


def test_an_ownership_that_is_not_current_is_fenced(member: Member) -> None:
    """An invented generation appends nothing."""
    assert member.writer is not None
    stale = Ownership(member.ownership.generation + 7, member.ownership.member_id, member.ownership.partitions)
    record = ProducerRecord(member.first, 0, b"k", b"stale")
    future = member.writer.append([record], ownership=stale, positions={0: 0}, deadline=soon())
    with pytest.raises(Fenced):
        future.result(WAIT_S)
    member.fence()
    assert member.read(TopicPartition(member.first, 0)) == []


def test_leaving_revokes_everything_and_ends_the_lease(member: Member) -> None:
    """The lease holds while a member; `leave` revokes first, may be called twice, and leaves no lease."""
    assert member.membership.lease_until > CLOCK.monotonic()
    member.membership.leave(soon())
    member.membership.leave(soon())
    assert frozenset().union(*member.revoked) == frozenset(range(3))
    assert member.membership.lease_until == 0.0


def test_a_reopened_log_goes_on_where_it_was(members: Callable[[], Member]) -> None:
    """Topics, identity, records and offsets survive; the next append follows the last."""
    first = members()
    end = first.put(b"k", b"1")
    infos = first.infos
    first.close()
    second = members()
    assert {name: info.topic_id for name, info in second.infos.items()} == {n: i.topic_id for n, i in infos.items()}
    assert second.put(b"k", b"2") > end
    assert values(second.read(TopicPartition(second.first, 0))) == [b"1", b"2"]


def test_a_topic_that_was_made_anew_has_another_identity(log_factory: LogHarness) -> None:
    """Same name, other id: a store of the old one must notice."""
    name = log_factory.prefix + "topic"
    ids = []
    for _ in range(2):
        log = log_factory.open()
        ids.append(log.ensure_topics([TopicSpec(name, COMPACTED, 1)], soon())[name].topic_id)
        assert log.describe_topics([name], soon())[name].topic_id == ids[-1]
        log_factory.close()
        log_factory.delete([name])
    assert ids[0] != ids[1]


def test_ensure_topics_creates_and_takes_what_is_there(log_factory: LogHarness) -> None:
    """The demanded count, else the default when created and the existing count later; unknown names are left out."""
    log = log_factory.open()
    demanded, defaulted = log_factory.prefix + "demanded", log_factory.prefix + "defaulted"
    specs = [TopicSpec(demanded, COMPACTED, 3), TopicSpec(defaulted, COMPACTED, None, default_partitions=2)]
    made = log.ensure_topics(specs, soon())
    assert {name: info.partitions for name, info in made.items()} == {demanded: 3, defaulted: 2}
    again = log.ensure_topics([TopicSpec(name, COMPACTED, None, default_partitions=9) for name in made], soon())
    assert {name: (info.partitions, info.topic_id) for name, info in again.items()} == {
        name: (info.partitions, info.topic_id) for name, info in made.items()
    }
    assert set(log.describe_topics([demanded, log_factory.prefix + "nobody"], soon())) == {demanded}


def test_a_topic_of_another_shape_is_refused(log_factory: LogHarness) -> None:
    """Another partition count than demanded, or a topic that deletes instead of compacting."""
    log = log_factory.open()
    counted, deleted = log_factory.prefix + "counted", log_factory.prefix + "deleted"
    log.ensure_topics([TopicSpec(counted, COMPACTED, 2)], soon())
    with contextlib.suppress(TopicMismatch):  # a log may refuse it at once, but makes it
        log.ensure_topics([TopicSpec(deleted, {"cleanup.policy": "delete"}, 1)], soon())
    with pytest.raises(TopicMismatch, match=counted):
        log.ensure_topics([TopicSpec(counted, COMPACTED, 3)], soon())
    with pytest.raises(TopicMismatch, match=deleted):
        log.ensure_topics([TopicSpec(deleted, COMPACTED, 1)], soon())


def test_a_record_may_bring_its_time(member: Member) -> None:
    """It is read back with it; a record without one gets the log's."""
    before_ms = CLOCK.time_ms()
    first = TopicPartition(member.first, 0)
    member.append(
        ProducerRecord(member.first, 0, b"k", b"old", (), 1_000), ProducerRecord(member.first, 0, b"l", b"new")
    )
    old, new = member.read(first)
    assert old.timestamp_ms == 1_000
    assert before_ms <= new.timestamp_ms <= CLOCK.time_ms()


def test_a_group_may_have_records_for_topics_that_are_not_the_writers_own(member: Member) -> None:
    """Of whatever partition; they are there when the group is, with the time that they brought."""
    output = member.first + "-output"
    member.log.ensure_topics([TopicSpec(output, {"cleanup.policy": "delete"}, 5)], soon())
    place = TopicPartition(output, 4)
    ends = member.append(
        ProducerRecord(member.first, 0, b"k", b"state"), ProducerRecord(output, 4, None, b"output", (("h", b"v"),), 7)
    )
    (found,) = member.read(place)
    assert (found.key, found.value, found.headers, found.timestamp_ms) == (None, b"output", (("h", b"v"),), 7)
    assert ends[place] >= 1


def test_a_producer_needs_no_fence_and_disturbs_none(member: Member) -> None:
    """What it appended is durable when it returns; the writer goes on under its own fence."""
    outside = member.first + "-input"
    member.log.ensure_topics([TopicSpec(outside, {"cleanup.policy": "delete"}, 2)], soon())
    producer = member.log.open_producer()
    records = [ProducerRecord(outside, n % 2, b"k", b"%d" % n, (), n) for n in range(10)]
    ends = producer.produce(records, soon())
    member.put(b"k", b"written after it")
    assert ends == {TopicPartition(outside, 0): 5, TopicPartition(outside, 1): 5}
    assert values(member.read(TopicPartition(outside, 1))) == [b"1", b"3", b"5", b"7", b"9"]
    producer.close()


def test_a_record_may_have_neither_key_nor_value(member: Member) -> None:
    """From the writer and from a producer, alone and among others: it is a record like any other."""
    output = member.first + "-bare"
    member.log.ensure_topics([TopicSpec(output, {"cleanup.policy": "delete"}, 1)], soon())
    bare = ProducerRecord(output, 0, None, None, (("h", b"v"),), 7)
    member.append(ProducerRecord(member.first, 0, b"k", b"state"), bare)
    producer = member.log.open_producer()
    producer.produce([bare], soon())
    producer.produce([bare, *(ProducerRecord(output, 0, b"k", b"v", (), 7) for _ in range(6)), bare], soon())
    found = member.read(TopicPartition(output, 0))
    assert [record.key for record in found] == [None, None, None, *[b"k"] * 6, None]
    assert {record.value for record in found if record.key is None} == {None}
    assert found[0].headers == (("h", b"v"),)
    producer.close()


@pytest.mark.parametrize("value", [None, b"v"])
def test_a_compacted_topic_of_others_takes_no_record_without_a_key(member: Member, value: bytes | None) -> None:
    """Kafka's rule. Nothing of its group is anywhere, and the writer goes on."""
    output = member.first + "-table"
    member.log.ensure_topics([TopicSpec(output, {"cleanup.policy": "compact"}, 1)], soon())
    bad = ProducerRecord(output, 0, None, value)
    with pytest.raises(RecordRefused):
        member.append(ProducerRecord(member.first, 0, b"k", b"state"), bad)
    producer = member.log.open_producer()
    with pytest.raises(RecordRefused):
        producer.produce([bad], soon())
    producer.produce([ProducerRecord(output, 0, b"k", b"from outside")], soon())
    member.append(ProducerRecord(member.first, 0, b"k", b"next"), ProducerRecord(output, 0, b"k", b"good"))
    assert values(member.read(TopicPartition(output, 0))) == [b"from outside", b"good"]
    assert values(member.read(TopicPartition(member.first, 0))) == [b"next"]
    producer.close()


def test_what_nobody_needs_any_more_may_be_gone(member: Member) -> None:
    """Reading from the beginning, or from where it was said, goes on with what is needed, and misses nothing of it."""
    topic = member.first + "-passing"
    member.log.ensure_topics([TopicSpec(topic, {"cleanup.policy": "delete", "retention.ms": "-1"}, 1)], soon())
    place = TopicPartition(topic, 0)
    producer = member.log.open_producer()
    producer.produce([ProducerRecord(topic, 0, b"k", b"%d" % n, (), 1) for n in range(10)], soon())
    member.log.delete_before({place: 6}, soon())
    if isinstance(member.log, LocalLog):
        member.log.clean()
        assert [record.value for record in member.read(place)] == [b"6", b"7", b"8", b"9"]
    for position in (0, 6):
        assert [record.value for record in member.read(place, position)][-4:] == [b"6", b"7", b"8", b"9"]
    producer.close()
