"""The command line: help that teaches, exit codes, JSON for machines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli.main import build_parser, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("command", ["run", "config", "topics", "verify", "rebuild", "quarantine"])
def test_the_help_of_a_command_explains_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has a sentence, and an example."""
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"], {})
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert "example:" in text


def test_the_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts need them."""
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--help"])
    assert "exit codes:" in capsys.readouterr().out


def test_config_prints_every_setting_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One document, values and sources."""
    assert main(["config", "--json"], {"PORT": "81"}) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["PORT"]["value"] == "81"
    assert rows["PROFILES_STATE_DIR"]["source"] == "default"


def test_a_bad_setting_ends_with_2_before_anything_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names it; the state directory is not made."""
    state = tmp_path / "state"
    assert main(["run"], {"PORT": "none", "PROFILES_STATE_DIR": str(state)}) == 2
    assert "profiles: PORT is 'none', but must be a whole number" in capsys.readouterr().err
    assert not state.exists()


def test_bad_arguments_end_with_2() -> None:
    """As argparse does."""
    with pytest.raises(SystemExit) as caught:
        main(["quarantine", "--limit", "0"], {})
    assert caught.value.code == 2


def test_gunicorn_with_two_workers_is_refused_with_2(tmp_path: Path) -> None:
    """The file for gunicorn's own command line makes the same promise."""
    environment = {**os.environ, "PROFILES_STATE_DIR": str(tmp_path / "state"), "PORT": "1"}
    found = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "-w", "2", "app.asgi:create_app()"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert found.returncode == 2
    assert "a node is one process" in found.stderr
    assert not (tmp_path / "state").exists()
