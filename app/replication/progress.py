"""What the replicator has done so far, for a terminal and for metrics. Values only."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.replication.ports import Written

#: Upper bounds of the histogram of batches, in seconds.
LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(slots=True)
class Progress:
    """Written by the replicator's thread, read by any. All figures only grow but the last three.

    `changes`: settled in the sink, of which `applied` changed it, `stale` were known there, and `refused` were set
    aside; the rest was replaced by a later change of the same batch. `skipped`: records that are no profile.
    """

    changes: int = 0
    applied: int = 0
    stale: int = 0
    refused: int = 0
    skipped: int = 0
    retries: int = 0
    batches: int = 0
    batch_seconds: float = 0.0
    batch_buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_S) + 1))
    #: Records that follow, by partition.
    lag: Mapping[int, int] = field(default_factory=dict)
    partitions: frozenset[int] = frozenset()
    #: Why nothing can be copied at the moment.
    waits_for: str | None = None

    def note_written(self, written: Written) -> None:
        """Count what became of some changes."""
        self.applied += written.applied
        self.stale += written.stale
        self.refused += len(written.refused)

    def note_batch(self, changes: int, seconds: float) -> None:
        """Count a batch that is in the sink."""
        self.changes += changes
        self.batches += 1
        self.batch_seconds += seconds
        self.batch_buckets[bisect_left(LATENCY_BOUNDS_S, seconds)] += 1

    @property
    def lag_records(self) -> int:
        """Records that follow, in all partitions."""
        return sum(self.lag.values())
