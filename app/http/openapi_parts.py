"""Parts of the OpenAPI document that have names: the parameters of requests and the headers of answers. Values only."""

from typing import Any

from app.http.changes import FEEDS, LAST_EVENT_ID, MAX_TIMEOUT_MS, MIN_HEARTBEAT_MS, NORMAL
from app.http.metadata import STORES
from app.http.ops import QUARANTINE_LIMIT
from app.http.problems import PROBLEMS
from app.http.profiles import DEFAULT_LIMIT, MAX_LIMIT

Document = dict[str, Any]

RESPONSE_HEADERS = {
    "ETag": "The version of the profile in quotes; to be sent back in If-Match or If-None-Match.",
    "Location": "The path of the new profile.",
    "Content-Location": "The path of the profile that was found.",
    "Link": 'The next page, with rel="next".',
    "Profile-Position": "An opaque token of the write; a read that carries it sees the write or a later state.",
    "Profile-Served-By": "Where a read came from: node; role; position; staleness-ms; hops.",
    "Profile-Explain": "With explain=1: each step of the read, and the ms that it took.",
    "Profile-Topic-Id": "The id of the topic of profiles.",
    "Via": "The node that was asked, when another one answered.",
    "Preference-Applied": "Which preferences of Prefer were honoured.",
    "Retry-After": "Seconds to wait before the same request is sent again.",
    "X-Request-Id": "The id of the request, as the client sent it or made here.",
}


def parameters() -> dict[str, Document]:
    """Return every parameter of a request, by the name of its component."""

    def header(name: str, description: str, **schema: Any) -> Document:
        return {"in": "header", "name": name, "description": description, "schema": {"type": "string", **schema}}

    def query(name: str, description: str, *, required: bool = False, **schema: Any) -> Document:
        return {
            "in": "query",
            "name": name,
            "description": description,
            "required": required,
            "schema": {"type": "string", **schema},
        }

    return {
        "uid": {"in": "path", "name": "uid", "required": True, "schema": {"type": "string", "format": "uuid"}},
        "slug": {"in": "path", "name": "slug", "required": True, "schema": {"type": "string", "enum": list(PROBLEMS)}},
        "email": query("email", "The address to find; write + as %2B.", required=True),
        "limit": query(
            "limit", "Profiles on a page.", type="integer", minimum=1, maximum=MAX_LIMIT, default=DEFAULT_LIMIT
        ),
        "records": query("limit", "Records to list.", type="integer", minimum=1, maximum=QUARANTINE_LIMIT, default=100),
        "cursor": query("cursor", "`next` of the page before."),
        "consistency": query("consistency", "Who may answer a read.", enum=["owner", "strict"], default="owner"),
        "partial": query("partial", "Leave out what nobody can read now, and name it.", enum=["true", "false"]),
        "scope": query("scope", "This node alone, or all of them.", enum=["local", "cluster"], default="cluster"),
        "explain": query(
            "explain", "Say in Profile-Explain what happened to the request.", enum=["0", "1"], default="0"
        ),
        "source": query("source", "The id of the topic that the lines were exported from."),
        "store": {"in": "path", "name": "store", "required": True, "schema": {"type": "string", "enum": list(STORES)}},
        "key": {"in": "path", "name": "key", "required": True, "schema": {"type": "string"}},
        "since": query(
            "since", "`0`: from the beginning; `now`; or the `seq` of a result, or `last_seq`, to go on.", default="0"
        ),
        "feed": query(
            "feed", "Answer at once, when there is something, or go on answering.", enum=list(FEEDS), default=NORMAL
        ),
        "changes": query("limit", "Results at most; of a stream: the end.", type="integer", minimum=1, maximum=1000),
        "timeout": query(
            "timeout", "How long a long poll may wait, in ms.", type="integer", minimum=0, maximum=MAX_TIMEOUT_MS
        ),
        "heartbeat": query(
            "heartbeat",
            "After so many ms without a change a stream sends a comment.",
            type="integer",
            minimum=MIN_HEARTBEAT_MS,
            maximum=MAX_TIMEOUT_MS,
        ),
        "include_docs": query("include_docs", "Send each profile, too.", enum=["true", "false"], default="false"),
        "partition": query("partition", "Only this partition.", type="integer", minimum=0),
        "LastEventId": header(LAST_EVENT_ID, "Goes before `since`: an EventSource that comes again sends it."),
        "verbose": query("verbose", "Show the tasks of a ready node, too."),
        "IfMatch": header("If-Match", "The versions that the request is for, or *."),
        "IfNoneMatch": header("If-None-Match", "The versions that the client has: 304 if one is current."),
        "Prefer": header("Prefer", "`return=minimal` (writes), `max-staleness=<seconds>` (reads); RFC 7240."),
        "Position": header("Profile-Position", "The token of a write that the read must see."),
        "IdempotencyKey": header(
            "Idempotency-Key", 'A string in quotes ("..."): a repeated create with it gets the first outcome.'
        ),
        "RequestTimeout": header("Request-Timeout", "Seconds after which the client stops to wait; at most 10."),
        "RequestId": header("X-Request-Id", "An id for logs; made here when absent, strange or above 128 characters."),
    }
