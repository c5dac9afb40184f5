"""Instances of an application with their HTTP server, as processes: `python -m streams serve`. Every process ends with
the test that started it.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
START_S, STOP_S = 40.0, 40.0


class ServedInstance:
    """One process (gunicorn's arbiter, with its worker)."""

    def __init__(
        self, topology: str, directory: Path, port: int, environment: Mapping[str, str], arguments: Sequence[str] = ()
    ) -> None:
        """*topology*: `module:name`."""
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        directory.mkdir(parents=True, exist_ok=True)
        self._output = directory / "output"
        self._arguments = [sys.executable, "-m", "streams", "serve", topology, "--bind", f"127.0.0.1:{port}"]
        self._arguments += ["--data-dir", str(directory / "data"), *arguments]
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "ServedInstance":
        """Start; `wait_ready` waits for it."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self._arguments, env=self._environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )
        return self

    def wait_ready(self) -> "ServedInstance":
        """Return when it says that it is ready."""
        assert self._process is not None
        end_at = time.monotonic() + START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > end_at:
                self.kill()
                raise AssertionError(f"the instance is not ready:\n{self.output()[-4000:]}")
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        """Kill it at once (SIGKILL), worker and arbiter. Harmless when it does not run."""
        if self._process is None or self._process.poll() is not None:
            return
        family = [*psutil.Process(self._process.pid).children(recursive=True)]
        self._process.kill()
        for one in family:
            if one.is_running():
                one.kill()
        psutil.wait_procs(family, STOP_S)
        self._process.wait(STOP_S)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it in order, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Return its exit code once it has ended."""
        assert self._process is not None
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the instance does not end:\n{self.output()[-4000:]}") from None

    def output(self) -> str:
        """Return what it has printed."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
