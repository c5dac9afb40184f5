"""`serve`: one instance of an application with its HTTP server, until SIGTERM or Ctrl-C."""

import argparse
import logging
import os
from collections.abc import Mapping
from typing import Any

from streams.application import StreamsApplication, StreamsSettings
from streams.cli.loading import add_settings, add_topology, load_topology, settings_of
from streams.errors import ConfigError
from streams.http.serving import run_server, serve_app
from streams.http.signing import derive_keys, is_loopback_host

NAME = "serve"
SUMMARY = "run a topology and answer questions about its stores over HTTP"
EPILOG = """\
The routes are /stores, /metadata, /livez and /readyz (docs/streams/queries.md). Instances on one Kafka answer for each
other: each needs a data directory and an address of its own, and as soon as one is not on this machine all need the
same STREAMS_HTTP_SECRET, of 16 bytes or more. Nothing else guards the routes: whoever reaches the port may read the
stores.

example, of a file words.py that has a topology:
  python -m streams serve words:topology --bind 127.0.0.1:8080 --create-topic text=4 --create-topic counts=4
  curl http://127.0.0.1:8080/stores
"""
_SECRET = "STREAMS_HTTP_SECRET"  # noqa: S105  # the name of a variable
_TOPOLOGY = "STREAMS_HTTP_TOPOLOGY"
_BIND = "STREAMS_HTTP_BIND"
_LOG_LEVEL = "STREAMS_LOG_LEVEL"
_DEFAULT_BIND = "127.0.0.1:8080"
_MAX_PORT = 65535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `serve` takes."""
    add_topology(parser)
    add_settings(parser)
    parser.add_argument("--bind", metavar="HOST:PORT", help=f"where to listen ({_BIND}, {_DEFAULT_BIND})")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])


def run(options: argparse.Namespace) -> int:
    """Become the server. Raises ConfigError."""
    load_topology(options.topology)  # what is wrong with it is said before anything else begins
    bind = options.bind or os.environ.get(_BIND) or _DEFAULT_BIND
    settings = settings_of(options, os.environ)
    address = _address(settings, bind)
    derive_keys(os.environ.get(_SECRET, "").encode(), application_id="", own_address=address)
    environment = {
        **os.environ,
        _TOPOLOGY: options.topology,
        _LOG_LEVEL: options.log_level,
        "STREAMS_ADDRESS": address,
        "STREAMS_DATA_DIR": str(settings.data_dir),
        **_given("STREAMS_BOOTSTRAP_SERVERS", settings.bootstrap_servers),
        **_given("STREAMS_APPLICATION_ID", settings.application_id),
        **_given("STREAMS_CREATE_TOPICS", ",".join(f"{t}={n}" for t, n in settings.create_topics.items())),
    }
    print(f"serving at http://{bind}; ends with SIGTERM or Ctrl-C", flush=True)
    run_server("streams.cli.serving:create_app()", bind=bind, environment=environment)


def create_app(environment: Mapping[str, str] | None = None) -> Any:
    """Return the ASGI application that the environment describes, for any ASGI server: STREAMS_HTTP_TOPOLOGY names the
    topology, STREAMS_HTTP_SECRET is shared by all instances, everything else is in `StreamsSettings`. Raises
    ConfigError."""
    given = os.environ if environment is None else environment
    name = given.get(_TOPOLOGY)
    if not name:
        raise ConfigError(f"{_TOPOLOGY} must name a topology as MODULE:NAME")
    logging.basicConfig(level=given.get(_LOG_LEVEL, "INFO"), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = StreamsSettings.from_env(given)
    application = StreamsApplication(load_topology(name), settings)
    app, _ = serve_app(application, secret=given.get(_SECRET, "").encode())
    return app


def _given(name: str, value: str | None) -> dict[str, str]:
    return {} if not value else {name: value}


def _address(settings: StreamsSettings, bind: str) -> str:
    """Return the address that other instances use: as it was set, or where this one listens."""
    host, _, port = bind.rpartition(":")
    if not host or not port.isdecimal() or len(port) > len(str(_MAX_PORT)) or not 0 < int(port) <= _MAX_PORT:
        raise ConfigError(f"--bind is HOST:PORT, not {bind!r}")
    if settings.address is not None:
        return settings.address
    if host in ("0.0.0.0", "[::]"):  # noqa: S104  # it is compared, not bound
        if settings.bootstrap_servers is not None:
            raise ConfigError("an instance that listens everywhere needs --address: where do the others reach it?")
        host = "127.0.0.1"
    if settings.bootstrap_servers is None and not is_loopback_host(host.strip("[]")):
        host = "127.0.0.1"  # it is alone: nobody uses the address
    return f"http://{host}:{port}"
