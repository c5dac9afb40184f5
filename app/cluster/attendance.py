"""Keeps what this node knows of the others fresh: the peers follow the newest view, and tell how far they are."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol

from app.cluster.ports import ClusterNode
from streams.clock import Clock, Deadline
from streams.errors import Unavailable
from streams.queries.peers import Peers

_LOOK_S = 1.0  # between two questions how far the others are; a new view is passed on at once


class Telling(Protocol):
    """What a peer tells of itself (`streams.http.hello.Hello`)."""

    @property
    def positions(self) -> Mapping[int, int] | None: ...


class TellingPeers(Peers, Protocol):
    """The peers, as far as they tell of themselves (`streams.http.peers.HttpPeers`)."""

    async def describe(self, node_id: str, deadline: Deadline) -> Telling: ...

    async def stop(self) -> None: ...


class Attendance:
    """Event loop only, between `start` and `stop`."""

    def __init__(
        self,
        *,
        node: ClusterNode,
        peers: TellingPeers,
        own_positions: Callable[[], Mapping[int, int]],
        clock: Clock,
    ) -> None:
        self._node = node
        self._peers = peers
        self._own_positions = own_positions
        self._clock = clock
        self._told: dict[str, Mapping[int, int]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._ask())]

    async def stop(self) -> None:
        """End, and with it all that waits for a peer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._peers.stop()

    def positions_of(self, node_id: str) -> Mapping[int, int] | None:
        """Return the position of each partition of which *node_id* holds a copy, as it last told; None: it has not."""
        return self._own_positions() if node_id == self._node.info.node_id else self._told.get(node_id)

    async def _follow(self) -> None:
        while True:
            view = self._node.view
            self._peers.set_view(view)
            self._told = {node_id: told for node_id, told in self._told.items() if node_id in view.nodes}
            while self._node.view.epoch == view.epoch:
                with suppress(Unavailable):
                    await self._node.wait_view(view.epoch, Deadline.after(_LOOK_S, self._clock))

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            view = self._node.view
            others = [node_id for node_id in view.nodes if node_id != self._node.info.node_id]
            await asyncio.gather(*map(self._ask_one, others))

    async def _ask_one(self, node_id: str) -> None:
        if self._peers.is_suspected(node_id):
            return
        with suppress(Unavailable, ValueError):
            told = await self._peers.describe(node_id, Deadline.after(_LOOK_S, self._clock))
            if told.positions is not None:
                self._told[node_id] = told.positions
