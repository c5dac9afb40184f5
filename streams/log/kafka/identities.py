"""The transactional ids under which one node writes: one at a time, and the next when it is stuck.

A coordinator takes no new transaction of an id until the last one is marked as ended in every partition that it wrote
to, and no new producer either. So one partition without a leader would stop all that the node writes, for as long as
it has none. The node then goes on under another id of its own. That is as safe as a takeover by another node: what the
old id left undecided holds up the fence (KIP-447), as any undecided transaction with an offset of an owned partition
does; and one without such an offset was given up before its commit, and never gets there.
"""

import threading
from collections.abc import Callable

_IDS = 8  # so many partitions may have got stuck one after the other; a stuck id is free again when its leader is back
_MARK = "~"


class TransactionalIds:
    """The ids of one node. Any thread."""

    def __init__(self, first: str, end: Callable[[str], None]) -> None:
        """*first* is used as long as nothing is stuck. *end* has a transaction that an id left open ended, in the
        background."""
        self._ids = (first, *(f"{first}{_MARK}{number}" for number in range(1, _IDS)))
        self._end = end
        self._lock = threading.Lock()
        self._at = 0
        self._is_doubted = False

    @property
    def current(self) -> str:
        """The id to write under."""
        return self._ids[self._at]

    def leave(self, stuck: str) -> None:
        """Write under another id than *stuck* from now on."""
        with self._lock:
            if stuck != self.current:
                return
            self._at = (self._at + 1) % len(self._ids)
            self._is_doubted = False
        self._end(stuck)

    def doubt(self, slow: str) -> None:
        """The coordinator did not give *slow* in time: it may be stuck, or Kafka slow. Leave it the second time, since
        another id is more work for all, and no remedy where everything is slow."""
        with self._lock:
            is_second, self._is_doubted = self._is_doubted, True
        if is_second:
            self.leave(slow)

    def given(self) -> None:
        """The coordinator gives the current id."""
        self._is_doubted = False


def owner_of(transactional_id: str, prefix: str) -> str | None:
    """Return the node whose id it is, by the *prefix* of all nodes' ids; None: it is nobody's of them."""
    if not transactional_id.startswith(prefix):
        return None
    name, mark, number = transactional_id.removeprefix(prefix).rpartition(_MARK)
    return name if mark and number.isdecimal() else transactional_id.removeprefix(prefix)
