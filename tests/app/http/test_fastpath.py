"""The short path gives the very bytes of the ordinary one, and leaves everything that is not plain to it."""

import itertools

import pytest

from streams import errors
from tests.app.http.fakes import UNKNOWN_UID, Answer, Edge

ORDINARY = {"Request-Timeout": "10"}  # any header of this kind takes the ordinary path


def _without_id(answer: Answer) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    return answer.status, [pair for pair in answer.headers if pair[0] != b"x-request-id"], answer.body


PLAIN_HEADERS = [
    {},
    {"Accept": "application/json"},
    {"User-Agent": "curl/8", "Accept": "*/*", "Accept-Encoding": "gzip"},
    {"Host": "example.com:80", "Cookie": "a=b"},
    {"Range": "bytes=0-1", "If-Modified-Since": "Sat, 21 Nov 2026 07:00:00 GMT", "Content-Length": "0"},
]
TARGETS = [
    "/api/profile/{uid}",
    "/api/profile/{uid}?",
    "/api/search?email=bob1@mail.com",
    "/api/search?email=bob1%40mail.com",
    "/api/search?email=BOB1@MAIL.com",
    # not plain, not found, or not valid
    "/api/profile/{uid}?consistency=owner",
    "/api/profile/{uid}/",
    "/api/profile/" + UNKNOWN_UID,
    "/api/profile/74292B21-0FBB-4F1D-A18F-FA80F947FA5D",
    "/api/profile/" + "x" * 36,
    "/api/profilE/{uid}",
    "/api/search?email=nobody@mail.com",
    "/api/search?email=bob1@mail.com&email=bob1@mail.com",
    "/api/search?email=bob1%2540mail.com",
    "/api/search?email=bob+1@mail.com",
    "/api/search?email=bob1@",
    "/api/search?email=..@..",
    "/api/search?email=",
    "/api/search",
]


@pytest.mark.parametrize(("target", "headers"), list(itertools.product(TARGETS, PLAIN_HEADERS)))
def test_both_paths_answer_the_same_bytes(edge: Edge, target: str, headers: dict[str, str]) -> None:
    """Status, headers in their order, and body, but for the id of the request (and of the errors that hold it)."""
    target = target.replace("{uid}", edge.service.add())

    short = edge.request("GET", target, headers)
    ordinary = edge.request("GET", target, {**headers, **ORDINARY})

    if short.status == 200:
        assert _without_id(short) == _without_id(ordinary)
        assert [name for name, _ in short.headers] == [name for name, _ in ordinary.headers]
    else:
        ids = [answer["X-Request-Id"].encode() for answer in (short, ordinary)]
        assert short.status == ordinary.status
        assert short.body.replace(ids[0], b"") == ordinary.body.replace(ids[1], b"")


def test_the_short_path_is_taken_for_plain_reads(edge: Edge) -> None:
    """A plain read asks `get_now`; it is counted under the same route as the others."""
    uid = edge.service.add()
    assert edge.request("GET", f"/api/profile/{uid}").status == 200
    assert edge.service.fast_reads == 1
    edge.request("GET", "/api/search?email=bob1@mail.com")
    edge.request("GET", f"/api/profile/{uid}", ORDINARY)
    assert edge.metrics.requests == [
        ("GET", "/api/profile/{uid}", 200),
        ("GET", "/api/search", 200),
        ("GET", "/api/profile/{uid}", 200),
    ]


@pytest.mark.parametrize(
    "headers",
    [{"If-None-Match": '"9"'}, {"If-Match": '"1"'}, {"Prefer": "max-staleness=1"}, {"Profile-Position": "x"},
     {"X-Request-Id": "mine"}, {"Request-Timeout": "1"}],
)  # fmt: skip
def test_a_read_with_any_condition_is_left_to_the_ordinary_path(edge: Edge, headers: dict[str, str]) -> None:
    """Nothing that changes the answer is overlooked."""
    assert edge.request("GET", f"/api/profile/{edge.service.add()}", headers).status == 200
    assert edge.service.fast_reads == 0


@pytest.mark.parametrize("failure", [errors.Restoring("x", partition=1, lag_records=5), errors.StoreClosed("x")])
def test_a_read_that_cannot_be_answered_now_is_said_by_the_ordinary_path(edge: Edge, failure: Exception) -> None:
    """Hindrances come out as problems; a bug on the short path, too, is 500 and not a broken connection."""
    uid = edge.service.add()
    edge.service.failure = failure
    for target in (f"/api/profile/{uid}", "/api/search?email=bob1@mail.com"):
        answer = edge.request("GET", target)
        assert (answer.status, answer.slug) == (503, "restoring")
    edge.service.failure = KeyError("bob1@mail.com")
    assert edge.request("GET", f"/api/profile/{uid}").status == 500


def test_every_request_has_an_id(edge: Edge) -> None:
    """A good id comes back, a bad or absent one is replaced, and no two are the same."""
    uid = edge.service.add()
    assert edge.request("GET", f"/api/profile/{uid}", {"X-Request-Id": "mine-1"})["X-Request-Id"] == "mine-1"
    seen = {
        edge.request(method, target, headers)["X-Request-Id"]
        for method, target, headers in [
            ("GET", f"/api/profile/{uid}", {}),
            ("GET", f"/api/profile/{uid}", {}),
            ("GET", f"/api/profile/{uid}", {"X-Request-Id": "not an id"}),
            ("GET", f"/api/profile/{uid}", {"X-Request-Id": "x" * 129}),
            ("GET", "/nowhere", {}),
            ("POST", "/api/profile", {}),
            ("GET", "/livez", {"Host": "a b"}),
        ]
    }
    assert len(seen) == 7
    assert "not an id" not in seen
