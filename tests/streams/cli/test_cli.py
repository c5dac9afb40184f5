"""`python -m streams`: what it prints, and its exit codes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams.cli.main import main
from tests.support.streaming import ROOT, Instance

TOPOLOGY = "examples.word_count.topology:word_count"
TOPICS = ["--create-topic", "text-lines-topic=2", "--create-topic", "wordcount-output=2"]


def test_describe_prints_a_topology(capsys: pytest.CaptureFixture[str]) -> None:
    """As text, and as a chart."""
    assert main(["describe", TOPOLOGY]) == 0
    assert "Sub-topology: 1" in capsys.readouterr().out
    assert main(["describe", TOPOLOGY, "--form", "mermaid"]) == 0
    assert "flowchart TD" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:topology", "no module 'no_such_module'"),
        ("examples.word_count.topology:nothing", "has no nothing"),
        ("examples.word_count.topology", "MODULE:NAME"),
        ("examples.word_count.topology:COUNTS", "no topology"),
    ],
)
def test_what_is_no_topology_is_named(capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    """Exit code 2, one line, no trace."""
    assert main(["describe", name]) == 2
    assert said in capsys.readouterr().err


def test_it_runs_until_a_signal_and_holds_its_directory(tmp_path: Path) -> None:
    """A second start names the holder; SIGTERM and SIGINT end it with 0; a topic that is missing is named."""
    environment = {"STREAMS_CREATE_TOPICS": "text-lines-topic=2,wordcount-output=2"}
    instance = Instance(TOPOLOGY, tmp_path, environment)
    for number in (signal.SIGTERM, signal.SIGINT):
        instance.start()
        try:
            second = run(tmp_path / "data", *TOPICS)
            assert second.returncode == 2
            assert "in use by process" in second.stderr
            assert "Traceback" not in second.stderr
            assert instance.stop(number) == 0
        finally:
            instance.kill()
    missing = run(tmp_path / "other")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "'text-lines-topic' does not exist" in missing.stderr


def test_a_start_that_waits_for_kafka_ends_with_a_signal(tmp_path: Path) -> None:
    """Nobody has to wait for its patience to end."""
    command = [sys.executable, "-m", "streams", "run", TOPOLOGY, "--data-dir", str(tmp_path)]
    process = subprocess.Popen([*command, "--bootstrap-servers", "127.0.0.1:1"], cwd=ROOT)
    try:
        end_at = time.monotonic() + 20
        while not (tmp_path / "node-id").exists():
            assert time.monotonic() < end_at
            time.sleep(0.05)
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait(10)


def test_an_idle_process_does_nearly_nothing(tmp_path: Path) -> None:
    """No busy loop: a few hundredths of a second of processor time for each second."""
    instance = Instance(TOPOLOGY, tmp_path, {"STREAMS_CREATE_TOPICS": "text-lines-topic=2,wordcount-output=2"})
    instance.start()
    try:
        time.sleep(1.5)
        before = instance.cpu_s()
        time.sleep(4.0)
        assert instance.cpu_s() - before < 0.6
    finally:
        instance.kill()


def run(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "streams", "run", TOPOLOGY, "--data-dir", str(directory), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
