"""The bounds of the edge, checked with raw sockets against the real worker in a process of its own."""

import contextlib
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import psutil
import pytest

from tests.support.edge import GET, Server, read_to_end, running

SHORT = {
    "PROFILES_HEADER_TIMEOUT_MS": "700",
    "PROFILES_BODY_TIMEOUT_MS": "700",
    "PROFILES_IDLE_TIMEOUT_MS": "1500",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("edge"), **SHORT) as server:
        yield server


def seconds_until_closed(sock: socket.socket) -> tuple[float, bytes]:
    began = time.monotonic()
    reply = read_to_end(sock)
    return time.monotonic() - began, reply


def test_a_silent_connection_is_closed_at_the_header_deadline(server: Server) -> None:
    """Connecting and saying nothing ends without an answer."""
    with server.connect() as sock:
        seconds, reply = seconds_until_closed(sock)
    assert 0.5 < seconds < 3
    assert reply == b""


def test_half_a_head_is_answered_408_and_closed(server: Server) -> None:
    """A head that never ends gets a problem document."""
    with server.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHo")
        seconds, reply = seconds_until_closed(sock)
    assert 0.5 < seconds < 3
    assert reply.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"Content-Type: application/problem+json" in reply


@pytest.mark.parametrize(
    "start",
    [b"GET / HTTP/1.1\r\nX: ", b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"],
    ids=["head", "body"],
)
def test_dripping_bytes_does_not_move_the_deadline(server: Server, start: bytes) -> None:
    """One byte at a time is as slow as none."""
    with server.connect() as sock:
        sock.sendall(start)
        sock.settimeout(0.05)
        began = time.monotonic()
        reply = b""
        while time.monotonic() - began < 5 and not reply:
            try:
                sock.send(b"a")
                reply = sock.recv(4096)
            except TimeoutError:
                continue
    assert time.monotonic() - began < 3
    assert reply.startswith(b"HTTP/1.1 408 ")


def test_half_a_body_is_answered_408_and_closed(server: Server) -> None:
    """A body that stops halfway frees its connection."""
    with server.connect() as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        seconds, reply = seconds_until_closed(sock)
    assert seconds < 3
    assert reply.startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_is_closed_only_at_the_idle_deadline(server: Server) -> None:
    """Keep-alive lasts longer than a head may take, also after a body that came in a packet of its own."""
    with server.connect() as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
        time.sleep(0.1)
        sock.sendall(b"hi")
        assert sock.recv(4096).endswith(b"hi")
        seconds, reply = seconds_until_closed(sock)
    assert 1.2 < seconds < 4
    assert reply == b""


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"H%d: a\r\n" % n for n in range(101)) + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\nabc", None),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    ],
)
def test_what_is_not_http_is_answered_with_a_problem(server: Server, request_bytes: bytes, status: int | None) -> None:
    """The server's own errors have the form of all others and quote nothing."""
    reply = server.ask(request_bytes)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status if status else b"HTTP/1.1 ")
    assert head.split()[1] in (b"400", b"414", b"431", b"501")
    assert b"application/problem+json" in head
    assert b'"type":"about:blank"' in body
    assert b"aaaa" not in body


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """Five hundred requests sent at once get five hundred answers."""
    with server.connect() as sock:
        sock.sendall(GET * 500)
        received = b""
        while received.count(b"\r\n\r\nok") < 500:
            received += sock.recv(65536)
    assert received.count(b"HTTP/1.1 200 OK") == 500


def test_a_pipeline_beyond_the_read_ahead_is_bounded(server: Server) -> None:
    """Megabytes of requests in advance grow nothing: the connection ends after the requests that were taken."""
    before = server.stats()["rss"]
    with server.connect() as sock:
        sock.settimeout(5)
        with contextlib.suppress(ConnectionError, TimeoutError):
            sock.sendall(GET * 100_000)
        read_to_end(sock)
    assert server.stats()["rss"] - before < 20_000_000


def test_a_client_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    """Answers that nobody takes stop at the transport's buffer, and the connection is aborted."""
    with running(tmp_path, **SHORT, EDGE="x") as server:
        before = server.stats()["rss"]
        sock = server.connect()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(GET.replace(b"/small", b"/large") * 500)
        deadline = time.monotonic() + 20
        while server.stats()["open"] > 1 and time.monotonic() < deadline:
            time.sleep(0.2)
        stats = server.stats()
        sock.close()
    assert stats["open"] == 1
    assert stats["timeouts"] == {"write": 1}
    assert stats["rss"] - before < 10_000_000


def test_over_the_limit_a_connection_is_refused_and_the_open_ones_go_on(tmp_path: Path) -> None:
    """The connection after the last allowed one is told so at once, while busy ones are served."""
    with running(tmp_path, PROFILES_MAX_CONNECTIONS="5") as server:
        busy = [server.connect() for _ in range(5)]
        for sock in busy:
            sock.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\nX: ")
        time.sleep(0.3)
        replies = [server.ask(GET) for _ in range(10)]
        for sock in busy:
            sock.sendall(b"1\r\n\r\n")
        answers = [sock.recv(4096) for sock in busy]
        for sock in busy:
            sock.close()
    assert all(reply.startswith(b"HTTP/1.1 503 ") for reply in replies)
    assert all(b"Retry-After: 1\r\n" in reply and b"/problems/overloaded" in reply for reply in replies)
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)


def test_a_thousand_idle_connections_do_not_keep_others_out(tmp_path: Path) -> None:
    """Connections that say nothing make room for one that does, and cost little memory."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        with running(tmp_path, PROFILES_MAX_CONNECTIONS="1000") as server:
            before = server.stats()["rss"]
            idle = [server.connect() for _ in range(1000)]
            deadline = time.monotonic() + 10
            reply = b""
            while not reply.startswith(b"HTTP/1.1 200") and time.monotonic() < deadline:
                reply = server.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            stats = server.stats()
            for sock in idle:
                sock.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert reply.startswith(b"HTTP/1.1 200")
    assert stats["evicted"] >= 1
    assert stats["rss"] - before < 40_000_000


def test_sigterm_lets_a_request_end_stops_the_application_and_exits_with_0(tmp_path: Path) -> None:
    """A request in progress is answered, idle connections do not delay, the lifespan ends, the code is 0."""
    with running(tmp_path) as server, server.connect() as slow, server.connect() as idle:
        idle.sendall(GET)
        idle.recv(4096)
        slow.sendall(b"GET /slow?1 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.2)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert read_to_end(slow).startswith(b"HTTP/1.1 200 OK")
        assert server.process.wait(10) == 0
        assert time.monotonic() - began < 4
    assert (tmp_path / "stopped").exists()


def test_a_second_sigterm_does_not_wait(tmp_path: Path) -> None:
    """Whoever asks twice is in a hurry: the request in progress is cut off."""
    with running(tmp_path) as server, server.connect() as slow:
        slow.sendall(b"GET /slow?30 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.2)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert time.monotonic() - began < 3


def test_a_request_that_does_not_end_delays_the_stop_by_less_than_ten_seconds(tmp_path: Path) -> None:
    """The stop is bounded, and the application is still stopped in order."""
    with running(tmp_path) as server, server.connect() as slow:
        slow.sendall(b"GET /slow?60 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.2)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
        assert time.monotonic() - began < 10
    assert (tmp_path / "stopped").exists()


def test_no_signal_starts_a_second_worker(tmp_path: Path) -> None:
    """HUP, TTIN, TTOU and USR2 leave the one worker alone."""
    with running(tmp_path) as server:
        pid = server.stats()["pid"]
        for name in ("SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR2"):
            server.process.send_signal(getattr(signal, name))
            deadline = time.monotonic() + 5
            while f"{name} does nothing here" not in server.errors() and time.monotonic() < deadline:
                time.sleep(0.02)
            assert f"{name} does nothing here" in server.errors()
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert [child.pid for child in children] == [pid]
        assert server.stats()["pid"] == pid


def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    """A crash costs seconds, not the service."""
    with running(tmp_path) as server:
        first = server.stats()["pid"]
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 10
        second = first
        while second == first and time.monotonic() < deadline:
            try:
                second = server.stats()["pid"]
            except (OSError, ValueError):
                time.sleep(0.05)
        assert second != first


def test_an_application_that_cannot_start_ends_the_process_with_2(tmp_path: Path) -> None:
    """A locked state directory is no restart loop: one message, exit code 2."""
    with running(tmp_path, EDGE_LOCKED="1") as server:
        assert server.process.wait(10) == 2
        assert server.errors().count("process 1 holds the state directory") == 1
        assert "traceback" not in server.errors()


@pytest.mark.parametrize("status", [200, 409, 412, 421, 422, 428, 503])
def test_every_status_has_its_phrase(server: Server, status: int) -> None:
    """Who looks at an answer with `curl -i` reads what it means, also where gunicorn knows no phrase."""
    reply = server.ask(b"GET /status?%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % status)
    assert reply.startswith(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode())
