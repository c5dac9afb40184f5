"""What happens with a record that cannot be read or processed. Values and pure functions.

*stop* (the default): the task fails with ProcessingFailed, and nothing of its batch is kept.

*skip*: counted and forgotten. Where an operator fails, what it was given is lost, and the rest of the record goes its
way: of five words of a line four are counted (as LogAndContinueProcessingExceptionHandler does).

*quarantine*: the record's bytes go to the quarantine topic, with headers that say where it lay and why it was refused
(the names of KIP-1034), in the same transaction as everything else, so that none is lost and none is there twice.
Whatever the record had already written or sent is undone, so it can be piped in again, whole, once its fault is
mended.
"""

from dataclasses import dataclass

from streams.errors import ConfigError
from streams.processing.output import OutputRecord
from streams.records import Record

STOP, SKIP, QUARANTINE = "stop", "skip", "quarantine"

_MAX_TEXT = 500  # characters of an error's message that are kept


@dataclass(frozen=True, slots=True)
class ErrorPolicy:
    """`on_deserialization`: the bytes are not what the serde reads, or there is no valid timestamp. `on_processing`: an
    operator or a user's function raised, or the log does not take what the record has made (Kafka Streams:
    ProductionExceptionHandler); that is one transaction, so *skip* leaves out all of it then. `quarantine_topic` None:
    `<application_id>-quarantine`."""

    on_deserialization: str = STOP
    on_processing: str = STOP
    quarantine_topic: str | None = None

    def __post_init__(self) -> None:
        for choice in (self.on_deserialization, self.on_processing):
            if choice not in (STOP, SKIP, QUARANTINE):
                raise ConfigError(f"an error policy is stop, skip or quarantine, not {choice!r}")

    @property
    def undoes(self) -> bool:
        """Whether what a failed record did is undone, and the task goes on."""
        return self.on_processing == QUARANTINE


def quarantined(record: Record, error: Exception, *, topic: str, partition: int) -> OutputRecord:
    """Return *record* as it goes to the quarantine *topic*."""
    cause = error.__cause__ if error.__cause__ is not None else error
    facts = {
        "exception": type(cause).__name__,
        "message": str(error)[:_MAX_TEXT],
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
    }
    headers = (*record.headers, *((f"__streams.errors.{name}", text.encode()) for name, text in facts.items()))
    return OutputRecord(topic, partition, record.key, record.value, headers, record.timestamp_ms)
