"""Bodies of requests: bounded, strictly read, and parsed once. Nothing else of the edge touches a body.

Invariant: what `parse_json` returns means the same to every JSON reader; whatever two readers may take differently
(duplicate members, NaN, numbers out of range, lone surrogates, encodings) is refused. Source: RFC 8259 and RFC 7493.
"""

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn

from falcon.asgi import Request

from app.http.context import BODY, RECEIVE, header
from app.http.problems import MAX_BODY_BYTES, Problem

MAX_DEPTH = 32
_MAX_DIGITS = 32  # No member of ours is a number; Python's own conversion of long ones is quadratic.

Receive = Callable[[], Awaitable[dict[str, Any]]]


async def read_json(req: Request, *, media_types: Sequence[str], seconds: float) -> object:
    """Return the JSON value of the body, which has *seconds* to arrive.

    Raises Problem: 415 for another media type or any coding, 413 above MAX_BODY_BYTES (judged by Content-Length before
    a byte is read, and counted while it is read), 400 for what is not strict JSON, 408 when it did not arrive in time.
    """
    return parse_json(await read_body(req, media_types=media_types, seconds=seconds, max_bytes=MAX_BODY_BYTES))


async def read_body(req: Request, *, media_types: Sequence[str], seconds: float, max_bytes: int) -> bytes:
    """Return the body as it is. Raises as `read_json` does, but for what is in it."""
    check_media_type(req, media_types)
    length = header(req, b"content-length")
    if length is not None and _LENGTH.fullmatch(length) is None:
        raise Problem("invalid-parameter", "Content-Length is not a number", parameter="Content-Length")
    if length is not None and (len(length) > 8 or int(length) > max_bytes):
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(seconds):
            body = await _read(req.scope[RECEIVE], max_bytes)
    except TimeoutError:
        raise _incomplete() from None
    req.scope[BODY] = body  # it may have to go to another node
    return body


def parse_json(body: bytes) -> object:
    """Return the value of strict JSON in UTF-8. Raises Problem `malformed-json`."""
    if not body:
        _refuse("the body is empty")
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _check_depth(body)
    try:
        value: object = _DECODER.decode(body.decode())
        if b"\\u" in body:
            # The decoder lets lone surrogates through; nothing that holds one can be encoded.
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        _refuse("the body is not UTF-8")
    except UnicodeEncodeError:
        _refuse("a string has a lone surrogate")
    except json.JSONDecodeError as error:
        _refuse(f"the body is not JSON (near character {error.pos})")
    return value


def check_media_type(req: Request, media_types: Sequence[str]) -> None:
    """Raise Problem (415) unless the body is plain JSON of one of *media_types*, in UTF-8 and not compressed."""
    given = req.content_type
    if given not in media_types:  # The usual case is the bare type.
        name, _, parameters = (given or "").partition(";")
        is_utf8 = _CHARSET_UTF8.fullmatch(parameters) is not None
        if name.strip().lower() not in media_types or not is_utf8:
            _unsupported(media_types, "send JSON in UTF-8 and say so in Content-Type")
    if header(req, b"content-encoding") is not None:
        _unsupported(media_types, "Content-Encoding is not supported", {"Accept-Encoding": "identity"})


async def _read(receive: Receive, max_bytes: int) -> bytes:
    event = await receive()
    body: bytes = event.get("body", b"")
    if not event.get("more_body", False) and event["type"] == "http.request" and len(body) <= max_bytes:
        return body  # One event holds nearly every body.
    chunks, size = [], 0
    while True:
        if event["type"] != "http.request":
            raise _incomplete()
        chunk = event.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
        if not event.get("more_body", False):
            return b"".join(chunks)
        event = await receive()


def _check_depth(body: bytes) -> None:
    """Count the levels without parsing: a parser that recurses must not see a hundred thousand of them."""
    depth = 0
    for match in _STRUCTURE.finditer(body):
        token = match[0]
        if token in (b"{", b"["):
            depth += 1
            if depth > MAX_DEPTH:
                _refuse(f"the value has more than {MAX_DEPTH} levels")
        elif token in (b"}", b"]"):
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        _refuse("an object has a member twice")
    return members


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        _refuse("a number is out of range")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse("a number is out of range")
    return number


def _constant(text: str) -> NoReturn:
    _refuse(f"{text} is not JSON")


def _refuse(detail: str) -> NoReturn:
    # `from None`: the parser's own error quotes the body.
    raise Problem("malformed-json", detail) from None


def _too_large(max_bytes: int) -> Problem:
    # What was not read cannot be skipped safely, so the connection ends here.
    return Problem(
        "payload-too-large",
        f"the body may have {max_bytes} bytes",
        headers={"Connection": "close"},
        limit=max_bytes,
    )


def _incomplete() -> Problem:
    # Also when the client is gone: the server gives the same event for that and for its own patience being over.
    return Problem(408, "the body did not arrive in time", headers={"Connection": "close"})


def _unsupported(media_types: Sequence[str], detail: str, headers: dict[str, str] | None = None) -> NoReturn:
    raise Problem("unsupported-media-type", detail, headers=headers, supported=list(media_types))


_CHARSET_UTF8 = re.compile(r"[ \t;]*(?:charset[ \t]*=[ \t]*(?:utf-8|\"utf-8\")[ \t;]*)?", re.IGNORECASE)
# Possessive, and a string may end with the body: linear in the length, whatever is sent.
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_LENGTH = re.compile(r"[0-9]+")
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer, parse_float=_float, parse_constant=_constant)
