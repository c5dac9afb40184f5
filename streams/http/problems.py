"""What a question to a store is answered with when it cannot be answered: problem details (RFC 9457), from one table.

Nothing here knows a framework. A problem holds no value of a store; its `instance` is the path that was asked for.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from streams.errors import Draining, LeaseExpired, NotOwner, Overloaded, Restoring, StreamsError, Unavailable
from streams.queries.asking import BadCursor, BadParameter, NotHere, TooStale, UnknownStore, WrongQuery
from streams.queries.peers import PeerLost, PeerUnreachable

MEDIA_PROBLEM = "application/problem+json"


class ProblemType(NamedTuple):
    """One row of the table."""

    slug: str
    status: int
    title: str


#: By the error, the most special first.
_TYPES: Mapping[type[Exception], ProblemType] = {
    UnknownStore: ProblemType("unknown-store", 404, "There is no such store"),
    WrongQuery: ProblemType("wrong-query", 400, "The store does not answer questions of this kind"),
    BadCursor: ProblemType("bad-cursor", 400, "The cursor is not one of this list"),
    BadParameter: ProblemType("invalid-parameter", 400, "A key or a parameter is not valid"),
    NotHere: ProblemType("not-here", 421, "Another node has this key"),
    Restoring: ProblemType("restoring", 503, "The partition is catching up"),
    TooStale: ProblemType("too-stale", 503, "The copy is further behind than the request allows"),
    Draining: ProblemType("draining", 503, "The node is stopping"),
    NotOwner: ProblemType("ownership-unsettled", 503, "The owner of the partition is not settled"),
    LeaseExpired: ProblemType("ownership-unsettled", 503, "The owner of the partition is not settled"),
    PeerUnreachable: ProblemType("owner-unreachable", 503, "Nobody who has the partition can be reached"),
    PeerLost: ProblemType("owner-unreachable", 503, "Nobody who has the partition can be reached"),
    Overloaded: ProblemType("overloaded", 503, "Too many requests wait already"),
    Unavailable: ProblemType("unavailable", 503, "The answer cannot be given now"),
}
KEY_NOT_FOUND = ProblemType("key-not-found", 404, "The store has no such key")


class Problem(NamedTuple):
    """An answer: status, header fields, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def problem_of(error: StreamsError, *, instance: str) -> Problem:
    """Return the answer for *error*. Raises it again when the table does not know it."""
    kind = next((row for cause, row in _TYPES.items() if isinstance(error, cause)), None)
    if kind is None:
        raise error
    headers: dict[str, str] = {}
    members: dict[str, Any] = {}
    if isinstance(error, BadParameter):
        members["parameter"] = error.parameter
    if isinstance(error, Unavailable):
        if error.partition is not None:
            members["partition"] = error.partition
        if isinstance(error, Restoring):
            members["lag"] = error.lag_records
        if kind.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return problem(kind, str(error), instance=instance, headers=headers, **members)


def problem(
    kind: ProblemType, detail: str, *, instance: str, headers: Mapping[str, str] | None = None, **members: Any
) -> Problem:
    """Return the answer of *kind*. *detail*: about this occurrence."""
    document = {"type": f"/problems/{kind.slug}", "title": kind.title, "status": kind.status}
    body = json.dumps({**document, "detail": detail, "instance": instance, **members}, separators=(",", ":")).encode()
    return Problem(kind.status, headers or {}, body)


def plain_problem(status: int, detail: str, *, instance: str, headers: Mapping[str, str] | None = None) -> Problem:
    """Return the answer for a *status* that explains itself: `about:blank` (RFC 9457 section 4.2.1)."""
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body = json.dumps({**document, "detail": detail, "instance": instance}, separators=(",", ":")).encode()
    return Problem(status, headers or {}, body)
