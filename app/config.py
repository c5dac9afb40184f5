"""The settings of a node: one frozen value, read from the environment once at start and complete before anything opens.

All faults are reported together, each with the variable, the value (unless it is secret) and what is allowed.
Nothing here opens a file or a socket.
"""

import difflib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from app.settings import KAFKA_PREFIX, PREFIX, SETTINGS, SINK_KAFKA_PREFIX, Setting
from streams.errors import ConfigError

_MASK = "***"
_SECRET_WORDS = ("password", "secret", "token")
_FAMILIES = (KAFKA_PREFIX, SINK_KAFKA_PREFIX)
# What the fence and the runtime depend on is not for the operator to change.
_RESERVED_KAFKA = {
    "acks",
    "bootstrap_servers",
    "enable_auto_commit",
    "enable_idempotence",
    "group_id",
    "isolation_level",
    "partition_assignment_strategy",
    "session_timeout_ms",
    "transaction_timeout_ms",
    "transactional_id",
}


class Effective(NamedTuple):
    """A setting as it is in force. `value` is text for people, masked where it is secret; `source` is `environment`
    or `default`."""

    name: str
    value: str
    source: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfig:
    """Every setting of docs/operations.md, with its unit last. None: see the field's derived default there."""

    bind: str
    port: int
    state_dir: Path
    bootstrap_servers: tuple[str, ...]
    application_id: str
    topic_prefix: str
    partitions: int | None
    replication_factor: int | None
    node_id: str | None
    application_server: str
    cluster_secret: str | None = field(repr=False)
    role: str
    num_standby_replicas: int
    rack: str
    idempotency_ttl_ms: int
    session_timeout_ms: int
    require_if_match: bool
    email_policy: str
    request_timeout_ms: int
    max_queued_commands: int
    max_connections: int
    max_listeners: int
    header_timeout_ms: int
    body_timeout_ms: int
    idle_timeout_ms: int
    sink_api_key: str | None = field(repr=False)
    sink_api_key_file: Path | None
    sink_username: str | None
    sink_password: str | None = field(repr=False)
    sink_password_file: Path | None
    sink_ca_file: Path | None
    log_format: str
    log_level: str
    kafka: Mapping[str, Any] = field(repr=False)
    sink_kafka: Mapping[str, Any] = field(repr=False)
    #: Names of the variables that were set.
    given: frozenset[str] = field(repr=False)

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> "AppConfig":
        """Read and check everything. Raises ConfigError with one line for each fault. An empty variable counts as
        unset."""
        given = {name: text.strip() for name, text in environment.items() if text.strip()}
        faults = _unknown(given)
        values: dict[str, Any] = {}
        for setting in SETTINGS:
            text = given.get(setting.name, setting.default)
            try:
                values[setting.field] = None if text is None else setting.parse(text)
            except ValueError as error:
                faults.append(f"{setting.name} is {_shown(setting, text)}, but must be {error}")
        values["kafka"] = _kafka(given, KAFKA_PREFIX, faults)
        values["sink_kafka"] = _kafka(given, SINK_KAFKA_PREFIX, faults)
        if not faults:
            faults = _contradictions(values, given)
        if faults:
            raise ConfigError("\n".join(faults))
        if values["application_server"] is None:
            values["application_server"] = f"http://{_authority(values['bind'], values['port'])}"
        known = {setting.name for setting in SETTINGS}
        names = frozenset(name for name in given if name in known or name.startswith(_FAMILIES))
        return cls(**values, given=names)

    @property
    def address(self) -> str:
        """host:port to listen on, with brackets around an IPv6 address."""
        return _authority(self.bind, self.port)

    @property
    def is_embedded(self) -> bool:
        """Whether the log is the embedded one."""
        return not self.bootstrap_servers

    @property
    def local_url(self) -> str:
        """A URL under which this machine reaches the node, also when it listens on a wildcard."""
        loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.bind, self.bind)  # noqa: S104 - compared, not bound
        return f"http://{_authority(loopback, self.port)}"

    def describe(self) -> list[Effective]:
        """Return every setting in force, in the order of the table, then Kafka's."""
        rows = []
        for setting in SETTINGS:
            value = getattr(self, setting.field)
            source = "environment" if setting.name in self.given else "default"
            text = setting.derived if value is None else _MASK if setting.is_secret else _text(value)
            rows.append(Effective(setting.name, text, source, setting.meaning))
        families = ((KAFKA_PREFIX, self.kafka), (SINK_KAFKA_PREFIX, self.sink_kafka))
        for prefix, name, value in sorted((prefix, *item) for prefix, family in families for item in family.items()):
            text = _MASK if _is_secret(name) else _text(value)
            rows.append(Effective(prefix + name.upper(), text, "environment", "passed to kafka-python"))
        return rows


def _unknown(given: Mapping[str, str]) -> list[str]:
    known = [setting.name for setting in SETTINGS]
    faults = []
    for name in sorted(given):
        if name.startswith(PREFIX) and not name.startswith(_FAMILIES) and name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"; did you mean {close[0]}?" if close else ""
            faults.append(f"{name} is not a setting{hint}")
    return faults


def _kafka(given: Mapping[str, str], prefix: str, faults: list[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, text in sorted(given.items()):
        if not name.startswith(prefix):
            continue
        option = name.removeprefix(prefix).lower()
        if not option or option in _RESERVED_KAFKA:
            faults.append(f"{name} cannot be set: the service depends on its own value")
        else:
            settings[option] = _kafka_value(option, text)
    return settings


def _kafka_value(option: str, text: str) -> Any:
    """Give numbers and booleans their type; names and passwords stay text, whatever they look like."""
    if _is_secret(option) or "user" in option or option == "client_id":
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        return text


def _contradictions(values: Mapping[str, Any], given: Mapping[str, str]) -> list[str]:
    faults = []
    is_kafka = bool(values["bootstrap_servers"])
    if values["kafka"] and not is_kafka:
        first = KAFKA_PREFIX + next(iter(values["kafka"])).upper()
        faults.append(f"{first} is set, but PROFILES_BOOTSTRAP_SERVERS is empty, so that no Kafka is used")
    if is_kafka and values["application_server"] is None and _is_wildcard(values["bind"]):
        faults.append(
            f"PROFILES_APPLICATION_SERVER is empty, but must be http://host:port, since PROFILES_BIND is "
            f"{values['bind']}, which is no address that another node could use"
        )
    address = values["application_server"] or f"http://{_authority(values['bind'], values['port'])}"
    if is_kafka and values["cluster_secret"] is None and not _is_loopback(address):
        faults.append(
            f"PROFILES_CLUSTER_SECRET is empty, but must be set, since other machines reach this node at {address}: "
            f"nodes sign with it what they ask of each other"
        )
    if not is_kafka:
        faults += [
            f"{name} is set, but PROFILES_BOOTSTRAP_SERVERS is empty: the embedded log has one node only"
            for name, is_wanted in (
                ("PROFILES_ROLE", values["role"] != "member"),
                ("PROFILES_NUM_STANDBY_REPLICAS", values["num_standby_replicas"]),
            )
            if is_wanted
        ]
    workers = given.get("WEB_CONCURRENCY", "1")
    if workers != "1":
        faults.append(
            f"WEB_CONCURRENCY is '{workers}', but must be 1: a node is one process, since its stores have one writing "
            f"process. For more cores run more nodes, each with its own PROFILES_STATE_DIR and PORT"
        )
    return faults


def _is_wildcard(bind: str) -> bool:
    try:
        return ipaddress.ip_address(bind).is_unspecified
    except ValueError:
        return False


def _is_loopback(address: str) -> bool:
    name = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _is_secret(option: str) -> bool:
    return any(word in option for word in _SECRET_WORDS)


def _shown(setting: Setting, text: str | None) -> str:
    return "set to something else" if setting.is_secret else repr(text)


def _authority(bind: str, port: int) -> str:
    return f"[{bind}]:{port}" if ":" in bind else f"{bind}:{port}"


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return "1" if value else "0"
    return str(value)
