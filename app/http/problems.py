"""Every kind of problem that the API answers with, in one table: slug, status, title, what it means, what to do.

The error handlers, the pages below `/problems/` and the OpenAPI document are made from this table alone, so they cannot
disagree. A problem never holds an e-mail or anything of a request's body. Source of the form: RFC 9457.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

MEDIA_PROBLEM = "application/problem+json"
MAX_BODY_BYTES = 64 * 1024
JSON_TYPES = ("application/json",)
LINES_TYPES = ("application/x-ndjson", "application/jsonl")
PATCH_TYPES = ("application/merge-patch+json", "application/json")


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One row of the table. *members* are the extra members that the problem may carry; *is_retriable* tells that the
    same request may succeed later: such answers carry `Retry-After`."""

    slug: str
    status: int
    title: str
    meaning: str
    remedy: str
    members: tuple[str, ...] = ()
    is_retriable: bool = False

    @property
    def uri(self) -> str:
        """The `type` of the problem: a path that can be fetched (RFC 9457 section 3.1.1 asks for full paths)."""
        return f"/problems/{self.slug}" if self.slug else "about:blank"


class Problem(Exception):
    """Raised anywhere in the edge to answer with a problem. *detail* is about this occurrence, for people."""

    def __init__(
        self, kind: str | int, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        """*kind*: a slug of the table, or a status that explains itself: `about:blank` (RFC 9457 section 4.2.1)."""
        super().__init__(detail)
        if isinstance(kind, str):
            self.type = PROBLEMS[kind]
        else:
            self.type = ProblemType("", kind, HTTPStatus(kind).phrase, "", "")
        self.detail = detail
        self.headers = headers or {}
        self.members = members

    def body(self, *, instance: str, request_id: str) -> bytes:
        """Return the JSON: the members of RFC 9457, the request's id, then the extra members."""
        kind = self.type
        return orjson.dumps(
            {
                "type": kind.uri,
                "title": kind.title,
                "status": kind.status,
                "detail": self.detail,
                "instance": instance,
                "request_id": request_id,
                **self.members,
            }
        )


_WAIT = "Send the same request again after the seconds that Retry-After names."

_TABLE = (
    ProblemType(
        "malformed-json",
        400,
        "The body is not acceptable JSON",
        "The body is empty, is not JSON in UTF-8, or uses what JSON readers disagree about: a byte order mark, a "
        "member twice in one object, NaN or Infinity, a number out of range, a lone surrogate, or more than 32 levels.",
        "Send one JSON value (RFC 8259) in UTF-8, each member once.",
    ),
    ProblemType(
        "invalid-parameter",
        400,
        "A parameter or header is not valid",
        "A query parameter or a request header is missing, was sent twice, or cannot be understood. Nothing was done.",
        "Correct what the member `parameter` names.",
        ("parameter",),
    ),
    ProblemType(
        "bad-cursor",
        400,
        "The cursor or position is not one of this service",
        "A `cursor` or a `Profile-Position` was changed on its way, was made by another cluster, or is of a topic that "
        "was replaced since.",
        "Start the list again without a cursor; read again without the position.",
        ("parameter",),
    ),
    ProblemType(
        "validation-failed",
        422,
        "The content breaks the rules",
        "The request was understood, but its content is not allowed. The member `errors` names each fault by a JSON "
        "pointer, a stable code and a sentence.",
        "Correct the members named and send the request again.",
        ("errors",),
    ),
    ProblemType(
        "profile-not-found",
        404,
        "There is no such profile",
        "No profile has this uid, or none carries this e-mail. The answer comes from a node that is caught up.",
        "Check the uid. A deleted uid is never used again.",
        ("uid",),
    ),
    ProblemType(
        "email-taken",
        409,
        "Another profile has this e-mail",
        "An e-mail belongs to at most one profile; letter case does not tell two e-mails apart.",
        "Use the profile that `existing_uid` names, or another e-mail.",
        ("pointer", "existing_uid"),
    ),
    ProblemType(
        "profile-differs",
        409,
        "The profile to be restored is there in another state",
        "A profile of this uid is there, and its content or version is not that of the line. It was not overwritten.",
        "Compare the two. To overwrite it, send a PUT with the content.",
        ("uid", "current_version"),
    ),
    ProblemType(
        "version-mismatch",
        412,
        "The profile has another version",
        "`If-Match` names none of the profile's present version. Nothing was written.",
        "Read the profile, apply the change to what is there now, and send it with the new ETag.",
        ("current_version",),
    ),
    ProblemType(
        "precondition-required",
        428,
        "The request must be conditional",
        "This service is set up to refuse writes without `If-Match`, so that nobody overwrites a change unseen.",
        "Read the profile and repeat the write with its ETag in `If-Match`.",
    ),
    ProblemType(
        "payload-too-large",
        413,
        "The body is too large",
        "A body may have 65,536 bytes at most, that of an import 1,048,576. It was not read to its end, and the "
        "connection is closed.",
        "Send less; a profile is small.",
        ("limit",),
    ),
    ProblemType(
        "unsupported-media-type",
        415,
        "The body has a media type or coding that is not supported",
        "The body must be plain JSON: no other media type, no charset but UTF-8, no Content-Encoding.",
        "Send one of the media types in `supported`.",
        ("supported",),
    ),
    ProblemType(
        "idempotency-key-reused",
        422,
        "The Idempotency-Key was used with another payload",
        "A create with this key and other content was accepted before. Nothing was done now.",
        "Use a fresh key for each new create.",
    ),
    ProblemType(
        "idempotency-in-progress",
        409,
        "A create with this Idempotency-Key is still running",
        "The first request with this key has no outcome yet.",
        _WAIT,
        is_retriable=True,
    ),
    ProblemType(
        "profile-gone",
        410,
        "The profile was deleted",
        "A create with this Idempotency-Key succeeded before, or an export has this uid, and the profile was deleted "
        "since. It is not made again.",
        "Use a fresh key to create a new profile; import the line without uid, version and times.",
        ("uid",),
    ),
    ProblemType(
        "restoring",
        503,
        "The partition is catching up",
        "The node reads its part of the log and does not answer before it knows the present state.",
        _WAIT,
        ("partition", "lag"),
        is_retriable=True,
    ),
    ProblemType(
        "ownership-unsettled",
        503,
        "The owner of the partition is not settled",
        "The partition is moving between nodes, or this node could not confirm in time that it still owns it.",
        _WAIT,
        ("partition",),
        is_retriable=True,
    ),
    ProblemType(
        "owner-unreachable",
        503,
        "The owner of the partition cannot be reached",
        "Neither the node that owns the partition nor one that follows it could be reached in time. Nothing was done.",
        _WAIT,
        ("partition",),
        is_retriable=True,
    ),
    ProblemType(
        "log-unavailable",
        503,
        "The log cannot be reached",
        "The log (Kafka, or the embedded log) refuses or does not answer. Nothing was written.",
        _WAIT,
        ("partition",),
        is_retriable=True,
    ),
    ProblemType(
        "not-written",
        503,
        "The change was not written",
        "The request's time was over before the change was begun, or the change was undone. It will never be visible.",
        _WAIT,
        ("partition",),
        is_retriable=True,
    ),
    ProblemType(
        "draining",
        503,
        "The node is stopping",
        "This node takes no new work, since it was told to stop.",
        "Send the same request again; another node, or this one after its start, answers it.",
        ("partition",),
        is_retriable=True,
    ),
    ProblemType(
        "overloaded",
        503,
        "Too many requests wait already",
        "A queue is full. Nothing was begun.",
        _WAIT,
        ("partition",),
        is_retriable=True,
    ),
    ProblemType(
        "feed-expired",
        410,
        "The place in the change feed is too old",
        "The log need not have all that came after this `seq` any more: deletions may be gone from it, or it was made "
        "anew, or has lost its end.",
        "Empty your copy, and begin again with the `since` that `restart_from` names.",
        ("restart_from",),
    ),
    ProblemType(
        "too-many-listeners",
        503,
        "Too many listen to the change feed already",
        "As many clients wait for changes at this node as it was set up for.",
        "Send the same request again after the seconds that Retry-After names, or to another node.",
        is_retriable=True,
    ),
    ProblemType(
        "outcome-unknown",
        504,
        "It is not known whether the change was written",
        "The change was handed to the log and no answer came in time. It may be visible now, later, or never.",
        "Read the profile; or repeat a create with its Idempotency-Key, any other write with its If-Match.",
        ("uid", "event_id"),
    ),
)

PROBLEMS: Mapping[str, ProblemType] = {row.slug: row for row in _TABLE}
