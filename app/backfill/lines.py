"""Lines of an input, one after the other, from a file, a gzip file or a pipe: where each ends, and what it is about.
Nothing here judges a profile: the service does.

Invariant: a bounded part of the input is in memory, however long its lines are. Offsets count bytes of the text, which
for a gzip file is the text within.
"""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import orjson

MAX_LINE_BYTES = 64 * 1024  # of one profile, as for any request
_BOM = b"\xef\xbb\xbf"
_SKIP_BYTES = 1 << 20


class Line(NamedTuple):
    """`number` counts from 1, `end` is the offset behind the line. `text` is the beginning alone where the line is too
    long. `key`: what two lines that must not be under way together have in common; None when nobody can tell."""

    number: int
    end: int
    text: bytes
    is_too_long: bool
    key: str | None
    uid: str | None


class Mark(NamedTuple):
    """A place between two lines: the offset, and the number of lines before it."""

    offset: int = 0
    lines: int = 0


def open_input(path: Path | None, stdin: IO[bytes]) -> IO[bytes]:
    """Open *path* for reading, unpacked when its name ends in `.gz`; None is *stdin*. Raises OSError."""
    if path is None:
        return stdin
    raw = path.open("rb")
    return io.BufferedReader(gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw


def read_lines(file: IO[bytes], start: Mark) -> Iterator[Line]:
    """Yield the lines of *file* behind *start* that are not blank. Raises OSError, EOFError for half a gzip file."""
    if start.offset:
        file.seek(start.offset)
    offset, number = start
    while text := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        offset += len(text)
        is_too_long = len(text) > MAX_LINE_BYTES
        rest = text
        while is_too_long and not rest.endswith(b"\n") and (rest := file.readline(_SKIP_BYTES)):
            offset += len(rest)
        if number == 1:
            text = text.removeprefix(_BOM)
        text = text.rstrip(b"\r\n")
        if text and not text.isspace():
            uid, email = (None, None) if is_too_long else _about(text)
            yield Line(number, offset, text, is_too_long, uid or email, uid)


def _about(text: bytes) -> tuple[str | None, str | None]:
    """Return uid and e-mail, as far as they can be seen. Letter case tells no two e-mails apart."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None, None
    if not isinstance(document, dict):
        return None, None
    uid, email = document.get("uid"), document.get("email")
    return uid if isinstance(uid, str) else None, email.lower() if isinstance(email, str) else None
