"""How far an import has come, in a small file beside its input: after a crash the same command goes on from there.

Invariants: every line before the mark is settled, and what was refused of these is in the errors file up to the size
that is noted here; the file is whole or absent (`streams.files`). It is only an economy: a line that is sent once more
changes nothing.
"""

from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from app.backfill.errors import WrongFiles
from app.backfill.lines import Mark
from streams.files import write_durably

_FORMAT = 1
_HEAD_BYTES = 64 * 1024


@dataclass(slots=True)
class Tally:
    """What became of the lines. `created` counts the restored ones, too; `reasons`: refused lines by their problem."""

    created: int = 0
    already_there: int = 0
    refused: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def refuse(self, reason: str) -> None:
        """Count a refused line."""
        self.refused += 1
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`fingerprint`: of the input. `topic_id`: of what was written to. `errors_bytes`: how much of the errors file
    belongs to the lines before the mark."""

    fingerprint: str
    topic_id: str
    mark: Mark
    tally: Tally
    errors_path: str | None
    errors_bytes: int
    is_complete: bool

    def save(self, path: Path) -> None:
        """Replace *path*; durable when this returns. Raises OSError."""
        document = {"format": _FORMAT, **asdict(self), "mark": self.mark._asdict()}
        write_durably(path, orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")


def load(path: Path) -> Checkpoint | None:
    """Return what *path* says, None if there is no such file. Raises WrongFiles when it is something else, OSError."""
    try:
        document: dict[str, Any] = orjson.loads(path.read_bytes())
        assert document.pop("format") == _FORMAT, "of another release"
        tally = document.pop("tally")
        mark = document.pop("mark")
        return Checkpoint(
            mark=Mark(int(mark["offset"]), int(mark["lines"])),
            tally=Tally(**{**tally, "reasons": dict(tally["reasons"])}),
            **document,
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise WrongFiles(f"{path} is not the progress of an import ({error}); remove it to begin anew") from error


def fingerprint_of(path: Path) -> str:
    """Return what tells *path* from another input, or from itself after a change. Raises OSError."""
    status = path.stat()
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return f"{status.st_size}-{status.st_mtime_ns}-{blake2b(head, digest_size=8).hexdigest()}"


def progress_path(path: Path) -> Path:
    """Return where the progress of importing *path* is kept."""
    return path.with_name(path.name + ".progress")


def positions_path(path: Path) -> Path:
    """Return where an export in *path* says what it is an export of."""
    return path.with_name(path.name + ".positions")
