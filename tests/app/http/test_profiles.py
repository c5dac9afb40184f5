"""The routes of profiles: statuses, headers and what reaches the service."""

import pytest

from app.profiles import results
from app.profiles.requests import ANY, OWNER, STRICT, TRACEPARENT, ReadOptions
from streams.clock import SystemClock
from tests.app.http.fakes import SERVED_BY_VALUE, TOKEN, UNKNOWN_UID, Edge

BOB = {"username": "bob", "email": "bob1@mail.com"}
PLACE = "/api/profile"


def test_a_create_answers_with_all_that_the_next_request_needs(edge: Edge) -> None:
    """201, relative Location, ETag, position and the compact body."""
    answer = edge.request("POST", PLACE, json=BOB)

    assert answer.status == 201
    uid = answer.json["uid"]
    assert answer["Location"] == f"/api/profile/{uid}"
    assert answer["ETag"] == '"1"'
    assert answer["Profile-Position"] == TOKEN
    assert answer["Cache-Control"] == "private, no-cache"
    assert b'"uid":"' in answer.body


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_change_answers_with_the_new_state(edge: Edge, method: str) -> None:
    """200 with the new ETag and body."""
    uid = edge.service.add()

    answer = edge.request(method, f"{PLACE}/{uid}", json={"username": "rob", "email": "rob@mail.com"})

    assert (answer.status, answer["ETag"], answer["Profile-Position"]) == (200, '"2"', TOKEN)
    assert answer.json["username"] == "rob"


@pytest.mark.parametrize(
    "media_type", ["application/merge-patch+json", "application/json", "Application/JSON; charset=UTF-8"]
)
def test_a_patch_is_merge_patch_or_plain_json(edge: Edge, media_type: str) -> None:
    """Both media types are accepted on PATCH, in any letter case."""
    uid = edge.service.add()

    answer = edge.request("PATCH", f"{PLACE}/{uid}", {"Content-Type": media_type}, b'{"username":"rob"}')

    assert answer.status == 200
    assert edge.service.seen["document"] == {"username": "rob"}


def test_a_delete_has_no_body_and_happens_once(edge: Edge) -> None:
    """204 with a position, then 404."""
    uid = edge.service.add()

    first = edge.request("DELETE", f"{PLACE}/{uid}")
    second = edge.request("DELETE", f"{PLACE}/{uid}")

    assert (first.status, first.body, first["Profile-Position"]) == (204, b"", TOKEN)
    assert "Content-Type" not in first
    assert (second.status, second.slug, second.json["uid"]) == (404, "profile-not-found", uid)


@pytest.mark.parametrize(("method", "status"), [("POST", 201), ("PUT", 204), ("PATCH", 204)])
def test_prefer_minimal_spares_the_body(edge: Edge, method: str, status: int) -> None:
    """No body and no media type, but every header that the body would have come with."""
    target = PLACE if method == "POST" else f"{PLACE}/{edge.service.add()}"

    answer = edge.request(
        method, target, {"Prefer": "return=minimal"}, json={"username": "rob", "email": "rob@mail.com"}
    )

    assert (answer.status, answer.body) == (status, b"")
    assert answer["Preference-Applied"] == "return=minimal"
    assert answer["ETag"]
    assert answer["Profile-Position"] == TOKEN
    assert "Content-Type" not in answer
    assert ("Location" in answer) is (method == "POST")


@pytest.mark.parametrize("tag", ['"1"', 'W/"1"', '"0", "1"', "*"])
def test_a_read_is_spared_when_the_client_has_the_version(edge: Edge, tag: str) -> None:
    """304 without a body, with what RFC 9110 section 15.4.5 asks to repeat."""
    uid = edge.service.add()

    for target in (f"{PLACE}/{uid}", "/api/search?email=bob1@mail.com"):
        answer = edge.request("GET", target, {"If-None-Match": tag})
        assert (answer.status, answer.body) == (304, b"")
        assert (answer["ETag"], answer["Cache-Control"]) == ('"1"', "private, no-cache")
        assert "Content-Type" not in answer
        assert "Content-Length" not in answer


def test_a_read_under_if_match_fails_when_the_version_is_another(edge: Edge) -> None:
    """412 with the current version, as for a write."""
    uid = edge.service.add()

    assert edge.request("GET", f"{PLACE}/{uid}", {"If-Match": '"1"'}).status == 200
    answer = edge.request("GET", f"{PLACE}/{uid}", {"If-Match": '"2"'})
    assert (answer.status, answer.slug, answer.json["current_version"]) == (412, "version-mismatch", 1)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_the_condition_reaches_the_service(edge: Edge, method: str) -> None:
    """If-Match arrives as versions; two headers are one list; none is None."""
    body = b'{"username":"rob","email":"rob@mail.com"}' if method != "DELETE" else None
    for pairs, expected in (
        ([], None),
        ([("If-Match", "*")], ANY),
        ([("If-Match", '"9"'), ("If-Match", 'W/"1"')], (9, 1)),
    ):
        target = f"{PLACE}/{edge.service.add(email='x@mail.com')}"
        assert edge.request(method, target, pairs, body).status in (200, 204)
        assert edge.service.seen["if_match"] == expected
        edge.service.profiles.clear()

    target = f"{PLACE}/{edge.service.add()}"
    assert edge.request(method, target, {"If-Match": '"2"'}, body).status == 412
    assert edge.request(method, target, {"If-Match": '"nonsense"'}, body).status == 412
    assert edge.request(method, target, {"If-Match": "nonsense"}, body).status == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_write_under_if_none_match_is_refused(edge: Edge, method: str) -> None:
    """Who asks "create only" must not overwrite; nothing reaches the service."""
    target = PLACE if method == "POST" else f"{PLACE}/{edge.service.add()}"

    answer = edge.request(method, target, {"If-None-Match": "*"}, b"{}")

    assert (answer.status, answer.slug, answer.json["parameter"]) == (400, "invalid-parameter", "If-None-Match")
    assert edge.service.seen == {}


def test_how_fresh_a_read_must_be_reaches_the_service(edge: Edge) -> None:
    """consistency, max-staleness and position arrive together, and what was honoured is said."""
    target = f"{PLACE}/{edge.service.add()}"

    edge.request("GET", target, {"X-Request-Id": "ordinary-path"})
    assert edge.service.seen["options"] == ReadOptions(OWNER, None, None)

    answer = edge.request(
        "GET", target + "?consistency=strict", {"Prefer": "max-staleness=2.5", "Profile-Position": "abc"}
    )
    assert edge.service.seen["options"] == ReadOptions(STRICT, 2.5, "abc")
    assert answer["Preference-Applied"] == "max-staleness=2.5"
    assert answer["Profile-Served-By"] == SERVED_BY_VALUE


def test_the_deadline_counts_from_arrival_and_can_be_shortened(edge: Edge) -> None:
    """10 s by default; Request-Timeout shortens and never prolongs."""
    target = f"{PLACE}/{edge.service.add()}"
    clock = SystemClock()

    for value, seconds in (("2.5", 2.5), ("600", 10.0)):
        edge.request("GET", target, {"Request-Timeout": value})
        assert edge.service.seen["deadline"].remaining_s(clock) == pytest.approx(seconds, abs=0.5)
    edge.request("GET", target + "?consistency=owner")
    assert edge.service.seen["deadline"].remaining_s(clock) == pytest.approx(10.0, abs=0.5)


def test_an_idempotency_key_reaches_the_service(edge: Edge) -> None:
    """Without its quotes; the outcomes of a repeated create are kept apart."""
    edge.request("POST", PLACE, {"Idempotency-Key": '"k 1"'}, json=BOB)
    assert edge.service.seen["idempotency_key"] == "k 1"

    for failure, status, slug in (
        (results.IdempotencyInProgress(), 409, "idempotency-in-progress"),
        (results.IdempotencyKeyReused(), 422, "idempotency-key-reused"),
        (results.ProfileGone(UNKNOWN_UID), 410, "profile-gone"),
    ):
        edge.service.failure = failure
        answer = edge.request("POST", PLACE, {"Idempotency-Key": '"k 1"'}, json=BOB)
        assert (answer.status, answer.slug) == (status, slug)
        assert ("Retry-After" in answer) is (slug == "idempotency-in-progress")


def test_the_trace_of_a_write_is_passed_on(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """A well-formed traceparent is in the context of the call; anything else is not."""
    seen = []
    create = edge.service.create

    async def spy(*args: object, **kwargs: object) -> object:
        seen.append(TRACEPARENT.get())
        return await create(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(edge.service, "create", spy)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for value in (trace, "evil\x7f"):
        edge.service.profiles.clear()
        edge.request("POST", PLACE, {"traceparent": value}, json=BOB)
    assert seen == [trace.encode(), None]


def test_the_list_is_paged_by_a_cursor_and_a_link(edge: Edge) -> None:
    """Following `next` gives every profile once; the Link header says the same as the body."""
    uids = {edge.service.add(email=f"bob{number}@mail.com") for number in range(7)}
    seen: list[str] = []
    target = f"{PLACE}?limit=3&consistency=strict"
    while True:
        answer = edge.request("GET", target)
        assert answer.status == 200
        seen += [item["uid"] for item in answer.json["items"]]
        if answer.json["next"] is None:
            assert "Link" not in answer
            break
        target = f"{PLACE}?limit=3&cursor={answer.json['next']}&consistency=strict"
        assert answer["Link"] == f'<{target}>; rel="next"'
    assert len(seen) == 7
    assert set(seen) == uids


def test_an_empty_list_is_a_list(edge: Edge) -> None:
    """200 with no items."""
    assert edge.request("GET", PLACE).json == {"items": [], "next": None}


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.5", "limit"),
        ("limit=" + "9" * 3000, "limit"),
        ("limit=%D9%A1", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=a&cursor=a", "cursor"),
        ("consistency=eventual", "consistency"),
        ("consistency=", "consistency"),
        ("limit=", "limit"),
        ("consistency=owner&consistency=strict", "consistency"),
    ],
)
def test_a_bad_parameter_is_named(edge: Edge, query: str, parameter: str) -> None:
    """400 invalid-parameter; a known parameter twice is bad, an unknown one is ignored."""
    answer = edge.request("GET", f"{PLACE}?{query}")
    assert (answer.status, answer.slug, answer.json["parameter"]) == (400, "invalid-parameter", parameter)
    assert edge.request("GET", f"{PLACE}?color=blue&color=red&limit=5").status == 200


@pytest.mark.parametrize(
    "uid",
    [
        "x",
        "74292B21-0FBB-4F1D-A18F-FA80F947FA5D",
        "{74292b21-0fbb-4f1d-a18f-fa80f947fa5d}",
        "urn:uuid:74292b21-0fbb-4f1d-a18f-fa80f947fa5d",
        "74292b210fbb4f1da18ffa80f947fa5d",
        "74292b21-0fbb-4f1d-a18f-fa80f947fa5",
        "74292b21-0fbb-4f1d-a18f-fa80f947fa5d0",
        "74292b21-0fbb-4f1d-a18f-fa80f947fa5d%00",
        "74292b21-0fbb-4f1d-a18f-fa80f947fa5d%0a",
        "%00",
        "%0d%0aSet-Cookie:%20a=b",
        "%2f",
        "..",
        "%2e%2e",
        "%zz",
        "%ff",
        "a%2fb",
        "%EF%BC%97" * 36,
        "",
        " ",
        "bob@mail.com",
        "x" * 4000,
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
def test_only_a_canonical_uid_names_a_profile(edge: Edge, method: str, uid: str) -> None:
    """Everything else is 404 before the service sees it, and no header repeats it."""
    body = b"{}" if method in ("PUT", "PATCH") else None

    answer = edge.request(method, f"{PLACE}/{uid}", body=body)

    assert answer.status == 404
    assert edge.service.seen == {}
    assert "set-cookie" not in answer
    if method != "HEAD":
        assert answer.slug in ("profile-not-found", "about:blank")
        assert "uid" not in answer.json


def test_an_encoded_uid_is_the_same_profile(edge: Edge) -> None:
    """Percent-encoding of a character that needs none names the same resource (RFC 3986 section 6.2.2.2)."""
    uid = edge.service.add()
    assert edge.request("GET", f"{PLACE}/%{ord(uid[0]):02x}{uid[1:]}").json["uid"] == uid


@pytest.mark.parametrize(
    "target",
    ["/api/profile/{uid}", "/api/profile", "/api/search?email=bob1@mail.com", "/livez", "/readyz", "/docs", "/metrics",
     "/api/openapi.json", "/problems/restoring", "/quarantine", "/api/profile/" + UNKNOWN_UID, "/nowhere"],
)  # fmt: skip
def test_head_has_the_headers_of_get_and_no_body(edge: Edge, target: str) -> None:
    """The same status and headers, the length included."""
    target = target.replace("{uid}", edge.service.add())
    headers = {"X-Request-Id": "same"}

    get = edge.request("GET", target, headers)
    head = edge.request("HEAD", target, headers)

    assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")


@pytest.mark.parametrize(
    ("target", "allow"),
    [
        ("/api/profile", {"GET", "HEAD", "POST"}),
        (f"/api/profile/{UNKNOWN_UID}", {"DELETE", "GET", "HEAD", "PATCH", "PUT"}),
        ("/api/search", {"GET", "HEAD", "QUERY"}),
        ("/livez", {"GET", "HEAD"}),
    ],
)
def test_what_is_allowed_is_said(edge: Edge, target: str, allow: set[str]) -> None:
    """OPTIONS and 405 name the methods, also for a method that nobody knows."""
    options = edge.request("OPTIONS", target)
    assert options.status == 200
    assert set(options["Allow"].split(", ")) - {"OPTIONS"} == allow
    for method in ("TRACE", "LOCK", "BREW", "DELETE" if "DELETE" not in allow else "POST"):
        answer = edge.request(method, target)
        assert (answer.status, answer.slug) == (405, "about:blank")
        assert set(answer["Allow"].split(", ")) - {"OPTIONS"} == allow


def test_the_media_types_of_a_patch_are_said(edge: Edge) -> None:
    """Accept-Patch (RFC 5789 section 3.1)."""
    answer = edge.request("OPTIONS", f"{PLACE}/{UNKNOWN_UID}")
    assert answer["Accept-Patch"] == "application/merge-patch+json, application/json"
