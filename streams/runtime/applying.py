"""Puts what was read into the stores, task by task, and meets what a disk can do: fill up, or be damaged.

Owned by the stream thread. Invariant: after a commit that failed nothing of that task is applied before it was read
again from the store's own position, since that would leave a gap.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

from streams.clock import Clock
from streams.errors import StoreDamaged
from streams.records import RecordBatch
from streams.runtime.metrics import RuntimeMetrics
from streams.runtime.task import StreamTask
from streams.runtime.waiters import Waiters

logger = logging.getLogger(__name__)

DISK_RETRY_S = 1.0
_CHUNK_RECORDS = 512  # records between two yields while reads are served: a commit holds the interpreter's lock


class Applier:
    """Applies batches to *tasks*. `sequence` may be looked at by any thread."""

    def __init__(
        self,
        *,
        tasks: Mapping[int, StreamTask],
        waiters: Waiters,
        metrics: RuntimeMetrics,
        clock: Clock,
        rebuild: Callable[[StreamTask, str], None],
        read_again: Callable[[StreamTask], None],
    ) -> None:
        """*rebuild* begins a damaged task anew; *read_again* has its reading begin at the store's position."""
        self.sequence = 0  # odd while a turn's records are being applied to several tasks
        #: Until then nothing is read: the disk was full, and what is read could not be kept.
        self.retry_disk_at = 0.0
        self._tasks = tasks
        self._waiters = waiters
        self._metrics = metrics
        self._clock = clock
        self._rebuild = rebuild
        self._read_again = read_again

    def apply(self, batches: Sequence[RecordBatch]) -> None:
        """Apply *batches* and wake whoever waits for their positions."""
        by_task: dict[int, list[RecordBatch]] = {}
        for batch in batches:
            by_task.setdefault(batch.partition, []).append(batch)
        is_serving = any(task.is_serving for task in self._tasks.values())
        self.sequence += 1
        try:
            for partition, mine in by_task.items():
                task = self._tasks.get(partition)
                if task is None:
                    continue
                for chunk in _chunks(mine) if is_serving else (mine,):
                    if not self._apply_to(task, chunk):
                        break  # What follows is read again; applied now, it would leave a gap.
        finally:
            self.sequence += 1
        self._waiters.applied(self._tasks)

    def _apply_to(self, task: StreamTask, batches: Sequence[RecordBatch]) -> bool:
        """Apply *batches*; False when that failed and the reading of this task begins anew."""
        try:
            self._metrics.records_applied += task.apply(batches)
        except StoreDamaged as error:
            self._rebuild(task, str(error))
        except OSError as error:
            # The disk is full or broken. What was read is read again from the store's position once it works.
            logger.error("store cannot be written", extra={"task": task.partition, "reason": str(error)})  # noqa: TRY400
            self.retry_disk_at = self._clock.monotonic() + DISK_RETRY_S
            self._read_again(task)
        else:
            return True
        return False


def _chunks(batches: Sequence[RecordBatch]) -> list[list[RecordBatch]]:
    """Cut *batches* into lists of at most `_CHUNK_RECORDS` records; small reads, the usual case, stay in one piece."""
    if sum(len(batch.records) for batch in batches) <= _CHUNK_RECORDS:
        return [list(batches)]
    chunks: list[list[RecordBatch]] = []
    for batch in batches:
        records = batch.records
        for start in range(0, max(1, len(records)), _CHUNK_RECORDS):
            part = records[start : start + _CHUNK_RECORDS]
            is_last = start + _CHUNK_RECORDS >= len(records)
            end = batch.next_offset if is_last else part[-1].offset + 1
            chunks.append([batch._replace(records=part, next_offset=end)])
    return chunks
