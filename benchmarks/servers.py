"""Starts what is measured as a user would: the service by `python -m app run`, the bare application on the same server.

Each is a process group of its own on a free port of loopback, ends with its `with` block, and is killed if it does not.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks import machine
from tests.support.broker import free_ports

_ROOT = Path(__file__).parent.parent
_POLL_S = 0.01
_STOP_S = 15.0


class Server:
    """A server that runs while the `with` block does. `started_s`: how long it took until it said that it is ready."""

    def __init__(
        self, command: list[str], *, output: Path, settings: Mapping[str, str], start_timeout_s: float
    ) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.started_s = 0.0
        self._command = command
        self._output = output
        self._start_timeout_s = start_timeout_s
        self._environment = {**environment(settings), "PORT": str(port)}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        start = time.perf_counter()
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *self._command],
                cwd=_ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            while not self._is_ready():
                self._check_start(self._process, time.perf_counter() - start)
                time.sleep(_POLL_S)
        except BaseException:
            self._kill()
            raise
        self.started_s = time.perf_counter() - start
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._kill()

    @property
    def worker(self) -> int:
        """The id of the process that serves."""
        assert self._process is not None
        return machine.worker_of(self._process.pid)

    def rss_mb(self) -> float:
        """Return the resident memory of the serving process in MB."""
        return machine.rss_mb(self.worker)

    def metric(self, name: str) -> float:
        """Return the sum over all labels of a metric of the service; 0 when it has none of that name."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def post(self, document: Mapping[str, str]) -> Any:
        """Create a profile and return it."""
        request = urllib.request.Request(
            f"{self.url}/api/profile", json.dumps(document).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=12) as answer:
            return json.loads(answer.read())

    def _check_start(self, process: "subprocess.Popen[bytes]", seconds: float) -> None:
        if process.poll() is not None or seconds > self._start_timeout_s:
            tail = self._output.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{self._command} did not become ready; its output ends so:\n{tail}")

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=1) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False

    def _kill(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that is measured: *settings*, and no other ones of the product."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROFILES_")}
    return {**kept, **settings, "PYTHONDONTWRITEBYTECODE": "1"}


def service(directory: Path, settings: Mapping[str, str], *, start_timeout_s: float = 120.0) -> Server:
    """Return the service on *settings* (see `preload.settings_of`), its output in *directory*."""
    return Server(
        ["-m", "app", "run"],
        output=directory / "service.out",
        settings={**settings, "PROFILES_LOG_LEVEL": "info", "PROFILES_LOG_FORMAT": "json"},
        start_timeout_s=start_timeout_s,
    )


def bare(directory: Path) -> Server:
    """Return the bare application."""
    return Server(["-m", "benchmarks.bare"], output=directory / "bare.out", settings={}, start_timeout_s=20.0)
