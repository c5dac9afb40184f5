"""Reading of request headers and query parameters: from text to values, without I/O and without falcon.

Rules for what cannot be read: where guessing could run a write that the client did not mean (a broken `If-Match`), the
request is refused with `invalid-parameter`; where the stronger answer is always right (`Prefer`, a broken
`If-None-Match`), the header is ignored, as RFC 7240 and RFC 9110 section 13 ask.
"""

import re
from typing import NamedTuple

from app.http.problems import Problem
from app.profiles.requests import ANY, IfMatch

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"|[0-9]+'
_TAG_LIST = re.compile(rf"[ \t,]*(?:{_TAG})(?:[ \t]*,[ \t,]*(?:{_TAG}))*[ \t,]*")
_TAGS = re.compile(_TAG)
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_PREFERENCE = re.compile(r'[ \t]*([A-Za-z0-9_-]{1,64})(?:[ \t]*=[ \t]*(?:"([^"\\]*)"|([^\s",;]*)))?[ \t]*(?:;[^,]*)?')
_STALENESS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,3})?")
_SECONDS = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._+/=:-]{1,128}")
_KEY_STRING = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"')
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

is_uid = _UID.fullmatch
"""Whether a text has the one form that names a profile: 36 characters, lower case. Two spellings of one uid would be
two cache keys and, hashed as they are, two partitions."""


class Preferences(NamedTuple):
    """What `Prefer` asks for. `max_staleness_s` None: no staleness is allowed."""

    is_minimal: bool = False
    max_staleness_s: float | None = None


NO_PREFERENCES = Preferences()


def parse_if_match(value: str | None) -> IfMatch:
    """Return the versions that `If-Match` allows, ANY for `*`, or None when it was not sent.

    The weak form and a bare number count too: compressing proxies weaken tags and some clients lose the quotes. Tags
    that are not versions of ours are dropped, so that the tuple may be empty: nothing can match. Raises Problem when
    the value is not a list of tags: the write must not run under a condition that nobody understood.
    """
    if value is None:
        return None
    versions = _parse_tags(value)
    if versions is None:
        raise Problem("invalid-parameter", "If-Match is not `*` or a list of entity tags", parameter="If-Match")
    return versions


def matches_none_of(value: str | None, version: int) -> bool:
    """Return whether a read with this `If-None-Match` gets the full answer; a value that cannot be read is ignored."""
    if value is None:
        return True
    versions = _parse_tags(value)
    return versions is None or (versions != ANY and version not in versions)


def _parse_tags(value: str) -> tuple[int, ...] | None:
    """Return the versions of a list of entity tags (RFC 9110 section 8.8.3), or None when it is none."""
    if value.strip(" \t") == "*":
        return ANY
    if _TAG_LIST.fullmatch(value) is None:
        return None
    opaque = (tag.removeprefix("W/").strip('"') for tag in _TAGS.findall(value))
    return tuple(int(tag) for tag in opaque if _VERSION.fullmatch(tag))


def etag(version: int) -> str:
    """Return the entity tag of a version, in its strong form."""
    return f'"{version}"'


def parse_prefer(value: str | None) -> Preferences:
    """Return the preferences that this service knows (RFC 7240); the first of a name counts, the others are ignored."""
    if value is None:
        return NO_PREFERENCES
    found: dict[str, str] = {}
    for item in value.split(","):
        match = _PREFERENCE.fullmatch(item)
        if match is not None:
            found.setdefault(match[1].lower(), match[2] or match[3] or "")
    staleness = found.get("max-staleness", "")
    return Preferences(
        is_minimal=found.get("return", "").lower() == "minimal",
        max_staleness_s=float(staleness) if _STALENESS.fullmatch(staleness) else None,
    )


def parse_request_timeout(value: str | None) -> float | None:
    """Return how many seconds the client wants to wait, or None when it does not say."""
    if value is None:
        return None
    seconds = float(value) if _SECONDS.fullmatch(value) else 0.0
    if seconds <= 0:
        raise Problem(
            "invalid-parameter", "Request-Timeout is not a positive number of seconds", parameter="Request-Timeout"
        )
    return seconds


def parse_idempotency_key(value: str | None) -> str | None:
    """Return the text of an `Idempotency-Key`, a string of RFC 8941 in its quotes with 1 to 255 characters."""
    if value is None:
        return None
    match = _KEY_STRING.fullmatch(value.strip(" \t"))
    if match is None:
        raise Problem(
            "invalid-parameter",
            'Idempotency-Key must be a string in double quotes: "8e03978e-40d5-43dd-bc93-6894a57f9324"',
            parameter="Idempotency-Key",
        )
    return re.sub(r'\\(["\\])', r"\1", match[1])


def usable_request_id(value: str | None) -> str | None:
    """Return a client's `X-Request-Id` if it is safe in logs and headers, else None: the caller makes one then."""
    return value if value is not None and _REQUEST_ID.fullmatch(value) else None


def usable_traceparent(value: str | None) -> bytes | None:
    """Return a client's `traceparent` if it has the form of W3C Trace Context, else None."""
    return value.encode() if value is not None and _TRACEPARENT.fullmatch(value) else None
