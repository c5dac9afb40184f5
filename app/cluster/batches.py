"""Plain reads of profiles that another node owns: those that come together travel together.

A call between nodes costs several times what a read costs, so the reads for one owner within a turn of the event loop,
and those that come while earlier ones are under way, share one. Each is answered, or told to take the long way:
whatever is not the plain case (nothing found, a lease that is over, a node that is away) is for the router to find out.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from app.cluster.wire import Found, decode_found, encode_keys
from streams.clock import Deadline
from streams.errors import Unavailable
from streams.partitioner import partition_for
from streams.queries.peers import Peers

READ_OPERATION = "read"
MAX_BATCH = 256
_MAX_IN_FLIGHT = 2  # calls for each peer: while one is answered, the next can be on its way
_WORTH_A_CALL = 64  # reads that wait before that next one goes: a call costs as much as some tens of reads
_TURNS = 4  # of the event loop from when the first could go: what has arrived by then takes that long to get here
_MAX_WAITING = 10_000  # reads for each peer; more take the long way, which says that the node is overloaded


class Batches:
    """Event loop only. *owner_of*: the node that owns a partition, None when it is this one or nobody."""

    def __init__(self, peers: Peers, *, partitions: Callable[[], int], owner_of: Callable[[int], str | None]) -> None:
        self._peers = peers
        self._partitions = partitions
        self._owner_of = owner_of
        self._lanes: dict[str, _Lane] = {}

    def find(self, partition_key: bytes, key: bytes, deadline: Deadline) -> "asyncio.Future[Found | None] | None":
        """Return what will be found for *key* (a uid, or an e-mail), by who owns the partition of *partition_key*.
        None, now or later: take the long way. It never raises."""
        try:
            node_id = self._owner_of(partition_for(partition_key, self._partitions()))
        except Unavailable:
            return None
        if node_id is None or self._peers.is_suspected(node_id):
            return None
        lane = self._lanes.get(node_id)
        if lane is None:
            lane = self._lanes[node_id] = _Lane(self._peers, node_id)
        return lane.add(key, deadline)


class _Lane:
    """The reads for one peer."""

    def __init__(self, peers: Peers, node_id: str) -> None:
        self._peers = peers
        self._node_id = node_id
        self._waiting: deque[tuple[bytes, Deadline, asyncio.Future[Found | None]]] = deque()
        self._in_flight = 0
        self._is_due = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def add(self, key: bytes, deadline: Deadline) -> "asyncio.Future[Found | None] | None":
        if len(self._waiting) >= _MAX_WAITING:
            return None
        future: asyncio.Future[Found | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, deadline, future))
        self._linger()
        return future

    def _may_depart(self) -> bool:
        return not self._in_flight or (self._in_flight < _MAX_IN_FLIGHT and len(self._waiting) >= _WORTH_A_CALL)

    def _linger(self) -> None:
        """Depart soon, if it is time to."""
        if self._waiting and not self._is_due and self._may_depart():
            self._is_due = True
            self._wait(asyncio.get_running_loop(), _TURNS)

    def _wait(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        if turns:
            loop.call_soon(self._wait, loop, turns - 1)
        else:
            self._depart()

    def _depart(self) -> None:
        self._is_due = False
        waiting = self._waiting
        batch = [waiting.popleft() for _ in range(min(len(waiting), MAX_BATCH))]
        if batch:
            self._in_flight += 1
            task = asyncio.get_running_loop().create_task(self._travel(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _travel(self, batch: "list[tuple[bytes, Deadline, asyncio.Future[Found | None]]]") -> None:
        entries: list[Found | None] = [None] * len(batch)
        try:
            body = encode_keys([key for key, _, _ in batch])
            answer = await self._peers.call(self._node_id, READ_OPERATION, body, batch[0][1])
            entries = decode_found(answer, len(batch))
        except (Unavailable, ValueError):
            pass  # each takes the long way, and says there what the matter is
        finally:
            self._in_flight -= 1
            for (_, _, future), entry in zip(batch, entries, strict=True):
                if not future.done():
                    future.set_result(entry)
            self._linger()
