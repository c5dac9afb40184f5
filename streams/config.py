"""The settings of the runtime: one frozen value, checked when it is made. The application says where they come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from streams.cluster import MEMBER
from streams.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """Bounds and times of a node.

    `format_version`: of the application's rows; another one in a store means that it is rebuilt.
    `address`: `http://host:port`, as peers reach this node. `rack`: standbys lie in another one where that is possible.
    `role`: `member` or `observer`. `num_standby_replicas`: how many other nodes follow each partition.
    `shared_settings`: what must be the same on every node; a member that differs is refused.
    `max_queued_commands`: commands that may wait before new ones are refused as overloaded.
    `max_group_commands`: commands that share one transaction.
    `append_timeout_s`: how long one append or fence may take before its outcome counts as unknown; a fence up to
    three times as long after others that took too long.
    `state_cleanup_delay_s` (Kafka Streams: state.cleanup.delay.ms): how long the state of a partition is kept that this
    node neither owns nor follows.
    `start_timeout_s`: how long one attempt to check or create the topics may take; it is repeated until it succeeds.
    """

    node_id: str
    format_version: int
    address: str = "http://127.0.0.1:1"
    rack: str = ""
    role: str = MEMBER
    num_standby_replicas: int = 0
    shared_settings: Mapping[str, str] = field(default_factory=dict)
    max_queued_commands: int = 4096
    max_group_commands: int = 256
    append_timeout_s: float = 5.0
    start_timeout_s: float = 10.0
    state_cleanup_delay_s: float = 600.0

    def __post_init__(self) -> None:
        if not self.node_id:
            raise ConfigError("node_id must not be empty")
        positive = ("max_queued_commands", "max_group_commands", "append_timeout_s", "start_timeout_s")
        for name in (*positive, "state_cleanup_delay_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be greater than 0, not {getattr(self, name)}")
