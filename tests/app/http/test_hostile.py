"""Bad input: every answer is below 500, is a problem, and repeats nothing. Only a client's fault, never ours."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.app.http.fakes import UNKNOWN_UID, Edge

BODY = b'{"username":"bob","email":"bob1@mail.com"}'
LIMIT = 64 * 1024


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({"Content-Type": "text/plain"}, "unsupported-media-type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "unsupported-media-type"),
        ({"Content-Type": "application/json; charset=utf-7"}, "unsupported-media-type"),
        ({"Content-Type": "application/json; charset=utf-16"}, "unsupported-media-type"),
        ({"Content-Type": "application/json; charset=utf-8; charset=utf-7"}, "unsupported-media-type"),
        ({"Content-Type": "application/merge-patch+json"}, "unsupported-media-type"),
        ({"Content-Type": "application/json, text/plain"}, "unsupported-media-type"),
        ({"Content-Type": ""}, "unsupported-media-type"),
        ({"Content-Encoding": "gzip"}, "unsupported-media-type"),
        ({"Content-Encoding": "identity"}, "unsupported-media-type"),
        ({"Content-Length": str(LIMIT + 1)}, "payload-too-large"),
        ({"Content-Length": "9" * 5000}, "payload-too-large"),
        ({"Content-Length": "-1"}, "invalid-parameter"),
        ({"Content-Length": "+4"}, "invalid-parameter"),
        ({"Content-Length": "\xb2"}, "invalid-parameter"),
        ({"Content-Length": "1e3"}, "invalid-parameter"),
    ],
)
@pytest.mark.parametrize(
    ("method", "target"), [("POST", "/api/profile"), ("PUT", f"/api/profile/{UNKNOWN_UID}"), ("QUERY", "/api/search")]
)
def test_a_body_that_is_refused_by_its_headers_is_not_read(
    edge: Edge, method: str, target: str, headers: dict[str, str], problem: str
) -> None:
    """413 and 415 by the head alone: the service sees nothing and no byte of the body is asked for."""
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    if "Content-Type" not in headers:
        pairs.append((b"content-type", b"application/json"))
    answer = edge.exchange(method, target, [*pairs, (b"host", b"localhost")], [BODY])

    assert answer.slug == problem
    assert answer.status == {"unsupported-media-type": 415, "payload-too-large": 413, "invalid-parameter": 400}[problem]
    assert edge.service.seen == {}
    assert edge.events_left == 1
    if problem == "payload-too-large":
        assert answer["Connection"] == "close"
        assert answer.json["limit"] == LIMIT
    if problem == "unsupported-media-type":
        assert answer.json["supported"] == ["application/json"]


def test_no_content_type_is_unsupported(edge: Edge) -> None:
    """A body without a type is not guessed."""
    answer = edge.exchange("POST", "/api/profile", [(b"host", b"a")], [BODY])
    assert (answer.status, answer.slug) == (415, "unsupported-media-type")
    answer = edge.exchange("PATCH", f"/api/profile/{UNKNOWN_UID}", [(b"host", b"a")], [BODY])
    assert answer.json["supported"] == ["application/merge-patch+json", "application/json"]


@pytest.mark.parametrize("size", [1, 1000, LIMIT])
def test_a_body_without_a_length_is_read_to_its_end(edge: Edge, size: int) -> None:
    """Chunked bodies arrive whole, however they are cut, up to the limit itself."""
    body = BODY + b" " * (LIMIT - len(BODY))
    chunks = [body[at : at + size] for at in range(0, len(body), size)] if size > 1 else [BODY[:1], b"", BODY[1:], b""]
    edge.service.profiles.clear()
    assert edge.request("POST", "/api/profile", body=chunks).status == 201


@pytest.mark.parametrize("chunks", [[b" " * (LIMIT + 1)], [b" " * 1000] * 66, [BODY, b" " * LIMIT, b""]])
def test_a_body_without_a_length_is_counted(edge: Edge, chunks: list[bytes]) -> None:
    """413 as soon as the limit is passed, and the connection ends."""
    answer = edge.request("POST", "/api/profile", body=[*chunks, b""])
    assert (answer.status, answer.slug, answer["Connection"]) == (413, "payload-too-large", "close")
    assert edge.service.seen == {}


def test_a_body_that_ends_too_early_is_not_used(edge: Edge) -> None:
    """A client that went away in the middle of a valid-looking body has written nothing."""
    answer = edge.exchange("POST", "/api/profile", [(b"host", b"a"), (b"content-type", b"application/json")], [])
    assert (answer.status, answer.slug) == (408, "about:blank")
    assert edge.service.seen == {}


def test_a_body_that_does_not_come_is_given_up_at_the_deadline(edge: Edge) -> None:
    """408 and a closed connection."""
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": "/api/profile", "query_string": b"",
        "headers": [(b"host", b"a"), (b"content-type", b"application/json"), (b"request-timeout", b"0.01")],
    }  # fmt: skip
    asyncio.run(edge.api(scope, receive, send))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]  # type: ignore[operator]


@pytest.mark.parametrize(
    "host", ["a b", "a/b", "a@b", "evil.com#", "[::1", "a:b", "a\x00", "\xe4.com", "a,b", "a:123456"]
)
def test_an_odd_host_is_refused(edge: Edge, host: str) -> None:
    """400, on every path."""
    for target in (f"/api/profile/{edge.service.add()}", "/livez"):
        assert edge.request("GET", target, {"Host": host}).status == 400


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:8080", "my_host.example.com.", "", "a:"])
def test_an_ordinary_host_is_not(edge: Edge, host: str) -> None:
    """RFC 3986's forms, and the underscore that names inside clusters have."""
    assert edge.request("GET", "/livez", {"Host": host}).status == 200


def test_a_host_is_asked_for_where_http_asks_for_it(edge: Edge) -> None:
    """HTTP/1.1 without Host is 400 (RFC 9112 section 3.2); HTTP/1.0 never had it."""
    answer = edge.exchange("GET", "/livez", [], [b""])
    assert (answer.status, answer.slug) == (400, "about:blank")
    assert edge.exchange("GET", "/livez", [], [b""], http_version="1.0").status == 200


def test_a_target_that_is_no_path_is_refused(edge: Edge) -> None:
    """An absolute-form target would let the path disagree with Host."""
    assert edge.request("GET", "http://evil.com/livez").status == 400
    assert edge.request("GET", "evil").status == 400
    assert edge.request("OPTIONS", "*").status == 404
    assert edge.request("HEAD", "evil").body == b""


def test_a_raw_query_string_is_refused(edge: Edge) -> None:
    """Bytes that are not ASCII in a query are 400, not a failure of the framework."""
    assert edge.request("GET", "/api/search?email=\xff@mail.com").status == 400


def test_a_websocket_is_turned_away(edge: Edge) -> None:
    """The handshake is closed, which servers answer with 403."""
    sent = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    scope = {"type": "websocket", "path": "/api/profile", "headers": [], "query_string": b""}
    asyncio.run(edge.api(scope, receive, send))
    assert sent == ["websocket.close"]


def test_no_email_comes_back_in_an_error(edge: Edge) -> None:
    """Neither a refused body nor a query is repeated in the answer."""
    edge.service.add(email="secret@mail.com")
    for answer in (
        edge.request("POST", "/api/profile", json={"username": "x", "email": "SECRET@mail.com"}),
        edge.request("POST", "/api/profile", json={"username": "", "email": "secret@@mail.com"}),
        edge.request("POST", "/api/profile", body=b'{"email":"secret@mail.com","email":""}'),
        edge.request("POST", "/api/profile", body=b'{"email":"secret@mail.com'),
        edge.request("GET", "/api/search?email=secret@other.com"),
        edge.request("GET", "/api/search?email=secret@mail.com&email=secret@mail.com"),
        edge.request("PUT", "/api/search?email=secret@mail.com"),
    ):
        assert 400 <= answer.status < 500
        assert b"secret" not in answer.body.lower()


SHARED = Edge()
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "QUERY", "OPTIONS", "TRACE", "WEBSOCKET", "get", ""]
NAMES = [
    "if-match", "if-none-match", "prefer", "profile-position", "x-request-id", "request-timeout", "content-type",
    "content-length", "content-encoding", "idempotency-key", "accept", "traceparent", "range", "expect", "cookie",
]  # fmt: skip
VALUES = st.sampled_from(
    ["*", '"1"', 'W/"1", "2"', "return=minimal", "max-staleness=1", "5", "0", "application/json", '"k"', "a;b=c,d"]
) | st.binary(max_size=40).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"").decode("latin-1"))
PATHS = st.sampled_from(
    ["/api/profile", f"/api/profile/{UNKNOWN_UID}", "/api/profile/KNOWN", "/api/search", "/readyz", "/quarantine",
     "/problems/restoring", "/docs", "/metrics"]
) | st.text(max_size=30).map(lambda text: "/" + text)  # fmt: skip
QUERIES = st.sampled_from(["", "email=bob1@mail.com", "limit=2&cursor=x", "consistency=strict", "verbose"]) | st.text(
    st.characters(max_codepoint=255), max_size=40
)
BODIES = st.sampled_from(
    [BODY, b"", b"{}", b"[]", b'{"username":null}', b'{"email":"a@b.de"}', b'{"uid":1}']
) | st.binary(max_size=200)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=st.sampled_from(METHODS),
    path=PATHS,
    query=QUERIES,
    headers=st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=4),
    bodies=st.lists(BODIES, min_size=1, max_size=3),
    is_json=st.booleans(),
)
def test_no_request_is_answered_with_5xx(
    method: str, path: str, query: str, headers: list[tuple[str, str]], bodies: list[bytes], is_json: bool
) -> None:
    """Random methods, paths, headers and bodies get an answer below 500; every error is a problem."""
    edge = SHARED
    edge.service.profiles.clear()
    path = path.replace("KNOWN", edge.service.add())
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    pairs.append((b"host", b"localhost"))
    if is_json:
        pairs.append((b"content-type", b"application/json"))

    answer = edge.exchange(method, "/", pairs, bodies, path=path, query_string=query.encode("latin-1"))

    assert 200 <= answer.status < 500
    assert answer["X-Request-Id"]
    if answer.status >= 400 and method != "HEAD":
        assert answer.slug
