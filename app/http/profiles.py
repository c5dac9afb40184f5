"""`/api/profile` and `/api/profile/{uid}`: the collection and one profile.

The responders translate: headers and body into the service's arguments, its results into an answer. Nothing is decided
here. The stored bytes are served as they are; nobody parses them.
"""

from collections.abc import Awaitable, Callable

from falcon.asgi import Request, Response

from app.http.context import deadline, header, is_partial_allowed, parameter, read_options
from app.http.errors import explain, served_by_value
from app.http.forward import Dispatch
from app.http.headers import (
    etag,
    is_uid,
    matches_none_of,
    parse_idempotency_key,
    parse_if_match,
    parse_prefer,
    usable_traceparent,
)
from app.http.media import read_json
from app.http.ports import Listing, Service
from app.http.problems import JSON_TYPES, PATCH_TYPES, Problem
from app.profiles.requests import ANY, TRACEPARENT, IfMatch
from app.profiles.results import ProfileNotFound, Read, VersionMismatch, Written
from streams.clock import Clock, Deadline

PROFILES_PATH = "/api/profile"
MEDIA_JSON = "application/json"
CACHE_CONTROL = "private, no-cache"
DEFAULT_LIMIT = 100
MAX_LIMIT = 500


class Profiles:
    """The collection: create, list."""

    def __init__(self, service: Service, clock: Clock, dispatch: Dispatch, listing: Listing) -> None:
        self._service = service
        self._clock = clock
        self._dispatch = dispatch
        self._listing = listing

    async def on_post(self, req: Request, resp: Response) -> None:
        _refuse_if_none_match(req)
        key = parse_idempotency_key(header(req, b"idempotency-key"))
        due = deadline(req)
        document = await read_json(req, media_types=JSON_TYPES, seconds=due.remaining_s(self._clock))
        _pass_trace_on(req)
        written = await self._dispatch.write(
            req,
            lambda: self._service.create_key(document, key),
            due,
            lambda: self._service.create(document, idempotency_key=key, deadline=due),
            uid=None,
        )
        assert written.profile is not None
        resp.status = 201
        resp.set_header("Location", f"{PROFILES_PATH}/{written.profile.uid}")
        _answer_write(req, resp, written, self._service)

    async def on_get(self, req: Request, resp: Response) -> None:
        limit = _limit(parameter(req, "limit"))
        is_partial = is_partial_allowed(req)
        page = await self._listing.page(
            limit=limit,
            cursor=parameter(req, "cursor") or None,
            options=read_options(req),
            deadline=deadline(req),
            is_partial=is_partial,
        )
        following = "null"
        if page.next_cursor is not None:
            following = f'"{page.next_cursor}"'  # URL-safe base64: nothing to escape, neither here nor in the link
            consistency = parameter(req, "consistency")
            suffix = f"&consistency={consistency}" if consistency else ""
            suffix += "&partial=true" if is_partial else ""
            resp.set_header("Link", f'<{PROFILES_PATH}?limit={limit}&cursor={page.next_cursor}{suffix}>; rel="next"')
        resp.content_type = MEDIA_JSON
        resp.set_header("Cache-Control", CACHE_CONTROL)
        resp.set_header("Profile-Served-By", served_by_value(page.served_by))
        missing = b',"missing":[' + b",".join(b"%d" % partition for partition in page.missing) + b"]"
        resp.data = b'{"items":[%b],"next":%b%b}' % (
            b",".join(page.bodies), following.encode(), missing if is_partial else b""
        )  # fmt: skip

    on_head = on_get


class Profile:
    """One profile: read, replace, patch, delete."""

    def __init__(self, service: Service, clock: Clock, dispatch: Dispatch) -> None:
        self._service = service
        self._clock = clock
        self._dispatch = dispatch

    async def on_get(self, req: Request, resp: Response, uid: str) -> None:
        options, due = read_options(req), deadline(req)
        key = _checked(uid).encode()
        read = await self._dispatch.read(req, lambda: key, options, due, lambda *asked: self._service.get(uid, *asked))
        answer_read(req, resp, read)

    on_head = on_get

    async def on_put(self, req: Request, resp: Response, uid: str) -> None:
        if_match, due = _condition(req), deadline(req)
        document = await read_json(req, media_types=JSON_TYPES, seconds=due.remaining_s(self._clock))
        _pass_trace_on(req)
        written = await self._write(
            req, uid, due, lambda: self._service.replace(uid, document, if_match=if_match, deadline=due)
        )
        _answer_write(req, resp, written, self._service)

    async def on_patch(self, req: Request, resp: Response, uid: str) -> None:
        if_match, due = _condition(req), deadline(req)
        document = await read_json(req, media_types=PATCH_TYPES, seconds=due.remaining_s(self._clock))
        _pass_trace_on(req)
        written = await self._write(
            req, uid, due, lambda: self._service.patch(uid, document, if_match=if_match, deadline=due)
        )
        _answer_write(req, resp, written, self._service)

    async def on_delete(self, req: Request, resp: Response, uid: str) -> None:
        if_match, due = _condition(req), deadline(req)
        _pass_trace_on(req)
        written = await self._write(req, uid, due, lambda: self._service.delete(uid, if_match=if_match, deadline=due))
        resp.status = 204
        resp.set_header("Profile-Position", self._service.position_token(written.positions))

    async def on_options(self, _req: Request, resp: Response, uid: str) -> None:
        resp.set_header("Allow", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT")
        resp.set_header("Accept-Patch", ", ".join(PATCH_TYPES))
        resp.data = b""

    async def _write(self, req: Request, uid: str, due: Deadline, call: Callable[[], Awaitable[Written]]) -> Written:
        key = _checked(uid).encode()
        return await self._dispatch.write(req, lambda: key, due, call, uid=uid)


def answer_read(req: Request, resp: Response, read: Read) -> None:
    """Answer with a profile that was found, or as its ETag says: 304 by If-None-Match, 412 by If-Match."""
    explain(req, resp)
    version = read.profile.version
    if_match = parse_if_match(header(req, b"if-match"))
    if if_match is not None and if_match != ANY and version not in if_match:
        raise VersionMismatch(version)
    # The order of the headers is that of the fast path, which answers the same bytes.
    if matches_none_of(header(req, b"if-none-match"), version):
        resp.content_type = MEDIA_JSON
        resp.data = read.profile.body
    else:
        resp.status = 304
    resp.set_header("ETag", etag(version))
    resp.set_header("Cache-Control", CACHE_CONTROL)
    resp.set_header("Profile-Served-By", served_by_value(read.served_by))
    prefer = header(req, b"prefer")
    if prefer is not None:
        staleness_s = parse_prefer(prefer).max_staleness_s
        if staleness_s is not None:
            resp.set_header("Preference-Applied", f"max-staleness={staleness_s:g}")


def _answer_write(req: Request, resp: Response, written: Written, service: Service) -> None:
    """Answer with the profile as it is after the write; without its body where the client prefers so (RFC 7240)."""
    profile = written.profile
    assert profile is not None
    resp.set_header("ETag", etag(profile.version))
    resp.set_header("Cache-Control", CACHE_CONTROL)
    resp.set_header("Profile-Position", service.position_token(written.positions))
    prefer = header(req, b"prefer")
    if prefer is not None and parse_prefer(prefer).is_minimal:
        resp.set_header("Preference-Applied", "return=minimal")
        if resp.status_code != 201:
            resp.status = 204
        return
    resp.content_type = MEDIA_JSON
    resp.data = profile.body


def _checked(uid: str) -> str:
    # After the body was read: what is wrong with the request's syntax comes before what is wrong with its target.
    if is_uid(uid) is None:
        raise ProfileNotFound(None)
    return uid


def _condition(req: Request) -> IfMatch:
    _refuse_if_none_match(req)
    return parse_if_match(header(req, b"if-match"))


def _refuse_if_none_match(req: Request) -> None:
    """Refuse writes under `If-None-Match`: who sends `*` with a PUT wants to create, which PUT never does here, and
    ignoring the condition would overwrite what he wanted to keep (RFC 9110 section 13.1.2)."""
    if header(req, b"if-none-match") is not None:
        raise Problem("invalid-parameter", "a write cannot have If-None-Match", parameter="If-None-Match")


def _pass_trace_on(req: Request) -> None:
    # Also when there is none: a context may be used by more than one request.
    TRACEPARENT.set(usable_traceparent(header(req, b"traceparent")))


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise Problem("invalid-parameter", f"limit is a number from 1 to {MAX_LIMIT}", parameter="limit")
    return limit
