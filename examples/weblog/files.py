"""Files of lines that are written while they are read: what is new in them, and how one is known again.

A file is known by its content and never by its name, so it may be touched, moved or rotated: it is the file whose first
line begins its id, and whose line that was taken last is still where it was. Two files that begin with the same line
(a load balancer asks all servers for their health in one second) get different ids. Files are looked at through one
handle, since a path may lead to another file a moment later. Nothing here talks to a log or a store; a call blocks for
some milliseconds at most.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import BinaryIO, NamedTuple

#: So much is read at a time; a line that is longer is cut.
CHUNK_BYTES = 256 * 1024


class Line(NamedTuple):
    """A line, with its end of line, and where in its file it begins and ends, in bytes."""

    data: bytes
    begin: int
    end: int


class Looks(NamedTuple):
    """`identity` is the file's among those that are there now; it is given to others when it is gone."""

    identity: tuple[int, int]
    size: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class FilePosition:
    """How far a file has been taken: where its last line that was began and ended, and that line's fingerprint."""

    begin: int
    end: int
    last: str


def fingerprint(data: bytes) -> str:
    """Return 16 characters that no other line is likely to have."""
    return blake2b(data, digest_size=8).hexdigest()


def candidate_id(source: str, first_line: bytes, number: int) -> str:
    """Return the id of a file of *source* that begins with *first_line*, or one more when others have that."""
    return fingerprint(b"\0".join((source.encode(), b"%d" % number, first_line)))


def looks_of(file: BinaryIO) -> Looks:
    """Return what *file* looks like; a file that looks the same has nothing new. Raises OSError."""
    found = os.fstat(file.fileno())
    return Looks((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns)


def lines_from(file: BinaryIO, begin: int) -> list[Line]:
    """Return what stands in *file* from byte *begin* on, up to a bounded number of bytes: lines whose end is there, as
    a writer may be in the midst of the next. Raises OSError."""
    chunk = _read(file, begin, CHUNK_BYTES)
    if len(chunk) < CHUNK_BYTES or b"\n" in chunk:
        chunk = chunk[: chunk.rfind(b"\n") + 1]
    return list(_lines(chunk, begin))


def continues(file: BinaryIO, position: FilePosition) -> bool:
    """Say whether *file* has the line that was taken last in its place. Raises OSError."""
    return fingerprint(_read(file, position.begin, position.end - position.begin)) == position.last


def _read(file: BinaryIO, begin: int, length: int) -> bytes:
    file.seek(begin)
    return file.read(length)


def _lines(chunk: bytes, begin: int) -> Iterator[Line]:
    start = 0
    while start < len(chunk):
        end = chunk.find(b"\n", start) + 1 or len(chunk)
        yield Line(chunk[start:end], begin + start, begin + end)
        start = end
