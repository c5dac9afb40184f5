"""`python -m app replicate elasticsearch`: what is special about search servers on the command line."""

import argparse
from pathlib import Path

from app.cli.target import Target
from app.config import AppConfig
from app.replication.elasticsearch import SearchSink
from app.replication.search_client import SearchSettings
from streams.clock import Clock
from streams.errors import ConfigError

_EPILOG = """\
Credentials come from the environment, never from the command line: PROFILES_SINK_API_KEY, or PROFILES_SINK_USERNAME and
PROFILES_SINK_PASSWORD (with _FILE appended: a file that holds it); PROFILES_SINK_CA_FILE for TLS.

examples:
  python -m app replicate elasticsearch --url http://127.0.0.1:9200 --index profiles
  python -m app replicate elasticsearch --url https://search:9200 --once --json
  python -m app replicate elasticsearch --url https://search:9200 --rebuild
  python -m app replicate elasticsearch --url https://search:9200 --verify
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        action="append",
        required=True,
        metavar="URL",
        help="a node of Elasticsearch (7.17, 8, 9) or OpenSearch (2, 3); may be repeated for the others",
    )
    parser.add_argument(
        "--index",
        default="profiles",
        metavar="NAME",
        help="what searchers use: an alias, which shows profiles only (default: %(default)s)",
    )
    parser.add_argument(
        "--replicas",
        type=int,
        metavar="N",
        help="replicas of an index that is made (default: one as soon as there is a second node for it)",
    )


def _open_sink(config: AppConfig, options: argparse.Namespace, _clock: Clock) -> SearchSink:
    settings = SearchSettings(
        urls=options.url,
        api_key=_secret("PROFILES_SINK_API_KEY", config.sink_api_key, config.sink_api_key_file),
        username=config.sink_username,
        password=_secret("PROFILES_SINK_PASSWORD", config.sink_password, config.sink_password_file),
        ca_file=config.sink_ca_file,
    )
    return SearchSink(settings, options.index, replicas=options.replicas)


def _secret(name: str, value: str | None, file: Path | None) -> str | None:
    """Return the secret *name*, from the variable or from the file. Raises ConfigError."""
    if file is None:
        return value
    if value is not None:
        raise ConfigError(f"{name} and {name}_FILE are both set; choose one")
    try:
        text = file.read_text().strip()
    except OSError as error:
        raise ConfigError(f"{name}_FILE is {file}, which cannot be read: {error.strerror}") from error
    if not text:
        raise ConfigError(f"{name}_FILE is {file}, which is empty")
    return text


TARGET = Target(
    name="elasticsearch",
    summary="keep an index of Elasticsearch or OpenSearch equal to the profiles",
    epilog=_EPILOG,
    add_arguments=_add_arguments,
    open_sink=_open_sink,
    is_rebuildable=True,
    is_inspectable=True,
)
