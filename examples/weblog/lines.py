"""One line of a web server's log, in the Common Log Format: what it says, or what is wrong with it.

    world.std.com - - [28/Aug/1995:00:00:34 -0400] "GET /pub/sun/ HTTP/1.0" 200 1024

Pure. A line is read field by field, so that of a bad one the first field is known that is not as it should be. Servers
write a request as the client sent it: the protocol may be missing, an endpoint may contain blanks and quotes.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

_FIELDS = (
    ("host", r"(?P<host>\S+) "),
    ("client id", r"(?P<client_id>\S+) "),
    ("user", r"(?P<user>\S+) "),
    ("time", r"\[(?P<time>[^\]]*)\] "),
    ("request", r'"(?P<request>.*)"'),
    ("reply code", r" (?P<reply_code>[0-9]{3})(?= |$)"),
    ("payload size", r" (?P<payload_size>\S+)$"),
)
_PARTS = [(name, re.compile(pattern)) for name, pattern in _FIELDS]
_REQUEST = re.compile(r"(?P<method>\S+) (?P<endpoint>.+?)(?: (?P<protocol>HTTP/\S+))?")
_SIZE = re.compile(r"[0-9]{1,15}")  # a petabyte less one: sums of what is longer would not fit their 8 bytes
_TIME_FORMAT = "%d/%b/%Y:%H:%M:%S %z"


@dataclass(frozen=True, slots=True)
class LogRecord:
    """What one line says. `timestamp` is ISO 8601 with its offset; `protocol` is empty where the client named none;
    `payload_size` is 0 where the server wrote no number."""

    host: str
    client_id: str
    user: str
    timestamp: str
    method: str
    endpoint: str
    protocol: str
    http_reply_code: int
    payload_size: int


class BadLine(NamedTuple):
    """A line that cannot be read, and why."""

    reason: str
    line: str


def parse(data: bytes | None) -> LogRecord | BadLine:
    """Return what the line *data* says; the end of the line may be part of it."""
    if data is None:
        return BadLine("a record without a value", "")
    try:
        line = data.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        return BadLine(f"no UTF-8 at byte {error.start}", data.decode(errors="backslashreplace"))
    found: dict[str, str] = {}
    position = 0
    for name, pattern in _PARTS:
        part = pattern.match(line, position)
        if part is None:
            return BadLine(f"no {name} at column {position + 1}", line)
        found |= part.groupdict()
        position = part.end()
    request = _REQUEST.fullmatch(found["request"])
    if request is None:
        return BadLine("the request is not a method and an endpoint", line)
    try:
        moment = datetime.strptime(found["time"], _TIME_FORMAT)  # noqa: DTZ007  # the format has %z
    except ValueError:
        return BadLine(f"the time is not like 28/Aug/1995:00:00:34 -0400: {found['time']!r:.60}", line)
    return LogRecord(
        host=found["host"],
        client_id=found["client_id"],
        user=found["user"],
        timestamp=moment.isoformat(),
        method=request["method"],
        endpoint=request["endpoint"],
        protocol=request["protocol"] or "",
        http_reply_code=int(found["reply_code"]),
        payload_size=int(found["payload_size"]) if _SIZE.fullmatch(found["payload_size"]) else 0,
    )


#: The names that consumers of the topics know, in their order.
NAMES = {
    "host": "host",
    "clientId": "client_id",
    "user": "user",
    "timestamp": "timestamp",
    "method": "method",
    "endpoint": "endpoint",
    "protocol": "protocol",
    "httpReplyCode": "http_reply_code",
    "payloadSize": "payload_size",
}


def to_members(record: LogRecord) -> dict[str, Any]:
    """Return *record* as the members of a JSON object or an Avro record."""
    return {name: getattr(record, field) for name, field in NAMES.items()}


def from_members(members: dict[str, Any]) -> LogRecord:
    """Return what `to_members` was called on. Raises KeyError, TypeError."""
    return LogRecord(**{NAMES[name]: value for name, value in members.items()})
