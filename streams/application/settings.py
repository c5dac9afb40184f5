"""The settings of an application: one frozen value, checked when it is made. Nothing here opens a file or a socket."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from streams.cluster import MEMBER, OBSERVER
from streams.errors import ConfigError
from streams.processing import ErrorPolicy

PREFIX = "STREAMS_"
KAFKA_PREFIX = "STREAMS_KAFKA_"
EXACTLY_ONCE, AT_LEAST_ONCE = "exactly_once_v2", "at_least_once"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamsSettings:
    """How an application runs. Raises ConfigError when a value makes no sense.

    `application_id` None: the topology's. `bootstrap_servers` None: the embedded log in `data_dir`, and one process.
    `data_dir`: of this process alone; stores, and the embedded log. `address`: `http://host:port`, as peers reach this
    process; None: they cannot. `node_id` None: made once, and kept in `data_dir`; unique in the application. `rack`:
    where this process is; standbys lie in another one where that is possible. `role`: `member`, or `observer`, which
    follows all stores and processes nothing. `num_standby_replicas`: how many other processes keep a warm copy of each
    task. `processing_guarantee`: `exactly_once_v2` or `at_least_once`, which is no weaker here.
    `on_deserialization_error`, `on_processing_error`: `stop`, `skip` or `quarantine`. `quarantine_topic` None:
    `<application_id>-quarantine`. `create_topics`: topics of users that are made when they are missing, with their
    number of partitions; all others must exist. What the topology reads as a table is made compacted, and so are
    `compacted_topics`, which others read so. `replication_factor` of topics that are made; None: 3, or the number of
    brokers. `batch_records`, `batch_ms`: bounds of what one transaction processes of a partition. `buffered_records`:
    of one task's input that may be read ahead. `session_timeout_ms`: after which a dead process' tasks are another's.
    `append_timeout_ms`: after which the outcome of a transaction counts as unknown. `start_timeout_ms`: for `start` to
    reach the log. `shared_settings`: what must be the same in every process, besides the topology. `kafka`: settings
    of kafka-python by name.
    """

    application_id: str | None = None
    bootstrap_servers: str | None = None
    data_dir: Path = Path("data")
    address: str | None = None
    node_id: str | None = None
    rack: str = ""
    role: str = MEMBER
    num_standby_replicas: int = 0
    processing_guarantee: str = EXACTLY_ONCE
    on_deserialization_error: str = "stop"
    on_processing_error: str = "stop"
    quarantine_topic: str | None = None
    create_topics: Mapping[str, int] = field(default_factory=dict)
    compacted_topics: tuple[str, ...] = ()
    replication_factor: int | None = None
    batch_records: int = 2_000
    batch_ms: int = 100
    buffered_records: int = 10_000
    session_timeout_ms: int = 10_000
    append_timeout_ms: int = 10_000
    start_timeout_ms: int = 60_000
    shared_settings: Mapping[str, str] = field(default_factory=dict)
    kafka: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.role not in (MEMBER, OBSERVER):
            raise ConfigError(f"role is member or observer, not {self.role!r}")
        if self.processing_guarantee not in (EXACTLY_ONCE, AT_LEAST_ONCE):
            raise ConfigError(
                f"processing_guarantee is {EXACTLY_ONCE} or {AT_LEAST_ONCE}, not {self.processing_guarantee!r}"
            )
        for name in ("batch_records", "batch_ms", "buffered_records", "append_timeout_ms", "start_timeout_ms"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be greater than 0, not {getattr(self, name)}")
        if self.num_standby_replicas < 0:
            raise ConfigError(f"num_standby_replicas is {self.num_standby_replicas}")
        for topic, partitions in self.create_topics.items():
            if not topic or partitions < 1:
                raise ConfigError(f"create_topics: {topic!r} cannot have {partitions} partitions")
        for topic in self.compacted_topics:
            if topic not in self.create_topics:
                raise ConfigError(f"compacted_topics: {topic!r} is not among create_topics")
        parts = urlsplit(self.address or "http://nowhere")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"address is http://host:port, not {self.address!r}")
        if self.bootstrap_servers is None and (self.num_standby_replicas or self.role == OBSERVER):
            raise ConfigError("the embedded log has one process: no standbys and no observers")
        self.policy()

    def policy(self) -> ErrorPolicy:
        """Return what happens with records that cannot be processed."""
        return ErrorPolicy(
            on_deserialization=self.on_deserialization_error,
            on_processing=self.on_processing_error,
            quarantine_topic=self.quarantine_topic,
        )

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> "StreamsSettings":
        """Read variables: each field in capitals after `STREAMS_`, `STREAMS_KAFKA_` for settings of kafka-python.
        `STREAMS_CREATE_TOPICS` is `topic=partitions`, separated by commas, as topics of `STREAMS_COMPACTED_TOPICS` are.
        Raises ConfigError naming the variable."""
        values: dict[str, Any] = {}
        known = {f"{PREFIX}{each.name.upper()}": each for each in fields(cls) if each.name != "kafka"}
        for name, text in environment.items():
            if name.startswith(KAFKA_PREFIX) and text:
                option = name.removeprefix(KAFKA_PREFIX).lower()
                values.setdefault("kafka", {})[option] = _kafka_value(option, text)
            elif name in known and text:
                try:
                    values[known[name].name] = _parser(known[name].type)(text)
                except ValueError as error:
                    raise ConfigError(f"{name} is {text!r}: {error}") from error
            elif name.startswith(PREFIX) and text and name.removeprefix(PREFIX).split("_")[0] not in ("HTTP", "LOG"):
                raise ConfigError(f"{name} is no setting; there are {', '.join(sorted(known))}")
        return cls(**values)


def _parser(kind: Any) -> Callable[[str], Any]:
    text = str(kind)
    if "Mapping[str, int]" in text:
        return _topics
    if "Mapping[str, str]" in text:
        return _names
    if "tuple[str, ...]" in text:
        return _list
    if "Path" in text:
        return Path
    if "int" in text:
        return int
    return str


def _kafka_value(option: str, text: str) -> Any:
    """Give numbers and booleans their type; names and passwords stay text, whatever they look like."""
    if any(word in option for word in ("password", "user", "client_id", "token")):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return int(text) if text.isascii() and text.isdecimal() else text


def _topics(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in text.split(","):
        topic, _, partitions = part.strip().partition("=")
        found[topic] = int(partitions)
    return found


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _names(text: str) -> dict[str, str]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it must be an object of JSON")  # noqa: TRY004  # the fault of a text, as all here
    return {str(name): str(value) for name, value in found.items()}
