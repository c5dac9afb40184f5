"""`run`: one process of an application, until SIGTERM or Ctrl-C."""

import argparse
import logging
import os
import signal
import sys
import threading

from streams.application import StreamsApplication
from streams.cli.loading import add_settings, add_topology, load_topology, settings_of

NAME = "run"
SUMMARY = "run a topology until SIGTERM or Ctrl-C"
EPILOG = """\
Without Kafka the topology runs on an embedded log in the data directory, in this one process. More processes with the
same topology and the same Kafka share the work; each needs a data directory of its own.

example, of a file words.py that has a topology:
  python -m streams run words:topology --create-topic text=4 --create-topic counts=4
"""
_SWITCH_INTERVAL_S = 0.0005
_STOP_S = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `run` takes."""
    add_topology(parser)
    add_settings(parser)
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])


def run(options: argparse.Namespace) -> int:
    """Run; return 0 after a signal, 1 when the application gave up."""
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    application = StreamsApplication(load_topology(options.topology), settings_of(options, os.environ))
    sys.setswitchinterval(_SWITCH_INTERVAL_S)  # several threads of this process have something to do at once
    is_starting, is_stopping = threading.Event(), threading.Event()
    is_starting.set()

    def stop(*_: object) -> None:
        is_stopping.set()
        if is_starting.is_set():
            raise _StoppedError  # A start waits for the log, for a minute if need be.

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        application.start()
        is_starting.clear()
    except _StoppedError:
        application.stop(_STOP_S)
        return 0
    print(f"running {application.application_id}; ends with SIGTERM or Ctrl-C", flush=True)
    while not is_stopping.wait(0.2) and not application.failed.is_set():
        pass
    application.stop(_STOP_S)
    return 1 if application.failed.is_set() else 0


class _StoppedError(BaseException):
    """A signal came before the application had started. No exception that anybody on the way would catch."""
