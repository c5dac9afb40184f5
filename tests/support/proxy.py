"""A TCP proxy with a network's faults: cut, one way only, delayed, slow. It stands between a node and a broker, or
between two nodes; both ends believe that it is the other one.

It knows nothing of what it carries. Invariant: what is held is delivered later in order, as a network delivers what was
sent again; a connection that lost a byte is broken off when the fault ends, never resumed behind a gap. A proxy runs
an event loop on a thread of its own; its methods may be called from any thread.
"""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any, Self

_CHUNK_BYTES = 64 * 1024
_CALL_TIMEOUT_S = 10.0


class Flow(StrEnum):
    """What happens to the bytes of one direction: they pass, wait for the end of the fault, or are lost."""

    PASS = "pass"
    HOLD = "hold"
    LOSE = "lose"


class Way(StrEnum):
    """A direction. REQUESTS: from who connected to the target."""

    REQUESTS = "requests"
    REPLIES = "replies"


class Proxy:
    """Listens on loopback and connects each client to *target*, under the faults that are in force."""

    def __init__(self, target: tuple[str, int], *, port: int = 0) -> None:
        """*port* 0: a free one, which `address` tells. Listens at once. Raises OSError when the port is taken."""
        self._target = target
        self._flows = dict.fromkeys(Way, Flow.PASS)
        self._delay_s = 0.0
        self._bytes_per_s = 0.0
        self._connections: set[_Connection] = set()
        self._affected: Counter[Way] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{target[1]}", daemon=True)
        self._thread.start()
        self._has_changed = asyncio.Event()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", port))
        self.address: tuple[str, int] = self._server.sockets[0].getsockname()[:2]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self) -> None:
        """Let nothing through in either direction, of connections old and new, until `heal`."""
        self._set({Way.REQUESTS: Flow.HOLD, Way.REPLIES: Flow.HOLD})

    def lose_replies(self) -> None:
        """Deliver what is asked, and lose each answer."""
        self._set({Way.REPLIES: Flow.LOSE})

    def hold(self, way: Way) -> None:
        """Stop one direction; it goes on where it stopped at `heal`."""
        self._set({way: Flow.HOLD})

    def slow(self, *, delay_s: float = 0.0, bytes_per_s: float = 0.0) -> None:
        """Delay each piece that passes by *delay_s*, and let through at most *bytes_per_s* a connection and direction
        (0: no limit)."""
        self._delay_s, self._bytes_per_s = delay_s, bytes_per_s

    def heal(self) -> None:
        """End all faults. What was held is delivered, what lost a byte is broken off."""
        self._delay_s = self._bytes_per_s = 0.0
        self._set(dict.fromkeys(Way, Flow.PASS))

    def affected_bytes(self, way: Way) -> int:
        """Return how many bytes were held, lost or delayed so far: without any, a fault had no effect."""
        return self._affected[way]

    def close(self) -> None:
        """Break off every connection and stop listening. Idempotent."""
        if self._thread.is_alive():
            self._run(self._shut())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CALL_TIMEOUT_S)
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_TIMEOUT_S)

    def _set(self, flows: dict[Way, Flow]) -> None:
        async def change() -> None:
            self._flows.update(flows)
            self._has_changed.set()
            self._has_changed = asyncio.Event()
            if all(flow is Flow.PASS for flow in self._flows.values()):
                for connection in [one for one in self._connections if one.has_gap]:
                    connection.abort()

        self._run(change())

    async def _shut(self) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        me = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not me]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection([writer])
        self._connections.add(connection)
        try:
            # A connection that is opened during a cut is accepted, because the kernel does, and gets no answer.
            there, back = await asyncio.open_connection(*self._target)
            connection.writers.append(back)
            await asyncio.gather(
                self._pump(connection, Way.REQUESTS, reader, back), self._pump(connection, Way.REPLIES, there, writer)
            )
        except (OSError, asyncio.CancelledError):
            # The target is not there, or one end has gone: the other one sees the same. Or `_shut` ends this: asyncio
            # of Python 3.11 logs a server's task that ends as cancelled as an error.
            pass
        finally:
            connection.abort()
            self._connections.discard(connection)

    async def _pump(
        self, connection: "_Connection", way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            data = await reader.read(_CHUNK_BYTES)
            pause_s = self._delay_s + (len(data) / self._bytes_per_s if self._bytes_per_s else 0.0)
            if pause_s:
                self._affected[way] += len(data)
                await asyncio.sleep(pause_s)
            if self._flows[way] is Flow.HOLD:
                self._affected[way] += len(data)
            while self._flows[way] is Flow.HOLD:
                await self._has_changed.wait()
            if self._flows[way] is Flow.LOSE:
                self._affected[way] += len(data)
                connection.has_gap = True
                if data:
                    continue
                while self._flows[way] is Flow.LOSE:  # The end of a connection is lost, too.
                    await self._has_changed.wait()
            if not data:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            writer.write(data)
            await writer.drain()


class _Connection:
    """Both ends of one client's way to the target. The proxy's loop only."""

    def __init__(self, writers: list[asyncio.StreamWriter]) -> None:
        self.writers = writers
        self.has_gap = False

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
