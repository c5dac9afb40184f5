"""`python -m app replicate kafka`: what is special about another Kafka on the command line."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.cli.target import Target
from app.config import AppConfig
from app.replication.kafka.sink import TIMEOUT_S, KafkaSink
from app.replication.kafka.target import TargetCluster
from app.settings import SINK_KAFKA_PREFIX
from streams.clock import Clock
from streams.errors import ConfigError
from streams.log.kafka import KafkaSettings

_FILE = "_file"
_EPILOG = f"""\
The copy is made exactly once: its topic holds every record of the source's, in the same partition and order. It is only
to be read. docs/replication-kafka.md says what for, and what two clusters that copy each other need.

Settings and credentials of the other cluster come from the environment, never from the command line:
{SINK_KAFKA_PREFIX}SECURITY_PROTOCOL, {SINK_KAFKA_PREFIX}SASL_PLAIN_PASSWORD, ... (with _FILE appended:
a file that holds it).

examples:
  python -m app replicate kafka --bootstrap-servers kafka.eu:9092 --topic profiles-from-us
  python -m app replicate kafka --bootstrap-servers kafka.eu:9092 --topic profiles-from-us --once --json
  python -m app replicate kafka --bootstrap-servers kafka.eu:9092 --topic profiles-from-us --verify
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bootstrap-servers", required=True, metavar="HOST:PORT", help="brokers of the other cluster, with commas"
    )
    parser.add_argument(
        "--topic",
        required=True,
        metavar="NAME",
        help="of the copy; made if it is missing, with as many partitions as the source has",
    )


def _open_sink(config: AppConfig, options: argparse.Namespace, clock: Clock) -> KafkaSink:
    if options.start == "beginning":
        raise ConfigError(
            "--from beginning cannot be had of a copy that holds each record once: delete its topic, or name another"
        )
    settings = KafkaSettings(
        bootstrap_servers=options.bootstrap_servers,
        application_id=f"{config.application_id}-replicator-{options.name}",
        node_id="copy",
        session_timeout_ms=round(TIMEOUT_S * 1000),
        client_overrides=overrides(config.sink_kafka),
    )
    return KafkaSink(TargetCluster(settings, clock), options.topic, clock=clock)


def overrides(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the clients, with those that are in files read. Raises ConfigError."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        option = name.removesuffix(_FILE)
        if option == name:
            found[name] = value
            continue
        variable = SINK_KAFKA_PREFIX + option.upper()
        if option in given:
            raise ConfigError(f"{variable} and {variable}_FILE are both set; choose one")
        try:
            found[option] = Path(str(value)).read_text().strip()
        except OSError as error:
            raise ConfigError(f"{variable}_FILE is {value}, which cannot be read: {error.strerror}") from error
    return found


TARGET = Target(
    name="kafka",
    summary="copy the profiles to a topic of another Kafka, record by record",
    epilog=_EPILOG,
    add_arguments=_add_arguments,
    open_sink=_open_sink,
    is_inspectable=True,
)
