"""The commonest reads without the framework: `GET` of a profile, and search by a plain address.

Invariant: byte for byte the answer that the ordinary path gives, but for the request's id; a test compares the two.
Whatever is not the plain case (any conditional, preference or parameter, any error, nothing found) is left to it: each
method returns None then, and nothing was sent.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from app.cluster.batches import Batches
from app.cluster.wire import Found
from app.http.forward import with_hops
from app.http.headers import is_uid
from app.http.ports import Service
from app.http.profiles import CACHE_CONTROL, MEDIA_JSON, PROFILES_PATH
from app.profiles.results import ValidationFailed
from streams.clock import Deadline

Headers = list[tuple[bytes, bytes]]
Answer = tuple[Headers, bytes]

#: A request with one of these headers is not a plain read.
NOT_PLAIN = frozenset(
    (b"if-match", b"if-none-match", b"prefer", b"profile-position", b"request-timeout", b"x-request-id")
)

_PREFIX = PROFILES_PATH + "/"
_PREFIX_BYTES = _PREFIX.encode()
_UID_LENGTH = 36
# Percent-encoding is left to the ordinary path, but for the one character that clients encode in every address.
_PLAIN_QUERY = re.compile(rb"email=([A-Za-z0-9._-]+)(?:@|%40)([A-Za-z0-9.-]+)")
_CONTENT_TYPE = (b"content-type", MEDIA_JSON.encode())
_CACHE = (b"cache-control", CACHE_CONTROL.encode())


class FastPath:
    """Event loop only."""

    def __init__(self, service: Service) -> None:
        self._get_now = service.get_now
        self._search_now = service.search_now

    def profile(self, scope: Mapping[str, Any], request_id: str) -> tuple[Headers, bytes] | None:
        """Return headers and body of the profile that the path names."""
        path: str = scope["path"]
        if (
            len(path) != len(_PREFIX) + _UID_LENGTH
            or not path.startswith(_PREFIX)
            or scope["query_string"]
            or is_uid(path, len(_PREFIX)) is None
        ):
            return None
        try:
            found = self._get_now(path[len(_PREFIX) :].encode())
        except Exception:  # noqa: BLE001 - the ordinary path meets it again and says it as a problem
            return None
        if found is None:
            return None
        body, tag, served_by = found
        return [
            _CONTENT_TYPE,
            (b"etag", tag),
            _CACHE,
            (b"profile-served-by", served_by),
            (b"x-request-id", request_id.encode()),
            (b"content-length", b"%d" % len(body)),
        ], body

    def search(self, scope: Mapping[str, Any], request_id: str) -> tuple[Headers, bytes] | None:
        """Return headers and body of the profile that carries the e-mail in the query."""
        query = _PLAIN_QUERY.fullmatch(scope["query_string"])
        if query is None:
            return None
        try:
            found = self._search_now((query[1] + b"@" + query[2]).decode())
        except Exception:  # noqa: BLE001 - as above
            return None
        if found is None:
            return None
        body, tag, served_by, uid = found
        return [
            _CONTENT_TYPE,
            (b"etag", tag),
            _CACHE,
            (b"profile-served-by", served_by),
            (b"content-location", _PREFIX_BYTES + uid),
            (b"x-request-id", request_id.encode()),
            (b"content-length", b"%d" % len(body)),
        ], body


class ProxiedPath:
    """The same reads of what another node owns: in one call with others that come at the same time. Event loop only."""

    def __init__(self, batches: Batches, email_key: Callable[[str], bytes], *, via: str) -> None:
        """*via*: the id of this node, for the answers that come by way of it."""
        self._via = (b"via", b"1.1 " + via.encode())
        self._find = batches.find
        self._email_key = email_key

    async def profile(self, scope: Mapping[str, Any], request_id: str, deadline: Deadline) -> Answer | None:
        """See FastPath.profile."""
        path: str = scope["path"]
        if not path.startswith(_PREFIX) or scope["query_string"] or is_uid(path, len(_PREFIX)) is None:
            return None
        uid = path[len(_PREFIX) :].encode()
        coming = self._find(uid, uid, deadline)
        found = await coming if coming is not None else None
        return _proxied(found, self._via, request_id) if found is not None else None

    async def search(self, scope: Mapping[str, Any], request_id: str, deadline: Deadline) -> Answer | None:
        """See FastPath.search."""
        query = _PLAIN_QUERY.fullmatch(scope["query_string"])
        if query is None:
            return None
        email = query[1] + b"@" + query[2]
        try:
            key = self._email_key(email.decode())
        except ValidationFailed:
            return None
        coming = self._find(key, email, deadline)
        found = await coming if coming is not None else None
        return _proxied(found, self._via, request_id) if found is not None else None


def _proxied(found: Found, via: tuple[bytes, bytes], request_id: str) -> Answer:
    body, tag, served_by, uid = found
    headers = [_CONTENT_TYPE, (b"etag", tag), _CACHE, (b"profile-served-by", with_hops(served_by, 1))]
    if uid:
        headers.append((b"content-location", _PREFIX_BYTES + uid))
    headers += [
        via,
        (b"x-request-id", request_id.encode()),
        (b"content-length", b"%d" % len(body)),
    ]
    return headers, body
