"""Rows of stores that no topic tells of: those of stores without a changelog (`StoreSpec.is_logged`).

Whoever decides a batch leaves its rows here. They come into the store together with the record by which the batch is
read back, and wait nowhere else: so they are in the store if the batch is in the log, like all that it did. A record of
a batch whose rows are not here was written by another process, or by an earlier one that did not come to applying it.
Then nobody knows the rows any more, and the stores are emptied. Invariant: a store holds what every batch up to its
position has left there, since the moment at which it was empty last.

Owned by the stream thread.
"""

from collections.abc import Sequence

from streams.records import Record, header
from streams.runtime.commands import EVENT_ID
from streams.stores.base import StoreBatch, TaskStore

#: Store, key, row; row None: it is gone.
LocalRow = tuple[str, bytes, bytes | None]

_NEARLY_LAST = b"\xff" * 32  # no key is so great, as a rule: what is greater is removed one by one


class LocalRows:
    """The rows of one task's batches that are not applied yet, by event id, in the order of the batches."""

    def __init__(self, stores: Sequence[str]) -> None:
        self.stores = tuple(stores)
        self._waiting: dict[bytes, Sequence[LocalRow]] = {}
        self._applied: list[bytes] = []  # waiting, and in a commit that has not succeeded yet
        self._is_empty = False  # the stores are, for certain

    def expect(self, event_id: bytes, rows: Sequence[LocalRow]) -> None:
        """Have *rows* applied with the record whose header `ce_id` is *event_id*."""
        if self.stores:
            self._waiting[event_id] = rows

    def forget(self, event_id: bytes) -> None:
        """The batch is not in the log and will not be, or not with these rows."""
        self._waiting.pop(event_id, None)

    def forget_all(self) -> None:
        """Nothing that waits can come any more."""
        self._waiting.clear()
        self._applied.clear()

    def put(self, records: Sequence[Record], batch: StoreBatch, store: TaskStore) -> None:
        """Add to *batch* what goes with *records*: all those of the first topic that it applies. Call `committed` or
        `failed` next. Raises StoreDamaged."""
        left = [event_id for event_id in self._waiting if event_id not in self._applied]
        rows: list[LocalRow] = []
        is_lost = False
        for record in records:
            if left and left[0] == header(record.headers, EVENT_ID):
                rows += self._waiting[left[0]]
                self._applied.append(left.pop(0))
            else:  # Also when one before it is missing: the rows would have a gap.
                rows, is_lost = [], True
        if is_lost and not self._is_empty:
            self._clear(batch, store)
        self._is_empty = self._is_empty or is_lost
        for name, key, row in rows:
            self._is_empty = False
            if row is None:
                batch.delete(name, key)
            else:
                batch.put(name, key, row)

    def committed(self) -> None:
        """What was put is in the store."""
        for event_id in self._applied:
            self._waiting.pop(event_id, None)
        self._applied.clear()

    def failed(self) -> None:
        """What was put is not in the store; its records will be read again."""
        self._applied.clear()
        self._is_empty = False

    def _clear(self, batch: StoreBatch, store: TaskStore) -> None:
        for name in self.stores:
            batch.delete_before(name, _NEARLY_LAST)
            for key, _ in store.scan(name, start=_NEARLY_LAST):
                batch.delete(name, key)
