"""gunicorn's ASGI worker with bounds: on connections, on each phase of a request, and on the time that a stop takes.

One worker process serves a node, since its stores have one writing process. The worker owns the event loop; it starts
the application through the ASGI lifespan, then listens, then sweeps. Order of a stop: let the application hand its work
over while all goes on, accept who has come and listen no more, then tell each client with his next answer that this was
the last, let requests in progress end, stop the application (commit, close), exit; each step within `EdgeLimits`.

Connections are kept as long as new ones are taken: a client who is told to close comes back at once, and whoever
connects in the moment in which the door closes loses a second.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import resource
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from gunicorn.asgi.lifespan import LifespanManager
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers.gasgi import ASGIWorker

from app.server.limits import EdgeLimits, EdgeStats
from app.server.listening import drain
from app.server.protocol import CLOSING, EdgeProtocol, problem_response
from streams.errors import StreamsError

logger = logging.getLogger(__name__)

#: Exit code of a process that cannot start before somebody changes something (settings, a lock, a topic).
EXIT_UNUSABLE = 2
#: Key of the lifespan state under which an application leaves the error that kept it from starting, or from going on.
START_ERROR = "start_error"
#: Key of the lifespan state under which the application finds the worker's `EdgeStats`.
EDGE_STATS = "edge"
#: Key of the lifespan state under which an application may leave a coroutine function. It is awaited when the worker is
#: told to stop, before it stops accepting: all goes on meanwhile, `/readyz` alone tells that the node is leaving.
HAND_OVER = "hand_over"

_SWITCH_INTERVAL_S = 0.0005  # the stream thread shares the interpreter lock; the default, 5 ms, starves the event loop
_GC_THRESHOLDS = (50_000, 20, 100)
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
_MAX_REFUSED = 256  # refused connections that are waited for, so that their client reads the answer; more are cut off
_REFUSED_TIMEOUT_S = 1.0
_EVICT_AFTER_S = 1.0  # a connection that has sent nothing for this long may be closed in favour of a new one
_LINGER_S = 0.5  # for a client who asks steadily to ask once more, and to be told that the connection ends


class EdgeWorker(ASGIWorker):  # type: ignore[misc]  # gunicorn ships no types
    """The worker class for gunicorn's `-k`. `limits` and `announce` are set after the fork, before it starts."""

    limits: EdgeLimits
    #: Called once with the addresses when the node accepts connections.
    announce: Callable[[list[str]], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limits = EdgeLimits()
        self.announce = lambda addresses: logger.info("listening", extra={"addresses": addresses})
        self.stats = EdgeStats()
        self.connections: set[EdgeProtocol] = set()
        self._refused: dict[asyncio.Transport, float] = {}
        self._evictable: deque[EdgeProtocol] = deque()
        self._wake: asyncio.Event | None = None
        self._is_told_to_stop = False
        #: Whether each answer is the last of its connection, and says so.
        self.is_parting = False

    def init_process(self) -> None:
        _die_with(self.ppid)
        _raise_open_file_limit(self.limits.max_connections + self.limits.max_listeners)
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        # What was imported stays for ever, and records and requests hold no cycles: collecting them in Python's usual
        # rhythm cost a restore half of its rate.
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        # The result is kept on the class that asks and read from the base class, so the base class has to ask. Without
        # this a subclass would not find the C parser.
        ASGIProtocol._check_h1c_protocol_available()
        super().init_process()

    def load_wsgi(self) -> None:
        try:
            self.asgi = self.app.wsgi()
        except (StreamsError, OSError) as error:
            self._give_up(error)

    def init_signals(self) -> None:
        super().init_signals()
        # A terminal sends SIGINT to the whole process group; it means the same orderly stop as SIGTERM.
        self.loop.add_signal_handler(signal.SIGINT, self.handle_exit_signal)

    def handle_exit_signal(self) -> None:
        # Not `alive`: without it gunicorn ends connections after answers that did not say so.
        self._is_told_to_stop = True
        if self._wake is not None:
            self._wake.set()

    def handle_quit_signal(self) -> None:
        super().handle_quit_signal()
        if self._wake is not None:
            self._wake.set()

    def run(self) -> None:
        super().run()
        # Everything is closed or has had its time. A thread that still waits for a log that is away must not hold the
        # process any longer, and the interpreter would join it.
        logging.shutdown()
        os._exit(0)

    # Admission, called by the connections.

    def admit(self, protocol: EdgeProtocol) -> bool:
        """Count the connection in; at the limit, only if one that has sent nothing for a while can make room. Who
        listens to a feed for hours takes no place from those who ask."""
        if len(self.connections) - self.stats.listeners >= self.limits.max_connections and not self._evict():
            return False
        self.connections.add(protocol)
        self.stats.open_connections = len(self.connections)
        return True

    def forget(self, protocol: EdgeProtocol) -> None:
        """Count the connection out. Idempotent."""
        self.connections.discard(protocol)
        self.stats.open_connections = len(self.connections)

    def refuse(self, transport: asyncio.Transport) -> None:
        """Answer 503 and close; a bounded number is given a moment to read it."""
        self.stats.refused_connections += 1
        transport.set_protocol(_Refused(self._refused, transport))
        transport.write(problem_response(503, slug="overloaded", retry_after_s=1))
        if len(self._refused) >= _MAX_REFUSED:
            transport.close()
            return
        # Closing with unread bytes would reset the connection, and the client might lose the answer.
        self._refused[transport] = self.loop.time()
        transport.write_eof()

    def _evict(self) -> bool:
        while self._evictable:
            protocol = self._evictable.popleft()
            if protocol in self.connections and protocol.has_sent_nothing():
                self.stats.evicted_connections += 1
                self.forget(protocol)
                protocol.close()
                return True
        return False

    # The life of the worker.

    async def _serve(self) -> None:
        self._wake = asyncio.Event()
        if self._is_told_to_stop or not self.alive:
            return  # told to stop before it began
        heartbeat = self.loop.create_task(self._beat())
        await self._start_application()
        for listener in self.sockets:
            server = await self.loop.create_server(
                lambda: EdgeProtocol(self),
                sock=listener.sock,
                ssl=self._get_ssl_context(),
                backlog=self.cfg.backlog,
            )
            self.servers.append(server)
        self.announce([str(listener) for listener in self.sockets])
        await self._wake.wait()
        await self._hand_over()
        await self._shutdown()
        heartbeat.cancel()
        error = self.state.get(START_ERROR)
        if isinstance(error, StreamsError) and not error.is_retriable:
            self._give_up(error)  # a new worker would meet the same

    async def _start_application(self) -> None:
        self.state[EDGE_STATS] = self.stats
        self.lifespan = LifespanManager(self.asgi, self.log, self.state)
        try:
            await self.lifespan.startup()
        except RuntimeError as error:
            known = self.state.get(START_ERROR)
            if isinstance(known, (StreamsError, OSError)):
                self._give_up(known)
            logger.error("the application did not start: %s", error)  # noqa: TRY400 - the text holds the trace already
            raise SystemExit(3) from error

    def _give_up(self, error: StreamsError | OSError) -> None:
        """Exit with the code that makes the arbiter end as well: another try would meet the same error."""
        logger.critical("cannot run: %s", error)
        raise SystemExit(EXIT_UNUSABLE) from error

    async def _beat(self) -> None:
        """Tell the arbiter that the loop is alive, look at the deadlines, and measure how late the loop runs."""
        interval_s = self.limits.sweep_interval_s
        while True:
            self.notify()
            if self.ppid != os.getppid():
                logger.warning("the arbiter is gone, stopping")
                self.handle_exit_signal()
            self._sweep(self.loop.time())
            due = self.loop.time() + interval_s
            await asyncio.sleep(interval_s)
            self.stats.loop_lag_s = max(0.0, self.loop.time() - due)

    def _sweep(self, now: float) -> None:
        for protocol in tuple(self.connections):
            protocol.sweep(now)
        silent = [p for p in self.connections if p.has_sent_nothing() and now - p.idle_since() >= _EVICT_AFTER_S]
        silent.sort(key=EdgeProtocol.idle_since)
        self._evictable = deque(silent)
        for transport, since in tuple(self._refused.items()):
            if now - since >= _REFUSED_TIMEOUT_S:
                transport.abort()

    async def _hand_over(self) -> None:
        hand_over: Callable[[], Awaitable[None]] | None = self.state.get(HAND_OVER)
        if hand_over is not None:
            await self._bounded(hand_over(), self.limits.hand_over_timeout_s, "the hand-over was not finished in time")

    async def _shutdown(self) -> None:
        self.stats.is_draining = True
        if not self._quick_shutdown:
            await drain([listener.sock for listener in self.sockets])
        for server in self.servers:
            server.close()
        self.is_parting = True
        closed_at = self.loop.time()
        deadline = closed_at + self.limits.drain_timeout_s
        while self.connections and self.loop.time() < deadline and not self._quick_shutdown:
            _close_silent(self.connections, self.loop.time(), is_late=self.loop.time() - closed_at >= _LINGER_S)
            await asyncio.sleep(0.01)
        if self.connections:
            logger.warning("requests cut off", extra={"connections": len(self.connections)})
        for protocol in tuple(self.connections):
            if protocol.phase() != CLOSING:
                protocol.close()
        if self.lifespan is not None and not self._quick_shutdown:
            late = "the application did not stop in time; nothing acknowledged is lost"
            await self._bounded(self.lifespan.shutdown(), self.limits.stop_timeout_s, late)

    async def _bounded(self, step: Awaitable[None], timeout_s: float, late: str) -> None:
        """Await *step* of the stop; after *timeout_s* it is cancelled, and *late* logged. Told to stop once more, do
        not wait for it."""
        running = asyncio.ensure_future(step)
        deadline = self.loop.time() + timeout_s
        while not running.done() and self.loop.time() < deadline and not self._quick_shutdown:
            await asyncio.wait([running], timeout=0.1)
        if not running.done():
            logger.error(late)
            running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


class _Refused(asyncio.Protocol):
    """Reads nothing, and goes with its client."""

    def __init__(self, refused: dict[asyncio.Transport, float], transport: asyncio.Transport) -> None:
        self._refused = refused
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._refused.pop(self._transport, None)


def _close_silent(connections: Iterable[EdgeProtocol], now: float, *, is_late: bool) -> None:
    """Close those that ask nothing; who has just connected is about to, and so is, until it *is_late*, who has asked a
    moment ago: a request that meets a connection which is being closed gets no answer, and its client cannot know
    whether it was carried out."""
    for protocol in tuple(connections):
        if not protocol.has_sent_nothing() or protocol.is_about_to_ask(now):
            continue
        if is_late or protocol.has_rested(now, _LINGER_S):
            protocol.close()


def _die_with(arbiter: int) -> None:
    """Have the kernel kill this process when the *arbiter* dies (Linux): `kill -9` of a node's main process is one of
    the node. What is left of it would hold port and state directory while it drains, and refuse its successor.
    Elsewhere the heartbeat notices, and the stop is an orderly one."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != arbiter:
            os._exit(1)


def _raise_open_file_limit(max_connections: int) -> None:
    """Connections and the stores' files share the process' descriptors, and many systems begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + 8192
    target = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and target > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
