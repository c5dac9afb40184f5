"""What the routes of the examples have in common: paths and bodies as they were sent, lists in pieces, and every error
as a problem (RFC 9457).
"""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import falcon
import falcon.asgi

from streams.errors import LogError, OutcomeUnknown, RecordTooLarge, SerializationError, StreamsError
from streams.http.paths import instance_of
from streams.http.problems import plain_problem, problem_of
from streams.http.stores import answer_problem
from streams.queries.asking import BadParameter
from streams.serdes import JSON

MAX_BODY_BYTES = 1 << 20


def mount_errors(app: falcon.asgi.App[Any, Any]) -> None:
    """Have *app* answer every error as a problem."""
    app.add_error_handler(StreamsError, explain)
    app.add_error_handler(falcon.HTTPError, refuse)


async def explain(req: Any, resp: Any, error: StreamsError, _params: Any) -> None:
    """Answer what an *error* of the library means: 400, 404, 413 for a record that no topic takes, 503 with a time
    after which to come again, 504 when it is not known whether records were written."""
    instance = instance_of(req.scope)
    if isinstance(error, SerializationError):
        found = plain_problem(400, "the store has keys of another type", instance=instance)
    elif isinstance(error, OutcomeUnknown):
        found = plain_problem(504, str(error), instance=instance)
    elif isinstance(error, RecordTooLarge):
        found = plain_problem(413, str(error), instance=instance)
    elif isinstance(error, LogError):
        found = plain_problem(503, str(error), instance=instance, headers={"Retry-After": "1"})
    else:
        found = problem_of(error, instance=instance)
    answer_problem(resp, found)


async def refuse(req: Any, resp: Any, error: falcon.HTTPError, _params: Any) -> None:
    """Answer that a request cannot be meant so."""
    detail = error.description or error.title or ""
    found = plain_problem(error.status_code, detail, instance=instance_of(req.scope), headers=dict(error.headers or {}))
    answer_problem(resp, found)


def segments_of(scope: Any) -> list[str]:
    """Return the path, divided before it was decoded. *scope*: of ASGI. Raises BadParameter."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    try:
        return [unquote(each, errors="strict") for each in raw.partition(b"?")[0].decode("latin-1").split("/")[1:]]
    except UnicodeDecodeError:
        raise BadParameter("path", "the path is not UTF-8") from None


async def body_of(req: Any) -> bytes:
    """Return the body. Raises HTTPContentTooLarge."""
    body: bytes = await req.stream.read(MAX_BODY_BYTES + 1)
    if len(body) > MAX_BODY_BYTES:
        raise falcon.HTTPContentTooLarge(description=f"a body has {MAX_BODY_BYTES} bytes at most")
    return body


async def text_of(req: Any) -> str:
    """Return the body as text. Raises HTTPContentTooLarge, BadParameter."""
    try:
        return (await body_of(req)).decode()
    except UnicodeDecodeError:
        raise BadParameter("body", "the body is not UTF-8") from None


async def array(entries: AsyncIterator[Any], *, before: bytes = b"[", after: bytes = b"]") -> AsyncIterator[bytes]:
    """Return the JSON array of *entries* in pieces, between *before* and *after*. The first entry is looked for before
    anything is sent, so that an error can still be answered; a later one breaks the answer off, which no client takes
    for a whole one."""
    first = await anext(entries, None)

    async def pieces() -> AsyncIterator[bytes]:
        yield before + (b"" if first is None else JSON.serialize(first))
        async for entry in entries:
            yield b"," + JSON.serialize(entry)
        yield after

    return pieces()
