"""What an error of kafka-python means for a group of records. Nothing here connects, and it waits only for answers that
are on their way."""

import contextlib
from collections.abc import Collection, Sequence
from typing import Any

from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    InvalidProducerEpochError,
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    ProducerFencedError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownMemberIdError,
    UnsupportedForMessageFormatError,
)

from streams.errors import Fenced, GenerationPassed, LogError, LogUnavailable, RecordRefused, RecordTooLarge
from streams.records import ProducerRecord, TopicPartition

_ROOT_CAUSE_S = 1.0

GENERATION_REFUSED = (CommitFailedError, IllegalGenerationError, UnknownMemberIdError, FencedInstanceIdError)
PRODUCER_FENCED = (ProducerFencedError, InvalidProducerEpochError)
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
#: What a broker says of a record that it would refuse again.
_REFUSED = (
    InvalidRecordError,
    InvalidTimestampError,
    PolicyViolationError,
    TopicAuthorizationFailedError,
    UnsupportedForMessageFormatError,
)


def root_cause(error: Exception, sent: Sequence[Any]) -> Exception:
    """Return what made a transactional call fail. kafka-python often says no more than that the producer is in an
    error state, while the records of the transaction carry the reason."""
    if type(error) is not KafkaError:
        return error
    for future in sent:
        try:
            future.get(timeout=_ROOT_CAUSE_S)
        except Exception as cause:  # noqa: BLE001  # It is what is looked for.
            return cause
    return error


def is_bug(error: BaseException) -> bool:
    """Say whether *error*, raised while records were put into Kafka's form, would be raised for the same records again:
    it is neither Kafka's nor the machine's."""
    return not isinstance(error, KafkaError | LogError | OSError | MemoryError)


def are_acknowledged(sent: Sequence[Any]) -> bool:
    """Say whether the brokers took all records; nothing is waited for."""
    return all(future.succeeded() for future in sent)


def wait(future: Any, timeout_s: float) -> None:
    """Return when *future* is done, or after *timeout_s*."""
    with contextlib.suppress(Exception):  # What it was is looked at by who asks next.
        future.get(timeout=timeout_s)


def not_acknowledged(sent: Sequence[Any]) -> set[TopicPartition]:
    """Return the partitions of the records that no broker has taken."""
    return {TopicPartition(*future._produce_future.topic_partition) for future in sent if not future.succeeded()}


def not_appended(cause: BaseException, generation: int, sent: Sequence[Any], names: Collection[str]) -> LogError:
    """Return the error for a group that was certainly not appended. When one record is refused kafka-python fails those
    that were not sent yet with the same reason, so more partitions may be blamed than have earned it, but not less; and
    only those of the topics *names*."""
    if isinstance(cause, GENERATION_REFUSED):
        return GenerationPassed(f"the group refuses generation {generation}: {cause}")
    if isinstance(cause, PRODUCER_FENCED):
        return Fenced("a newer producer of this node's transactional id exists, or the transaction took too long")
    if isinstance(cause, _TOO_LARGE):
        blamed = partitions_of(not_acknowledged(sent), names)
        return RecordTooLarge("the broker refuses a record for its size; compare the topic's max.message.bytes", blamed)
    if isinstance(cause, _REFUSED):
        blamed = partitions_of(not_acknowledged(sent), names)
        return RecordRefused(f"the broker refuses a record: {type(cause).__name__}: {cause}", blamed)
    return LogUnavailable(f"Kafka took no record: {type(cause).__name__}: {cause}")


def partitions_of(places: Collection[TopicPartition | ProducerRecord], names: Collection[str]) -> set[int]:
    """Return the partitions of those of *places* that are of the topics *names*."""
    return {place.partition for place in places if place.topic in names}
