"""Dividing the partitions of a topic among processes that read it, by a Kafka consumer group and nothing more.

No fence, no offsets, no records: whoever uses this keeps positions elsewhere and bears that two processes work on one
partition for a while. (The nodes of a service need more: `membership`.)
"""

import logging
import threading
from collections.abc import Collection

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition

from streams.clock import Backoff
from streams.log.kafka.clients import open_client
from streams.log.kafka.settings import KafkaSettings, member_config

logger = logging.getLogger(__name__)

_POLL_MS = 200
_LOOK_AGAIN_S = 0.05
_CLOSE_S = 3.0


class KafkaSharing:
    """One member of the group named by the settings' application id. Joins in the background; any thread may ask."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self._partitions: frozenset[int] = frozenset()
        self._backoff = Backoff(initial_s=0.1, maximum_s=2.0)
        self._is_known_broken = False
        self._must_stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-sharing", daemon=True)
        self._thread.start()

    @property
    def partitions(self) -> frozenset[int]:
        """This member's share, as the group last divided it; none before that. While the brokers are away it stays."""
        return self._partitions

    def close(self) -> None:
        """Leave the group, so that the others take over at once. Idempotent."""
        self._must_stop.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        consumer: KafkaConsumer | None = None
        while not self._must_stop.is_set():
            try:
                if consumer is None:
                    consumer = open_client(KafkaConsumer, member_config(self._settings))
                    consumer.subscribe([self._topic], listener=_Paused(consumer))
                    # A leader that knows no partitions assigns none, and joins once more (see `membership`).
                    while self._topic not in consumer.topics() and not self._must_stop.wait(_LOOK_AGAIN_S):
                        pass
                consumer.poll(timeout_ms=_POLL_MS)
                self._note(consumer)
                self._is_known_broken = False
                self._backoff.reset()
            except Exception as error:  # noqa: BLE001  # Whatever it is: a new member joins.
                if not self._is_known_broken:
                    logger.warning("kafka_sharing_restarts", extra={"reason": f"{type(error).__name__}: {error}"})
                self._is_known_broken = True
                _close(consumer)
                consumer = None
                self._must_stop.wait(self._backoff.next_s())
        _close(consumer)

    def _note(self, consumer: KafkaConsumer) -> None:
        """Take over what the last join came to. In the middle of one, what was there before goes on."""
        if consumer._coordinator.need_rejoin():
            return
        found = frozenset(one.partition for one in consumer.assignment())
        if found != self._partitions:
            logger.info("partitions_shared", extra={"partitions": sorted(found)})
            self._partitions = found


class _Paused(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python ships no types
    """Keeps the member from fetching, and from looking for positions that nobody has committed."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._consumer.pause(*assigned)
        for partition in assigned:
            self._consumer.seek(partition, 0)

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Work on them may go on until somebody else's begins, and after."""


def _close(consumer: KafkaConsumer | None) -> None:
    if consumer is not None:
        try:
            consumer.close(autocommit=False, timeout_ms=1_000)
        except Exception as error:  # noqa: BLE001  # Then its session ends by itself.
            logger.debug("kafka_sharing_not_left", extra={"reason": type(error).__name__})
