"""An example in this process: its topology on the embedded log, its routes, and requests as a server brings them."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import falcon.asgi

from streams.application import StreamsApplication, StreamsSettings
from streams.http.interactive import InteractiveQueries
from streams.queries.peers import PeerReply, PeerRequest
from streams.topology.subtopology import ProcessorTopology
from tests.streams.http.applications import run_asgi

PATIENCE_S = 15.0
ADDRESS = "http://127.0.0.1:9080"


class Running:
    """One instance. The loop of this thread runs while a request is made."""

    def __init__(self, loop: asyncio.AbstractEventLoop, app: falcon.asgi.App) -> None:
        self._loop = loop
        self._app = app

    def ask(self, method: str, target: str, body: bytes = b"") -> PeerReply:
        request = PeerRequest(method.encode(), target.encode(), [], body)
        reply: PeerReply = self._loop.run_until_complete(run_asgi(self._app, request, "127.0.0.1"))
        return reply

    def get(self, target: str) -> tuple[int, Any]:
        """Return status and document of a GET."""
        reply = self.ask("GET", target)
        return reply.status, json.loads(reply.body)

    def becomes(self, target: str, wanted: Any) -> None:
        """Wait until a GET is answered with *wanted*: what was sent is processed a moment later."""
        give_up_at = time.monotonic() + PATIENCE_S
        while (found := self.get(target)) != (200, wanted):
            assert time.monotonic() < give_up_at, (target, found)
            time.sleep(0.02)


@contextmanager
def running(
    topology: ProcessorTopology,
    directory: Path,
    topics: Mapping[str, int],
    mount: Callable[[falcon.asgi.App, StreamsApplication, InteractiveQueries], None],
) -> Iterator[Running]:
    """Run *topology* on the embedded log below *directory*; *mount* adds the example's routes."""
    settings = StreamsSettings(data_dir=directory, address=ADDRESS, create_topics=topics)
    loop = asyncio.new_event_loop()

    def on_loop(done: Coroutine[Any, Any, Any]) -> None:
        loop.run_until_complete(done)

    with StreamsApplication(topology, settings) as application:
        application.wait_ready(PATIENCE_S)
        queries = InteractiveQueries(application, is_alone=True)
        app = falcon.asgi.App()
        queries.mount(app)
        mount(app, application, queries)
        on_loop(queries.start())
        try:
            yield Running(loop, app)
        finally:
            on_loop(queries.stop())
            loop.close()
