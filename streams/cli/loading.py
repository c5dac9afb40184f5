"""Finds the topology that a command is given as `module:name`, and the settings that flags and the environment say."""

import argparse
import importlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from streams.application import StreamsSettings
from streams.errors import ConfigError
from streams.topology.subtopology import ProcessorTopology


def add_topology(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a topology."""
    parser.add_argument(
        "topology",
        metavar="MODULE:NAME",
        help="a topology in a module that Python can import from here, or a function that returns one",
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add flags for the settings that are given by hand most; all others are environment variables."""
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="of this process alone (STREAMS_DATA_DIR, ./data)")
    parser.add_argument(
        "--bootstrap-servers", metavar="HOST:PORT", help="Kafka (STREAMS_BOOTSTRAP_SERVERS; without: the embedded log)"
    )
    parser.add_argument("--application-id", metavar="ID", help="instead of the topology's (STREAMS_APPLICATION_ID)")
    parser.add_argument("--address", metavar="URL", help="as peers reach this process (STREAMS_ADDRESS)")
    parser.add_argument(
        "--create-topic",
        action="append",
        default=[],
        metavar="TOPIC=PARTITIONS",
        help="make this topic if it is missing; may be repeated (STREAMS_CREATE_TOPICS)",
    )


def settings_of(options: argparse.Namespace, environment: Mapping[str, str]) -> StreamsSettings:
    """Return the settings: flags before variables. Raises ConfigError."""
    settings = StreamsSettings.from_env(environment)
    given: dict[str, Any] = {
        name: value
        for name in ("data_dir", "bootstrap_servers", "application_id", "address")
        if (value := getattr(options, name)) is not None
    }
    topics = dict(settings.create_topics)
    for text in options.create_topic:
        topic, _, partitions = text.partition("=")
        if not partitions.isdecimal():
            raise ConfigError(f"--create-topic is TOPIC=PARTITIONS, not {text!r}")
        topics[topic] = int(partitions)
    return replace(settings, create_topics=topics, **given)


def load_topology(name: str) -> ProcessorTopology:
    """Return the topology named *name*. Raises ConfigError when there is none."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"a topology is named MODULE:NAME, not {name!r}")
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"no module {error.name!r} can be imported from {directory}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{module_name} has no {attribute}")
        found = getattr(found, part)
    if callable(found) and not isinstance(found, ProcessorTopology):
        found = found()
    if not isinstance(found, ProcessorTopology):
        raise ConfigError(f"{name} is a {type(found).__name__}, no topology and no function that returns one")
    return found
