"""What goes from node to node of a client's header, and what does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.http.headers import answered_headers, clean_target, forwarded_headers

PASSING = [
    (b"if-match", b'"3"'),
    (b"content-type", b"application/json"),
    (b"prefer", b"return=minimal"),
    (b"idempotency-key", b'"k"'),
    (b"profile-position", b"token"),
    (b"x-request-id", b"r"),
    (b"accept-encoding", b"gzip"),
]
KEPT = [
    (b"authorization", b"Bearer x"),
    (b"cookie", b"a=b"),
    (b"proxy-authorization", b"x"),
    (b"proxy-connection", b"x"),
    (b"x-forwarded-for", b"1.2.3.4"),
    (b"x-forwarded-host", b"evil"),
    (b"forwarded", b"for=1.2.3.4"),
    (b"connection", b"keep-alive, X-Named"),
    (b"x-named", b"x"),
    (b"keep-alive", b"timeout=5"),
    (b"te", b"trailers"),
    (b"trailer", b"x"),
    (b"transfer-encoding", b"chunked"),
    (b"upgrade", b"h2c"),
    (b"expect", b"100-continue"),
    (b"host", b"public.example"),
    (b"content-length", b"5"),
    (b"profile-peer", b"forged"),
]


def test_a_request_keeps_its_conditions_and_loses_its_credentials() -> None:
    """What decides the answer passes; what belongs to the connection or the client stays."""
    assert forwarded_headers([*KEPT, *PASSING, *KEPT]) == PASSING


def test_an_answer_loses_what_is_of_the_connection() -> None:
    """And says by way of whom it came."""
    answer = [(b"etag", b'"3"'), (b"location", b"/x"), (b"retry-after", b"1"), (b"content-length", b"2")]
    of_the_peer = [(b"connection", b"x-a"), (b"x-a", b"b"), (b"date", b"x"), (b"profile-peer", b"proof")]
    assert answered_headers([*of_the_peer, *answer], via=b"n1") == [*answer, (b"via", b"1.1 n1")]


@pytest.mark.parametrize(
    ("target", "clean"),
    [
        (b"/a?b=%20&c=a+b", b"/a?b=%20&c=a+b"),
        (b"/a?", b"/a"),
        (b"/a#b", b"/a%23b"),
        (b"/\xff ?\x00", b"/%FF%20?%00"),
        (b"//evil/..", b"//evil/.."),
    ],
)
def test_a_target_means_the_same_when_it_is_clean(target: bytes, clean: bytes) -> None:
    """What a client library would change is percent-encoded before it can."""
    assert clean_target(target) == clean


@given(st.lists(st.tuples(st.sampled_from([b"if-match", b"x", b"connection"]), st.binary(max_size=20))))
def test_filtering_twice_changes_nothing(headers: list[tuple[bytes, bytes]]) -> None:
    """Both sides filter before they sign or verify, so the filter must leave its own result alone."""
    once = forwarded_headers(headers)
    assert forwarded_headers(once) == once
