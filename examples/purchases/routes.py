"""Topics over HTTP, as a console producer and a console consumer have them: lines in, lines out.

    POST /topics/{topic}    each line is a record: `key,value` of a table (no value: the row is deleted), else a value
    GET  /topics/{topic}    the values of an output topic from its beginning, a line each, partition by partition

The rows of the table can be asked for at `/stores/{table}/get/{key}`, which the library answers.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import falcon
import falcon.asgi

from examples.purchases.topology import Version
from streams.errors import LogError, OutcomeUnknown, RecordTooLarge, StreamsError
from streams.http.paths import instance_of
from streams.http.problems import plain_problem, problem_of
from streams.http.stores import answer_json, answer_problem
from streams.queries.asking import BadParameter
from streams.serdes import JSON

MAX_BODY_BYTES = 1 << 20
SEPARATOR = b","


class Pair(NamedTuple):
    """A record to be sent; what is None is not there."""

    key: bytes | None
    value: bytes | None


#: Sends records to a topic; they are durable when it returns. Raises StreamsError.
Send = Callable[[str, Sequence[Pair]], Awaitable[None]]
#: Returns the values of a topic, as far as they are committed. Raises StreamsError.
Read = Callable[[str], Awaitable[Sequence[bytes]]]


class TopicRoutes:
    """Event loop only."""

    def __init__(self, version: Version, *, quarantine: str, send: Send, read: Read) -> None:
        self._table = version.table
        self._inputs = (version.events, version.table)
        self._outputs = (version.output, quarantine)
        self._send = send
        self._read = read

    def mount(self, app: falcon.asgi.App[Any, Any]) -> None:
        """Have *app* answer `/topics`, and every error as a problem (RFC 9457)."""
        app.add_route("/topics/{topic}", self)
        app.add_error_handler(StreamsError, explain)
        app.add_error_handler(falcon.HTTPError, refuse)

    async def on_post(self, req: Any, resp: Any, topic: str) -> None:
        """Send the lines of the body."""
        if topic not in self._inputs:
            raise falcon.HTTPNotFound(description=f"records are taken for {' and '.join(self._inputs)}")
        body: bytes = await req.stream.read(MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            raise falcon.HTTPContentTooLarge(description=f"a body has {MAX_BODY_BYTES} bytes at most")
        pairs = pairs_of(body, has_keys=topic == self._table)
        if pairs:
            await self._send(topic, pairs)
        answer_json(resp, JSON.serialize({"records": len(pairs)}))

    async def on_get(self, _req: Any, resp: Any, topic: str) -> None:
        """Answer with what is in an output topic."""
        if topic not in self._outputs:
            raise falcon.HTTPNotFound(description=f"what can be read is {' and '.join(self._outputs)}")
        resp.content_type = falcon.MEDIA_TEXT
        resp.data = b"".join(value + b"\n" for value in await self._read(topic))


def pairs_of(body: bytes, *, has_keys: bool) -> list[Pair]:
    """Return the records that the lines of *body* mean. Raises BadParameter for a line that should have a key."""
    lines = body.removesuffix(b"\n").split(b"\n") if body else []
    if not has_keys:
        return [Pair(None, line) for line in lines]
    pairs = []
    for number, line in enumerate(lines, 1):
        key, found, value = line.partition(SEPARATOR)
        if not found:
            raise BadParameter("body", f"line {number} has no comma between key and value; nothing was sent")
        pairs.append(Pair(key, value or None))
    return pairs


async def explain(req: Any, resp: Any, error: StreamsError, _params: Any) -> None:
    """Answer what an *error* of the library means: 400, or 503 with a time after which to come again; 504 when it is
    not known whether the records were written."""
    instance = instance_of(req.scope)
    if isinstance(error, LogError):
        status = 504 if isinstance(error, OutcomeUnknown) else 413 if isinstance(error, RecordTooLarge) else 503
        found = plain_problem(status, str(error), instance=instance, headers={"Retry-After": "1"})
    else:
        found = problem_of(error, instance=instance)
    answer_problem(resp, found)


async def refuse(req: Any, resp: Any, error: falcon.HTTPError, _params: Any) -> None:
    """Answer that a request cannot be meant so."""
    found = plain_problem(
        error.status_code,
        error.description or error.title or "",
        instance=instance_of(req.scope),
        headers=dict(error.headers or {}),
    )
    answer_problem(resp, found)
