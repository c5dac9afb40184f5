"""Search: one profile or 404, by GET and by QUERY."""

import pytest

from app.profiles.results import ClaimElsewhere
from streams.errors import Restoring
from tests.app.http.fakes import SERVED_BY_VALUE, Edge


def test_search_finds_the_one_profile(edge: Edge) -> None:
    """200, the profile itself, its ETag and its place, however the address is written."""
    uid = edge.service.add()
    for target in (
        "/api/search?email=bob1@mail.com",
        "/api/search?email=bob1%40mail.com",
        "/api/search?email=BOB1@Mail.com",
        "/api/search?email=%62ob1@mail.com&color=blue",
    ):
        answer = edge.request("GET", target)
        assert (answer.status, answer.json["uid"], answer["ETag"]) == (200, uid, '"1"')
        assert answer["Content-Location"] == f"/api/profile/{uid}"
        assert answer["Profile-Served-By"] == SERVED_BY_VALUE


def test_query_finds_the_same(edge: Edge) -> None:
    """QUERY with the address in the body answers as GET does, and says which media type it takes."""
    edge.service.add()
    get = edge.request("GET", "/api/search?email=bob1@mail.com", {"X-Request-Id": "same"})
    query = edge.request("QUERY", "/api/search", {"X-Request-Id": "same"}, json={"email": "bob1@mail.com"})
    assert (query.status, query.headers, query.body) == (get.status, get.headers, get.body)
    assert edge.request("OPTIONS", "/api/search")["Accept-Query"] == "application/json"


def test_nobody_has_the_address(edge: Edge) -> None:
    """404 without the address, and without a uid, since none was in the path."""
    answer = edge.request("GET", "/api/search?email=nobody@mail.com")
    assert (answer.status, answer.slug) == (404, "profile-not-found")
    assert b"nobody" not in answer.body
    assert "uid" not in answer.json
    assert answer["Profile-Served-By"] == SERVED_BY_VALUE


@pytest.mark.parametrize(
    "query", ["", "email=", "mail=a@b.de", "email=a@b.de&email=a@b.de", "email=a@b.de&email=c@d.de"]
)
def test_a_missing_or_repeated_address_is_a_bad_parameter(edge: Edge, query: str) -> None:
    """400 that names the parameter."""
    answer = edge.request("GET", f"/api/search?{query}")
    assert (answer.status, answer.slug, answer.json["parameter"]) == (400, "invalid-parameter", "email")


@pytest.mark.parametrize("text", ["bob", "a@b@c", "%00@mail.com", "a%0d%0a@mail.com", "%zz", "@", "x" * 4000])
def test_what_is_no_address_is_invalid_content(edge: Edge, text: str) -> None:
    """422 with a pointer; the text is not repeated."""
    answer = edge.request("GET", f"/api/search?email={text}")
    assert (answer.status, answer.slug) == (422, "validation-failed")
    assert answer.json["errors"][0]["pointer"] == "#/email"
    assert "mail.com" not in answer.json["detail"] + answer.json["errors"][0]["detail"]


def test_a_plus_that_became_a_blank_is_explained(edge: Edge) -> None:
    """422 that says how to write it; written so, it is found."""
    edge.service.add(email="bob+tag@mail.com")
    answer = edge.request("GET", "/api/search?email=bob+tag@mail.com")
    assert answer.status == 422
    assert "%2B" in answer.json["errors"][0]["detail"]
    assert edge.request("GET", "/api/search?email=bob%2Btag@mail.com").status == 200


@pytest.mark.parametrize(
    ("document", "pointer", "code"),
    [
        ([], "#", "not_an_object"),
        ("bob1@mail.com", "#", "not_an_object"),
        ({}, "#/email", "required"),
        ({"email": None}, "#/email", "null"),
        ({"email": 5}, "#/email", "invalid_type"),
        ({"email": ["a@b.de"]}, "#/email", "invalid_type"),
        ({"email": "a@b.de", "name": "x"}, "#", "unknown_member"),
        ({"email": "a"}, "#/email", "invalid_email"),
    ],
)
def test_a_query_of_another_shape_is_invalid_content(edge: Edge, document: object, pointer: str, code: str) -> None:
    """422 with the code that a profile's content would get."""
    answer = edge.request("QUERY", "/api/search", json=document)
    assert (answer.status, answer.slug) == (422, "validation-failed")
    assert (answer.json["errors"][0]["pointer"], answer.json["errors"][0]["code"]) == (pointer, code)


def test_a_node_that_is_alone_says_why_it_cannot_finish(edge: Edge) -> None:
    """No other node could: what the profile's partition waits for is the answer."""
    restoring = Restoring("not yet", partition=3, lag_records=9)
    edge.service.failure = ClaimElsewhere("u", 3, restoring)
    answer = edge.request("GET", "/api/search?email=bob1@mail.com")
    assert (answer.status, answer.slug, answer.json["lag"]) == (503, "restoring", 9)
