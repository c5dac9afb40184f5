"""What the worker does between SIGTERM and the end of accepting. As a script this is the server that is stopped."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.config import AppConfig
from app.server.limits import EdgeLimits
from app.server.serving import serve
from app.server.worker import HAND_OVER
from tests.support.edge import GET, ROOT, Server, free_port, read_to_end

HAND_OVER_S = 1.0
END_S = 10.0


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer everything, and take a second for the hand-over, or a minute where the environment says so."""
    if scope["type"] == "lifespan":
        seconds = float(os.environ.get("HAND_OVER_S", HAND_OVER_S))
        await receive()
        scope["state"][HAND_OVER] = lambda: asyncio.sleep(seconds)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    port, errors = free_port(), tmp_path / "stderr.txt"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PROFILES_")},
        "PROFILES_STATE_DIR": str(tmp_path),
        "PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "HAND_OVER_S": str(getattr(request, "param", HAND_OVER_S)),
    }
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stderr=stderr, text=True, start_new_session=True
        )
    server = Server(process, port, errors)
    try:
        end = time.monotonic() + END_S
        while not is_answered(server) and time.monotonic() < end:
            time.sleep(0.02)
        yield server
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(END_S)


def is_answered(server: Server) -> bool:
    try:
        return server.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")).endswith(b"ok")
    except OSError:
        return False


def test_requests_are_answered_while_the_application_hands_over(server: Server) -> None:
    """New connections are taken for as long as it lasts, and connections stay: who is told to close his comes back."""
    with server.connect() as open_before:
        open_before.sendall(GET)
        assert b"Connection: close" not in open_before.recv(4096)
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)  # the signal is on its way
        open_before.sendall(GET)
        reply = open_before.recv(4096)
        assert reply.endswith(b"ok")
        assert b"Connection: close" not in reply
        with server.connect() as new:
            new.sendall(GET)
            assert b"Connection: close" not in new.recv(4096)
        assert time.monotonic() - begun < HAND_OVER_S
    assert server.process.wait(END_S) == 0
    assert time.monotonic() - begun >= HAND_OVER_S


@pytest.mark.parametrize("server", [0.5], indirect=True)
def test_who_asks_steadily_is_told_before_his_connection_ends(server: Server) -> None:
    """No connection ends under a request: each client's last answer says that it is the last."""
    pauses_s = [0.0, 0.01, 0.1, 0.3]
    last: dict[int, bytes] = {}

    def ask_until_told(number: int) -> None:
        with server.connect(timeout_s=END_S) as sock:
            reply = b""
            while b"Connection: close" not in reply:
                sock.sendall(GET)
                reply = sock.recv(4096)
                last[number] = reply
                if not reply:
                    return
                time.sleep(pauses_s[number % len(pauses_s)])
            assert sock.recv(4096) == b""

    clients = [threading.Thread(target=ask_until_told, args=(number,), daemon=True) for number in range(12)]
    for client in clients:
        client.start()
    time.sleep(0.2)
    server.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.join(END_S)
    assert server.process.wait(END_S) == 0
    assert len(last) == len(clients)
    assert all(reply.endswith(b"ok") and b"Connection: close" in reply for reply in last.values()), last


@pytest.mark.parametrize("server", [0.1], indirect=True)
def test_a_connection_that_asks_nothing_holds_nobody_up(server: Server) -> None:
    """It is closed, long before requests in progress would be cut off."""
    with server.connect() as silent:
        silent.sendall(GET)
        assert silent.recv(4096).endswith(b"ok")
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert silent.recv(4096) == b""
        assert server.process.wait(END_S) == 0
        assert time.monotonic() - begun < EdgeLimits().drain_timeout_s


@pytest.mark.parametrize("server", [60], indirect=True)
def test_a_hand_over_that_does_not_end_is_cut_short(server: Server) -> None:
    """The stop is bounded all the same, and says so."""
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(END_S) == 0
    assert "hand-over was not finished" in server.errors()


@pytest.mark.parametrize("server", [60], indirect=True)
def test_whoever_asks_twice_does_not_wait_for_the_hand_over(server: Server) -> None:
    """The second signal ends it."""
    begun = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(END_S) == 0
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("server", [0.3], indirect=True)
def test_no_connection_is_reset_without_an_answer(server: Server) -> None:
    """Clients connect and ask without a pause while the server stops: each is answered, or refused before it is
    connected. Those that the kernel has taken for the server when it closes its door are the ones at risk."""
    lost: list[bytes] = []
    answered: list[int] = []

    def ask_until_refused() -> None:
        count = 0
        try:
            while True:
                with server.connect(timeout_s=END_S) as sock:
                    sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                    reply = read_to_end(sock)
                if not reply.endswith(b"ok"):
                    lost.append(reply)
                count += 1
        except ConnectionRefusedError:
            answered.append(count)
        except OSError as error:
            lost.append(repr(error).encode())

    clients = [threading.Thread(target=ask_until_refused, daemon=True) for _ in range(48)]
    for client in clients:
        client.start()
    time.sleep(0.3)
    server.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.join(2 * END_S)
    assert server.process.wait(END_S) == 0
    assert not lost
    assert len(answered) == len(clients)
    assert sum(answered) > len(clients), "hardly a request was made: nothing was shown"


def test_who_has_just_connected_may_still_ask(server: Server) -> None:
    """A connection without a request is closed when the server stops; a fresh one has a moment to send its first."""
    server.process.send_signal(signal.SIGTERM)
    time.sleep(HAND_OVER_S - 0.2)
    with server.connect() as fresh:
        time.sleep(0.5)  # the server listens no more by now
        fresh.sendall(GET)
        assert read_to_end(fresh).endswith(b"ok")
    assert server.process.wait(END_S) == 0


if __name__ == "__main__":
    serve(AppConfig.from_env(os.environ), lambda: application)
