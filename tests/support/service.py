"""The service as a black box: one process group on a port of its own with a state directory of its own.

Nothing here imports the product. Invariants: every wait is bounded; the whole process group (gunicorn's arbiter and its
worker) ends with the test, and the arbiter with the process of the test whatever kills that; output goes to
`service.log` in the directory that the test gave, where it stays.
"""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.support.broker import free_ports
from tests.support.children import guard

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 15.0


class Response(NamedTuple):
    """A whole answer. Header names are in lower case; of repeated ones the last is kept."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Service:
    """One node. Not thread-safe. `module` and `arguments` name what is run: the product, or a launcher of a test."""

    def __init__(
        self,
        directory: Path,
        *,
        environment: Mapping[str, str] | None = None,
        module: str = "app",
        arguments: Sequence[str] = ("run",),
    ) -> None:
        """*environment* is added to a minimal one; it may override the port and the state directory."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.log_path = directory / "service.log"
        self._module = module
        self._arguments = tuple(arguments)
        self.environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(directory),
            "PYTHONPATH": str(ROOT),
            "PYTHONFAULTHANDLER": "1",
            "PORT": str(free_ports(1)[0]),
            "PROFILES_STATE_DIR": str(directory / "data"),
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        return int(self.environment["PORT"])

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def state_dir(self) -> Path:
        return Path(self.environment["PROFILES_STATE_DIR"])

    @property
    def pid(self) -> int:
        """The arbiter's process id, which is the group's, too."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, is_waited_for: bool = True) -> Self:
        """Start the process and, unless told otherwise, wait until it is ready."""
        assert not self.is_running
        with self.log_path.open("ab") as log:
            log.write(f"\n--- start of {self._module} {self._arguments} on port {self.port}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                [*guard(), sys.executable, "-m", self._module, *self._arguments],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if is_waited_for:
            self.wait_until_ready()
        return self

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> float:
        """Return how many seconds it took until /readyz said 200. Raises AssertionError with the end of the log."""
        begun = time.monotonic()
        while time.monotonic() - begun < timeout_s:
            if not self.is_running:
                break
            if self.status_of("/readyz") == 200:
                return time.monotonic() - begun
            time.sleep(0.02)
        raise AssertionError(f"not ready after {time.monotonic() - begun:.1f} s, exit {self.exit_code}:\n{self.tail()}")

    @property
    def exit_code(self) -> int | None:
        return self._process.poll() if self._process is not None else None

    def wait_for_exit(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Return the exit code once the process has ended. Raises AssertionError when it does not end in time."""
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.tail()}") from None

    def kill(self) -> None:
        """kill -9 the whole group and wait until nothing of it is left."""
        assert self._process is not None
        group = self._process.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        self._process.wait(STOP_TIMEOUT_S)
        end = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < end:
            try:
                os.killpg(group, 0)
            except (ProcessLookupError, PermissionError):
                return
            time.sleep(0.005)
        raise AssertionError(f"the process group {group} outlived SIGKILL")

    def freeze(self) -> None:
        """Stop the whole group in the middle of whatever it does (SIGSTOP)."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen group go on (SIGCONT). Harmless for one that is not frozen."""
        os.killpg(self.pid, signal.SIGCONT)

    def worker_pids(self) -> list[int]:
        """Return the children of the arbiter: gunicorn's worker."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM; return the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self.wait_for_exit(timeout_s)

    def close(self) -> None:
        """End whatever runs. Idempotent."""
        if self._process is not None:
            self.kill()

    def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 15.0,
    ) -> Response:
        """Send one request on a connection of its own. Raises OSError or HTTPException when no answer comes."""
        connection = http.client.HTTPConnection(*self.address, timeout=timeout_s)
        try:
            given = dict(headers or {})
            if body is not None:
                given.setdefault("Content-Type", "application/json")
            connection.request(method, target, body=body, headers=given)
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, fields, answer.read())
        finally:
            connection.close()

    def status_of(self, target: str, *, timeout_s: float = 2.0) -> int | None:
        """Return the status of a GET, None when nobody answers."""
        try:
            return self.request("GET", target, timeout_s=timeout_s).status
        except (OSError, http.client.HTTPException):
            return None

    def command(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run `python -m app` with *arguments* in the environment of this node."""
        return subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def log(self) -> str:
        """Return all that the service has said."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def tail(self, lines: int = 40) -> str:
        """Return the last *lines* of what the service has said."""
        return f"--- {self.log_path}\n" + "\n".join(self.log().splitlines()[-lines:])
