"""Routes for those who run the service: `/livez`, `/readyz`, `/metrics`, `/quarantine`.

They answer whatever state the node is in, never wait for it, and hold nothing personal. They need no credentials.
"""

import asyncio
import ipaddress
from typing import Any

import orjson
from falcon.asgi import Request, Response

from app.http.context import parameter
from app.http.ports import Metrics, NodeView, TaskHealth
from app.http.problems import Problem
from app.http.profiles import MEDIA_JSON

QUARANTINE_LIMIT = 1000
_FORWARDED = ("Forwarded", "X-Forwarded-For", "Via")


class Livez:
    """Whether the process should be left alone: 503 asks for a restart, which a restoring node must not get."""

    def __init__(self, node: NodeView) -> None:
        self._node = node

    async def on_get(self, _req: Request, resp: Response) -> None:
        is_live = self._node.health().is_live
        _answer(resp, {"status": "live" if is_live else "failed"}, is_good=is_live)

    on_head = on_get


class Readyz:
    """Whether the node should get requests. Not before every task has caught up, and not while it stops."""

    def __init__(self, node: NodeView) -> None:
        self._node = node

    async def on_get(self, req: Request, resp: Response) -> None:
        health = self._node.health()
        is_ready = health.is_ready and not health.is_draining
        document: dict[str, Any] = {
            "status": "draining" if health.is_draining else "ready" if is_ready else "restoring"
        }
        if not is_ready or "verbose" in req.params:
            document["tasks"] = [_task(task) for task in health.tasks]
        _answer(resp, document, is_good=is_ready)

    on_head = on_get


class MetricsPage:
    """Prometheus' text format."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def on_get(self, _req: Request, resp: Response) -> None:
        # In a thread: some figures come from the stores, which may take a moment.
        resp.data = await asyncio.to_thread(self._metrics.render)
        resp.content_type = "text/plain; version=0.0.4; charset=utf-8"
        resp.set_header("Cache-Control", "no-store")

    on_head = on_get


class Quarantine:
    """The records that could not be processed, for the command line on the same machine."""

    def __init__(self, node: NodeView) -> None:
        self._node = node

    async def on_get(self, req: Request, resp: Response) -> None:
        if not _is_local(req):
            raise Problem(403, "only for clients on this machine")
        text = parameter(req, "limit")
        limit = 100 if text is None else int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0
        if not 1 <= limit <= QUARANTINE_LIMIT:
            raise Problem("invalid-parameter", f"limit is a number from 1 to {QUARANTINE_LIMIT}", parameter="limit")
        # In a thread: the node scans its stores.
        records = await asyncio.to_thread(self._node.quarantine, limit)
        items = [
            {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "reason": record.reason,
                "at_ms": record.at_ms,
            }
            for record in records
        ]
        _answer(resp, {"items": items}, is_good=True)

    on_head = on_get


def _task(task: TaskHealth) -> dict[str, Any]:
    return {
        "partition": task.partition,
        "state": task.state,
        "position": task.position,
        "end": task.end,
        "lag": task.lag_records,
        "percent": round(task.percent, 1),
    }


def _answer(resp: Response, document: dict[str, Any], *, is_good: bool) -> None:
    resp.status = 200 if is_good else 503
    resp.content_type = MEDIA_JSON
    resp.set_header("Cache-Control", "no-store")
    if not is_good:
        resp.set_header("Retry-After", "1")
    resp.data = orjson.dumps(document)


def _is_local(req: Request) -> bool:
    """Return whether the client is on this machine: on loopback, and not a proxy that speaks for somebody else."""
    client = req.scope.get("client")
    if not client or any(req.get_header(name) is not None for name in _FORWARDED):
        return False
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return False
    # A socket that listens on `::` shows IPv4 clients as mapped addresses, which are no loopback by themselves.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
