"""How an example becomes a server, by the environment: where it listens, where its state is, which topics it makes.

`serve` completes the environment and becomes the server; the server calls the example's `create_app`, which finds all
it needs there, and so can be run by any other ASGI server, too. What is wrong with the environment ends the process
before anything else begins (`refusing`).
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import falcon.asgi

from streams.application import StreamsApplication, StreamsSettings
from streams.errors import ConfigError, StreamsError
from streams.http.interactive import InteractiveQueries
from streams.http.serving import run_server, serve_app
from streams.http.signing import derive_keys
from streams.topology.subtopology import ProcessorTopology

Mount = Callable[[falcon.asgi.App[Any, Any], StreamsApplication, InteractiveQueries], object]

_SECRET = "STREAMS_HTTP_SECRET"  # noqa: S105  # the name of a variable
_MAX_PORT = 65535
_EVERYWHERE = ("0.0.0.0", "[::]")  # noqa: S104  # compared, not bound


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """End the process with exit code 2, saying why, when a start cannot succeed until somebody changes something."""
    try:
        yield
    except StreamsError as error:
        sys.stderr.write(f"{name}: {error}\n")
        sys.exit(2)


def number_of(environment: Mapping[str, str], name: str, usual: int, *, least: int = 0, greatest: int) -> int:
    """Return the variable *name*, *usual* when it is missing or empty. Raises ConfigError for anything but a number
    from *least* to *greatest*."""
    text = environment.get(name) or str(usual)
    if not text.isdecimal() or len(text) > len(str(greatest)) or not least <= int(text) <= greatest:
        raise ConfigError(f"{name} is from {least} to {greatest}, not {text!r}")
    return int(text)


def serve(factory: str, *, name: str, port: int, topics: Mapping[str, int]) -> NoReturn:
    """Become the server of the application that *factory* (`module:function()`) makes. Raises ConfigError.

    `BIND`, `PORT`: where it listens, by default on the loopback interface at *port*. State is in `./data/<name>`, and
    *topics* are made with their numbers of partitions, unless `STREAMS_...` says otherwise.
    """
    given = os.environ
    host, where = given.get("BIND") or "127.0.0.1", number_of(given, "PORT", port, least=1, greatest=_MAX_PORT)
    is_alone = not given.get("STREAMS_BOOTSTRAP_SERVERS")
    if host in _EVERYWHERE and not is_alone and not given.get("STREAMS_ADDRESS"):
        raise ConfigError("who listens everywhere must say with STREAMS_ADDRESS where the others reach him")
    own = "127.0.0.1" if host in _EVERYWHERE or is_alone else host
    usual = {
        "STREAMS_ADDRESS": f"http://{own}:{where}",
        "STREAMS_DATA_DIR": f"data/{name}",
        "STREAMS_CREATE_TOPICS": ",".join(f"{topic}={number}" for topic, number in topics.items()),
        "STREAMS_ON_DESERIALIZATION_ERROR": "quarantine",
        "STREAMS_ON_PROCESSING_ERROR": "quarantine",
    }
    environment = {**usual, **{name: text for name, text in given.items() if text}}
    settings = StreamsSettings.from_env(environment)
    derive_keys(environment.get(_SECRET, "").encode(), application_id="", own_address=settings.address or "")
    sys.stdout.write(f"http://{host}:{where}; ends with SIGTERM or Ctrl-C\n")
    run_server(factory, bind=f"{host}:{where}", environment=environment)


def create_app(topology: ProcessorTopology, mount: Mount) -> falcon.asgi.App[Any, Any]:
    """Return the ASGI application that runs *topology* as the environment says; *mount* adds the example's routes to
    those of the library. Raises ConfigError."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = StreamsSettings.from_env(os.environ)
    application = StreamsApplication(topology, settings)
    secret = os.environ.get(_SECRET, "").encode()
    app, queries = serve_app(application, secret=secret, is_alone=settings.bootstrap_servers is None)
    mount(app, application, queries)
    return app
