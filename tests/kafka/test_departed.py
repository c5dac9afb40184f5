"""What a killed node left open: whoever takes over does not wait for the transaction's time-out."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from kafka import KafkaProducer
from kafka.errors import KafkaError

from streams.log.kafka import KafkaLog
from tests.kafka.node import Node, all_values

pytestmark = pytest.mark.kafka

OpenLog = Callable[..., KafkaLog]
TIMEOUT_MS = 60_000
SOON_S = 10.0


@contextmanager
def open_transaction(broker: str, transactional_id: str, topic: str) -> Iterator[KafkaProducer]:
    """A producer that has written one record and does not go on."""
    producer = KafkaProducer(
        bootstrap_servers=broker, transactional_id=transactional_id, transaction_timeout_ms=TIMEOUT_MS
    )
    try:
        producer.init_transactions()
        producer.begin_transaction()
        producer.send(topic, b"never committed", key=b"k", partition=0).get(timeout=10)
        yield producer
    finally:
        producer.close(timeout=1)


def test_the_open_transaction_of_a_departed_node_is_ended(kafka_broker: str, open_log: OpenLog, prefix: str) -> None:
    """Its records hold nobody back, though its time-out is a minute; it can never be committed."""
    topic = prefix + "t"
    node = Node(open_log(kafka_broker), [topic]).join()
    node.wait_until_owned()
    with open_transaction(kafka_broker, f"{prefix}app-killed", topic) as ghost:
        started = time.monotonic()
        assert all_values(node.log, node.fence()) == []
        assert time.monotonic() - started < SOON_S
        with pytest.raises(KafkaError):
            ghost.commit_transaction()


def test_a_transaction_in_other_topics_is_left_alone(kafka_broker: str, open_log: OpenLog, prefix: str) -> None:
    """An application whose name begins like ours has topics of its own, and is none of our business."""
    ours, theirs = prefix + "t", prefix + "theirs"
    Node(open_log(kafka_broker, application_id=prefix + "other"), [theirs]).join()
    node = Node(open_log(kafka_broker), [ours]).join()
    node.wait_until_owned()
    with (
        open_transaction(kafka_broker, f"{prefix}app-second-n1", theirs) as other,
        open_transaction(kafka_broker, f"{prefix}app-killed", ours) as killed,
    ):
        assert all_values(node.log, node.fence()) == []
        with pytest.raises(KafkaError):
            killed.commit_transaction()
        other.commit_transaction()
