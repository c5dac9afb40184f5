"""What the edge knows about a request besides its resource: id, start, deadline, consistency.

The outermost layer (`app.http.entry.py`) puts the first three into the ASGI scope; the rest is read on demand.
"""

import itertools
import os
from collections.abc import Mapping

from falcon.asgi import Request

from app.http.headers import parse_prefer, parse_request_timeout
from app.http.problems import Problem
from app.profiles.requests import OWNER, PLAIN, STRICT, ReadOptions
from streams.clock import Deadline

# Keys of the ASGI scope.
REQUEST_ID = "profiles.request_id"  # str
STARTED = "profiles.started"  # float, seconds of the monotonic clock
DUE = "profiles.due"  # float, when the answer is due by default
HEADERS = "profiles.headers"  # the request's headers as a dict, of which one value each is kept
BODY = "profiles.body"  # bytes, once the body was read
CALLER = "profiles.caller"  # the `Caller` of a request that a peer forwarded
TRAIL = "profiles.trail"  # the `Trail` of a request whose client wants it explained
RECEIVE = "profiles.receive"  # the server's own receive, of which nothing was consumed


class RequestIds:
    """Makes ids for requests that bring none: unique over all processes, and made without a system call."""

    def __init__(self) -> None:
        self._prefix = os.urandom(8).hex()
        self._numbers = itertools.count(1)

    def next(self) -> str:
        """Return a fresh id. Event loop only."""
        return f"{self._prefix}-{next(self._numbers):x}"


def header(req: Request, name: bytes) -> str | None:
    """Return a request header by its lower-case name, several of that name joined with commas, or None.

    As falcon's `get_header`, which takes a microsecond for each header that is absent; a write asks for seven.
    """
    headers: Mapping[bytes, bytes] = req.scope[HEADERS]
    return req.get_header(name.decode()) if name in headers else None


def deadline(req: Request) -> Deadline:
    """Return when the answer is due, counted from the arrival of the request. Raises Problem (400)."""
    due: float = req.scope[DUE]
    timeout_s = parse_request_timeout(header(req, b"request-timeout"))
    if timeout_s is not None:
        due = min(due, req.scope[STARTED] + timeout_s)
    return Deadline(due)


def read_options(req: Request) -> ReadOptions:
    """Return how fresh this read has to be. Raises Problem (400)."""
    consistency = parameter(req, "consistency")
    prefer = header(req, b"prefer")
    position = header(req, b"profile-position")
    if consistency is None and prefer is None and position is None:
        return PLAIN
    if consistency not in (None, OWNER, STRICT):
        raise Problem("invalid-parameter", f"consistency is `{OWNER}` or `{STRICT}`", parameter="consistency")
    return ReadOptions(
        consistency=consistency or OWNER,
        max_staleness_s=parse_prefer(prefer).max_staleness_s,
        position=position,
    )


def is_explained(req: Request) -> bool:
    """Say whether the client wants to know what happened to his request. Raises Problem (400)."""
    text = parameter(req, "explain") if b"explain=" in req.scope["query_string"] else None
    if text not in (None, "0", "1"):
        raise Problem("invalid-parameter", "explain is `1` or `0`", parameter="explain")
    return text == "1"


def is_partial_allowed(req: Request) -> bool:
    """Say whether the client takes what there is when a part cannot be read now. Raises Problem (400)."""
    text = parameter(req, "partial")
    if text not in (None, "true", "false"):
        raise Problem("invalid-parameter", "partial is `true` or `false`", parameter="partial")
    return text == "true"


def parameter(req: Request, name: str) -> str | None:
    """Return a query parameter, or None when it is absent. Unknown parameters are ignored, so that new ones can be
    added; a known one that is sent twice is refused, since two readers may take either. Raises Problem (400)."""
    value = req.params.get(name)
    if isinstance(value, list):
        raise Problem("invalid-parameter", f"{name} was sent {len(value)} times", parameter=name)
    return value
