"""The file of refused lines: for each its number, why, and the line as it was, for whoever has to mend it.

It is the only place where an e-mail of a refused line is written. Invariant: after a resume every refused line is in it
once, in the order of the input.
"""

import os
from pathlib import Path
from typing import IO, Any

import orjson

from app.backfill.errors import WrongFiles
from app.backfill.lines import Line


class Rejected:
    """Appends to one file."""

    def __init__(self, path: Path, keep_bytes: int) -> None:
        """Open *path*, of which the first *keep_bytes* were written by the part that is done. Raises WrongFiles when
        there are fewer, OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._file: IO[bytes] = os.fdopen(descriptor, "r+b")
        size = self._file.seek(0, os.SEEK_END)
        if size < keep_bytes:
            self._file.close()
            raise WrongFiles(f"{path} is not the errors file of the part that is done; give that one, or remove it")
        self._file.truncate(keep_bytes)
        self._file.seek(keep_bytes)
        self._size = keep_bytes

    def add(self, line: Line, reason: dict[str, Any]) -> None:
        """Append *line* and why it was refused."""
        row = {"line": line.number, **reason, "input": line.text.decode("utf-8", "replace")}
        self._size += self._file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def sync(self) -> int:
        """Make what was added durable; return the size of the file."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._size

    def close(self) -> None:
        """Close the file."""
        self._file.close()
