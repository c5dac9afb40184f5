"""Every setting of every Kafka client, with the reason for each value that differs from kafka-python's default.

Nothing here connects. Invariant: no override can change a setting on which correctness hangs.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from streams.errors import ConfigError

logger = logging.getLogger(__name__)

#: Settings that are part of the protocol of the fence or of the readers, and so not the operator's to change.
# fmt: off
_OURS = frozenset(
    (
        # With a rack the reader might fetch from a replica that lags, and call itself caught up.
        "acks", "auto_offset_reset", "bootstrap_servers", "client_id", "client_rack", "enable_auto_commit",
        "enable_idempotence", "group_id", "group_instance_id", "isolation_level", "kafka_client", "key_deserializer",
        "key_serializer",
        "max_poll_interval_ms", "partitioner", "partition_assignment_strategy", "session_timeout_ms",
        "transactional_id", "transaction_timeout_ms", "value_deserializer", "value_serializer",
    )
)
# fmt: on

#: How long one request may take before its connection is given up. Shorter than kafka-python's 30 s, so that a frozen
#: broker is noticed within a caller's deadline.
REQUEST_TIMEOUT_MS = 5_000


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """How to reach Kafka and as whom. Checked when made: raises ConfigError.

    *application_id* is the group id and the prefix of transactional ids; *node_id* must be unique in the group.
    *session_timeout_ms* bounds how long a dead node holds its partitions. *client_overrides* are settings of
    kafka-python by name (`security_protocol`, ...), given to every client that knows them.
    """

    bootstrap_servers: str
    application_id: str
    node_id: str
    session_timeout_ms: int = 10_000
    client_overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("bootstrap_servers", "application_id", "node_id"):
            if not getattr(self, name):
                raise ConfigError(f"{name} must not be empty")
        if self.session_timeout_ms < 1000:
            raise ConfigError(f"session_timeout_ms is {self.session_timeout_ms}, the least that works is 1000")
        known = {*KafkaConsumer.DEFAULT_CONFIG, *KafkaProducer.DEFAULT_CONFIG, *KafkaAdminClient.DEFAULT_CONFIG}
        for name in self.client_overrides:
            if name not in known:
                raise ConfigError(f"kafka-python has no setting named {name}")
            if name in _OURS:
                raise ConfigError(
                    f"the Kafka setting {name} cannot be overridden: the application depends on its value"
                )
        for make in (reader_config, member_config, offsets_config, producer_config, admin_config):
            make(self)

    @property
    def transactional_id(self) -> str:
        """The id of this node's one producer: a new producer of the same id fences the one before it."""
        return f"{self.application_id}-{self.node_id}"

    @property
    def rebalance_timeout_ms(self) -> int:
        """How long the coordinator waits for a member to rejoin before it gives its partitions away."""
        return 10_000

    @property
    def max_request_size(self) -> int:
        """The largest record that the producer sends, in bytes."""
        chosen = {**KafkaProducer.DEFAULT_CONFIG, **_overrides(self, KafkaProducer.DEFAULT_CONFIG)}
        return int(chosen["max_request_size"])


def consumer_config(settings: KafkaSettings, role: str) -> dict[str, Any]:
    """Return the settings that all consumers share; *role* ends the client id."""
    return {
        **_common(settings, role),
        "isolation_level": "read_committed",  # also makes `committed` wait for undecided transactions (KIP-447)
        "auto_offset_reset": "none",  # a reset would resurrect deleted rows; the store must be rebuilt instead
        "enable_auto_commit": False,  # positions come from the store
        "metrics_enabled": False,  # they cost on each record, and nobody reads them
        "allow_auto_create_topics": False,  # a topic made by accident would not be compacted
        **_overrides(settings, KafkaConsumer.DEFAULT_CONFIG),
    }


def reader_config(settings: KafkaSettings) -> dict[str, Any]:
    """Return the settings of the consumer that reads assigned partitions, without a group."""
    return {
        **consumer_config(settings, "reader"),
        "group_id": None,
        "max_partition_fetch_bytes": 8 * 1024 * 1024,  # a restore is bound by round trips otherwise
        "fetch_max_bytes": 16 * 1024 * 1024,  # of one response, which is held in memory whole
        # A new assignment waits for the fetch in flight, and an idle reader learns the ends by it; records end it.
        "fetch_max_wait_ms": 150,
        "retry_backoff_ms": 20,  # also how long kafka-python sleeps when nothing is fetchable
        **_overrides(settings, KafkaConsumer.DEFAULT_CONFIG),
    }


def member_config(settings: KafkaSettings) -> dict[str, Any]:
    """Return the settings of the consumer that is the node's member of the group and never fetches; the membership
    adds its assignor."""
    return {
        **consumer_config(settings, "member"),
        "group_id": settings.application_id,
        "session_timeout_ms": settings.session_timeout_ms,
        # The lease is renewed by heartbeats, and a rebalance is noticed by them: a partition that moves has no owner
        # for up to two intervals.
        "heartbeat_interval_ms": min(100, settings.session_timeout_ms // 4),
        "max_poll_interval_ms": settings.rebalance_timeout_ms,  # kafka-python sends it as the rebalance timeout
        "retry_backoff_ms": 20,
        "metadata_max_age_ms": 5_000,  # a member that assigned on old metadata assigns again so much later
    }


def offsets_config(settings: KafkaSettings) -> dict[str, Any]:
    """Return the settings of the consumer that asks for committed and end offsets."""
    return {**consumer_config(settings, "offsets"), "group_id": settings.application_id, "retry_backoff_ms": 5}


def producer_config(settings: KafkaSettings) -> dict[str, Any]:
    """Return the settings of the transactional producer."""
    return {
        **_common(settings, "writer"),
        "transactional_id": settings.transactional_id,
        # At most the session: else the records of a zombie hold back all readers after its partitions moved.
        "transaction_timeout_ms": settings.session_timeout_ms,
        "acks": "all",
        # After a commit the coordinator answers CONCURRENT_TRANSACTIONS for a moment: with the default of 100 ms each
        # transaction takes 107 ms instead of 2.4 ms.
        "retry_backoff_ms": 2,
        "max_block_ms": REQUEST_TIMEOUT_MS,  # of `send` and `init_transactions`
        "delivery_timeout_ms": 2 * REQUEST_TIMEOUT_MS,
        # A second batch for a partition waits for the first one's answer: one batch should take a whole group.
        "batch_size": 256 * 1024,
        "metrics_enabled": False,
        "allow_auto_create_topics": False,
        **_overrides(settings, KafkaProducer.DEFAULT_CONFIG),
    }


def outside_config(settings: KafkaSettings) -> dict[str, Any]:
    """Return the settings of a producer for input, which takes part in no transaction."""
    transactional = ("transactional_id", "transaction_timeout_ms")
    chosen = {name: value for name, value in producer_config(settings).items() if name not in transactional}
    return {**chosen, **_common(settings, "producer"), "enable_idempotence": True, "linger_ms": 2}


def admin_config(settings: KafkaSettings) -> dict[str, Any]:
    """Return the settings of the admin client."""
    return {**_common(settings, "admin"), **_overrides(settings, KafkaAdminClient.DEFAULT_CONFIG)}


def tame_logging() -> None:
    """Let kafka-python log errors alone: it reports every reconnect, join and retry at INFO and WARNING (and, at DEBUG,
    whole records), while this package says once what an operator needs. A level that was set explicitly is kept."""
    library = logging.getLogger("kafka")
    if library.level == logging.NOTSET:
        library.setLevel(logging.CRITICAL)
    if find_spec("crc32c") is None:
        logger.warning("kafka-python computes checksums in Python: reading is 4 times slower; install crc32c")


def _common(settings: KafkaSettings, role: str) -> dict[str, Any]:
    return {
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        "client_id": f"{settings.application_id}-{settings.node_id}-{role}",
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        "bootstrap_timeout_ms": 2_000,  # of one attempt; whoever opens a client tries again
        "reconnect_backoff_max_ms": 1_000,  # 30 s by default: too long after a broker's return
    }


def _overrides(settings: KafkaSettings, known: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _typed(name, value, known[name]) for name, value in settings.client_overrides.items() if name in known
    }


def _typed(name: str, value: Any, default: Any) -> Any:
    """Return *value*, which may be the text of an environment variable, in the type of the setting's default."""
    if not isinstance(value, str) or isinstance(default, str):
        return value
    if isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"the Kafka setting {name} is {value!r}, neither true nor false")
        return value.lower() == "true"
    if isinstance(default, int | float):
        try:
            return int(value)
        except ValueError:
            raise ConfigError(f"the Kafka setting {name} is {value!r}, not a whole number") from None
    return value
