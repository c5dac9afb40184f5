"""The reader on a real broker: positions over markers, the beginning of what was cut off, and kafka-python's shape."""

from collections.abc import Callable

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka import TopicPartition as KafkaTopicPartition

from streams.errors import OffsetOutOfRange
from streams.log.base import TopicSpec
from streams.log.kafka import KafkaLog
from streams.records import TopicPartition
from tests.kafka.node import WAIT_S, Node, read_to, within

pytestmark = pytest.mark.kafka

OpenLog = Callable[..., KafkaLog]


def test_a_position_reaches_a_barrier_that_ends_in_markers(kafka_broker: str, open_log: OpenLog, prefix: str) -> None:
    """Only aborted records lie between the position and the barrier: the position gets there, without a record."""
    node = Node(open_log(kafka_broker), [prefix + "t"], partitions=1).owner()
    partition = TopicPartition(prefix + "t", 0)
    reader = node.log.open_reader()
    reader.assign({partition: 0})
    producer = KafkaProducer(bootstrap_servers=kafka_broker, transactional_id=prefix + "x", retry_backoff_ms=2)
    producer.init_transactions()
    for finish in (producer.abort_transaction, producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        producer.send(partition.topic, finish.__name__.encode(), b"k", partition=0).get(WAIT_S)
        finish()
    producer.close()
    end = node.fence()[partition]
    assert end == 6, "three records and three markers"
    assert [(record.offset, record.value) for record in read_to(reader, {partition: end})] == [
        (2, b"commit_transaction")
    ]


def test_open_transactions_hide_what_comes_after_them(kafka_broker: str, open_log: OpenLog, prefix: str) -> None:
    """The reader stops before the first undecided record, and goes on by itself once that is decided."""
    node = Node(open_log(kafka_broker), [prefix + "t"], partitions=1).owner()
    partition = TopicPartition(prefix + "t", 0)
    reader = node.log.open_reader()
    reader.assign({partition: 0})
    producer = KafkaProducer(bootstrap_servers=kafka_broker, transactional_id=prefix + "x", retry_backoff_ms=2)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(partition.topic, b"undecided", b"k", partition=0).get(WAIT_S)
    node.append(b"behind")
    assert reader.poll(0.5) == []
    assert node.log.end_offsets([partition], within(5)) == {partition: 0}
    producer.commit_transaction()
    producer.close()
    assert [record.value for record in read_to(reader, node.fence())] == [b"undecided", b"behind"]


def test_zero_is_the_beginning_of_a_partition_that_was_cut_off(
    kafka_broker: str, open_log: OpenLog, prefix: str
) -> None:
    """Retention removed the first records: position 0 goes to what is left, another position there is out of range."""
    log = open_log(kafka_broker)
    partition = TopicPartition(prefix + "t", 0)
    log.ensure_topics([TopicSpec(partition.topic, {"cleanup.policy": "compact,delete"}, 1)], within(WAIT_S))
    producer = KafkaProducer(bootstrap_servers=kafka_broker)
    for i in range(5):
        producer.send(partition.topic, b"%d" % i, b"k", partition=0).get(WAIT_S)
    producer.close()
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker)
    admin.delete_records({KafkaTopicPartition(*partition): 3})
    admin.close()
    reader = log.open_reader()
    reader.assign({partition: 0})
    assert [record.value for record in read_to(reader, {partition: 5})] == [b"3", b"4"]
    reader.assign({partition: 1})
    with pytest.raises(OffsetOutOfRange) as caught:
        read_to(reader, {partition: 5})
    assert caught.value.offset == 1
    reader.assign({partition: 4})
    assert [record.value for record in read_to(reader, {partition: 5})] == [b"4"]
