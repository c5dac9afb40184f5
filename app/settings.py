"""The table of environment variables: name, default, meaning, and how the text becomes a value.

`app.config` reads the environment through it, `python -m app config` prints it, and a test compares it with
docs/operations.md, so that there is one list. Parsers are pure: they return a value, or raise ValueError with what is
allowed. `PROFILES_KAFKA_*` and `PROFILES_SINK_KAFKA_*` are open families and have no rows here.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PREFIX = "PROFILES_"
KAFKA_PREFIX = "PROFILES_KAFKA_"
SINK_KAFKA_PREFIX = "PROFILES_SINK_KAFKA_"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_TOPIC_PREFIX = re.compile(r"[A-Za-z0-9._-]{0,200}")
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_SECRET_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable. *field* is its name in `AppConfig`; *default* is the text that stands for an unset variable, and
    None where the value is derived (*derived* says how)."""

    name: str
    field: str
    default: str | None
    parse: Callable[[str], Any]
    meaning: str
    derived: str = ""
    is_secret: bool = False


def integer(low: int, high: int) -> Callable[[str], int]:
    """Parse a whole number within [low, high]."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    """Parse one of *words*, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError("one of " + ", ".join(words))
        return text.lower()

    return parse


def flag(text: str) -> bool:
    """Parse a boolean in the usual spellings."""
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("1 or 0 (or true, false, yes, no, on, off)")


def host(text: str) -> str:
    """Parse a host name or address to listen on, without a port."""
    bare = text.removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        if re.fullmatch(r"(?!.*\.\.)[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", text):
            return text
        raise ValueError("an address or host name without a port, such as 127.0.0.1 or 0.0.0.0") from None


def bootstrap_servers(text: str) -> tuple[str, ...]:
    """Parse host:port pairs, separated by commas."""
    servers = tuple(part.strip() for part in text.split(",") if part.strip())
    for server in servers:
        match = _HOST_PORT.fullmatch(server)
        if match is None or not 1 <= int(match[2]) <= 65535:
            raise ValueError("host:port, or several of them separated by commas; empty means the embedded log")
    return servers


def name(text: str) -> str:
    """Parse a name that Kafka accepts for groups and transactional ids."""
    if not _NAME.fullmatch(text):
        raise ValueError("1 to 200 letters, digits, dots, hyphens or underscores")
    return text


def rack(text: str) -> str:
    """Parse the name of a rack, zone or region."""
    if text and not _NAME.fullmatch(text):
        raise ValueError("at most 200 letters, digits, dots, hyphens or underscores")
    return text


def topic_prefix(text: str) -> str:
    """Parse the beginning of a topic's name."""
    if not _TOPIC_PREFIX.fullmatch(text):
        raise ValueError("at most 200 letters, digits, dots, hyphens or underscores")
    return text


def peer_url(text: str) -> str:
    """Parse the address that other nodes use."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    is_bare = not (parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme not in ("http", "https") or not parts.hostname or port is None or not is_bare:
        raise ValueError("http://host:port, without a path")
    return f"{parts.scheme}://{parts.netloc}"


def secret(text: str) -> str:
    """Parse a shared secret."""
    if len(text) < _SECRET_LENGTH:
        raise ValueError(f"at least {_SECRET_LENGTH} characters")
    return text


def directory(text: str) -> Path:
    """Parse a directory's name; it need not exist yet."""
    if not text or "\0" in text:
        raise ValueError("a directory")
    return Path(text)


SETTINGS: tuple[Setting, ...] = (
    Setting("PROFILES_BIND", "bind", "127.0.0.1", host, "address on which the public API listens"),
    Setting("PORT", "port", "8080", integer(1, 65535), "port on which the public API listens"),
    Setting(
        "PROFILES_STATE_DIR",
        "state_dir",
        "./data",
        directory,
        "directory of the stores and the embedded log; one node only",
    ),
    Setting(
        "PROFILES_BOOTSTRAP_SERVERS",
        "bootstrap_servers",
        "",
        bootstrap_servers,
        "Kafka brokers, host:port with commas; empty means the embedded log",
    ),
    Setting("PROFILES_APPLICATION_ID", "application_id", "profiles", name, "group id; prefix of transactional ids"),
    Setting("PROFILES_TOPIC_PREFIX", "topic_prefix", "", topic_prefix, "put before the names of the topics"),
    Setting(
        "PROFILES_PARTITIONS",
        "partitions",
        None,
        integer(1, 1024),
        "partitions of the topics; when set, an existing topic with another count is refused",
        derived="8 for new topics; an existing topic's own count",
    ),
    Setting(
        "PROFILES_REPLICATION_FACTOR",
        "replication_factor",
        None,
        integer(1, 15),
        "replicas of topics that are created",
        derived="the smaller of 3 and the number of brokers",
    ),
    Setting(
        "PROFILES_NODE_ID",
        "node_id",
        None,
        name,
        "name of this node",
        derived="drawn once, kept in the state directory",
    ),
    Setting(
        "PROFILES_APPLICATION_SERVER",
        "application_server",
        None,
        peer_url,
        "address that peers use; required with Kafka when PROFILES_BIND is a wildcard",
        derived="http:// and the bound address",
    ),
    Setting(
        "PROFILES_CLUSTER_SECRET",
        "cluster_secret",
        None,
        secret,
        "signs calls between nodes, position tokens and cursors; the same on every node, and required as soon as one "
        "of them is not on loopback",
        derived="a key file in the state directory; with Kafka one in ~/.local/state/profiles for the user's nodes",
        is_secret=True,
    ),
    Setting(
        "PROFILES_ROLE",
        "role",
        "member",
        one_of("member", "observer"),
        "an observer follows all partitions, owns none, and forwards writes",
    ),
    Setting(
        "PROFILES_NUM_STANDBY_REPLICAS",
        "num_standby_replicas",
        "0",
        integer(0, 10),
        "how many other nodes keep a warm copy of each partition; the greatest number among the nodes counts",
    ),
    Setting("PROFILES_RACK", "rack", "", rack, "where this node stands; standbys lie in another rack if there is one"),
    Setting(
        "PROFILES_IDEMPOTENCY_TTL_MS",
        "idempotency_ttl_ms",
        "86400000",
        integer(86_400_000, 31 * 86_400_000),
        "how long the Idempotency-Key of a create is remembered",
    ),
    Setting(
        "PROFILES_SESSION_TIMEOUT_MS",
        "session_timeout_ms",
        "10000",
        integer(1_000, 300_000),
        "Kafka group session; the bound on failover of writes",
    ),
    Setting("PROFILES_REQUIRE_IF_MATCH", "require_if_match", "0", flag, "answer 428 to writes without If-Match"),
    Setting(
        "PROFILES_EMAIL_POLICY",
        "email_policy",
        "public",
        one_of("public", "internal"),
        "internal also allows .local, .test and hosts without a dot",
    ),
    Setting(
        "PROFILES_REQUEST_TIMEOUT_MS",
        "request_timeout_ms",
        "10000",
        integer(100, 600_000),
        "deadline of a request; Request-Timeout may shorten it",
    ),
    Setting(
        "PROFILES_MAX_QUEUED_COMMANDS",
        "max_queued_commands",
        "4096",
        integer(1, 1_000_000),
        "writes that may wait; more are answered 503 overloaded",
    ),
    Setting(
        "PROFILES_MAX_CONNECTIONS",
        "max_connections",
        "1000",
        integer(1, 100_000),
        "open connections; more are answered 503 overloaded",
    ),
    Setting(
        "PROFILES_MAX_LISTENERS",
        "max_listeners",
        "2500",
        integer(0, 100_000),
        "long polls and event streams of the change feed, besides the connections; more are answered 503 "
        "too-many-listeners",
    ),
    Setting(
        "PROFILES_HEADER_TIMEOUT_MS",
        "header_timeout_ms",
        "10000",
        integer(100, 600_000),
        "from connecting, or a request's first byte, to its complete head",
    ),
    Setting(
        "PROFILES_BODY_TIMEOUT_MS",
        "body_timeout_ms",
        "10000",
        integer(100, 600_000),
        "from the head to the body's last byte; without any byte, half of it",
    ),
    Setting(
        "PROFILES_IDLE_TIMEOUT_MS",
        "idle_timeout_ms",
        "75000",
        integer(100, 3_600_000),
        "how long a connection may wait for its next request",
    ),
    Setting(
        "PROFILES_SINK_API_KEY",
        "sink_api_key",
        None,
        str,
        "API key for Elasticsearch or OpenSearch (`replicate`)",
        derived="none",
        is_secret=True,
    ),
    Setting(
        "PROFILES_SINK_API_KEY_FILE",
        "sink_api_key_file",
        None,
        directory,
        "file that holds it instead",
        derived="none",
    ),
    Setting(
        "PROFILES_SINK_USERNAME",
        "sink_username",
        None,
        str,
        "user for Elasticsearch or OpenSearch, instead of a key",
        derived="none",
    ),
    Setting(
        "PROFILES_SINK_PASSWORD",
        "sink_password",
        None,
        str,
        "that user's password",
        derived="none",
        is_secret=True,
    ),
    Setting(
        "PROFILES_SINK_PASSWORD_FILE",
        "sink_password_file",
        None,
        directory,
        "file that holds the password instead",
        derived="none",
    ),
    Setting(
        "PROFILES_SINK_CA_FILE",
        "sink_ca_file",
        None,
        directory,
        "certificate authorities (PEM) for https to Elasticsearch or OpenSearch",
        derived="those of the system",
    ),
    Setting(
        "PROFILES_LOG_FORMAT",
        "log_format",
        "console",
        one_of("console", "json"),
        "console for people, json for machines",
    ),
    Setting(
        "PROFILES_LOG_LEVEL",
        "log_level",
        "info",
        one_of("debug", "info", "warning", "error"),
        "least severe messages that are logged",
    ),
)
