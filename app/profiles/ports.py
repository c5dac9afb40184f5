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

    def check_settled(self, key: bytes) -> None: ...

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


class Owners(Protocol):
    """The owners of other partitions, as far as settling e-mails needs them (`app.profiles.remote_claims`). Event loop.

    Each call finds the owner of *partition* and raises Unavailable when he did not answer before *deadline*: he may
    have done what was asked or not, or may yet do it.
    """

    def is_mine(self, partition: int) -> bool:
        """Say whether this node owns *partition*, as far as it knows."""
        ...

    async def wait(self, deadline: Deadline) -> None:
        """Return when it may be known better who owns what: something moves. Raises Unavailable at *deadline*."""
        ...

    async def claim(
        self, partition: int, email_key: bytes, uid: bytes, version: int, deadline: Deadline
    ) -> bytes | None:
        """Have the e-mail claimed for *version* of the profile *uid*. Return None when it is, or else who has it."""
        ...

    async def held(self, partition: int, uid: bytes, email_key: bytes, deadline: Deadline) -> bool:
        """Say whether the profile *uid* carries the e-mail, or a command that may make it so is under way."""
        ...

    async def release(
        self, partition: int, email_key: bytes, uid: bytes, version: int | None, deadline: Deadline
    ) -> None:
        """Have the claim of *uid* removed: what is older than *version*; with None, if it does not hold."""
        ...
