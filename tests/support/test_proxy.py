"""The proxy itself: what passes passes unchanged, and each fault does what its name says and ends."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.proxy import Proxy, Way

WAIT_S = 5.0
SHORT_S = 0.2


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends back, in capitals, what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data.upper())

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def dial(proxy: Proxy) -> socket.socket:
    return socket.create_connection(proxy.address, timeout=WAIT_S)


def is_silent(connection: socket.socket) -> bool:
    connection.settimeout(SHORT_S)
    try:
        return connection.recv(100) is None
    except TimeoutError:
        return True
    finally:
        connection.settimeout(WAIT_S)


def is_over(connection: socket.socket) -> bool:
    try:
        return not connection.recv(100)
    except ConnectionError:
        return True


def test_it_carries_everything_and_the_end(echo: tuple[str, int]) -> None:
    """A megabyte comes back whole, and the end of one direction leaves the other one open."""
    with Proxy(echo) as proxy, dial(proxy) as connection:
        threading.Thread(target=lambda: (connection.sendall(b"a" * 2**20), connection.shutdown(socket.SHUT_WR))).start()
        got = bytearray()
        while data := connection.recv(65536):
            got += data
        assert got == b"A" * 2**20


def test_a_cut_holds_and_delivers_later(echo: tuple[str, int]) -> None:
    """During a cut nothing comes through, on old connections and new ones; afterwards everything does, in order."""
    with Proxy(echo) as proxy, dial(proxy) as old:
        old.sendall(b"a")
        assert old.recv(10) == b"A"
        proxy.cut()
        with dial(proxy) as new:
            old.sendall(b"b")
            new.sendall(b"c")
            assert is_silent(old)
            assert is_silent(new)
            assert proxy.affected_bytes(Way.REQUESTS) == 2
            proxy.heal()
            assert (old.recv(10), new.recv(10)) == (b"B", b"C")


def test_lost_replies_break_the_connection_off(echo: tuple[str, int]) -> None:
    """The request arrives, its answer never does; when the fault ends the connection does, too."""
    with Proxy(echo) as proxy, dial(proxy) as connection:
        connection.sendall(b"a")
        assert connection.recv(10) == b"A"
        proxy.lose_replies()
        connection.sendall(b"b")
        assert is_silent(connection)
        assert proxy.affected_bytes(Way.REPLIES) == 1
        proxy.heal()
        assert is_over(connection)
        with dial(proxy) as another:
            another.sendall(b"c")
            assert another.recv(10) == b"C"


def test_one_direction_alone_can_be_held(echo: tuple[str, int]) -> None:
    """Held replies arrive after the fault, on the same connection."""
    with Proxy(echo) as proxy, dial(proxy) as connection:
        proxy.hold(Way.REPLIES)
        connection.sendall(b"a")
        assert is_silent(connection)
        assert proxy.affected_bytes(Way.REQUESTS) == 0
        proxy.heal()
        assert connection.recv(10) == b"A"


def test_a_slow_line_takes_its_time(echo: tuple[str, int]) -> None:
    """A delay is added in each direction, and a limit of bytes is kept."""
    with Proxy(echo) as proxy, dial(proxy) as connection:
        proxy.slow(delay_s=0.1)
        begun = time.monotonic()
        connection.sendall(b"a")
        assert connection.recv(10) == b"A"
        assert time.monotonic() - begun >= 0.2
        proxy.slow(bytes_per_s=10_000)
        begun = time.monotonic()
        connection.sendall(b"a" * 2000)
        got = 0
        while got < 2000:
            got += len(connection.recv(4096))
        assert time.monotonic() - begun >= 0.2
