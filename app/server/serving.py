"""Starts gunicorn in this process: its settings, its one worker, and what the arbiter must never do here.

`python -m app run` and `gunicorn -c gunicorn.conf.py` share `gunicorn_settings`. The arbiter restarts a worker that
died; it must not start a second one beside it (signals HUP, TTIN, USR2), since the stores have one writing process.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from app.config import AppConfig
from app.observability import logs
from app.server.limits import EdgeLimits
from app.server.worker import EXIT_UNUSABLE, EdgeWorker
from streams.errors import ConfigError

logger = logging.getLogger(__name__)

_WORKER_TIMEOUT_S = 30  # an event loop that stood still for so long is killed and started anew
_GRACEFUL_TIMEOUT_S = 13  # then SIGKILL; the worker's own limits add up to less


class RoutedLogger(Logger):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's loggers, without handlers of their own: the root logger renders their lines like all others."""

    def setup(self, cfg: Any) -> None:
        level = self.error_log.level
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True
        self.error_log.setLevel(level)


def serve(config: AppConfig, load: Callable[[], Any]) -> NoReturn:
    """Run until a signal ends it; *load* makes the ASGI application, in the worker, after the fork.

    Exits with 0 after SIGTERM or SIGINT, with 2 when the node cannot start until somebody changes something.
    """
    _EmbeddedApplication(gunicorn_settings(config), load).run()
    sys.exit(0)


def gunicorn_settings(config: AppConfig) -> dict[str, Any]:
    """Return gunicorn's settings for *config*, hooks included."""
    limits = EdgeLimits(
        max_connections=config.max_connections,
        max_listeners=config.max_listeners,
        header_timeout_s=config.header_timeout_ms / 1000,
        body_timeout_s=config.body_timeout_ms / 1000,
        idle_timeout_s=config.idle_timeout_ms / 1000,
    )

    def post_fork(_arbiter: Any, worker: EdgeWorker) -> None:
        worker.limits = limits
        worker.announce = lambda _addresses: announce(config)

    return {
        "bind": [config.address],
        "workers": 1,
        "worker_class": EdgeWorker,
        "worker_connections": config.max_connections,
        "logger_class": RoutedLogger,
        "asgi_loop": "uvloop",
        "http_parser": "fast",
        "keepalive": max(1, config.idle_timeout_ms // 1000),
        "timeout": _WORKER_TIMEOUT_S,
        "graceful_timeout": _GRACEFUL_TIMEOUT_S,
        "control_socket_disable": True,
        "accesslog": None,
        "on_starting": _prepare_arbiter,
        "post_fork": post_fork,
    }


def announce(config: AppConfig) -> None:
    """Say where the node listens and what it stores where: one line in JSON, plain words otherwise."""
    place = f"the embedded log in {config.state_dir.resolve()}" if config.is_embedded else "Kafka"
    if config.log_format == "json":
        logger.info(
            "listening",
            extra={
                "url": config.local_url,
                "log": "embedded" if config.is_embedded else "kafka",
                "bootstrap_servers": list(config.bootstrap_servers),
                "state_dir": str(config.state_dir),
                "authentication": "off",
            },
        )
        return
    if config.is_embedded:
        stored = f"every profile is kept on this machine, in {place} (each write is on disk before its answer)"
    else:
        stored = f"every profile is kept in Kafka at {','.join(config.bootstrap_servers)}; {config.state_dir} is a copy"
    sys.stderr.write(
        f"\nProfiles listens on http://{config.address}\n"
        f"  Storage: {stored}.\n"
        f"  Authentication is off: whoever reaches this address may read and change everything.\n"
        f"  Try it:\n"
        f"    curl -i {config.local_url}/api/profile -H 'Content-Type: application/json' \\\n"
        f'      -d \'{{"username":"ada","email":"ada@example.com"}}\'\n'
        f"  Stop it with Ctrl-C.\n\n"
    )
    sys.stderr.flush()


class _EmbeddedApplication(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    def __init__(self, settings: dict[str, Any], load: Callable[[], Any]) -> None:
        self._settings = settings
        self._load = load
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return self._load()


def _prepare_arbiter(arbiter: Any) -> None:
    """Refuse more than one worker, and replace what would start one beside another."""
    if arbiter.cfg.workers != 1:
        logger.critical(
            "%d workers were asked for, but a node is one process: its stores have one writing process. "
            "For more cores run more nodes, each with its own PROFILES_STATE_DIR and PORT",
            arbiter.cfg.workers,
        )
        sys.exit(EXIT_UNUSABLE)
    # The arbiter ends when a worker exits with this code, and passes it on; any other worker is restarted for ever.
    arbiter.APP_LOAD_ERROR = EXIT_UNUSABLE
    arbiter.handle_int = arbiter.handle_term
    for name in ("hup", "ttin", "ttou", "usr2"):
        setattr(arbiter, f"handle_{name}", _refusal(name))
    arbiter.signal = _Signals(arbiter)


def _refusal(name: str) -> Callable[[], None]:
    def refuse() -> None:
        logger.warning("SIG%s does nothing here: settings are read at start, and a node is one process", name.upper())

    return refuse


class _Signals:
    """The arbiter's signal handler: the second request to stop does not wait any longer."""

    def __init__(self, arbiter: Any) -> None:
        self._arbiter = arbiter
        self._stops = 0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stops += 1
            if self._stops > 1:
                # While the arbiter stops it reads no queue, so this is sent from the handler itself.
                for pid in list(self._arbiter.WORKERS):
                    _send_quit(pid)
        self._arbiter.SIG_QUEUE.put_nowait(number)


def _send_quit(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGQUIT)
    except ProcessLookupError:
        return


def settings_from_environment() -> dict[str, Any]:
    """Return the settings for gunicorn's own command line; exits with 2 and says why when the environment is wrong."""
    try:
        config = AppConfig.from_env(os.environ)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EXIT_UNUSABLE)
    logs.configure(log_format=config.log_format, log_level=config.log_level)
    return gunicorn_settings(config)
