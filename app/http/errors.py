"""From exceptions to problems: the one place that knows which status each error of the domain and of `streams` gets.

Invariant: whatever is raised, the client gets `application/problem+json`, and neither it nor the log holds an e-mail
or a part of a body. Only a bug becomes 500, and only that is logged here.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import falcon
from falcon.asgi import App, Request, Response

from app.cluster.router import Answered, ClaimFound, Misdirected, OwnerUnreachable
from app.feed.errors import BEGINNING, FeedExpired, TooManyListeners
from app.http.context import REQUEST_ID, TRAIL
from app.http.forward import write_answer, write_claim, write_misdirected
from app.http.problems import MEDIA_PROBLEM, Problem
from app.profiles import results
from app.profiles.results import ServedBy
from streams import errors
from streams.cluster import ClusterView
from streams.queries.peers import PeerLost, PeerUnreachable

logger = logging.getLogger(__name__)

MAX_RETRY_AFTER_S = 30
_IN_PROGRESS_RETRY_S = 1.0
_MAX_INSTANCE = 512


def install(app: App[Request, Response], allow: Mapping[str, str], get_view: Callable[[], ClusterView]) -> None:
    """Make *app* answer every error with a problem, and what another node answered as it is. *allow* gives the methods
    of each URI template."""

    async def answer(req: Request, resp: Response, error: Exception, _params: dict[str, Any]) -> None:
        write_problem(req, resp, to_problem(error))

    async def answer_falcon(req: Request, resp: Response, error: falcon.HTTPError, _params: dict[str, Any]) -> None:
        write_problem(req, resp, _from_falcon(req, error, allow))

    async def answer_bug(req: Request, resp: Response, error: Exception, _params: dict[str, Any]) -> None:
        logger.error("request failed", extra={"method": req.method, "route": req.uri_template}, exc_info=error)
        write_problem(req, resp, Problem(500, "this is a fault of the service; its log has the request_id"))

    async def pass_on(req: Request, resp: Response, error: Answered, _params: dict[str, Any]) -> None:
        write_answer(resp, error)
        explain(req, resp)

    async def refuse_peer(_req: Request, resp: Response, _error: Misdirected, _params: dict[str, Any]) -> None:
        write_misdirected(resp, get_view().encode())

    async def redirect_peer(_req: Request, resp: Response, found: ClaimFound, _params: dict[str, Any]) -> None:
        write_claim(resp, found)

    app.add_error_handler(Exception, answer_bug)
    app.add_error_handler(Answered, pass_on)
    app.add_error_handler(Misdirected, refuse_peer)
    app.add_error_handler(ClaimFound, redirect_peer)
    app.add_error_handler(falcon.HTTPError, answer_falcon)
    for kind in (Problem, results.Rejection, errors.StreamsError):
        app.add_error_handler(kind, answer)


def write_problem(req: Request, resp: Response, problem: Problem) -> None:
    """Make *problem* the answer."""
    explain(req, resp)
    resp.status = problem.type.status
    resp.content_type = MEDIA_PROBLEM
    for name, value in problem.headers.items():
        resp.set_header(name, value)
    resp.data = problem.body(
        instance=quote(req.path[:_MAX_INSTANCE], errors="replace"), request_id=req.scope[REQUEST_ID]
    )


def explain(req: Request, resp: Response) -> None:
    """Say what happened to the request on its way, if the client asked for it."""
    trail = req.scope.get(TRAIL)
    if trail is not None:
        resp.set_header("Profile-Explain", str(trail))


def served_by_value(served_by: ServedBy) -> str:
    """Return the value of `Profile-Served-By`."""
    return (
        f"{served_by.node}; role={served_by.role}; position={served_by.position}; "
        f"staleness-ms={served_by.staleness_ms}; hops={served_by.hops}"
    )


def to_problem(error: Exception) -> Problem:
    """Return the problem that says *error* to the client. An error that has no row of its own is a bug: 500."""
    if isinstance(error, Problem):
        return error
    for kind in type(error).__mro__:
        make = _BY_TYPE.get(kind)
        if make is not None:
            return make(error)
    logger.error("an error has no problem type", exc_info=error)
    return Problem(500, "this is a fault of the service")


def _from_falcon(req: Request, error: falcon.HTTPError, allow: Mapping[str, str]) -> Problem:
    if isinstance(error, falcon.HTTPRouteNotFound):
        return Problem(404, "there is nothing at this path")
    status = error.status_code
    headers = dict(error.headers or {})
    if status == 400 and req.uri_template is not None:
        # Falcon calls a method that it has never heard of a bad request; for the client it is one that is not allowed.
        status, headers = 405, {"Allow": allow[req.uri_template]}
    if status == 405:
        return Problem(405, "this method is not for this path", headers=headers)
    return Problem(status, "the request cannot be served", headers=headers)


def _unavailable(slug: str) -> Callable[[Any], Problem]:
    def make(error: Any) -> Problem:
        members = {}
        if getattr(error, "partition", None) is not None:
            members["partition"] = error.partition
        if isinstance(error, errors.Restoring):
            members["lag"] = error.lag_records
        return Problem(slug, _SENTENCES[slug], headers=_retry_after(getattr(error, "retry_after_s", 1.0)), **members)

    return make


def _retry_after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(min(max(math.ceil(seconds), 1), MAX_RETRY_AFTER_S))}


def _not_found(error: Any) -> Problem:
    headers = {"Profile-Served-By": served_by_value(error.served_by)} if error.served_by is not None else None
    if error.uid is None:
        return Problem("profile-not-found", "no profile was found", headers=headers)
    return Problem("profile-not-found", "no profile has this uid", headers=headers, uid=error.uid)


def _invalid(error: Any) -> Problem:
    faults = [{"pointer": fault.pointer, "code": fault.code, "detail": fault.detail} for fault in error.errors]
    return Problem("validation-failed", f"faults found: {len(faults)}", errors=faults)


def _outcome_unknown(error: Any) -> Problem:
    return Problem(
        "outcome-unknown", "the change may be visible now, later, or never", uid=error.uid, event_id=error.event_id
    )


# Sentences of ours, and not the errors' own: those are for operators and may name hosts and files.
_SENTENCES = {
    "restoring": "the node is catching up with the log",
    "ownership-unsettled": "the partition is moving, or its owner cannot prove that it is",
    "owner-unreachable": "the node that has the partition cannot be reached; nothing was done",
    "log-unavailable": "the log cannot be reached; nothing was written",
    "not-written": "the change was not written and never will be",
    "draining": "the node is stopping",
    "overloaded": "too many requests wait already; nothing was begun",
    "too-many-listeners": "no further listener is taken here now",
}

_BY_TYPE: Mapping[type, Callable[[Any], Problem]] = {
    results.ProfileNotFound: _not_found,
    results.ValidationFailed: _invalid,
    results.VersionMismatch: lambda error: Problem(
        "version-mismatch",
        f"the version is {error.current_version}",
        current_version=error.current_version,
    ),
    results.PreconditionRequired: lambda _: Problem("precondition-required", "send If-Match"),
    # `existing_uid` is for callers who may read the profile anyway; without authentication that is everybody.
    results.EmailTaken: lambda error: Problem(
        "email-taken", "another profile has this e-mail", pointer="#/email", existing_uid=error.existing_uid
    ),
    results.ProfileDiffers: lambda error: Problem(
        "profile-differs", "the profile is there in another state", uid=error.uid, current_version=error.current_version
    ),
    results.IdempotencyKeyReused: lambda _: Problem("idempotency-key-reused", "the key came with another payload"),
    results.IdempotencyInProgress: lambda _: Problem(
        "idempotency-in-progress", "the first request has no outcome yet", headers=_retry_after(_IN_PROGRESS_RETRY_S)
    ),
    results.ProfileGone: lambda error: Problem("profile-gone", "the profile was deleted since", uid=error.uid),
    results.BadCursor: lambda error: Problem(
        "bad-cursor", f"{error.parameter} is not one that this service gave out", parameter=error.parameter
    ),
    results.WriteOutcomeUnknown: _outcome_unknown,
    FeedExpired: lambda error: Problem("feed-expired", str(error), restart_from=BEGINNING),
    TooManyListeners: _unavailable("too-many-listeners"),
    OwnerUnreachable: _unavailable("owner-unreachable"),
    PeerUnreachable: _unavailable("owner-unreachable"),
    PeerLost: _unavailable("owner-unreachable"),
    errors.Restoring: _unavailable("restoring"),
    errors.NotOwner: _unavailable("ownership-unsettled"),
    # Not `log-unavailable`, although a silent log is the usual cause: the log may well answer another node, which then
    # owns the partition, and what the client should do is the same.
    errors.LeaseExpired: _unavailable("ownership-unsettled"),
    errors.Overloaded: _unavailable("overloaded"),
    errors.NotTaken: _unavailable("log-unavailable"),
    errors.NotWritten: _unavailable("not-written"),
    errors.Draining: _unavailable("draining"),
    errors.LogUnavailable: _unavailable("log-unavailable"),
    errors.Fenced: _unavailable("ownership-unsettled"),
    errors.OutcomeUnknown: lambda _: Problem("outcome-unknown", "the change may be visible now, later, or never"),
    errors.RecordRefused: _unavailable("log-unavailable"),
    errors.RecordTooLarge: lambda _: Problem("payload-too-large", "the log refuses a record of this size"),
    # What has no row of its own is unavailable because a store is: it is being rebuilt, moved, or brought up to date.
    errors.Unavailable: _unavailable("restoring"),
    errors.StoreError: _unavailable("restoring"),
    errors.OffsetOutOfRange: _unavailable("restoring"),
}
