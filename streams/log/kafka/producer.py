"""`LogProducer` on Kafka: an idempotent producer without transactions, for what programs outside send."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError

from streams.clock import Clock, Deadline
from streams.errors import LogError, LogUnavailable, OutcomeUnknown, RecordRefused
from streams.log.kafka.blame import not_appended, root_cause
from streams.log.kafka.clients import open_client
from streams.log.kafka.packing import send_all
from streams.log.kafka.settings import KafkaSettings, outside_config
from streams.records import ProducerRecord, TopicPartition

_CLOSE_S = 2.0


class KafkaOutsideProducer:
    """Any thread may call it. Connects with the first call."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = None

    def produce(self, records: Sequence[ProducerRecord], deadline: Deadline) -> Mapping[TopicPartition, int]:
        """See `LogProducer.produce`: acknowledged by all replicas in sync when it returns."""
        sent: list[Any] = []
        try:
            producer = self._opened()
            for record in records:
                if record.key is None and record.value is None:
                    raise RecordRefused("a record has neither key nor value")
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
        except KafkaError as error:
            cause = root_cause(error, sent)
            raise not_appended(cause, -1, sent, ()) from error
        else:
            return ends

    def close(self) -> None:
        """Send nothing any more. Idempotent."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=_CLOSE_S)

    def _opened(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                self._producer = open_client(KafkaProducer, outside_config(self._settings))
            return self._producer
