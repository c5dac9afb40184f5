"""The lines of a web server's log: what is read of good ones, and what is said of bad ones."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from examples.weblog.lines import BadLine, LogRecord, from_members, parse, to_members

DATA = Path(__file__).parents[2] / "examples" / "weblog" / "data"
TEMPLATE = '{host} - - [{time}] "{request}" {code} {size}'
GOOD = {"host": "a.com", "time": "28/Aug/1995:00:00:34 -0400", "request": "GET / HTTP/1.0", "code": "200", "size": "7"}


def line(**changes: str) -> bytes:
    return TEMPLATE.format(**(GOOD | changes)).encode()


def reason(data: bytes | None) -> str:
    found = parse(data)
    assert isinstance(found, BadLine), found
    return found.reason


def record(data: bytes) -> LogRecord:
    found = parse(data)
    assert isinstance(found, LogRecord), found
    return found


def test_every_field_is_read() -> None:
    """Fields in their order; the time in ISO 8601 with its offset; the end of the line belongs to no field."""
    text = b'er6.rutgers.edu - jones [28/Aug/1995:00:00:43 -0400] "POST /cgi-bin/vote HTTP/1.0" 302 41\r\n'
    wanted = LogRecord(
        host="er6.rutgers.edu",
        client_id="-",
        user="jones",
        timestamp="1995-08-28T00:00:43-04:00",
        method="POST",
        endpoint="/cgi-bin/vote",
        protocol="HTTP/1.0",
        http_reply_code=302,
        payload_size=41,
    )
    assert parse(text) == wanted
    assert list(to_members(wanted)) == [
        *("host", "clientId", "user", "timestamp", "method", "endpoint", "protocol", "httpReplyCode", "payloadSize")
    ]


def test_requests_are_as_clients_send_them() -> None:
    """Without a protocol, with blanks and quotes, with letters beyond ASCII."""
    assert record(line(request="GET /old")).protocol == ""
    assert record(line(request="GET /a file.txt HTTP/1.0")).endpoint == "/a file.txt"
    assert record(line(request='GET /"quoted" HTTP/1.0')).endpoint == '/"quoted"'
    assert record(line(request="GET /été")).endpoint == "/été"


@pytest.mark.parametrize("size", ["-", "many", "1e9", "-7", "٣", "9" * 40])
def test_a_size_that_is_no_number_counts_as_0(size: str) -> None:
    """As in the tutorial; one that would not fit into a sum of 8 bytes is none, either."""
    assert record(line(size=size)).payload_size == 0


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"", "no host at column 1"),
        (b"GET /index.html HTTP/1.0", "no user at column 17"),
        (line(host=""), "no host at column 1"),
        (b"a.com - -", "no user at column 9"),
        (line(time="yesterday"), "the time is not like 28/Aug/1995:00:00:34 -0400: 'yesterday'"),
        (line(time="31/Feb/1995:00:00:34 -0400"), "the time is not like"),
        (line(request="GET"), "the request is not a method and an endpoint"),
        (line(code="20"), "no reply code at column"),
        (line(code="2000"), "no reply code at column"),
        (line(size="7 8"), "no payload size at column"),
        (line(size=""), "no payload size at column"),
        (b"\xff\xfe", "no UTF-8 at byte 0"),
        (None, "a record without a value"),
    ],
)
def test_of_a_bad_line_the_first_bad_field_is_named(data: bytes | None, wanted: str) -> None:
    """The original wrote an empty reason for all of them."""
    assert reason(data).startswith(wanted)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b'- - - [] "" 000 ')
def test_nothing_makes_it_raise_and_nothing_is_lost(data: bytes) -> None:
    """Whatever stands in a file, it is a record that can be written and read again, or a bad line with its text."""
    found = parse(data)
    if isinstance(found, LogRecord):
        assert from_members(to_members(found)) == found
    else:
        assert found.reason
        assert found.line == data.decode(errors="backslashreplace").rstrip("\r\n") or reason(data).startswith("no UTF")


@pytest.mark.parametrize("file", sorted(DATA.glob("*.log")), ids=lambda path: path.name)
def test_each_file_of_the_data_has_one_bad_line(file: Path) -> None:
    """The error topic has something to show."""
    bad = [each for each in map(parse, file.read_bytes().splitlines()) if isinstance(each, BadLine)]
    assert len(bad) == 1
