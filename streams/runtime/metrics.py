"""What the runtime counts. Plain numbers that one thread changes and any thread may read; no metrics library here.

The names and units of the exported metrics are the application's business; each attribute says its unit.
"""

from bisect import bisect_left
from collections import Counter

from streams.errors import Fenced, LogUnavailable, OutcomeUnknown, RecordTooLarge

#: Upper bounds of the histogram of group commits, in seconds.
COMMIT_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

#: Upper bounds of the histogram of hand-overs, in seconds.
HAND_OVER_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)

_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (OutcomeUnknown, "unknown"),
    (Fenced, "fenced"),
    (RecordTooLarge, "too-large"),
    (LogUnavailable, "unavailable"),
)


class RuntimeMetrics:
    """Counters since the start of the process."""

    def __init__(self) -> None:
        self.groups = 0
        self.commands = 0
        self.commit_seconds = 0.0
        self.commit_buckets = [0] * (len(COMMIT_BUCKETS_S) + 1)
        self.append_errors: Counter[str] = Counter()
        self.records_applied = 0
        self.poison: Counter[tuple[str, str]] = Counter()
        self.rebuilds = 0
        self.rebalances = 0
        self.hand_over_seconds = 0.0
        self.hand_over_buckets = [0] * (len(HAND_OVER_BUCKETS_S) + 1)

    def append_failed(self, error: BaseException) -> None:
        """Count an append that was not reported as written."""
        self.append_errors[next((name for type_, name in _KINDS if isinstance(error, type_)), "other")] += 1

    def group_applied(self, commands: int, seconds: float) -> None:
        """Count a group that was read back and applied *seconds* after its append had begun."""
        self.groups += 1
        self.commands += commands
        self.commit_seconds += seconds
        self.commit_buckets[bisect_left(COMMIT_BUCKETS_S, seconds)] += 1

    def handed_over(self, seconds: float) -> None:
        """Count a partition that is served here *seconds* after the group had given it to this node."""
        self.hand_over_seconds += seconds
        self.hand_over_buckets[bisect_left(HAND_OVER_BUCKETS_S, seconds)] += 1

    def poisoned(self, topic: str, reason: str) -> None:
        """Count a quarantined record."""
        self.poison[topic, reason] += 1
