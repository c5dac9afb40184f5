"""The ASGI application of a node: `create_app` for a server, and the lifespan that starts and stops what it serves.

Called in the worker process, after the fork: threads, stores and clients must not exist before it.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from app.bootstrap import Assembly, assemble
from app.config import AppConfig
from app.http.entry import Entry
from app.server.worker import EDGE_STATS, HAND_OVER, START_ERROR
from streams.clock import Deadline

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_STOP_S = 6.0  # the worker gives the whole lifespan a little more
_START_LOOK_S = 3.0  # how long a start waits to see whether the log's topics are fit; then it goes on in the background


def create_app(config: AppConfig | None = None) -> Entry:
    """Return the application for *config* (default: the environment). Opens the state directory and the embedded log.

    Raises a StreamsError when the node cannot start before somebody changes something: a bad setting, a directory that
    another process holds.
    """
    assembly = assemble(config or AppConfig.from_env(os.environ))
    assembly.api.lifespan = Lifespan(assembly)
    return assembly.api


class Lifespan:
    """Starts and stops the node with the server."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        state = scope.get("state") or {}
        error = await self._start(state)
        if error is not None:
            state[START_ERROR] = error
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        state[HAND_OVER] = self._assembly.hand_over
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await self._assembly.stop(Deadline.after(_STOP_S, self._assembly.clock))
        if self._assembly.fatal_error is not None:
            state[START_ERROR] = self._assembly.fatal_error
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self, state: MutableMapping[str, Any]) -> BaseException | None:
        assembly = self._assembly
        if EDGE_STATS in state:
            assembly.metrics.watch_edge(state[EDGE_STATS])
            assembly.feed.watch_edge(state[EDGE_STATS])
        assembly.start()
        deadline = Deadline.after(_START_LOOK_S, assembly.clock)
        while not deadline.has_passed(assembly.clock):
            if assembly.fatal_error is not None:
                await assembly.stop(deadline)
                return assembly.fatal_error
            if assembly.node.thread.partitions:
                return None
            await asyncio.sleep(0.005)
        logger.warning("started without the log; requests are refused until it can be reached")
        return None
