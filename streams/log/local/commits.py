"""Numbers the batches that were synced, so that a lost part of the write-ahead log (WAL) cannot pass unseen.

RocksDB takes a WAL file that was emptied, removed, or cut between two batches for a good one: the records in it are
gone without a word, in the middle (it replays the later files) or at the end. Two things show it:
- every batch writes its number into one of some thousand slots beside the records, so they share the fate of the
  records: a number that is missing between others is a lost batch in the middle;
- after each sync the number goes into a small file. That write is not synced, it costs a microsecond: the file may be
  behind after a power failure, but never ahead. If the database is behind the file, its end is lost.
"""

import os
from contextlib import suppress
from pathlib import Path

from streams.errors import LogDamaged
from streams.log.local.database import Batch, Database
from streams.log.local.format import RowIterator, partition_prefix, record_key

_FILE_NAME = "committed"
#: A lost batch shows until so many came after it; by then its memtable has long become a synced file.
_SLOTS = 16_384
#: Topic numbers begin at 1.
_LOWER, _UPPER = partition_prefix(0, 0), partition_prefix(0, 1)


class Commits:
    """The numbers of one database. The holder of the commit lock uses it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE_NAME
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        self._last = 0

    def load(self, database: Database) -> None:
        """Find the last number. Raises LogDamaged when batches are missing."""
        numbers = sorted(database.scan(_LOWER, _UPPER, _values))
        self._last = numbers[-1] if numbers else 0
        acknowledged = int.from_bytes(os.pread(self._descriptor, 8, 0), "big")
        is_whole = not numbers or numbers[-1] - numbers[0] == len(numbers) - 1
        if is_whole and len(numbers) == min(self._last, _SLOTS) and self._last >= acknowledged:
            return
        raise LogDamaged(
            f"the log lost acknowledged batches ({len(numbers)} found up to number {self._last}, {acknowledged} were "
            f"acknowledged): restore it from a backup"
        )

    def number(self, batch: Batch) -> int:
        """Put the next number into *batch* and return it."""
        number = self._last + 1
        batch.put_record(record_key(_LOWER, number % _SLOTS), number.to_bytes(8, "big"))
        return number

    def acknowledge(self, number: int) -> None:
        """Note that the batch with that *number* is synced."""
        self._last = number
        with suppress(OSError):  # the next one notes it as well
            os.pwrite(self._descriptor, number.to_bytes(8, "big"), 0)

    def close(self) -> None:
        os.close(self._descriptor)


def _values(rows: RowIterator) -> list[int]:
    found = []
    while rows.valid():
        found.append(int.from_bytes(rows.value(), "big"))
        rows.next()
    return found
