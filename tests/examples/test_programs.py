"""How the examples are started: the lines of their Procfiles, their containers, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.purchases.service import version_from_env, wait_ms_from_env
from examples.weblog.service import WatchSettings
from streams.application import StreamsSettings

ROOT = Path(__file__).parents[2]
CONTAINERS = {"weblog": 2, "purchases": 2, "food_orders": 3}
EXAMPLES = (*CONTAINERS, "word_count")


def start(command: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run *command* in a shell where `python` is this one."""
    tools = directory / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "python").unlink(missing_ok=True)
    (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "python").chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(
        ["sh", "-c", command],
        cwd=directory,
        env={"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(directory), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def commands(example: str) -> dict[str, str]:
    lines = (ROOT / "examples" / example / "Procfile").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_lines_of_a_procfile_start_the_example(tmp_path: Path, example: str) -> None:
    """As far as it comes with a port that is none: it says so, and nothing is left behind."""
    for name, command in commands(example).items():
        for port in ("none", "65536"):
            done = start(command, tmp_path, PORT=port, STREAMS_BOOTSTRAP_SERVERS="127.0.0.1:1")
            assert (done.returncode, "PORT is from 1 to 65535" in done.stderr) == (2, True), (name, done)
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_who_listens_everywhere_says_where_others_reach_him(tmp_path: Path, example: str) -> None:
    """The address for other instances is not the one where it listens, which nobody can connect to."""
    done = start(f"python -m examples.{example}", tmp_path, BIND="0.0.0.0", STREAMS_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert (done.returncode, "STREAMS_ADDRESS" in done.stderr) == (2, True), done


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_other_machines_reach_needs_a_secret(tmp_path: Path, example: str) -> None:
    """Nobody may be an instance who only knows the address."""
    environment = {"BIND": "0.0.0.0", "STREAMS_BOOTSTRAP_SERVERS": "127.0.0.1:1", "STREAMS_ADDRESS": "http://weblog:80"}
    done = start(f"python -m examples.{example}", tmp_path, **environment)
    assert (done.returncode, "secret" in done.stderr) == (2, True), done


@pytest.mark.parametrize("example", CONTAINERS)
def test_containers_have_settings_that_the_example_knows(example: str) -> None:
    """Each instance has an address and a volume of its own, and all ports are on the loopback interface."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "examples" / example / "compose.yaml").read_text())
    services = {name: each for name, each in document["services"].items() if name != "kafka"}
    assert len(services) == CONTAINERS[example]
    for name, service in services.items():
        environment = {key: str(value) for key, value in service["environment"].items()}
        settings = StreamsSettings.from_env(environment)
        assert settings.address == f"http://{name}:{environment['PORT']}"
        assert service["command"] == [f"examples.{example}"]
        assert f"{name}:/data" in service["volumes"]
        assert WatchSettings.from_env(environment)
        assert version_from_env(environment)
        assert wait_ms_from_env(environment)
        assert environment["BIND"] == "0.0.0.0"
    for service in document["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
