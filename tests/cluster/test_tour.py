"""The tour of a cluster: `make cluster`, then examples/cluster_tour.sh, prints what its expected output says."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.support.broker import free_ports
from tests.support.curl import needs_curl
from tests.support.service import ROOT

START_TIMEOUT_S = 90.0
TOUR_TIMEOUT_S = 120.0

pytestmark = [
    pytest.mark.cluster,
    needs_curl,
]


@contextlib.contextmanager
def running_cluster(data: Path, port: int) -> Iterator[None]:
    """Run what `make cluster` runs, until the block's end."""
    command = [sys.executable, "-m", "tests.support.cluster", "--data", str(data), "--port", str(port)]
    with (data.parent / "cluster.log").open("w+") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            end = time.monotonic() + START_TIMEOUT_S
            while "Ctrl-C" not in Path(output.name).read_text():
                assert process.poll() is None, Path(output.name).read_text()
                assert time.monotonic() < end, Path(output.name).read_text()
                time.sleep(0.1)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                exit_code = process.wait(30)
            finally:
                process.kill()
        assert exit_code == 0, Path(output.name).read_text()


def first_ports(count: int) -> int:
    """Return the first of so many free ports in a row."""
    while True:
        first = free_ports(1)[0]
        free = set()
        for port in range(first, first + count):
            with contextlib.suppress(OSError), contextlib.closing(socket.socket()) as probe:
                probe.bind(("127.0.0.1", port))
                free.add(port)
        if len(free) == count:
            return first


@pytest.mark.timeout(300)
def test_the_tour(tmp_path: Path) -> None:
    """Every line of the output matches its line of the expected one, where * stands for anything."""
    data, port = tmp_path / "data", first_ports(5)
    with running_cluster(data, port):
        done = subprocess.run(
            [ROOT / "examples" / "cluster_tour.sh"],
            env={**os.environ, "CLUSTER_DATA": str(data), "CLUSTER_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=TOUR_TIMEOUT_S,
            check=False,
        )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    expected = (ROOT / "examples" / "cluster_tour.expected").read_text().splitlines()
    printed = done.stdout.splitlines()
    for line, pattern in zip(printed, expected, strict=False):
        assert fnmatchcase(line, pattern), f"printed: {line}\nexpected: {pattern}\n\n{done.stdout}\n{done.stderr}"
    assert len(printed) == len(expected), done.stdout
