"""Every error becomes a problem of the table, and every problem of the table can be met and looked up."""

import logging
from html import unescape

import pytest

from app.cluster.router import OwnerUnreachable
from app.feed.errors import FeedExpired, TooManyListeners
from app.http.errors import MAX_RETRY_AFTER_S
from app.http.problems import PROBLEMS
from app.profiles import results
from app.profiles.results import FieldError
from streams import errors
from streams.queries.peers import PeerUnreachable
from tests.app.http.fakes import SERVED_BY, SERVED_BY_VALUE, UNKNOWN_UID, Edge

TARGET = f"/api/profile/{UNKNOWN_UID}"
BODY = b'{"username":"bob","email":"bob1@mail.com"}'

FAILURES: list[tuple[Exception, int, str, dict[str, object]]] = [
    (results.ProfileNotFound(UNKNOWN_UID), 404, "profile-not-found", {"uid": UNKNOWN_UID}),
    (results.ProfileNotFound(None, SERVED_BY), 404, "profile-not-found", {}),
    (results.VersionMismatch(7), 412, "version-mismatch", {"current_version": 7}),
    (results.PreconditionRequired(), 428, "precondition-required", {}),
    (
        results.ValidationFailed([FieldError("#/email", "invalid_email", "No.")]),
        422,
        "validation-failed",
        {"errors": [{"pointer": "#/email", "code": "invalid_email", "detail": "No."}]},
    ),
    (results.EmailTaken(UNKNOWN_UID), 409, "email-taken", {"pointer": "#/email", "existing_uid": UNKNOWN_UID}),
    (
        results.ProfileDiffers(UNKNOWN_UID, 7),
        409,
        "profile-differs",
        {"uid": UNKNOWN_UID, "current_version": 7},
    ),
    (results.IdempotencyKeyReused(), 422, "idempotency-key-reused", {}),
    (results.IdempotencyInProgress(), 409, "idempotency-in-progress", {}),
    (results.ProfileGone(UNKNOWN_UID), 410, "profile-gone", {"uid": UNKNOWN_UID}),
    (results.BadCursor("cursor"), 400, "bad-cursor", {"parameter": "cursor"}),
    (results.WriteOutcomeUnknown(UNKNOWN_UID, "e"), 504, "outcome-unknown", {"uid": UNKNOWN_UID, "event_id": "e"}),
    (errors.Restoring("x", partition=3, lag_records=9), 503, "restoring", {"partition": 3, "lag": 9}),
    (OwnerUnreachable("x", partition=3), 503, "owner-unreachable", {"partition": 3}),
    (PeerUnreachable("x"), 503, "owner-unreachable", {}),
    (errors.NotOwner("x", partition=3), 503, "ownership-unsettled", {"partition": 3}),
    (errors.LeaseExpired("x", partition=3), 503, "ownership-unsettled", {"partition": 3}),
    (errors.Fenced("x"), 503, "ownership-unsettled", {}),
    (errors.Overloaded("x"), 503, "overloaded", {}),
    (errors.NotWritten("x", partition=1), 503, "not-written", {"partition": 1}),
    (errors.Draining("x"), 503, "draining", {}),
    (errors.LogUnavailable("x"), 503, "log-unavailable", {}),
    (errors.OutcomeUnknown("x"), 504, "outcome-unknown", {}),
    (errors.RecordTooLarge("x"), 413, "payload-too-large", {}),
    (errors.StoreDamaged("x"), 503, "restoring", {}),
    (errors.StoreClosed("x"), 503, "restoring", {}),
    (errors.StoreMismatch("x"), 503, "restoring", {}),
    (errors.StoreError("x"), 503, "restoring", {}),
    (errors.Unavailable("x", partition=2), 503, "restoring", {"partition": 2}),
    (errors.OffsetOutOfRange("t", 1, 2), 503, "restoring", {"partition": 1}),
    (FeedExpired("x"), 410, "feed-expired", {"restart_from": "0"}),
    (TooManyListeners("x"), 503, "too-many-listeners", {}),
]

STANDARD = {"type", "title", "status", "detail", "instance", "request_id"}


@pytest.mark.parametrize(("failure", "status", "slug", "members"), FAILURES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_each_error_has_its_problem(
    edge: Edge, method: str, failure: Exception, status: int, slug: str, members: dict[str, object]
) -> None:
    """Status, slug and exactly the extra members of the table; Retry-After where a retry can help."""
    edge.service.failure = failure

    answer = edge.request(method, TARGET, body=BODY if method == "PUT" else None)

    assert (answer.status, answer.slug) == (status, slug)
    assert {name: value for name, value in answer.json.items() if name not in STANDARD} == members
    assert members.keys() <= set(PROBLEMS[slug].members)
    assert ("Retry-After" in answer) is PROBLEMS[slug].is_retriable
    assert answer.json["instance"] == TARGET
    assert answer.json["title"] == PROBLEMS[slug].title


def test_a_not_found_says_who_looked(edge: Edge) -> None:
    """Profile-Served-By is on a 404 as on a 200."""
    edge.service.failure = results.ProfileNotFound(UNKNOWN_UID, SERVED_BY)
    assert edge.request("GET", TARGET)["Profile-Served-By"] == SERVED_BY_VALUE


@pytest.mark.parametrize(("seconds", "value"), [(0.0, 1), (0.2, 1), (1.2, 2), (29.5, 30), (1e9, MAX_RETRY_AFTER_S)])
def test_retry_after_is_whole_seconds_within_bounds(edge: Edge, seconds: float, value: int) -> None:
    """At least one second, at most thirty."""
    edge.service.failure = errors.Overloaded("x", retry_after_s=seconds)
    assert edge.request("GET", TARGET)["Retry-After"] == str(value)


@pytest.mark.parametrize(
    "failure", [ValueError("bob1@mail.com"), errors.ConfigError("x"), RecursionError(), TimeoutError()]
)
def test_a_bug_is_500_without_its_text(edge: Edge, caplog: pytest.LogCaptureFixture, failure: Exception) -> None:
    """The client gets the request's id; the log gets the trace, once."""
    edge.service.failure = failure
    with caplog.at_level(logging.ERROR):
        answer = edge.request("PUT", TARGET, body=BODY)
    assert (answer.status, answer.slug) == (500, "about:blank")
    assert b"mail" not in answer.body
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize(
    ("failure", "status", "slug", "members"), FAILURES[:25:4], ids=lambda value: type(value).__name__
)
def test_an_expected_error_is_not_logged(
    edge: Edge, caplog: pytest.LogCaptureFixture, failure: Exception, status: int, slug: str, members: object
) -> None:
    """Clients cannot fill the log."""
    edge.service.failure = failure
    with caplog.at_level(logging.DEBUG, logger="app"):
        assert edge.request("GET", TARGET).status == status
    assert caplog.records == []


def _meet(edge: Edge, slug: str) -> str:
    """Return the slug of a request that meets the problem."""
    if slug == "malformed-json":
        return edge.request("POST", "/api/profile", body=b"{").slug
    if slug == "invalid-parameter":
        return edge.request("GET", "/api/search").slug
    if slug == "payload-too-large":
        return edge.request("POST", "/api/profile", body=b" " * 65_537).slug
    if slug == "unsupported-media-type":
        return edge.request("POST", "/api/profile", {"Content-Type": "text/plain"}, b"{}").slug
    edge.service.failure = next(failure for failure, _, other, _ in FAILURES if other == slug)
    return edge.request("GET", TARGET).slug


@pytest.mark.parametrize("slug", PROBLEMS)
def test_every_problem_can_be_met_and_looked_up(edge: Edge, slug: str) -> None:
    """The type of the answer is a path that explains it, for people and for programs."""
    assert _meet(edge, slug) == slug

    kind = PROBLEMS[slug]
    page = edge.request("GET", f"/problems/{slug}", {"Accept": "text/html,*/*;q=0.8"})
    assert (page.status, page["Content-Type"], page["Vary"]) == (200, "text/html; charset=utf-8", "Accept")
    assert kind.title in unescape(page.body.decode())
    data = edge.request("GET", f"/problems/{slug}", {"Accept": "application/json"})
    assert (data["Content-Type"], data["Vary"]) == ("application/json", "Accept")
    assert data.json["status"] == kind.status
    assert data.json["meaning"] == kind.meaning
    assert data.json["members"] == list(kind.members)


def test_an_unknown_problem_or_path_is_a_problem(edge: Edge) -> None:
    """404 about:blank, also where nothing of ours is."""
    for target in ("/problems/nonsense", "/nowhere", "/", "/api", "/api/profile/a/b", "/problems/"):
        answer = edge.request("GET", target)
        assert (answer.status, answer.slug, answer.json["title"]) == (404, "about:blank", "Not Found")


def test_no_status_of_the_table_contradicts_its_meaning() -> None:
    """Whatever is retriable is 503, or the one 409; all slugs are safe in a path."""
    for slug, kind in PROBLEMS.items():
        assert slug.replace("-", "").isalnum()
        assert kind.is_retriable is (kind.status == 503 or slug == "idempotency-in-progress")
        assert kind.title
        assert kind.meaning
        assert kind.remedy
