"""What a task hands over: everything that processing some records made, in one piece. Values only.

The seam between computing and keeping (docs/decisions/0020): a task does no I/O. Whoever runs it appends `records`
and `changes` to the log together with the input's offsets, in one transaction, and puts `rows` into the state store
together with the positions, in one batch. `changes` and `rows` say the same: the rows are what `StoreSpec.rows` makes
of the changelog's records, so a runtime may as well apply the changelog when it reads it back, and a standby can do
nothing else.
"""

from collections.abc import Mapping
from typing import NamedTuple

from streams.records import Headers


class OutputRecord(NamedTuple):
    """A record to be appended. `partition` is decided already. `timestamp_ms` is the record's, Unix time."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int


class StoreRow(NamedTuple):
    """One row as it is now; `row` None: it is gone."""

    store: str
    key: bytes
    row: bytes | None


class TaskOutput(NamedTuple):
    """What was made since the last time, in order.

    `records`: for topics of users and repartition topics. `changes`: for changelog topics (of the task's own
    partition), one for each row that was written, however often. `written`: the rows of all stores, also of those
    without a changelog topic, by store and key; None: it is gone. `expired`: of windowed stores, the key of rows before
    which all may be removed; nobody can read them any more.
    """

    records: list[OutputRecord]
    changes: list[OutputRecord]
    written: Mapping[str, Mapping[bytes, bytes | None]]
    expired: dict[str, bytes]

    @property
    def rows(self) -> list[StoreRow]:
        """What was written, row by row."""
        return [StoreRow(store, key, row) for store, rows in self.written.items() for key, row in rows.items()]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to append and nothing to keep."""
        return not (self.records or self.changes or self.written)
