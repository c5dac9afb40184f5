"""What the HTTP edge needs of the rest: the profile service, the node it runs on, and somewhere to count.

Protocols only. Everything is called on the event loop and returns at once or is `async`, unless its docstring says that
it may be called from any thread.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from app.profiles.requests import IfMatch, ReadOptions
from app.profiles.results import Page, Read, Written
from streams.clock import Deadline
from streams.records import TopicPartition


class Service(Protocol):
    """The profile service (`app/profiles/service.py`). Refusals are raised as `results.Rejection`, hindrances as
    `streams.errors.StreamsError`; no call outlasts its deadline."""

    def search_now(self, email: str) -> tuple[bytes, bytes, bytes, bytes] | None:
        """Return (body, ETag, Profile-Served-By, uid) of the profile that carries the e-mail, or None: look by
        `search`. Any error means the same."""
        ...

    def get_now(self, uid: bytes) -> tuple[bytes, bytes, bytes] | None:
        """Return (body, ETag, Profile-Served-By) of a profile of this node, or None when it has none."""
        ...

    async def get(self, uid: str, options: ReadOptions, deadline: Deadline) -> Read: ...

    async def search(self, email: str, options: ReadOptions, deadline: Deadline) -> Read: ...

    async def get_claimed(self, uid: str, email: str, options: ReadOptions, deadline: Deadline) -> Read: ...

    def email_key(self, email: str) -> bytes:
        """Return the key whose partition an e-mail is searched in. Raises ValidationFailed."""
        ...

    def create_key(self, document: object, idempotency_key: str | None) -> bytes | None:
        """Return the key whose partition's owner creates this profile; None when nobody will, as it is not valid."""
        ...

    async def page(
        self, *, limit: int, cursor: str | None, options: ReadOptions, deadline: Deadline, is_partial: bool
    ) -> Page: ...

    async def create(self, document: object, *, idempotency_key: str | None, deadline: Deadline) -> Written: ...

    async def replace(self, uid: str, document: object, *, if_match: IfMatch, deadline: Deadline) -> Written: ...

    async def patch(self, uid: str, document: object, *, if_match: IfMatch, deadline: Deadline) -> Written: ...

    async def delete(self, uid: str, *, if_match: IfMatch, deadline: Deadline) -> Written: ...

    async def restore(self, uid: str, document: object, *, source: str | None, deadline: Deadline) -> Written: ...

    def topic_id(self) -> str:
        """Return what tells the topic of profiles from others. Raises Unavailable while the log was never reached."""
        ...

    def position_token(self, positions: Mapping[TopicPartition, int]) -> str:
        """Return the signed `Profile-Position` of a write."""
        ...


class Listing(Protocol):
    """Pages of all profiles: the profile service, or `app.cluster.listing` when several nodes have them."""

    async def page(
        self, *, limit: int, cursor: str | None, options: ReadOptions, deadline: Deadline, is_partial: bool
    ) -> Page: ...


class TaskHealth(Protocol):
    """One partition on this node. `lag_records` are left of it; `percent` is how much of its restore is done."""

    @property
    def partition(self) -> int: ...

    @property
    def state(self) -> str: ...

    @property
    def position(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def lag_records(self) -> int: ...

    @property
    def percent(self) -> float: ...


class Health(Protocol):
    """How the node is."""

    @property
    def is_live(self) -> bool: ...

    @property
    def is_ready(self) -> bool: ...

    @property
    def is_draining(self) -> bool: ...

    @property
    def tasks(self) -> Sequence[TaskHealth]: ...


class QuarantinedRecord(Protocol):
    """A record that could not be processed. Its key and value are not here: they may be personal data."""

    @property
    def topic(self) -> str: ...

    @property
    def partition(self) -> int: ...

    @property
    def offset(self) -> int: ...

    @property
    def reason(self) -> str: ...

    @property
    def at_ms(self) -> int: ...


class NodeView(Protocol):
    """The node that this process runs."""

    def health(self) -> Health: ...

    def quarantine(self, limit: int) -> Sequence[QuarantinedRecord]:
        """Return up to *limit* quarantined records, the newest first. It blocks; any thread."""
        ...


class Metrics(Protocol):
    """Where the edge counts."""

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer. *route* is a URI template, never a path. Called for every request: must take about 1 us."""
        ...

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format 0.0.4. Any thread."""
        ...
