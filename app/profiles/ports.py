"""What the profile service needs of the rest: readers of stores, the node, the fenced table, and its own settings.

Protocols and values only. `streams.runtime` provides the real ones.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from app.profiles.email import EmailPolicy
from streams.clock import Deadline
from streams.records import TopicPartition
from streams.runtime.commands import Command, Outcome


class Reader(Protocol):
    """Reads one store of one task (`streams.runtime.node.TaskReader`). Any thread."""

    @property
    def get(self) -> Callable[[bytes], bytes | None]: ...

    @property
    def positions(self) -> Mapping[str, int]: ...

    def scan(self, *, start: bytes, stop: bytes | None, limit: int | None) -> list[tuple[bytes, bytes]]: ...

    def check_lease(self) -> None: ...

    def staleness_ms(self) -> int: ...

    def explain(self, error: Exception) -> Exception: ...

    def report_damage(self, error: BaseException) -> None: ...


class Node(Protocol):
    """What the service needs of the node (`streams.runtime.node.StreamsNode`)."""

    @property
    def node_id(self) -> str: ...

    @property
    def partitions(self) -> int: ...

    @property
    def topic_ids(self) -> Mapping[str, str]: ...

    @property
    def sequence(self) -> int: ...

    def reader(self, store: str, partition: int) -> Reader: ...

    def replica(self, store: str, partition: int) -> Reader: ...

    def role_of(self, partition: int) -> str: ...

    async def barrier(self, partitions: Iterable[int], deadline: Deadline) -> None: ...

    async def wait_applied(self, targets: Mapping[TopicPartition, int], deadline: Deadline) -> None: ...


class Table(Protocol):
    """The fenced table, on the event loop (`streams.runtime.asyncio_table.AsyncTable`)."""

    async def execute(self, command: Command, deadline: Deadline) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """Settings of the service. `token_secret`: at least 16 bytes, the same on all nodes."""

    token_secret: bytes
    email_policy: EmailPolicy = EmailPolicy.PUBLIC
    is_if_match_required: bool = False
    idempotency_ttl_ms: int = 86_400_000
