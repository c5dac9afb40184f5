"""What the processing of one sub-topology counts. One thread adds; any thread reads."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class BatchCounts:
    """What one batch did; counted when it is in the log."""

    processed: int = 0
    skipped: int = 0
    quarantined: int = 0
    outputs: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


class ProcessingCounters:
    """Since the start of the process; each input record that is in the log's positions counts once."""

    def __init__(self) -> None:
        #: Input records that are in the positions, those that follow included.
        self.processed = 0
        #: Input records that the policy `skip` left out.
        self.skipped = 0
        #: Input records that the policy `quarantine` set aside.
        self.quarantined = 0
        #: Records that were written to topics, repartition topics included, changelogs not.
        self.outputs = 0
        #: Batches that are in the log.
        self.batches = 0
        #: Batches that were processed and thrown away: given back by the log, or overtaken.
        self.repeated = 0
        #: Records that retention had removed before they were read.
        self.lost_positions = 0
        #: Records that operators dropped, by reason: late ones, say, or those without a key.
        self.dropped: Counter[str] = Counter()

    def add(self, counts: BatchCounts) -> None:
        """Count a batch that is in the log."""
        self.batches += 1
        self.processed += counts.processed
        self.skipped += counts.skipped
        self.quarantined += counts.quarantined
        self.outputs += counts.outputs
        self.dropped.update(counts.dropped)
