"""Request headers become values; what cannot be read is refused or ignored, as the module says."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http import headers
from app.http.headers import (
    matches_none_of,
    parse_idempotency_key,
    parse_if_match,
    parse_prefer,
    parse_request_timeout,
    usable_request_id,
    usable_traceparent,
)
from app.http.problems import Problem
from app.profiles.requests import ANY


@pytest.mark.parametrize(
    ("value", "versions"),
    [
        (None, None),
        ("*", ANY),
        (" * ", ANY),
        ('"7"', (7,)),
        ('W/"7"', (7,)),
        ("7", (7,)),
        ('"1","2"', (1, 2)),
        ('"1" , W/"2",, "3",', (1, 2, 3)),
        ('"abc"', ()),
        ('"a,b", "4"', (4,)),
        ('"07"', ()),
        ('"0"', ()),
        ('"-1"', ()),
        ('""', ()),
        ('"' + "9" * 5000 + '"', ()),
        ("9" * 5000, ()),
        ('"\xb2"', ()),
    ],
)
def test_if_match_names_versions(value: str | None, versions: tuple[int, ...] | None) -> None:
    """Lists, weak tags and bare numbers count; tags that are no version of ours match nothing."""
    assert parse_if_match(value) == versions


@pytest.mark.parametrize(
    "value", ["", " ", ",", '"1', '1"', 'w/"1"', '"1" "2"', '*, "1"', '"1", *', "abc", '"a b"', "W/1"]
)
def test_a_broken_if_match_is_refused(value: str) -> None:
    """A condition that cannot be understood must not become none."""
    with pytest.raises(Problem) as caught:
        parse_if_match(value)
    assert caught.value.members == {"parameter": "If-Match"}


@pytest.mark.parametrize(
    ("value", "is_full"),
    [
        (None, True),
        ('"1"', True),
        ('"7"', False),
        ('W/"7"', False),
        ('"1", "7"', False),
        ("*", False),
        ("broken", True),
    ],
)
def test_if_none_match_spares_the_body(value: str | None, is_full: bool) -> None:
    """A tag of the current version, in any form, means 304; a broken list is as if it were not there."""
    assert matches_none_of(value, 7) is is_full


@pytest.mark.parametrize(
    ("value", "is_minimal", "staleness"),
    [
        (None, False, None),
        ("return=minimal", True, None),
        ("Return=Minimal", True, None),
        ('return="minimal"', True, None),
        ("return = minimal; foo=bar", True, None),
        ("return=representation, return=minimal", False, None),
        ("respond-async, max-staleness=5, return=minimal", True, 5.0),
        ("max-staleness=0.5", False, 0.5),
        ("max-staleness=-1", False, None),
        ("max-staleness=1e9", False, None),
        ("max-staleness", False, None),
        ("max-staleness=\u0661", False, None),
        (',,;="', False, None),
    ],
)
def test_prefer(value: str | None, is_minimal: bool, staleness: float | None) -> None:
    """Known preferences are read in every form of RFC 7240; all else is ignored."""
    preferences = parse_prefer(value)
    assert (preferences.is_minimal, preferences.max_staleness_s) == (is_minimal, staleness)


@pytest.mark.parametrize(("value", "seconds"), [(None, None), ("5", 5.0), ("0.25", 0.25), ("100", 100.0)])
def test_request_timeout(value: str | None, seconds: float | None) -> None:
    """Seconds, whole or with a fraction."""
    assert parse_request_timeout(value) == seconds


@pytest.mark.parametrize("value", ["", "0", "-1", "1e3", "nan", "inf", "5s", "1,2", "9" * 400, "0.0"])
def test_a_request_timeout_that_is_none_is_refused(value: str) -> None:
    """A client that has a deadline must not wait for ours without knowing."""
    with pytest.raises(Problem):
        parse_request_timeout(value)


@pytest.mark.parametrize(
    ("value", "key"),
    [(None, None), ('"k"', "k"), (' "a b" ', "a b"), (r'"a\"b\\c"', 'a"b\\c'), ('"' + "k" * 255 + '"', "k" * 255)],
)
def test_idempotency_key(value: str | None, key: str | None) -> None:
    """A string of RFC 8941."""
    assert parse_idempotency_key(value) == key


@pytest.mark.parametrize(
    "value", ["", '""', "k", '"k', '"k";a=1', '"a","b"', '"\xe4"', '"a\\b"', '"' + "k" * 256 + '"']
)
def test_an_idempotency_key_that_is_no_string_is_refused(value: str) -> None:
    """Two spellings of a key would be two requests; a client has to learn that at once."""
    with pytest.raises(Problem) as caught:
        parse_idempotency_key(value)
    assert caught.value.members == {"parameter": "Idempotency-Key"}


@pytest.mark.parametrize("value", ["", "a b", "a\tb", "ä", "a" * 129, 'a"b', "bob@mail.com", "<script>"])
def test_an_unsafe_request_id_is_not_echoed(value: str) -> None:
    """An id goes into logs and headers, so its characters are few."""
    assert usable_request_id(value) is None


def test_a_safe_request_id_and_traceparent_are_kept() -> None:
    """What clients usually send."""
    assert usable_request_id("3f2a-9_.b:/+=") == "3f2a-9_.b:/+="
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert usable_traceparent(trace) == trace.encode()
    assert usable_traceparent(trace + "\n") is None


@given(st.text(max_size=100) | st.from_regex(r'[ \t,"W/*0-9a;=]{0,60}', fullmatch=True))
def test_no_text_makes_a_parser_fail(value: str) -> None:
    """Each parser returns or refuses; nothing else comes of any text."""
    for parse in (
        headers.parse_if_match,
        headers.parse_prefer,
        headers.parse_request_timeout,
        headers.parse_idempotency_key,
        headers.usable_request_id,
        headers.usable_traceparent,
    ):
        with contextlib.suppress(Problem):
            parse(value)
    matches_none_of(value, 1)
