"""What gunicorn must do otherwise when it serves an instance: for its `--config python:streams.http.gunicorn_hooks`.
The names are gunicorn's; nothing of it is imported.

The arbiter starts anew a worker that died; it must not start a second one beside it, since the stores have one writing
process, and an end by Ctrl-C is as orderly as one by SIGTERM.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from streams.http.serving import START_ERROR

_EXIT_UNUSABLE = 2  # it cannot start until somebody changes something


def on_starting(server: Any) -> None:
    """Called in the arbiter, before it does anything."""
    server.APP_LOAD_ERROR = _EXIT_UNUSABLE  # the arbiter ends when a worker exits with this code, and passes it on
    server.handle_int = server.handle_term
    for name in ("hup", "ttin", "ttou", "usr2"):
        setattr(server, f"handle_{name}", _refusal(name))


def post_worker_init(worker: Any) -> None:
    """Called in the worker, when its signals are set up: Ctrl-C of a terminal reaches it, too, but it is the arbiter
    that says how to end."""
    worker.loop.remove_signal_handler(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def worker_exit(_server: Any, worker: Any) -> None:
    """Called in the worker at its end. Its own code for a start that failed would be 3, after a page of traceback."""
    error = worker.state.get(START_ERROR)
    if error is not None:
        sys.stderr.write(f"streams: {error}\n")
        sys.stderr.flush()
        os._exit(_EXIT_UNUSABLE)


def _refusal(name: str) -> Callable[[], None]:
    def refuse() -> None:
        sys.stderr.write(f"SIG{name.upper()} does nothing here: an instance is one process\n")

    return refuse
