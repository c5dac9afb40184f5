"""Topics over HTTP, as a console producer and a console consumer have them: lines in, lines out.

    POST /topics/{topic}    each line is a record: `key,value` of a table (no value: the row is deleted), else a value
    GET  /topics/{topic}    the values of an output topic from its beginning, a line each, partition by partition

The rows of the table can be asked for at `/stores/{table}/get/{key}`, which the library answers.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import falcon
import falcon.asgi

from examples.answering import body_of, mount_errors
from examples.purchases.topology import Version
from streams.http.stores import answer_json
from streams.queries.asking import BadParameter
from streams.serdes import JSON

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
        mount_errors(app)

    async def on_post(self, req: Any, resp: Any, topic: str) -> None:
        """Send the lines of the body."""
        if topic not in self._inputs:
            raise falcon.HTTPNotFound(description=f"records are taken for {' and '.join(self._inputs)}")
        pairs = pairs_of(await body_of(req), has_keys=topic == self._table)
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
