"""`/stores`: questions to the state stores themselves. It decides nothing, and shows no row: those have routes of their
own, with their checks.
"""

import orjson
from falcon.asgi import Request, Response

from app.http.context import deadline, is_partial_allowed, parameter
from app.http.problems import Problem
from app.http.profiles import MEDIA_JSON
from streams.queries.counts import Counts

LOCAL = "local"
CLUSTER = "cluster"


class ApproximateNumEntries:
    """How many rows a store has: on this node, or on all together."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    async def on_get(self, req: Request, resp: Response, store: str) -> None:
        if store not in self._counts.stores:
            raise Problem(404, "there is no such store")
        scope = parameter(req, "scope")
        if scope is None:
            scope = CLUSTER
        elif scope not in (LOCAL, CLUSTER):
            raise Problem("invalid-parameter", f"scope is `{LOCAL}` or `{CLUSTER}`", parameter="scope")
        may_miss = is_partial_allowed(req)
        if scope == LOCAL:
            counted = await self._counts.local(store)
        else:
            counted = await self._counts.cluster(store, deadline(req), is_partial=may_miss)
        resp.content_type = MEDIA_JSON
        resp.set_header("Cache-Control", "no-store")
        resp.data = orjson.dumps(counted.document(store, scope))

    on_head = on_get
