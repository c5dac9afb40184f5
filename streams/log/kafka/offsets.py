"""Committed offsets of the group and end offsets, both as a reader of committed records sees them."""

import contextlib
import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaTopicPartition
from kafka.errors import KafkaError, RetriableError, StaleMetadata

from streams.clock import Clock, Deadline
from streams.errors import LogUnavailable
from streams.log.kafka.clients import bounded, open_client
from streams.log.kafka.settings import KafkaSettings, offsets_config

T = TypeVar("T")

_LOOK_AGAIN_S = 0.01


class Offsets:
    """Asks the brokers; keeps nothing. Any thread; each call is bounded by its deadline."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        """Connects with the first call."""
        self._settings = settings
        self._clock = clock
        self._pause = threading.Event()
        self._lock = threading.Lock()
        self._consumer: KafkaConsumer | None = None

    def committed(self, topic: str, partitions: Collection[int], deadline: Deadline) -> dict[int, int | None]:
        """Return the group's committed offset of each partition, None where there is none.

        Waits while a transaction that carries an offset of one of them is undecided (KIP-447). Raises LogUnavailable.
        """
        asked = [KafkaTopicPartition(topic, number) for number in sorted(partitions)]
        return self._ask(partial(_committed, asked), deadline, "fetch committed offsets")

    def marks(self, topic: str, partitions: Collection[int], deadline: Deadline) -> dict[int, tuple[int, str]]:
        """Return the committed offset of each partition that has one, with the text that was committed beside it. Waits
        and raises as `committed` does."""
        asked = [KafkaTopicPartition(topic, number) for number in sorted(partitions)]
        return self._ask(partial(_marks, asked), deadline, "fetch committed offsets")

    def close(self) -> None:
        """Disconnect. Idempotent."""
        self._drop()

    def _ask(self, question: Callable[[KafkaConsumer, int], T], deadline: Deadline, what: str) -> T:
        while True:
            timeout_ms = round(deadline.remaining_s(self._clock) * 1000)
            if timeout_ms <= 0:
                raise LogUnavailable(f"gave up waiting for Kafka to {what}")
            try:
                return bounded(partial(self._answer, question, timeout_ms), deadline, self._clock, what=what)
            except RetriableError as error:
                if deadline.has_passed(self._clock):
                    raise LogUnavailable(f"gave up waiting for Kafka to {what}") from error
                if not isinstance(error, StaleMetadata):
                    self._drop()
                self._pause.wait(_LOOK_AGAIN_S)
            except KafkaError as error:
                self._drop()
                raise LogUnavailable(f"Kafka refuses to {what}: {error}") from error

    def _answer(self, question: Callable[[KafkaConsumer, int], T], timeout_ms: int) -> T:
        return question(self._connected(), timeout_ms)

    def _connected(self) -> KafkaConsumer:
        with self._lock:
            if self._consumer is None:
                self._consumer = open_client(KafkaConsumer, offsets_config(self._settings))
            return self._consumer

    def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(Exception):  # It is thrown away: nothing depends on it any more.
                consumer.close(autocommit=False, timeout_ms=100)


def _committed(
    partitions: Sequence[KafkaTopicPartition], consumer: KafkaConsumer, timeout_ms: int
) -> dict[int, int | None]:
    found = _marks(partitions, consumer, timeout_ms)
    return {one.partition: found[one.partition][0] if one.partition in found else None for one in partitions}


def _marks(
    partitions: Sequence[KafkaTopicPartition], consumer: KafkaConsumer, timeout_ms: int
) -> dict[int, tuple[int, str]]:
    """Ask for all in one request. `KafkaConsumer.committed` takes one partition, and whoever fences waits for each."""
    found = consumer._coordinator.fetch_committed_offsets(partitions, timeout_ms=timeout_ms)
    return {one.partition: (at.offset, at.metadata or "") for one, at in found.items() if at.offset >= 0}
