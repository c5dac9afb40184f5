"""What clients saw: operations with the times of call and return, and what the log held in the end. Values only.

Times are nanoseconds of one monotonic clock (`time.monotonic_ns` of the recording process). Every write carries a
*mark*, a text that no other write carries (the username), so that any state can be traced to the write that made it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

#: The return time of an operation that never returned: it may take effect at any later time.
NEVER = 2**63


class Kind(StrEnum):
    """What was asked for."""

    GET = "get"
    SEARCH = "search"
    CREATE = "create"
    PUT = "put"
    PATCH = "patch"
    DELETE = "delete"


WRITES = frozenset({Kind.CREATE, Kind.PUT, Kind.PATCH, Kind.DELETE})


class Outcome(StrEnum):
    """What came of it. NOT_WRITTEN: certainly without effect (503). UNKNOWN: with or without (504, or no answer).
    UNSERVED: a read that got no state (503, or no answer). UNEXPECTED: an answer that the contract does not know."""

    OK = "ok"
    NOT_FOUND = "not-found"
    CONFLICT = "conflict"
    MISMATCH = "mismatch"
    NOT_WRITTEN = "not-written"
    UNKNOWN = "unknown"
    UNSERVED = "unserved"
    UNEXPECTED = "unexpected"


@dataclass(slots=True)
class Operation:
    """One request. `mark` and `email`: of the state that a write wants, or a read saw. `version`: that an answer
    carried (of a MISMATCH: the current one). `if_match`: the version demanded, None if none was. `status`: HTTP's, 0
    without an answer. `existing_uid`: whom a CONFLICT named. `attempts`: how often it was sent. `served_by`: who said
    that he answered.

    A read that allowed it may be of an earlier moment: at most `staleness_ns` before its call (NEVER: of any), but
    with at least `least_version` of the profile."""

    client: int
    kind: Kind
    called_ns: int
    uid: str = ""
    email: str | None = None
    mark: str | None = None
    if_match: int | None = None
    returned_ns: int = NEVER
    outcome: Outcome = Outcome.UNKNOWN
    version: int | None = None
    status: int = 0
    existing_uid: str | None = None
    detail: str = field(default="", compare=False)
    staleness_ns: int = 0
    least_version: int = 0
    attempts: int = 1
    served_by: str = field(default="", compare=False)

    @property
    def fresh_ns(self) -> int:
        """The moment from which on it must know everything."""
        return self.called_ns - self.staleness_ns

    @property
    def is_write(self) -> bool:
        return self.kind in WRITES


class LogEntry(NamedTuple):
    """A state of a profile as it is in the log. `mark` None: the tombstone."""

    version: int
    mark: str | None
    email: str | None


#: uid to the states of that profile, in the order of the log.
ProfileLog = Mapping[str, Sequence[LogEntry]]


class Violation(NamedTuple):
    """A promise that was broken: a short word for it, and a sentence with the facts."""

    rule: str
    detail: str
