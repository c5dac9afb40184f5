"""`/metadata`: which instances have which store, and which has a key, for any falcon.asgi application
(`mount_metadata`). It decides nothing. A key is looked at for its partition alone, and is not in the answer.
"""

import re
from typing import Any

import falcon.asgi
import orjson
from falcon.asgi import Request, Response

from streams.http.paths import Parameters, target_of
from streams.http.problems import plain_problem
from streams.http.stores import answer_json, answer_problem, answer_read
from streams.queries.instances import instances, instances_of_key, instances_of_store
from streams.queries.reads import StoreReads
from streams.queries.text import BASE64, key_of


def mount_metadata(app: falcon.asgi.App[Any, Any], reads: StoreReads, *, path: str = "/metadata") -> None:
    """Have *app* answer everything below *path*. Routes of its own there go before."""
    app.add_sink(Metadata(reads, words=path.count("/") + 3), re.compile(re.escape(path) + "(?:/|$)"))


class Metadata:
    """The responder. Event loop only."""

    def __init__(self, reads: StoreReads, *, words: int) -> None:
        """*words*: how many segments of a path come before a key."""
        self._reads = reads
        self._words = words

    async def __call__(self, req: Request, resp: Response | None, ws: object = None, **_: Any) -> None:
        """Answer one request."""

        async def answer(resp: Response, instance: str) -> None:
            document = await self._document(req)
            if document is None:
                answer_problem(resp, plain_problem(404, "there is no such metadata", instance=instance))
            else:
                answer_json(resp, orjson.dumps(document))

        await answer_read(req, resp, answer, refusal="metadata is only read")

    async def _document(self, req: Request) -> dict[str, Any] | None:
        target = target_of(req.scope, self._words)
        words = target.words[self._words - 3 :]  # without those of the mount
        if not words and target.rest is None:
            return await instances(self._reads)
        if len(words) == 2 and words[0] == "stores":
            return await instances_of_store(self._reads, words[1])
        if len(words) == 3 and words[0] == "stores" and words[2] == "key":
            given = Parameters(req.scope["query_string"])
            key = target.rest if target.rest is not None else given.raw("key")
            if key is not None:
                encoding = given.text("encoding", BASE64)
                spec = self._reads.spec(words[1])
                wanted = key_of(spec.key, key, encoding=encoding, parameter="key")
                return await instances_of_key(self._reads, words[1], wanted)
        return None
