"""One instance: the topology that runs, the directory that feeds it, and the routes. Composes, and decides nothing."""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import falcon.asgi

from examples import serving
from examples.weblog.files import FilePosition, Line
from examples.weblog.hosts import StoredHosts
from examples.weblog.routes import WeblogRoutes
from examples.weblog.topology import FILE_POSITIONS, LINES, PLACE, TOPICS, weblog
from examples.weblog.watcher import DirectoryWatcher
from streams.application import StreamsApplication
from streams.application.producing import Input
from streams.http.interactive import InteractiveQueries

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """What is watched. `source`: files of two sources are never taken for the same."""

    directory: Path
    pattern: str
    source: str
    poll_interval_s: float

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> "WatchSettings":
        """Read the variables `WEBLOG_...`. Raises ConfigError."""
        directory = Path(environment.get("WEBLOG_DIRECTORY") or "data/weblog-files").absolute()
        poll_interval_ms = serving.number_of(environment, "WEBLOG_POLL_INTERVAL_MS", 1000, least=1, greatest=3_600_000)
        return cls(
            directory,
            environment.get("WEBLOG_PATTERN") or "*.log",
            environment.get("WEBLOG_SOURCE") or f"{socket.gethostname()}:{directory}",
            poll_interval_ms / 1000,
        )


#: Made when they are missing, with as many partitions.
PARTITIONS = dict.fromkeys(TOPICS, 3)


def create_app() -> falcon.asgi.App[Any, Any]:
    """Return the ASGI application of one instance, as the environment says. Raises ConfigError."""
    watch = WatchSettings.from_env(os.environ)
    watch.directory.mkdir(parents=True, exist_ok=True)
    topology = weblog(os.environ.get("WEBLOG_SCHEMA_REGISTRY_URL") or None)
    return serving.create_app(
        topology, lambda app, application, queries: WeblogService(application, queries, watch).mount(app)
    )


class WeblogService:
    """Event loop only."""

    def __init__(self, application: StreamsApplication, queries: InteractiveQueries, watch: WatchSettings) -> None:
        """*application*: started before the server says so."""
        self._application = application
        self._queries = queries
        self._poll_interval_s = watch.poll_interval_s
        self._task: asyncio.Task[None] | None = None
        self._watcher = DirectoryWatcher(
            watch.directory,
            pattern=watch.pattern,
            source=watch.source,
            position_of=self._position_of,
            send=self._send,
        )

    def mount(self, app: falcon.asgi.App[Any, Any]) -> None:
        """Add the routes to *app*, and watch as long as its server runs."""
        hosts = StoredHosts(self._queries.stores)
        WeblogRoutes(hosts, now_ms=self._application.clock.time_ms).mount(app)
        app.add_middleware(self)

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Begin to watch (falcon calls this)."""
        self._task = asyncio.create_task(self._watcher.run(self._poll_interval_s))
        self._task.add_done_callback(_tell_end)

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """End it (falcon calls this)."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _position_of(self, file_id: str) -> FilePosition | None:
        entry = await self._queries.stores.get(FILE_POSITIONS, file_id)
        return None if entry is None else entry.value

    async def _send(self, file_id: str, lines: Sequence[Line]) -> None:
        key = file_id.encode()
        records = [Input(key, line.data, headers=((PLACE, b"%d-%d" % (line.begin, line.end)),)) for line in lines]
        await asyncio.to_thread(self._application.producer.send, LINES, records, key=bytes, value=bytes)


def _tell_end(task: asyncio.Task[None]) -> None:
    """Log why watching has ended, if it was not told to."""
    if not task.cancelled() and task.exception() is not None:
        logger.critical("the directory is not watched any more", exc_info=task.exception())
