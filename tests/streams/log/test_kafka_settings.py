"""The settings of the Kafka clients: what correctness hangs on is as it must be, and nobody can change it."""

import pytest

from streams.errors import ConfigError
from streams.log.kafka.settings import KafkaSettings, member_config, producer_config


@pytest.mark.parametrize("session_timeout_ms", [1_000, 10_000, 45_000])
def test_a_transaction_is_given_up_no_later_than_a_session(session_timeout_ms: int) -> None:
    """The open transaction of a node that is gone would hold back all readers of its partitions for the rest."""
    settings = KafkaSettings("localhost:9092", "app", "n1", session_timeout_ms=session_timeout_ms)
    assert producer_config(settings)["transaction_timeout_ms"] <= member_config(settings)["session_timeout_ms"]


@pytest.mark.parametrize(
    "name", ["transaction_timeout_ms", "isolation_level", "acks", "client_rack", "group_instance_id"]
)
def test_what_correctness_hangs_on_cannot_be_overridden(name: str) -> None:
    """An operator is told so at the start."""
    with pytest.raises(ConfigError, match=name):
        KafkaSettings("localhost:9092", "app", "n1", client_overrides={name: "1"})
