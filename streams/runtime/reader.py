"""Reads one store of one task, and says what the answer is worth: under a lease, or how far it may be behind.

No I/O but the store's, no waiting. Whoever reads checks afterwards: `check_lease` for a plain read, `staleness_ms` for
one that allows to be behind; and for a plain read `check_settled` before.
"""

from collections.abc import Callable, Mapping

from streams.clock import Clock
from streams.errors import LeaseExpired
from streams.log.base import Membership
from streams.runtime.group import Flights
from streams.runtime.task import StreamTask
from streams.runtime.tenure import Tenure
from streams.stores.base import Getter

#: What a task that was never caught up is behind, in ms: more than anybody allows.
NEVER_MS = 1 << 53


class TaskReader:
    """Reads one store of one task. Any thread; valid until the task leaves or is rebuilt, then its calls fail.

    One that came from `StreamsNode.reader` reads an active task and can pass `check_lease`; one from
    `StreamsNode.replica` reads whatever is applied, and passes it only if the task is active.
    """

    __slots__ = ("_clock", "_flights", "_membership", "_report", "_store", "_task", "_tenure", "get")

    def __init__(
        self,
        task: StreamTask,
        store: str,
        *,
        tenure: Tenure | None,
        flights: Flights,
        membership: Membership,
        clock: Clock,
        report: Callable[[int, str], None],
    ) -> None:
        """*tenure*: of an active task, else None. *report* is told partition and reason of damage that was met."""
        self.get: Getter = task.getters[store]
        self._task = task
        self._store = store
        self._tenure = tenure
        self._flights = flights
        self._membership = membership
        self._clock = clock
        self._report = report

    @property
    def partition(self) -> int:
        return self._task.partition

    @property
    def positions(self) -> Mapping[str, int]:
        """Topic to applied position."""
        return self._task.positions

    def scan(
        self, *, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return rows in key order; it blocks, and raises StoreDamaged rather than give a part as the whole."""
        return self._task.store.scan(self._store, start=start, stop=stop, limit=limit)

    def approximate_count(self) -> int:
        """Return about how many rows there are; see the store's adapter for what that is worth."""
        return self._task.store.approximate_count(self._store)

    def check_settled(self, key: bytes) -> None:
        """Raise LeaseExpired while a write of *key* may be in the log and is not applied here: a copy on another node
        may have shown it, and a lease does not say that this one has seen it. To be called before the read; a barrier
        proves what this cannot."""
        for overlay in self._flights.now:
            if (self._store, self._task.partition, key) in overlay:
                raise LeaseExpired("a write of this key is under way", partition=self._task.partition)

    def check_lease(self) -> None:
        """Raise LeaseExpired when another node may own the partition by now. To be called after the read, right
        before the answer: a process that was paused in between must not answer from the past."""
        tenure = self._tenure
        if tenure is None or tenure.is_over or self._clock.monotonic() >= self._membership.lease_until:
            raise LeaseExpired("the ownership of this partition could not be confirmed", partition=self.partition)

    def staleness_ms(self) -> int:
        """Return by how many ms the rows may be behind the log at most: 0 for an active task under its lease, else the
        time since the task was last known to have applied all that the log held."""
        now = self._clock.monotonic()
        tenure = self._tenure
        if tenure is not None and not tenure.is_over and now < self._membership.lease_until:
            return 0
        return max(1, round(min((now - self._task.caught_up_at) * 1000, float(NEVER_MS))))

    def explain(self, error: Exception) -> Exception:
        """Return what an error of `get` means (StoreDamaged, StoreClosed, OSError); any other is returned as it is."""
        return self._task.store.explain(error)

    def report_damage(self, error: BaseException) -> None:
        """Tell the node that a read met damage; the task is rebuilt."""
        self._report(self.partition, str(error))
