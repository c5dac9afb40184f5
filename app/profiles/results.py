"""What the profile service answers, as values without HTTP: one class for each thing that can come of a request.

The HTTP edge maps each class to a status (`app/http/errors.py`); the decisions of `app/profiles/model.py` make them.
Errors that are not a decision (restoring, overloaded, not written, unknown outcome) are exceptions of `streams.errors`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streams.errors import NotOwner, Unavailable
from streams.records import TopicPartition


class Stored(NamedTuple):
    """A profile as it is now. `body` is served as it is; `version` makes the ETag."""

    uid: str
    version: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Written:
    """A write that is in the log and applied (or that had nothing to change: `positions` empty, `is_changed` False).

    `profile` is None after a delete. `is_created`: the answer is 201. `positions` makes the `Profile-Position` token.
    """

    profile: Stored | None
    is_created: bool
    is_changed: bool
    positions: Mapping[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class ServedBy:
    """Where a read came from: `role` owner, standby or observer; `position` is the applied offset of the profile's
    partition; `staleness_ms` 0 for an owner with a lease or behind the strict barrier."""

    node: str
    role: str
    position: int
    staleness_ms: int
    hops: int


@dataclass(frozen=True, slots=True)
class Read:
    """A profile that was found."""

    profile: Stored
    served_by: ServedBy


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the list. `next_cursor` is None after the last. `missing`: the partitions that nobody could read, of
    which nothing is on it; none unless the caller allowed it."""

    bodies: Sequence[bytes]
    next_cursor: str | None
    served_by: ServedBy
    missing: Sequence[int] = ()


class Scan(NamedTuple):
    """The first rows of some partitions, by uid: pairs of uid and body. `partitions`: those that were looked at,
    each of them whole, as far as the limit allows. `served_by` is of the oldest among them; None without any."""

    rows: Sequence[tuple[bytes, bytes]]
    partitions: Sequence[int]
    served_by: ServedBy | None


@dataclass(frozen=True, slots=True)
class FieldError:
    """One fault of a request's content. `pointer`: a JSON pointer as a fragment (`#/email`); `code`: a stable word."""

    pointer: str
    code: str
    detail: str


class Rejection(Exception):
    """The request is answered with a refusal. Subclasses are raised by the service and mapped by the HTTP edge."""


class ProfileNotFound(Rejection):
    """No live profile has this uid (404). `uid` is None where it was searched by e-mail."""

    def __init__(self, uid: str | None, served_by: ServedBy | None = None) -> None:
        super().__init__("no such profile")
        self.uid = uid
        self.served_by = served_by


class VersionMismatch(Rejection):
    """`If-Match` names none of the current versions (412)."""

    def __init__(self, current_version: int) -> None:
        super().__init__(f"the version is {current_version}")
        self.current_version = current_version


class PreconditionRequired(Rejection):
    """The service demands `If-Match` and the request has none (428)."""


class ValidationFailed(Rejection):
    """The content of the request breaks rules (422)."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{error.pointer} {error.code}" for error in errors))
        self.errors = tuple(errors)


class EmailTaken(Rejection):
    """Another live profile holds the e-mail (409)."""

    def __init__(self, existing_uid: str) -> None:
        super().__init__("another profile has this e-mail")
        self.existing_uid = existing_uid


class ProfileDiffers(Rejection):
    """A profile cannot be restored: there is one of this uid, with another content or version (409)."""

    def __init__(self, uid: str, current_version: int) -> None:
        super().__init__("there is another state of this profile")
        self.uid = uid
        self.current_version = current_version


class IdempotencyKeyReused(Rejection):
    """The key was used with another payload (422)."""


class IdempotencyInProgress(Rejection):
    """A request with this key is still running (409 with Retry-After)."""


class ProfileGone(Rejection):
    """The profile that a repeated create made, or that is to be restored, was deleted since (410)."""

    def __init__(self, uid: str) -> None:
        super().__init__("the profile was deleted")
        self.uid = uid


class BadCursor(Rejection):
    """A cursor or position token is malformed, forged, or of another topic (400). `parameter`: where it came from."""

    def __init__(self, parameter: str) -> None:
        super().__init__(f"{parameter} is not one that this service gave out")
        self.parameter = parameter


class WriteOutcomeUnknown(Rejection):
    """The write may or may not have happened (504)."""

    def __init__(self, uid: str, event_id: str) -> None:
        super().__init__("the outcome is not known")
        self.uid = uid
        self.event_id = event_id


class ClaimElsewhere(NotOwner):
    """The e-mail is claimed for *uid*, whose profile this node cannot read now (*why*): its owner, or this node in a
    moment, knows whether the claim holds."""

    def __init__(self, uid: str, partition: int, why: Unavailable) -> None:
        super().__init__("the profile of this claim cannot be read here", partition=partition)
        self.uid = uid
        self.why = why
