"""Settings: defaults, every fault reported with what is allowed, secrets masked."""

from pathlib import Path

import pytest

from app.config import AppConfig
from streams.errors import ConfigError

SECRET = "correct horse battery"


def faults(**environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        AppConfig.from_env(environment)
    return str(caught.value)


def test_an_empty_environment_is_a_node_on_loopback_with_the_embedded_log() -> None:
    """The defaults are those that `make run` promises."""
    config = AppConfig.from_env({})
    assert config.address == "127.0.0.1:8080"
    assert config.is_embedded
    assert config.state_dir == Path("data")
    assert config.partitions is None
    assert config.application_server == "http://127.0.0.1:8080"


def test_an_empty_variable_is_an_unset_one() -> None:
    """`PORT= make run` is no error."""
    assert AppConfig.from_env({"PORT": " ", "PROFILES_BOOTSTRAP_SERVERS": ""}).port == 8080


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "0", "a whole number from 1 to 65535"),
        ("PORT", "80a", "a whole number from 1 to 65535"),
        ("PROFILES_BIND", "localhost:80", "without a port"),
        ("PROFILES_BOOTSTRAP_SERVERS", "kafka", "host:port"),
        ("PROFILES_BOOTSTRAP_SERVERS", "kafka:99999", "host:port"),
        ("PROFILES_APPLICATION_ID", "a b", "letters, digits"),
        ("PROFILES_APPLICATION_SERVER", "ftp://a:1", "http://host:port"),
        ("PROFILES_APPLICATION_SERVER", "http://a:1/path", "http://host:port"),
        ("PROFILES_APPLICATION_SERVER", "http://[", "http://host:port"),
        ("PROFILES_REQUIRE_IF_MATCH", "maybe", "1 or 0"),
        ("PROFILES_EMAIL_POLICY", "any", "public, internal"),
        ("PROFILES_LOG_FORMAT", "xml", "console, json"),
        ("PROFILES_IDEMPOTENCY_TTL_MS", "1000", "from 86400000"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: str, allowed: str) -> None:
    """The message holds the variable, the value and the rule."""
    message = faults(**{name: value})
    assert message.startswith(f"{name} is {value!r}, but must be ")
    assert allowed in message


def test_all_faults_are_reported_at_once() -> None:
    """Nobody should mend settings one start at a time."""
    assert len(faults(PORT="x", PROFILES_LOG_LEVEL="loud", PROFILES_SHARDS="3").splitlines()) == 3


def test_an_unknown_variable_is_refused_with_a_suggestion() -> None:
    """A mistyped name must not silently mean the default."""
    assert "did you mean PROFILES_STATE_DIR?" in faults(PROFILES_STATEDIR="/x")


def test_a_secret_is_never_shown() -> None:
    """Neither in a fault, nor in the description, nor in the repr."""
    assert "short" not in faults(PROFILES_CLUSTER_SECRET="short")
    config = AppConfig.from_env(
        {
            "PROFILES_CLUSTER_SECRET": SECRET,
            "PROFILES_BOOTSTRAP_SERVERS": "k:1",
            "PROFILES_KAFKA_SASL_PLAIN_PASSWORD": SECRET,
        }
    )
    assert SECRET not in repr(config)
    assert SECRET not in str(config.describe())


def test_the_description_tells_where_a_setting_comes_from() -> None:
    """What was set, and what was not."""
    rows = {row.name: row for row in AppConfig.from_env({"PORT": "81"}).describe()}
    assert (rows["PORT"].value, rows["PORT"].source) == ("81", "environment")
    assert (rows["PROFILES_BIND"].value, rows["PROFILES_BIND"].source) == ("127.0.0.1", "default")


def test_kafka_settings_get_their_types_and_passwords_stay_text() -> None:
    """kafka-python wants numbers and booleans; a password of digits is still a password."""
    config = AppConfig.from_env(
        {
            "PROFILES_BOOTSTRAP_SERVERS": "a:1, b:2",
            "PROFILES_KAFKA_REQUEST_TIMEOUT_MS": "5000",
            "PROFILES_KAFKA_SSL_CHECK_HOSTNAME": "false",
            "PROFILES_KAFKA_SASL_PLAIN_PASSWORD": "12345",
            "PROFILES_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        }
    )
    assert config.bootstrap_servers == ("a:1", "b:2")
    assert config.kafka == {
        "request_timeout_ms": 5000,
        "ssl_check_hostname": False,
        "sasl_plain_password": "12345",
        "security_protocol": "SASL_SSL",
    }


@pytest.mark.parametrize("option", ["TRANSACTIONAL_ID", "ISOLATION_LEVEL", "ACKS", "GROUP_ID"])
def test_what_the_fence_depends_on_cannot_be_set(option: str) -> None:
    """The operator can tune Kafka, not the promises."""
    message = faults(PROFILES_BOOTSTRAP_SERVERS="a:1", **{f"PROFILES_KAFKA_{option}": "x"})
    assert f"PROFILES_KAFKA_{option} cannot be set" in message


def test_kafka_settings_without_kafka_are_a_contradiction() -> None:
    """Probably the servers were forgotten."""
    assert "PROFILES_BOOTSTRAP_SERVERS is empty" in faults(PROFILES_KAFKA_SECURITY_PROTOCOL="SSL")


@pytest.mark.parametrize(("name", "value"), [("ROLE", "observer"), ("NUM_STANDBY_REPLICAS", "1")])
def test_the_embedded_log_has_no_second_node(name: str, value: str) -> None:
    """An observer or a standby of a log that only this process can open would never see anything."""
    assert "one node only" in faults(**{f"PROFILES_{name}": value})


@pytest.mark.parametrize("bind", ["0.0.0.0", "::"])
def test_on_a_wildcard_kafka_needs_the_address_of_the_node(bind: str) -> None:
    """Nobody can reach 0.0.0.0."""
    assert "PROFILES_APPLICATION_SERVER" in faults(PROFILES_BIND=bind, PROFILES_BOOTSTRAP_SERVERS="a:1")
    assert AppConfig.from_env({"PROFILES_BIND": bind}).local_url in ("http://127.0.0.1:8080", "http://[::1]:8080")


def test_an_address_that_others_reach_needs_a_secret() -> None:
    """Without it anybody who reaches the port could pass for a node."""
    other = {"PROFILES_BOOTSTRAP_SERVERS": "a:1", "PROFILES_APPLICATION_SERVER": "http://node-1:8080"}
    assert "PROFILES_CLUSTER_SECRET is empty" in faults(**other)
    assert AppConfig.from_env({**other, "PROFILES_CLUSTER_SECRET": SECRET})
    assert AppConfig.from_env({"PROFILES_BOOTSTRAP_SERVERS": "a:1"})


def test_more_than_one_worker_is_refused_with_the_reason() -> None:
    """Platforms set WEB_CONCURRENCY; ignoring it would surprise."""
    assert "WEB_CONCURRENCY is '4', but must be 1" in faults(WEB_CONCURRENCY="4")
