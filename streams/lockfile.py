"""A lock on a directory that says who holds it. Knows nothing of what lies in the directory.

The lock is `flock` on the file `lock`: the system drops it when the process ends, however it ends, so a crash leaves
nothing to clear away. The text in the file only tells a human who the holder is; it decides nothing.
"""

import fcntl
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from streams.errors import StoreLocked

_FILE_NAME = "lock"


class Holder(NamedTuple):
    """Who holds a directory. `started_at`: since when, RFC 3339 in UTC; `note`: its address, or what it is."""

    pid: int
    started_at: str
    note: str

    def __str__(self) -> str:
        return f"process {self.pid} since {self.started_at}" + (f" ({self.note})" if self.note else "")


class DirectoryLock:
    """Holds *directory* for this process. The directory must exist. One thread acquires and releases; any asks.

    *note* is for the reader of an error message, such as the address on which the holder listens.
    """

    def __init__(self, directory: Path, note: str = "") -> None:
        self._directory = directory
        self._note = note
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, without waiting. Raises StoreLocked, which names the holder, or OSError."""
        assert self._descriptor is None, "the lock is held already"
        # Not inherited by children (PEP 446): a child that outlives us must not keep the directory.
        descriptor = os.open(self._directory / _FILE_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            holder = self.holder()
            raise StoreLocked(f"{self._directory} is in use by {holder or 'another process'}") from None
        self._descriptor = descriptor
        self._write(Holder(os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"), self._note))

    def release(self) -> None:
        """Give the lock back. Idempotent. The file stays: removing it would let two processes lock two files."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> Holder | None:
        """Return what the file says of its holder; None when it says nothing. Only meaningful while somebody holds."""
        try:
            found = json.loads((self._directory / _FILE_NAME).read_bytes())
            return Holder(int(found["pid"]), str(found["started_at"]), str(found["note"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, holder: Holder) -> None:
        assert self._descriptor is not None
        # A full disk must not keep the process from starting: the lock holds without the text.
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(holder._asdict()).encode(), 0)
