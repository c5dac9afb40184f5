"""Bytes that no well-behaved client sends, over raw sockets to the whole service: never a 500, never a hang, and good
requests stay fast meanwhile. What each attack must get: the security list of docs/operations.md."""

import json
import random
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.support.service import Service

DEADLINE_S = 5.0  # limits of the service below are one second and less
LIMITS = {
    "PROFILES_HEADER_TIMEOUT_MS": "1000",
    "PROFILES_BODY_TIMEOUT_MS": "1000",
    "PROFILES_IDLE_TIMEOUT_MS": "1500",
    "PROFILES_MAX_CONNECTIONS": "600",
}
CREATE = b'{"username":"u","email":"u@mail.com"}'
UID = "74292b21-0fbb-4f1d-a18f-fa80f947fa5d"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One node with short limits for all attacks; in the end it still works and has logged no fault of its own."""
    with Service(tmp_path_factory.mktemp("sockets"), environment=LIMITS) as running:
        running.start()
        yield running
        assert running.request("POST", "/api/profile", b'{"username":"end","email":"end@mail.com"}').status == 201
        assert "Traceback" not in running.log(), running.tail(80)
        assert running.stop() == 0


def connect(service: Service) -> socket.socket:
    """A connection whose every operation is bounded by the deadline."""
    return socket.create_connection(service.address, timeout=DEADLINE_S)


def exchange(service: Service, data: bytes, *, is_closed: bool = False) -> bytes:
    """Send *data* and return all that comes until the service closes. Raises TimeoutError when it hangs."""
    with connect(service) as connection:
        connection.sendall(data)
        if is_closed:
            connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """Everything up to the end or the reset of the connection, within the deadline for the whole."""
    end, received = time.monotonic() + DEADLINE_S, b""
    try:
        while data := connection.recv(65536):
            received += data
            assert time.monotonic() < end, f"still open after {DEADLINE_S} s: {received[:200]!r}"
    except ConnectionError:
        pass
    return received


def statuses(received: bytes) -> list[int]:
    """The statuses of all responses in *received*, taken apart by their Content-Length."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        assert lines[0].startswith(("HTTP/1.1 ", "HTTP/1.0 ")), received[:200]
        found.append(int(lines[0].split(" ")[1]))
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(fields.get("content-length", "0"))
        body, received = rest[:length], rest[length:]
        if found[-1] >= 400:
            assert fields["content-type"].startswith("application/problem+json"), head
            assert json.loads(body)["status"] == found[-1]
    return found


def post(*headers: bytes, body: bytes = CREATE, target: bytes = b"/api/profile") -> bytes:
    """A POST that asks to close, with *headers* besides Host and Content-Type."""
    lines = [b"POST %b HTTP/1.1" % target, b"Host: localhost", b"Content-Type: application/json", b"Connection: close"]
    return b"\r\n".join([*lines, *headers, b"", b""]) + body


def get(target: bytes, *headers: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    """A GET that asks to close."""
    return b"\r\n".join(
        [b"GET %b %b" % (target, version), b"Host: localhost", b"Connection: close", *headers, b"", b""]
    )


def stays_open(data: bytes) -> bytes:
    """*data* without its own wish that the connection be closed, so that the service alone can end it."""
    return data.replace(b"Connection: close\r\n", b"")


LENGTH = b"Content-Length: %d" % len(CREATE)

MALFORMED = {
    "two Host": get(b"/livez", b"Host: other"),
    "no Host": b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n",
    "length and chunked": post(LENGTH, b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "two lengths": post(LENGTH, b"Content-Length: 5"),
    "signed length": post(b"Content-Length: +4", body=b"{}{}"),
    "negative length": post(b"Content-Length: -1"),
    "hexadecimal length": post(b"Content-Length: 0x10"),
    "length with text": post(b"Content-Length: 1a"),
    "folded header": get(b"/livez", b"X-A: b", b" c"),
    "folded length": post(b"Content-Length: 1", b" 0", body=b"0123456789"),
    "length in a folded line": post(b"X-A: b", b" Content-Length: 38"),
    "odd Host": b"GET /livez HTTP/1.1\r\nHost: a/b@c\r\n\r\n",
    "no path": get(b"livez"),
    "NUL in a header": get(b"/livez", b"X-A: b\0c"),
    "bare CR in a header": get(b"/livez", b"X-A: b\rc"),
    "blank before the colon": get(b"/livez", b"X-A : b"),
    "header without a colon": get(b"/livez", b"nonsense"),
    "header without a name": get(b"/livez", b": b"),
    "unknown coding": post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "unknown coding in two lines": post(
        b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"
    ),
    "chunked twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "bad chunk size": post(b"Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n0\r\n\r\n"),
    "huge chunk size": post(b"Transfer-Encoding: chunked", body=b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
    "no version": b"GET /livez\r\n\r\n",
    "version 3": get(b"/livez", version=b"HTTP/3.0"),
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "blanks in the target": b"GET /liv ez HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in the target": get(b"/liv\0ez"),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_requests_are_refused(service: Service, data: bytes) -> None:
    """Each gets one answer of 4xx (or 501, 505), the connection is closed, and nothing behind it is served: none of
    them asks for the end itself."""
    smuggled = get(b"/api/profile/%b" % UID.encode())
    found = statuses(exchange(service, stays_open(data) + smuggled))
    assert len(found) == 1, found
    assert 400 <= found[0] < 500 or found[0] in (501, 505)


LARGE = {
    "header of 64 KiB": (get(b"/livez", b"X-A: " + b"a" * 65536), {400, 431}),
    "1,000 headers": (get(b"/livez", *(b"X-%d: a" % i for i in range(1000))), {400, 431}),
    "target of 64 KiB": (get(b"/" + b"a" * 65536), {400, 414}),
    "endless header": (b"GET / HTTP/1.1\r\nX-A: " + b"a" * 1_000_000, {400, 408, 431}),
    "body of 65,537 bytes": (post(b"Content-Length: 65537", body=b" " * 65537), {413}),
    "1 GB announced": (post(b"Content-Length: 1000000000", body=b"{"), {413}),
    "10^30 announced": (post(b"Content-Length: 1" + b"0" * 30, body=b"{"), {400, 413}),
    "chunked beyond 64 KiB": (
        post(
            b"Transfer-Encoding: chunked",
            body=b"8000\r\n" + b" " * 32768 + b"\r\n" + (b"8000\r\n" + b" " * 32768 + b"\r\n") * 3,
        ),
        {413},
    ),
}


@pytest.mark.parametrize(("data", "expected"), LARGE.values(), ids=LARGE.keys())
def test_large_requests_are_refused(service: Service, data: bytes, expected: set[int]) -> None:
    """The answer comes before the end of what is too large, and the connection is closed."""
    with connect(service) as connection:
        with suppress(ConnectionError):
            connection.sendall(data)
        received = read_all(connection)
    if received:  # A reset may overtake the answer when the client still sends.
        assert statuses(received)[0] in expected


@pytest.mark.parametrize(
    "data",
    [
        post(b"Content-Length: 65537", body=b" " * 65537),
        post(b"Transfer-Encoding: chunked", body=(b"8000\r\n" + b" " * 32768 + b"\r\n") * 3 + b"0\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)
def test_nothing_is_served_behind_a_body_that_is_too_large(service: Service, data: bytes) -> None:
    """413 says that the connection is closed, and it is, also when the whole body has come."""
    assert statuses(exchange(service, stays_open(data) + get(b"/livez"))) == [413]


UNUSUAL = {
    "absolute form": (get(b"http://localhost/livez"), {200, 400, 421}),
    "absolute form of another host": (get(b"http://evil.example/livez"), {200, 400, 421}),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", {200, 204, 400, 404}),
    "CONNECT": (
        b"CONNECT mail.com:443 HTTP/1.1\r\nHost: mail.com:443\r\nConnection: close\r\n\r\n",
        {400, 404, 405, 501},
    ),
    "TRACE": (b"TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", {400, 404, 405, 501}),
    "unknown method": (b"FROBNICATE /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", {400, 405, 501}),
    "HTTP/1.0": (b"GET /livez HTTP/1.0\r\n\r\n", {200}),
    "empty lines first": (b"\r\n\r\n" + get(b"/livez"), {200, 400}),
    "HTTP/2 upgrade": (
        get(b"/livez", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
        {200, 400},
    ),
    "upgrade": (get(b"/livez", b"Connection: upgrade", b"Upgrade: websocket"), {200, 400}),
    "NUL in the id": (get(b"/api/profile/%00"), {404}),
    "CRLF in the id": (get(b"/api/profile/a%0d%0aX-A:%20b"), {404}),
    "slash in the id": (get(b"/api/profile/%2f..%2f.."), {404}),
    "bad escape in the id": (get(b"/api/profile/%zz"), {400, 404}),
    "byte in the id": (get(b"/api/profile/%ff"), {404}),
    "raw bytes in the id": (get(b"/api/profile/\xff\xfe"), {400, 404}),
    "raw bytes in the query": (get(b"/api/search?email=\xff\xfe@mail.com"), {400, 422}),
    "bad escape in the query": (get(b"/api/search?email=%zz%ff"), {400, 422}),
    "two e-mails": (get(b"/api/search?email=a@mail.com&email=b@mail.com"), {400}),
    "two If-Match": (
        b'DELETE /api/profile/%b HTTP/1.1\r\nHost: a\r\nIf-Match: "1"\r\nIf-Match: "2"\r\nConnection: close\r\n\r\n'
        % UID.encode(),
        {400, 404, 412},
    ),
    "gzip": (post(LENGTH, b"Content-Encoding: gzip"), {415}),
    "utf-7": (
        b"POST /api/profile HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        b"Content-Type: application/json; charset=utf-7\r\n" + LENGTH + b"\r\n\r\n" + CREATE,
        {415},
    ),
    "no content type": (
        b"POST /api/profile HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + LENGTH + b"\r\n\r\n" + CREATE,
        {415},
    ),
    "no body": (post(), {400, 411}),
    "deep JSON": (post(b"Content-Length: 60000", body=b"[" * 60000), {400}),
    "lone surrogate": (post(b"Content-Length: 45", body=b'{"username":"\\ud800","email":"a@mail.com"}    '), {400}),
    "NaN": (post(b"Content-Length: 5", body=b"[NaN]"), {400}),
    "a number of 5,000 digits": (post(b"Content-Length: 5002", body=b"[" + b"1" * 5000 + b"]"), {400, 422}),
    "duplicate members": (
        post(b"Content-Length: 61", body=b'{"username":"a","username":"b","email":"twice@mail.com"}     '),
        {400},
    ),
    "invalid UTF-8": (post(b"Content-Length: 4", body=b'"\xff\xfe"'), {400}),
    "UTF-16": (
        post(b"Content-Length: 78", body='\ufeff{"username":"a","email":"a@mail.com"}'.encode("utf-16-le") + b"  "),
        {400},
    ),
    "byte order mark": (post(b"Content-Length: %d" % (len(CREATE) + 3), body=b"\xef\xbb\xbf" + CREATE), {400}),
}


@pytest.mark.parametrize(("data", "expected"), UNUSUAL.values(), ids=UNUSUAL.keys())
def test_unusual_requests_get_their_answer(service: Service, data: bytes, expected: set[int]) -> None:
    """One answer each, of the statuses that the contract allows."""
    found = statuses(exchange(service, data))
    assert len(found) == 1, found
    assert found[0] in expected


def test_pipelined_requests_are_answered_in_order(service: Service) -> None:
    """40 requests in one packet, good and bad ids mixed, come back in their order."""
    live, absent = (
        b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /api/profile/%b HTTP/1.1\r\nHost: a\r\n\r\n" % UID.encode(),
    )
    found = statuses(exchange(service, (live + absent) * 20 + get(b"/livez")))
    assert found == [200, 404] * 20 + [200]


def test_a_half_closed_connection_is_answered(service: Service) -> None:
    """Who says that no more will come still gets an answer; a half-sent request ends at once or is refused."""
    assert statuses(exchange(service, get(b"/livez"), is_closed=True)) == [200]
    assert statuses(exchange(service, b"GET /livez HTTP/1.1\r\nHost", is_closed=True)) in ([], [400], [408])
    assert statuses(exchange(service, post(b"Content-Length: 99"), is_closed=True)) in ([], [400], [408])


def test_random_bytes_are_refused(service: Service) -> None:
    """300 mutations of good requests, drawn from a fixed seed: never a 5xx but 501 and 505, never a hang."""
    rng = random.Random(20261121)
    goods = [get(b"/livez"), post(LENGTH), get(b"/api/search?email=a@mail.com"), get(b"/api/profile/" + UID.encode())]
    for number in range(300):
        data = bytearray(rng.choice(goods))
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[place] = rng.randrange(256)
                case 1:
                    del data[place : place + rng.randint(1, 8)]
                case 2:
                    data[place:place] = rng.choice(
                        [b"\r\n", b"\0", b"\xff", b": ", b"chunked", b"\n", bytes([rng.randrange(256)])]
                    )
                case _:
                    data[place:place] = data[: rng.randrange(len(data))]
            data = data or bytearray(b"\n")
        received = exchange(service, bytes(data), is_closed=True)
        first = received[9:12]
        assert not received or first < b"500" or first in (b"501", b"505"), (
            f"mutation {number}: {bytes(data)!r} {received!r}"
        )


def test_slow_clients_are_cut_off(service: Service) -> None:
    """A silent connection, a half-sent and a dripped head and body, and an idle one all end within their limits."""
    with ExitStack() as stack:
        silent, half_head, half_body, idle, drip_head, drip_body = (
            stack.enter_context(connect(service)) for _ in range(6)
        )
        begun = time.monotonic()
        half_head.sendall(b"GET /livez HTTP/1.1\r\nHost")
        half_body.sendall(post(b"Content-Length: 99", body=b"{"))
        idle.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        drip_head.sendall(b"GET /livez HTTP/1.1\r\nX-A: ")
        drip_body.sendall(post(b"Content-Length: 9999", body=b"{"))
        dripping = [drip_head, drip_body]
        while dripping and time.monotonic() < begun + DEADLINE_S:
            for connection in list(dripping):
                try:
                    connection.sendall(b" ")
                    connection.settimeout(0.1)
                    if not connection.recv(65536):
                        dripping.remove(connection)
                except TimeoutError:
                    pass
                except ConnectionError:
                    dripping.remove(connection)
        assert not dripping, f"{len(dripping)} dripped connections are open after {DEADLINE_S} s"
        assert statuses(read_all(half_head)) in ([], [408])
        assert statuses(read_all(half_body)) in ([], [408])
        assert statuses(read_all(idle)) == [200]
        assert statuses(read_all(silent)) in ([], [408])
        assert time.monotonic() - begun < DEADLINE_S


def test_good_requests_stay_fast_among_bad_ones(service: Service) -> None:
    """With 200 silent connections, 200 half-sent requests and a client of garbage, p99 of a GET stays below 500 ms."""
    with ExitStack() as stack:
        times = []
        for number in range(400):
            connection = stack.enter_context(connect(service))
            if number % 2:
                connection.sendall(half_request(number))
        for _ in range(200):
            with connect(service) as garbage:
                garbage.sendall(b"\xff" * 100)
            begun = time.monotonic()
            assert service.request("GET", "/livez").status == 200
            times.append(time.monotonic() - begun)
        assert statistics.quantiles(times, n=100)[98] < 0.5, sorted(times)[-5:]


def half_request(number: int) -> bytes:
    """The beginning of a request, cut in its head or in its body."""
    return (
        post(b"Content-Length: 99", body=b"{") if number % 4 == 1 else b"POST /api/profile HTTP/1.1\r\nHost: a\r\nX-A"
    )
