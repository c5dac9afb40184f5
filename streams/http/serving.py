"""An application behind a server: its routes, its health, and its start and stop with the server's (`serve_app`), for
any ASGI server; and how to become such a server (`run_server`).

A server has one process for it: its stores have one writing process. More processes are more instances.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

import falcon.asgi
import orjson
from falcon.asgi import Request, Response

from streams.errors import StreamsError
from streams.http.interactive import InteractiveQueries, QueriedApplication
from streams.http.problems import plain_problem
from streams.http.stores import answer_json, answer_problem

logger = logging.getLogger(__name__)

STOP_S = 20.0
#: In the state of the server's lifespan: why the application could not be started.
START_ERROR = "streams.start_error"
_MAX_LINE_BYTES = 8190  # gunicorn allows no more; a key, and a cursor, has to fit in
_GRACEFUL_S = 30  # of the server, for everything: more than an application takes to stop
_SWITCH_INTERVAL_S = 0.0005  # several threads of this process have something to do at once


class Failed(Protocol):
    """A task that a record has stopped (`streams.runtime.processing`)."""

    def __str__(self) -> str: ...


class Health(Protocol):
    """How an application stands (`streams.application.ApplicationHealth`)."""

    @property
    def is_live(self) -> bool: ...

    @property
    def is_ready(self) -> bool: ...

    @property
    def failed(self) -> Sequence[Failed]: ...

    @property
    def unread(self) -> Sequence[str]: ...

    @property
    def error(self) -> str: ...


class ServedApplication(QueriedApplication, Protocol):
    """The application (`streams.application.StreamsApplication`)."""

    def start(self) -> None: ...

    def stop(self, timeout_s: float = 20.0) -> None: ...

    def health(self) -> Health: ...


def serve_app(
    application: ServedApplication, *, secret: bytes = b"", is_alone: bool | None = None, starts: bool = True
) -> tuple[falcon.asgi.App[Any, Any], InteractiveQueries]:
    """Return a falcon application with `/stores`, `/metadata`, `/livez` and `/readyz`, to which more routes can be
    added, and the queries for those. With *starts* the application starts and stops with the server. *secret*,
    *is_alone*: see `InteractiveQueries`."""
    queries = InteractiveQueries(application, secret=secret, is_alone=is_alone)
    app: falcon.asgi.App[Any, Any] = falcon.asgi.App()
    app.add_error_handler(falcon.HTTPError, _say_error)
    app.add_error_handler(Exception, _say_failure)
    if starts:
        app.add_middleware(_Starting(application))
    queries.mount(app)
    app.add_route("/livez", Live(application))
    app.add_route("/readyz", Ready(application))
    return app, queries


def run_server(factory: str, *, bind: str, environment: Mapping[str, str] | None = None) -> NoReturn:
    """Become a server of the ASGI application that *factory* (`module:function()`) makes, listening at *bind*
    (`host:port`): gunicorn, with one worker, in this process. SIGTERM and Ctrl-C end it with exit code 0; a start that
    cannot succeed until somebody changes something, with 2."""
    command = [sys.executable, "-m", "gunicorn", factory, "--bind", bind, "--workers", "1", "--worker-class", "asgi"]
    command += ["--asgi-lifespan", "on", "--no-control-socket", "--graceful-timeout", str(_GRACEFUL_S)]
    command += ["--limit-request-line", str(_MAX_LINE_BYTES)]
    command += ["--config", "python:streams.http.gunicorn_hooks", "--log-level", "warning"]
    sys.stdout.flush()
    os.execve(sys.executable, command, dict(os.environ if environment is None else environment))  # noqa: S606  # our own


class _Starting:
    """Falcon's middleware that starts the application before anything is asked of it."""

    def __init__(self, application: ServedApplication) -> None:
        self._application = application

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        try:
            await asyncio.to_thread(self._application.start)
        except StreamsError as error:
            if "state" in scope:
                scope["state"][START_ERROR] = error
            raise

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        await asyncio.to_thread(self._application.stop, STOP_S)


class Live:
    """Whether the process is of use, or has to be started anew."""

    def __init__(self, application: ServedApplication) -> None:
        self._application = application

    async def on_get(self, _req: Request, resp: Response) -> None:
        health = self._application.health()
        resp.status = 200 if health.is_live else 503
        answer_json(resp, orjson.dumps({"is_live": health.is_live, "error": health.error}))

    on_head = on_get


class Ready:
    """Whether every task that is here can process. A task that a record has stopped is named, and takes nothing from
    the readiness: the stores can be asked, and a restart would meet the record again."""

    def __init__(self, application: ServedApplication) -> None:
        self._application = application

    async def on_get(self, _req: Request, resp: Response) -> None:
        health = self._application.health()
        resp.status = 200 if health.is_ready else 503
        failed = [str(task) for task in health.failed]
        told = {"is_ready": health.is_ready, "failed": failed, "unread": list(health.unread), "error": health.error}
        answer_json(resp, orjson.dumps(told))

    on_head = on_get


async def _say_error(_req: Request, resp: Response | None, error: falcon.HTTPError, _params: object) -> None:
    """Answer what falcon refuses (an unknown route, a method) with a problem, as everything else."""
    if resp is not None:
        status = int(error.status[:3]) if isinstance(error.status, str) else int(error.status)
        headers = dict(error.headers or {})
        answer_problem(resp, plain_problem(status, error.description or "", instance=_req.path, headers=headers))


async def _say_failure(req: Request, resp: Response | None, error: Exception, _params: object) -> None:
    logger.error("request_failed", exc_info=error, extra={"method": req.method})
    if resp is not None:
        answer_problem(resp, plain_problem(500, "the request failed; the log says why", instance=req.path))
