"""A small ASGI application behind the real worker, in a process of its own, and raw sockets to misuse it with.

Run as a module it serves until a signal ends it; settings come from the environment, as for the service itself.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.config import AppConfig
from app.observability import logs
from app.server.serving import serve
from app.server.worker import EDGE_STATS, START_ERROR
from streams.errors import LogLocked

ROOT = Path(__file__).resolve().parents[2]
GET = b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n"


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer /small with two bytes, /large with 256 KiB, /echo with the body, /stats with the edge's counters, /status
    with the status that the query names, /slow after the seconds that the query names; report the lifespan in files."""
    if scope["type"] == "lifespan":
        await _lifespan(scope, receive, send)
        return
    body, status = b"ok", 200
    if scope["path"] == "/large":
        body = b"x" * 262_144
    elif scope["path"] == "/echo":
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
    elif scope["path"] == "/stats":
        stats = scope["state"][EDGE_STATS]
        body = json.dumps(
            {
                "open": stats.open_connections,
                "refused": stats.refused_connections,
                "evicted": stats.evicted_connections,
                "timeouts": dict(stats.timeouts),
                "pid": os.getpid(),
                "rss": int(Path("/proc/self/statm").read_text().split()[1]) * 4096,
            }
        ).encode()
    elif scope["path"] == "/status":
        status = int(scope["query_string"])
    elif scope["path"] == "/slow":
        import asyncio

        await asyncio.sleep(float(scope["query_string"] or b"0"))
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await receive()
    if os.environ.get("EDGE_LOCKED"):
        scope["state"][START_ERROR] = LogLocked("process 1 holds the state directory")
        await send({"type": "lifespan.startup.failed", "message": "a long traceback"})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    Path(os.environ["PROFILES_STATE_DIR"], "stopped").touch()
    await send({"type": "lifespan.shutdown.complete"})


class Server:
    """The running process."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, errors: Path) -> None:
        self.process = process
        self.port = port
        self._errors = errors

    def connect(self, timeout_s: float = 10.0) -> socket.socket:
        """Return a connected socket whose reads fail after *timeout_s*."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)

    def ask(self, request: bytes) -> bytes:
        """Send *request* on a connection of its own and return all bytes up to its end."""
        with self.connect() as sock:
            sock.sendall(request)
            return read_to_end(sock)

    def stats(self) -> dict[str, Any]:
        """Return the edge's counters, asked over HTTP."""
        reply = self.ask(b"GET /stats HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return dict(json.loads(reply.partition(b"\r\n\r\n")[2]))

    def errors(self) -> str:
        """Return what the process wrote to stderr."""
        return self._errors.read_text()


def read_to_end(sock: socket.socket) -> bytes:
    """Return all bytes until the peer closes; a reset ends it, too."""
    chunks = []
    try:
        while chunk := sock.recv(65536):
            chunks.append(chunk)
    except ConnectionResetError:
        pass
    return b"".join(chunks)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def running(directory: Path, **settings: str) -> Iterator[Server]:
    """Start the application with *settings* as environment, wait until it accepts, and end it with SIGKILL if it is
    still there at the end."""
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PROFILES_")}
    environment |= {"PROFILES_STATE_DIR": str(directory), "PORT": str(port), "PROFILES_LOG_FORMAT": "json", **settings}
    errors = directory / "stderr.txt"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.edge"],
            cwd=ROOT,
            env=environment,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    server = Server(process, port, errors)
    try:
        _await_listening(server)
        yield server
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait(10)


def _await_listening(server: Server) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if server.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200"):
                return
        except OSError:
            time.sleep(0.02)


if __name__ == "__main__":
    config = AppConfig.from_env(os.environ)
    logs.configure(log_format=config.log_format, log_level=config.log_level)
    serve(config, lambda: application)
