"""Strict JSON: what two readers could take differently, or what could hurt the reader, is refused."""

import contextlib
import json
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.http.media import MAX_DEPTH, parse_json
from app.http.problems import Problem

REFUSED = {
    "empty": b"",
    "blank": b"  \n",
    "not json": b"{",
    "two values": b"{} {}",
    "single quotes": b"{'a':1}",
    "trailing comma": b'{"a":1,}',
    "duplicate member": b'{"email":"a@b.de","email":"c@b.de"}',
    "duplicate member by escape": b'{"email":"a","\\u0065mail":"b"}',
    "duplicate member inside": b'{"a":[{"b":1,"b":2}]}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "minus Infinity": b'{"a":-Infinity}',
    "1e400": b'{"a":1e400}',
    "-1e400": b"-1e400",
    "5,000 digits": b'{"a":' + b"1" * 5000 + b"}",
    "4,000 digits": b'{"a":' + b"9" * 4000 + b"}",
    "lone surrogate": b'{"a":"\\ud800"}',
    "lone low surrogate": b'{"a":"x\\udfffy"}',
    "lone surrogate as a name": b'{"\\ud83d":1}',
    "reversed pair": b'{"a":"\\ude00\\ud83d"}',
    "encoded surrogate": b'{"a":"\xed\xa0\x80"}',
    "invalid UTF-8": b'{"a":"\xff"}',
    "overlong UTF-8": b'{"a":"\xc0\xaf"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16LE without mark": '{"a":1}'.encode("utf-16-le"),
    "UTF-32": '{"a":1}'.encode("utf-32"),
    "raw control character": b'{"a":"\n"}',
    "33 levels": b"[" * 33 + b"]" * 33,
    "33 levels of objects": b'{"a":' * 33 + b"1" + b"}" * 33,
    "100,000 levels": b"[" * 65_000,
    "deep after a bracket in a string": b'["]]]]","\\"[",' + b"[" * 40 + b"]" * 40 + b"]",
    "trailing NUL": b"{}\x00",
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_doubtful_json_is_malformed(body: bytes) -> None:
    """Each of these is answered 400 malformed-json, and nothing of the body is repeated."""
    with pytest.raises(Problem) as caught:
        parse_json(body)
    assert caught.value.type.slug == "malformed-json"
    assert "a@b.de" not in caught.value.detail


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":"\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (b'{"a":"\\u0000"}', {"a": "\0"}),
        ('{"a":"ßſ"}'.encode(), {"a": "ßſ"}),
        (b" [1, -2.5, true, null] \r\n", [1, -2.5, True, None]),
        (b'"text"', "text"),
        (b"[" * 32 + b"]" * 32, json.loads("[" * 32 + "]" * 32)),
        (b'{"a":"' + b"[" * 1000 + b'"}', {"a": "[" * 1000}),
        (b'{"a":"\\"' + b"{" * 1000 + b'\\\\"}', {"a": '"' + "{" * 1000 + "\\"}),
        (b"12345678901234567890123456789012", 12345678901234567890123456789012),
    ],
)
def test_plain_json_is_read(body: bytes, value: object) -> None:
    """What every reader takes in the same way is accepted, brackets in strings are no levels."""
    assert parse_json(body) == value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_every_ordinary_value_survives(value: object) -> None:
    """Whatever an ordinary encoder writes, escaped or not, is read back as it was."""
    for ensure_ascii in (True, False):
        body = json.dumps(value, ensure_ascii=ensure_ascii).encode()
        assume(body.count(b"[") + body.count(b"{") <= MAX_DEPTH)
        assert parse_json(body) == value


@given(st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u0123dD8e+-. \n', max_size=200).map(str.encode))
def test_any_bytes_give_a_value_or_a_problem(body: bytes) -> None:
    """No bytes make the reader fail in another way, and what it accepts can be written as UTF-8."""
    with contextlib.suppress(Problem):
        json.dumps(parse_json(body), ensure_ascii=False).encode()


@pytest.mark.parametrize("unit", [b'"\\"', b'\\"', b'"', b"[", b'{"', b"\\", b'["a",', b"1e"])
def test_the_worst_body_is_read_in_linear_time(unit: bytes) -> None:
    """64 KiB of what makes naive patterns backtrack takes well below a second."""
    body = b"[" * 33 + (unit * 65536)[: 65536 - 33]
    begun = time.process_time()
    with pytest.raises(Problem):
        parse_json(body)
    assert time.process_time() - begun < 0.5
