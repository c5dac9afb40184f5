"""What listeners of the change feed cost while they only wait: memory, and the requests of others."""

import contextlib
import resource
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import load, preload, servers
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.report import Table, middle, ratio, spread

LISTENERS = 2_000
_CONNECTIONS = 32
_PATIENCE_S = 60.0
_REQUEST = b"GET /api/changes?feed=eventsource&since=now HTTP/1.1\r\nHost: a\r\n\r\n"


def measure(plan: Plan, directory: Path) -> Table:
    """Measure GET and memory with and without listeners, in turn, and how long a change takes to reach all of them."""
    table = Table(
        f"{LISTENERS:,} idle listeners of the change feed",
        f"{plan.profiles:,} profiles on the embedded log; event streams that wait, with a heartbeat of 30 s. GET over "
        f"{_CONNECTIONS} connections, in turn without and with the listeners. Memory: what the node's resident memory "
        "grows by when they come, the first time. One change to all: from its acknowledgement to the last listener.",
        ("listeners", "GET/s", "p50 ms", "p99 ms", "of none", "memory MB", "one change to all, s", "errors"),
    )
    settings = preload.settings_of(directory / "state", "")
    sample = directory / "sample.tsv"
    preload.fill(settings, sample, first=0, count=plan.profiles)
    none, many, grown_mb, reached_s = [], [], [], []
    with servers.service(directory, settings) as service:
        load.run("get", service.url, sample, connections=_CONNECTIONS, seconds=plan.seconds)
        for number in range(plan.runs):
            none.append(load.run("get", service.url, sample, connections=_CONNECTIONS, seconds=plan.seconds))
            before_mb = service.rss_mb()
            with listening(service.url, LISTENERS) as streams:
                grown_mb.append(service.rss_mb() - before_mb)
                many.append(load.run("get", service.url, sample, connections=_CONNECTIONS, seconds=plan.seconds))
                created = service.post({"username": "u", "email": f"listened{number}@mail.com"})
                begun = time.perf_counter()
                read_until(streams, str(created["uid"]).encode())
                reached_s.append(time.perf_counter() - begun)
            _await_none(service)
    table.rows.append(("none", *_cells(none), "", "", "", _errors(none)))
    of_none = ratio([run.rate for run in many], [run.rate for run in none])
    table.rows.append(
        (f"{LISTENERS:,}", *_cells(many), of_none, middle(grown_mb[:1], 0), spread(reached_s, 2), _errors(many))
    )
    return table


@contextmanager
def listening(url: str, count: int) -> Iterator[list[socket.socket]]:
    """Open *count* event streams, and close them at the block's end. Returns when each has been given its place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 500), hard))
    place = urlsplit(url)
    streams: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stream = stack.enter_context(socket.create_connection((place.hostname, place.port), timeout=_PATIENCE_S))
            stream.sendall(_REQUEST)
            streams.append(stream)
        read_until(streams, b"\nid: ")
        yield streams


def read_until(streams: list[socket.socket], part: bytes) -> None:
    """Return when each of *streams* has sent *part*. Raises TimeoutError."""
    selector = selectors.DefaultSelector()
    seen = dict.fromkeys(streams, b"")
    for stream in streams:
        selector.register(stream, selectors.EVENT_READ)
    end = time.monotonic() + _PATIENCE_S
    while seen:
        if time.monotonic() > end:
            raise TimeoutError(f"{len(seen)} of {len(streams)} listeners did not get {part!r}")
        for key, _ in selector.select(timeout=1.0):
            stream = key.fileobj
            assert isinstance(stream, socket.socket)
            data = stream.recv(65_536)
            if not data:
                raise ConnectionError("the service ended a stream")
            seen[stream] += data
            if part in seen[stream]:
                selector.unregister(stream)
                del seen[stream]
    selector.close()


def _await_none(service: servers.Server) -> None:
    """Return when the service has noticed that its listeners are gone."""
    end = time.monotonic() + _PATIENCE_S
    while service.metric("feed_listeners"):
        assert time.monotonic() < end, "listeners are counted that are gone"
        time.sleep(0.05)


def _cells(runs: list[Load]) -> tuple[str, str, str]:
    p50s, p99s = [run.p50_ms for run in runs], [run.p99_ms for run in runs]
    return spread([run.rate for run in runs]), middle(p50s), middle(p99s)


def _errors(runs: list[Load]) -> str:
    return str(sum(run.errors for run in runs))
