"""What a caller gives to the fenced table and what it gets back: commands, decisions, outcomes. Values only, no I/O.

Three outcomes are kept apart, because the caller's next step differs: *written* (or decided without a write), *not
written* (certainly, and for ever), *unknown*. Source of the division: etcd's robustness tests and Jepsen's histories.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from streams.errors import Unavailable
from streams.records import ProducerRecord, TopicPartition

#: The header that carries a command's event id.
EVENT_ID = "ce_id"


class View(Protocol):
    """The state on which a command is decided: all that is applied, and what this group has decided before it."""

    def get(self, store: str, partition: int, key: bytes) -> bytes | None:
        """Return the row, or None. *partition* must be one of the command's."""
        ...


class Decision(NamedTuple):
    """What a command does: *records* to append (none: it changes nothing) and the *result* for its caller.

    A refusal (a version that does not match, an e-mail that is taken) is a result without records.
    """

    records: Sequence[ProducerRecord]
    result: Any


class Command(Protocol):
    """A change of keys of one or more partitions, decided by their owner, inside its write section."""

    @property
    def partitions(self) -> Sequence[int]:
        """Every partition that `decide` reads or writes."""
        ...

    @property
    def event_id(self) -> bytes:
        """A fresh id of this attempt, 16 bytes; each of its records must carry it in the header `ce_id` (as the text
        of a UUID), by which it is found again after an unknown outcome. Of a command for one partition it is enough
        that one record of a table does: a group is in the log as a whole or not at all."""
        ...

    def decide(self, view: View) -> Decision:
        """Return what to do. Pure: it may be called more than once, when a group has to be decided again."""
        ...


@dataclass(frozen=True, slots=True)
class Decided:
    """The command's *result* holds. Where it wrote: the records were read back and applied, and *positions* names the
    offset after them in each partition written (empty: it wrote nothing)."""

    result: Any
    positions: Mapping[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was written and nothing will be: *error* (Overloaded, Restoring, NotOwner, Draining, NotWritten, or
    RecordTooLarge) says why."""

    error: Unavailable | Exception


@dataclass(frozen=True, slots=True)
class Unknown:
    """The command may be in the log now, later, or never; its deadline came first."""

    event_id: bytes


Outcome = Decided | Refused | Unknown
