"""How much a task takes at a time, and what it has learned of its input that makes it careful. Values; no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from streams.errors import ProcessingFailed
from streams.records import Record


@dataclass(frozen=True, slots=True)
class ProcessingBounds:
    """Of one batch: `batch_records`, and `batch_ms`, after which it ends with the record under way, since other
    partitions wait meanwhile; `batch_bytes`: of its input. `buffered_records`, `buffered_bytes`: of the input of a task
    that may be read ahead. `batches_in_flight`: of one task. `timeout_s`: after it the fate of a batch counts as
    unknown."""

    batch_records: int = 2_000
    batch_ms: int = 100
    batch_bytes: int = 1 << 20
    buffered_records: int = 10_000
    buffered_bytes: int = 16 << 20
    batches_in_flight: int = 2
    timeout_s: float = 30.0


class Refusal(NamedTuple):
    """A record whose results the log does not take, and why."""

    topic: str
    offset: int
    error: Exception

    def is_of(self, record: Record) -> bool:
        """Say whether *record* is the one."""
        return record.offset == self.offset and record.topic == self.topic


@dataclass(slots=True)
class Care:
    """What outlives a run of its partition: how carefully to go on. `limit`: of the next batch, None: as usual; it
    holds for so many records. `refusal`: of the record that the policy treats. `is_apart`: what comes of the time goes
    without records, since the log did not take both. `starts`: of topics that are begun at their end, where that was.
    `failure`: why the task does not go on at all."""

    limit: int | None = None
    records: int = 0
    refusal: Refusal | None = None
    is_apart: bool = False
    starts: dict[str, int] = field(default_factory=dict)
    failure: Exception | None = None

    def be_careful(self, limit: int, records: int) -> None:
        """Take at most *limit* records at a time for the next *records*."""
        self.limit, self.records = max(1, limit), max(1, records)

    def passed(self, records: int) -> None:
        """So many records are in the log."""
        self.records -= records
        if self.records <= 0:
            self.limit = self.refusal = None

    def refuse(self, record: Record, error: Exception) -> bool:
        """Have *record* treated by the policy the next time; return False when it was already: it is not the fault."""
        if self.refusal is not None and self.refusal.is_of(record):
            return False
        self.be_careful(1, max(1, self.records))
        self.refusal = Refusal(record.topic, record.offset, error)
        return True


class FailedTask(NamedTuple):
    """A task that does not go on. `topic` and `offset`: of the record that stopped it; empty and -1: it was none."""

    subtopology: int
    partition: int
    topic: str
    offset: int
    reason: str


def failed_tasks(subtopology: int, cares: Mapping[int, Care]) -> list[FailedTask]:
    """Return what is told of the tasks that do not go on; *cares*: by partition."""
    found: list[FailedTask] = []
    for partition, care in sorted(cares.items()):
        error = care.failure
        if isinstance(error, ProcessingFailed):
            found.append(FailedTask(subtopology, partition, error.topic, error.offset, f"{error.stage}: {error}"))
        elif error is not None:
            found.append(FailedTask(subtopology, partition, "", -1, f"{type(error).__name__}: {error}"))
    return found
