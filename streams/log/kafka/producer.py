"""`LogProducer` on Kafka: an idempotent producer without transactions, for what programs outside send.

Invariant: a producer of kafka-python that can send nothing any more is replaced, and no sooner each time than the last.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError

from streams.clock import Backoff, Clock, Deadline
from streams.errors import LogError, LogUnavailable, OutcomeUnknown, RecordRefused
from streams.log.kafka.blame import PRODUCER_FENCED, not_appended, root_cause
from streams.log.kafka.clients import close_producer, open_client
from streams.log.kafka.packing import send_all
from streams.log.kafka.settings import KafkaSettings, outside_config
from streams.records import ProducerRecord, TopicPartition

logger = logging.getLogger(__name__)

_CLOSE_S = 2.0


class KafkaOutsideProducer:
    """Any thread may call it. Connects with the first call."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._is_closed = threading.Event()
        self._lock = threading.Lock()
        # All of these are guarded by _lock.
        self._producer: KafkaProducer | None = None
        self._open_at = 0.0  # no sooner is another one made
        self._backoff = Backoff(initial_s=0.1, maximum_s=5.0)

    def produce(self, records: Sequence[ProducerRecord], deadline: Deadline) -> Mapping[TopicPartition, int]:
        """See `LogProducer.produce`: acknowledged by all replicas in sync when it returns."""
        producer = self._opened(deadline)
        try:
            ends = self._produce(producer, records, deadline)
        except Exception as error:
            if _is_of_no_more_use(producer, error):
                self._renew(producer, error)
            raise
        if self._open_at:
            with self._lock:
                self._open_at = 0.0
                self._backoff.reset()
        return ends

    def _produce(
        self, producer: KafkaProducer, records: Sequence[ProducerRecord], deadline: Deadline
    ) -> Mapping[TopicPartition, int]:
        sent: list[Any] = []
        try:
            for topic in {record.topic for record in records}:
                producer.partitions_for(topic)  # so that somebody is known who leads it
            send_all(producer, records, sent.append, self._clock.time_ms())
            producer.flush(timeout=max(0.001, deadline.remaining_s(self._clock)))
            ends: dict[TopicPartition, int] = {}
            for future in sent:
                metadata = future.get(timeout=0)
                place = TopicPartition(metadata.topic, metadata.partition)
                ends[place] = max(metadata.offset + 1, ends.get(place, 0))
        except LogError:
            raise
        except KafkaTimeoutError as error:
            if not sent:
                raise LogUnavailable(f"Kafka does not answer: {error}") from error
            raise OutcomeUnknown("Kafka has not acknowledged all records in time") from error
        except (KafkaError, RuntimeError) as error:  # RuntimeError: its network is closed, as when its thread has died.
            cause = root_cause(error, sent)
            told = not_appended(cause, -1, sent, ())
            if sent and not isinstance(told, RecordRefused):
                told = OutcomeUnknown(f"Kafka has not acknowledged all records: {type(cause).__name__}: {cause}")
            elif isinstance(cause, PRODUCER_FENCED):
                told = LogUnavailable(f"Kafka took no record: {type(cause).__name__}: {cause}")
            raise told from cause
        else:
            return ends

    def close(self) -> None:
        """Send nothing any more. Idempotent."""
        self._is_closed.set()
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=_CLOSE_S)

    def _opened(self, deadline: Deadline) -> KafkaProducer:
        """Return the producer, made anew if need be. Raises LogUnavailable when that takes longer than *deadline*."""
        while True:
            with self._lock:
                if self._is_closed.is_set():
                    raise LogUnavailable("the producer is closed")
                if self._producer is not None:
                    return self._producer
                wait_s = self._open_at - self._clock.monotonic()
                if wait_s <= 0:
                    try:
                        self._producer = open_client(KafkaProducer, outside_config(self._settings))
                    except KafkaError as error:
                        raise LogUnavailable(f"Kafka gives no producer: {type(error).__name__}: {error}") from error
                    return self._producer
            if deadline.remaining_s(self._clock) <= wait_s:
                raise LogUnavailable(f"the last producer has failed; there is another one in {wait_s:.1f} s")
            self._is_closed.wait(wait_s)

    def _renew(self, producer: KafkaProducer, error: Exception) -> None:
        """Let the next call have another one than *producer*, unless there is one already."""
        with self._lock:
            if self._producer is not producer:
                return
            self._producer = None
            is_healthy = isinstance(error, RecordRefused)  # It is the record's fault, and who sent it knows.
            self._open_at = self._clock.monotonic() + (0.0 if is_healthy else self._backoff.next_s())
        if not is_healthy:
            logger.warning("kafka_producer_renewed", extra={"reason": str(error)})
        close_producer(producer)


def _is_of_no_more_use(producer: KafkaProducer, error: Exception) -> bool:
    """Say whether *producer* can send nothing after *error*. kafka-python goes on by itself after most; not where the
    broker has fenced it (KIP-360), without its thread, and after what it calls fatal, or abortable: a record that was
    refused is that, and without a transaction there is nothing to abort."""
    transactions, sender = producer._transaction_manager, producer._sender
    has_error = transactions is not None and transactions.has_error()
    return has_error or isinstance(error.__cause__, PRODUCER_FENCED) or producer._closed or not sender.is_alive()
