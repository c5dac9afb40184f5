"""The producer for what programs outside send, on a real broker."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from kafka.errors import ProducerFencedError

from streams.errors import LogUnavailable, OutcomeUnknown
from streams.log.base import LogProducer, TopicSpec
from streams.log.kafka import KafkaLog
from streams.log.kafka.producer import KafkaOutsideProducer
from streams.records import ProducerRecord, TopicPartition
from tests.kafka.node import all_values, within

pytestmark = pytest.mark.kafka

OpenLog = Callable[..., KafkaLog]


def send(producer: LogProducer, topic: str, value: bytes, timeout_s: float = 10.0) -> None:
    producer.produce([ProducerRecord(topic, 0, b"k", value)], within(timeout_s))


@pytest.fixture
def log(kafka_broker: str, open_log: OpenLog, prefix: str) -> KafkaLog:
    log = open_log(kafka_broker)
    log.ensure_topics([TopicSpec(prefix + "in", {"cleanup.policy": "delete"}, 1)], within(10))
    return log


def fatal(client: Any) -> None:
    client._transaction_manager.transition_to_fatal_error(ProducerFencedError("chosen by the test"))


def stopped(client: Any) -> None:
    client._sender.force_close()
    client._sender.join(5)


@pytest.mark.parametrize("break_it", [fatal, stopped])
def test_a_producer_that_can_send_nothing_any_more_is_replaced(
    log: KafkaLog, prefix: str, break_it: Callable[[Any], None]
) -> None:
    """Who meets the fault is told that nothing is known of his record; the next call is a new producer's, and not at
    once when it goes on like that."""
    topic = prefix + "in"
    producer = log.open_producer()
    assert isinstance(producer, KafkaOutsideProducer)
    send(producer, topic, b"first")
    broken = []
    for _ in range(2):
        broken.append(producer._opened(within(10)))
        break_it(broken[-1])
        with pytest.raises((OutcomeUnknown, LogUnavailable)):
            send(producer, topic, b"lost", 2.0)
        assert producer._producer is None
        with pytest.raises(LogUnavailable, match="another one in"):
            send(producer, topic, b"too soon", 0.001)
    assert broken[0] is not broken[1]
    began_at = time.monotonic()
    send(producer, topic, b"last")
    assert time.monotonic() - began_at < 8
    found = all_values(log, log.end_offsets([TopicPartition(topic, 0)], within(10)))
    assert (found[0], found[-1], set(found) - {b"lost"}) == (b"first", b"last", {b"first", b"last"})
    producer.close()
    with pytest.raises(LogUnavailable):
        send(producer, topic, b"closed")
