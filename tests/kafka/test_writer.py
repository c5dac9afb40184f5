"""The fence and the writer's errors on a real broker, beyond what the contract of every log says."""

from collections.abc import Callable
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from streams.errors import Fenced, GenerationPassed, LogUnavailable, RecordTooLarge
from streams.log.base import Ownership, TopicSpec
from streams.log.kafka import KafkaLog
from streams.records import ProducerRecord, TopicPartition
from tests.kafka.node import CLOCK, Node, all_values, within
from tests.support.broker import free_ports

pytestmark = pytest.mark.kafka

OpenLog = Callable[..., KafkaLog]


def test_of_two_writers_with_one_id_the_older_is_fenced(kafka_broker: str, open_log: OpenLog, prefix: str) -> None:
    """Two processes with one node id: the second's fence ends the first, whose record is nowhere."""
    node = Node(open_log(kafka_broker), [prefix + "t"]).owner()
    node.append(b"before")
    younger = open_log(kafka_broker).open_writer(node.topics, node.membership)
    barrier = younger.fence(node.ownership, within(10)).result(12)
    with pytest.raises(Fenced):
        node.append(b"zombie")
    assert all_values(node.log, barrier) == [b"before"]


@pytest.mark.parametrize("change", [1, -1], ids=["newer", "older"])
def test_another_generation_is_fenced_and_the_writer_recovers(
    kafka_broker: str, open_log: OpenLog, prefix: str, change: int
) -> None:
    """A snapshot of another generation appends nothing; with the current one the same writer goes on at once."""
    node = Node(open_log(kafka_broker), [prefix + "t"]).owner()
    other = Ownership(node.ownership.generation + change, node.ownership.member_id, node.ownership.partitions)
    with pytest.raises(Fenced):
        node.append(b"stale", ownership=other)
    with pytest.raises(Fenced):
        node.writer.fence(other, within(10)).result(12)
    barrier = node.fence()
    node.append(b"current")
    end = node.fence()
    assert barrier[TopicPartition(prefix + "t", 0)] < end[TopicPartition(prefix + "t", 0)]
    assert all_values(node.log, end) == [b"current"]


def test_a_writer_that_was_fenced_by_mistake_while_it_rested_fences_again_at_once(
    kafka_broker: str, open_log: OpenLog, prefix: str
) -> None:
    """Somebody took the node for dead: it is the owner all the same, and its next fence succeeds."""
    node = Node(open_log(kafka_broker), [prefix + "t"]).owner()
    node.append(b"before")
    open_log(kafka_broker).open_writer(node.topics, node.membership).fence(node.ownership, within(10)).result(12)
    node.fence()
    node.append(b"after")
    assert all_values(node.log, node.fence()) == [b"before", b"after"]


def test_after_each_rebalance_the_writer_goes_on_without_a_gap(
    kafka_broker: str, open_log: OpenLog, prefix: str
) -> None:
    """An append that the group refuses leaves nothing behind: after the next fence the same producer appends again, in
    order, time after time, and what was refused is nowhere."""
    node = Node(open_log(kafka_broker), [prefix + "t", prefix + "u"]).owner()
    stale = Ownership(node.ownership.generation - 1, node.ownership.member_id, node.ownership.partitions)
    for number in range(5):
        with pytest.raises(GenerationPassed):
            node.append(b"refused", b"refused too", ownership=stale)
        node.fence()
        node.append(b"%d" % number)
        node.append(b"%d again" % number)
    first = TopicPartition(prefix + "t", 0)
    values = all_values(node.log, {first: node.fence()[first]})
    assert values == [value for number in range(5) for value in (b"%d" % number, b"%d again" % number)]


@pytest.mark.parametrize(("generation", "member"), [(-1, "member"), (1, "")])
def test_no_membership_no_commit(
    kafka_broker: str, open_log: OpenLog, prefix: str, generation: int, member: str
) -> None:
    """A broker accepts generation -1 unchecked, so it is refused before anything is sent."""
    node = Node(open_log(kafka_broker), [prefix + "t"]).owner()
    with pytest.raises(Fenced):
        node.append(b"x", ownership=Ownership(generation, member, frozenset({0, 1})))
    assert set(node.fence().values()) == {0}


def test_a_broker_that_refuses_a_size_does_not_wedge_the_writer(
    kafka_broker: str, open_log: OpenLog, prefix: str
) -> None:
    """A topic's max.message.bytes was lowered behind our back: that group is refused, the next one goes through."""
    node = Node(open_log(kafka_broker), [prefix + "t"]).owner()
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, prefix + "t", {"max.message.bytes": "2000"})])
    admin.close()
    for attempt in range(2):
        with pytest.raises(RecordTooLarge):
            node.append(b"small", b"x" * 10_000)
        node.append(b"%d" % attempt)
    assert all_values(node.log, node.fence()) == [b"0", b"1"]


@pytest.mark.parametrize("number", [1, 6], ids=["one by one", "packed"])
def test_what_kafka_cannot_write_down_is_a_bug_and_nothing_of_it_is_written(
    kafka_broker: str, open_log: OpenLog, prefix: str, number: int
) -> None:
    """It is told as it is, since the same records would fail again; the writer goes on without a fence."""
    node = Node(open_log(kafka_broker), [prefix + "t"]).owner()
    place = TopicPartition(prefix + "t", 0)
    text: Any = (("name", "no bytes"),)
    group = [ProducerRecord(*place, b"k", b"broken", text) for _ in range(number)]
    future = node.writer.append(group, ownership=node.ownership, positions={0: 1}, deadline=within(10))
    with pytest.raises(TypeError):
        future.result(12)
    node.append(b"good")
    assert all_values(node.log, node.fence()) == [b"good"]


def test_a_topic_s_own_limit_is_checked_before_sending(kafka_broker: str, open_log: OpenLog, prefix: str) -> None:
    """What a topic is known to take is compared at once: such a future is done before anything is sent."""
    node = Node(open_log(kafka_broker), [prefix + "t"]).owner()
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, prefix + "t", {"max.message.bytes": "2000"})])
    admin.close()
    node.log.describe_topics([prefix + "t"], within(10))
    with pytest.raises(RecordTooLarge, match="2000"):
        node.append(b"x" * 10_000)


def test_nothing_is_appended_before_the_first_fence(kafka_broker: str, open_log: OpenLog, prefix: str) -> None:
    """A writer that does not know what earlier writers did must not decide anything."""
    node = Node(open_log(kafka_broker), [prefix + "t"]).join()
    node.wait_until_owned()
    with pytest.raises(Fenced, match="fence first"):
        node.append(b"x")


def test_without_a_broker_every_call_ends_at_its_deadline(open_log: OpenLog, prefix: str) -> None:
    """Nothing listens: each call says in time that the log is unavailable, and the reader just has nothing."""
    log = open_log(f"127.0.0.1:{free_ports(1)[0]}")
    partition = TopicPartition(prefix + "t", 0)
    node, reader = Node(log, [partition.topic]), log.open_reader()
    reader.assign({partition: 0})
    node.membership.start(node)
    began = CLOCK.monotonic()
    with pytest.raises(LogUnavailable):
        log.ensure_topics([TopicSpec(partition.topic, {"cleanup.policy": "compact"})], within(0.5))
    with pytest.raises(LogUnavailable):
        log.end_offsets([partition], within(0.5))
    with pytest.raises(LogUnavailable):
        node.writer.fence(Ownership(1, "member", frozenset({0})), within(0.5)).result(5)
    assert CLOCK.monotonic() - began < 3.0
    assert reader.poll(0.1) == []
    assert node.membership.lease_until == 0.0
    assert not node.reports
