"""The files of an import: what a line is and where it ends, how far it is, and what was refused."""

import gzip
import io
import json
from pathlib import Path

import pytest

from app.backfill.checkpoint import Checkpoint, Tally, fingerprint_of, load
from app.backfill.errors import WrongFiles
from app.backfill.lines import MAX_LINE_BYTES, Line, Mark, open_input, read_lines
from app.backfill.rejected import Rejected
from app.backfill.rules import Rules
from app.profiles.email import EmailPolicy

TEXT = b'\xef\xbb\xbf{"email":"A@x.de"}\r\n\n  \n{"uid":"u","email":"b@x.de"}\n[1]\n{\n{"email":7}\nlast'


def lines_of(text: bytes, start: Mark | None = None) -> list[Line]:
    return list(read_lines(io.BytesIO(text), start or Mark()))


def test_lines_have_their_numbers_and_ends_and_what_they_are_about() -> None:
    """Blank lines count, and are nothing to send; a byte-order mark, CRLF and a missing last end are borne."""
    found = lines_of(TEXT)
    assert [(line.number, line.text) for line in found] == [
        (1, b'{"email":"A@x.de"}'),
        (4, b'{"uid":"u","email":"b@x.de"}'),
        (5, b"[1]"),
        (6, b"{"),
        (7, b'{"email":7}'),
        (8, b"last"),
    ]
    assert [line.key for line in found] == ["a@x.de", "u", None, None, None, None]
    assert found[-1].end == len(TEXT)


def test_reading_goes_on_behind_any_line() -> None:
    """With the numbers of the whole."""
    found = lines_of(TEXT)
    for at, line in enumerate(found):
        assert lines_of(TEXT, Mark(line.end, line.number)) == found[at + 1 :]


@pytest.mark.parametrize("size", [MAX_LINE_BYTES - 1, MAX_LINE_BYTES, MAX_LINE_BYTES + 1, 3 << 20])
def test_a_long_line_is_not_held_whole(size: int) -> None:
    """Its beginning says that it is too long; what follows is found."""
    first, second = lines_of(b"x" * size + b"\n{}\n")
    assert first.is_too_long is (size + 1 > MAX_LINE_BYTES)
    assert len(first.text) <= MAX_LINE_BYTES + 1
    assert (second.number, second.text, second.end) == (2, b"{}", size + 4)
    assert lines_of(b"x" * size)[0].end == size


def test_a_packed_file_is_read_like_a_plain_one(tmp_path: Path) -> None:
    """Also from its middle; half of one is an error and not its end."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(TEXT * 1000))
    with open_input(path, io.BytesIO()) as file:
        assert list(read_lines(file, Mark())) == lines_of(TEXT * 1000)
    middle = lines_of(TEXT * 1000)[3000]
    with open_input(path, io.BytesIO()) as file:
        assert next(read_lines(file, Mark(middle.end, middle.number))) == lines_of(TEXT * 1000)[3001]
    path.write_bytes(path.read_bytes()[:-20])
    with open_input(path, io.BytesIO()) as file, pytest.raises(EOFError):
        list(read_lines(file, Mark()))


def test_progress_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    """What was saved is loaded again; what is no progress of an import is not taken for one."""
    path = tmp_path / "a.progress"
    assert load(path) is None
    tally = Tally(created=3, refused=2, reasons={"email-taken": 2})
    state = Checkpoint("f", "t", Mark(10, 2), tally, "/errors", 5, is_complete=False)
    state.save(path)
    assert load(path) == state
    assert path.stat().st_mode & 0o077 == 0
    for text in ("", "{}", "[]", '{"format":2}', path.read_text().replace("mark", "work")):
        path.write_text(text)
        with pytest.raises(WrongFiles, match="remove it"):
            load(path)


def test_another_input_has_another_fingerprint(tmp_path: Path) -> None:
    """A longer one, and one of the same length that was written again."""
    path = tmp_path / "a"
    prints = set()
    for text in ("a", "ab", "bb"):
        path.write_text(text)
        assert fingerprint_of(path) == fingerprint_of(path)
        prints.add(fingerprint_of(path))
    assert len(prints) == 3


def test_refused_lines_are_in_their_file_once(tmp_path: Path) -> None:
    """What a run that was killed had written behind its last checkpoint is written again, not twice."""
    path = tmp_path / "rejected"
    line = Line(3, 9, b'{"email":"a@x.de"}\xff', False, None, None)
    rejected = Rejected(path, 0)
    rejected.add(line, {"reason": "email-taken"})
    kept = rejected.sync()
    rejected.add(line._replace(number=4), {"reason": "lost"})
    rejected.close()
    rejected = Rejected(path, kept)
    rejected.add(line._replace(number=5), {"reason": "later"})
    assert rejected.sync() == path.stat().st_size
    rejected.close()
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in rows] == [(3, "email-taken"), (5, "later")]
    assert rows[0]["input"].startswith('{"email":"a@x.de"}')
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(WrongFiles, match="not the errors file"):
        Rejected(tmp_path / "other", kept)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"username":"a","email":"a@mail.com"}', None),
        (b'{"username":"a","email":"a@host"}', "validation-failed"),
        (b'{"username":"a","email":"a@mail.com","email":"b@mail.com"}', "malformed-json"),
        (b"[]", "validation-failed"),
        (b'{"uid":"x","username":"a","email":"a@mail.com"}', "validation-failed"),
        (b'{"uid":"6a1f8a2e-64bb-4a80-9a55-0d1b5e5f7a92","username":"a","email":"a@mail.com"}', "validation-failed"),
    ],
)
def test_the_rules_judge_as_the_service_does(text: bytes, reason: str | None) -> None:
    """For `--dry-run`: the same validators."""
    found = Rules(EmailPolicy.PUBLIC).judge(Line(1, 1, text, False, None, None))
    assert (found and found["reason"]) == reason
    assert Rules(EmailPolicy.PUBLIC).judge(Line(1, 1, text, True, None, None)) is not None
