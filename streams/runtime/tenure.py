"""For how long a reader may answer from an active task: from its promotion until the group takes the partition away.

The lease alone cannot tell. It is the node's and goes on when one partition is given up, and it begins anew when the
group was left and joined again, while the stream thread may not have heard yet of what happened in between. So the
membership's own thread ends tenures, before it lets the group go on; a reader looks at his after he has read.
"""

import threading
from collections.abc import Iterable


class Tenure:
    """One partition's time as an active task. `is_over` only ever goes from False to True; any thread may look."""

    __slots__ = ("is_over",)

    def __init__(self) -> None:
        self.is_over = False


class Tenures:
    """The tenures of all partitions. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, Tenure] = {}
        self._ends = 0
        self._ended_at: dict[int, int] = {}

    @property
    def stamp(self) -> int:
        """What `begin` wants: taken when the group says what is owned, by the thread that it says it to."""
        return self._ends

    def begin(self, partition: int, stamp: int) -> Tenure | None:
        """Return the running tenure of *partition*, a new one if there is none; None when the partition was taken away
        after *stamp*: what made it active is not true any more."""
        with self._lock:
            if self._ended_at.get(partition, 0) > stamp:
                return None
            return self._running.setdefault(partition, Tenure())

    def end(self, partitions: Iterable[int]) -> None:
        """The group takes *partitions* away: whoever is reading them does not answer any more."""
        with self._lock:
            self._ends += 1
            for partition in partitions:
                self._ended_at[partition] = self._ends
                self._stop(partition)

    def interrupt(self, partition: int) -> None:
        """The task stops being active for a reason of its own; it may `begin` anew under the same ownership."""
        with self._lock:
            self._stop(partition)

    def _stop(self, partition: int) -> None:
        tenure = self._running.pop(partition, None)
        if tenure is not None:
            tenure.is_over = True
