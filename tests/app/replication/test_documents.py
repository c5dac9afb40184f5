"""docs/replication.md says what the code does."""

from pathlib import Path

import pytest

from app.cli.main import build_parser
from app.observability.replication import CATALOGUE

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "replication.md").read_text()


def test_the_page_lists_every_metric() -> None:
    """Row by row as in the catalogue."""
    for entry in CATALOGUE:
        assert f"| `{entry.name}` | {entry.kind} | {entry.unit} | {', '.join(entry.labels)} | {entry.meaning} |" in PAGE


def test_the_page_lists_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    """Each one that the help knows."""
    with pytest.raises(SystemExit):
        build_parser().parse_args(["replicate", "elasticsearch", "--help"])
    words = {word.strip("[],") for word in capsys.readouterr().out.split() if word.startswith(("--", "[--"))}
    assert words
    assert not [word for word in words - {"--help", "--"} if f"`{word}" not in PAGE]
