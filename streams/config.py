"""The settings of the runtime: one frozen value, checked when it is made. The application says where they come from."""

from dataclasses import dataclass

from streams.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """Bounds and times of a node.

    `format_version`: of the application's rows; another one in a store means that it is rebuilt.
    `max_queued_commands`: commands that may wait before new ones are refused as overloaded.
    `max_group_commands`: commands that share one transaction.
    `append_timeout_s`: how long one append or fence may take before its outcome counts as unknown.
    `start_timeout_s`: how long one attempt to check or create the topics may take; it is repeated until it succeeds.
    """

    node_id: str
    format_version: int
    max_queued_commands: int = 4096
    max_group_commands: int = 256
    append_timeout_s: float = 5.0
    start_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not self.node_id:
            raise ConfigError("node_id must not be empty")
        for name in ("max_queued_commands", "max_group_commands", "append_timeout_s", "start_timeout_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be greater than 0, not {getattr(self, name)}")
