"""The commands that owners of e-mails and of profiles carry out for each other: claim, held, release, vacate; and the
barrier, which proves that whoever answers was the owner.

Pure, as all commands. The rules R1 to R12 are those of `tests/simulation/claims.py`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from app.profiles.claims import NOTHING_KNOWN, Claims, Domain, Known, Moved
from app.profiles.events import Event
from app.profiles.rows import email_key_of
from app.profiles.topics import PROFILE_STORE
from streams.partitioner import partition_for
from streams.records import ProducerRecord
from streams.runtime.commands import Command, Decision, View


class ProfileCommand(Command, Protocol):
    """A command of this service."""

    @property
    def domain(self) -> Domain: ...

    @property
    def event(self) -> Event: ...


class Granted(NamedTuple):
    """The claim is written."""


class Overtaken(NamedTuple):
    """The claim that was asked for is older than the one that the same profile has: a late copy of a request."""


class Settled(NamedTuple):
    """Whether a claim holds, or that nothing is left to do about it."""

    is_held: bool


@dataclass(frozen=True, slots=True)
class Proven:
    """Another command, whose result is worth nothing from a node that is no owner any more. Where it writes nothing, a
    barrier is written instead: the fence of that append covers all that was read."""

    inner: ProfileCommand

    @property
    def partitions(self) -> Sequence[int]:
        return self.inner.partitions

    @property
    def event_id(self) -> bytes:
        return self.inner.event_id

    def decide(self, view: View) -> Decision:
        """See Command."""
        records, result = self.inner.decide(view)
        return Decision(records or (_barrier(self.inner.domain, self.inner.event, self.partitions[0]),), result)


@dataclass(frozen=True, slots=True)
class Barrier:
    """Nothing but a barrier: when it is decided, all that was decided before it has an outcome."""

    domain: Domain
    event: Event
    partitions: Sequence[int]

    @property
    def event_id(self) -> bytes:
        return self.event.id

    def decide(self, view: View) -> Decision:
        """See Command."""
        return Decision((_barrier(self.domain, self.event, self.partitions[0]),), None)


@dataclass(frozen=True, slots=True)
class Holds:
    """At the owner of a profile: does it carry the e-mail, or will a command of this node perhaps make it? (R1)"""

    domain: Domain
    event: Event
    partitions: Sequence[int]
    uid: bytes
    email_key: bytes
    known: Known

    @property
    def event_id(self) -> bytes:
        return self.event.id

    def decide(self, view: View) -> Decision:
        """See Command. No is said behind a barrier (R3)."""
        row = view.get(PROFILE_STORE, self.domain.partition_of(self.uid), self.uid)
        is_carried = row is not None and email_key_of(row) == self.email_key
        if is_carried or (self.uid, self.email_key) in self.known.marks:
            return Decision((), Settled(is_held=True))
        return Decision((_barrier(self.domain, self.event, self.partitions[0]),), Settled(is_held=False))


@dataclass(frozen=True, slots=True)
class Claim:
    """At the owner of an e-mail: claim it for *version* of a profile that another node owns. The op of the claim is
    this event's, which is drawn here: that of the request would come again in a copy of it (R5)."""

    domain: Domain
    event: Event
    partitions: Sequence[int]
    email_key: bytes
    uid: bytes
    version: int
    known: Known

    @property
    def event_id(self) -> bytes:
        return self.event.id

    def decide(self, view: View) -> Decision:
        """See Command."""
        claims = Claims(self.domain, view, self.partitions, self.known)
        claim = claims.find(self.email_key)
        if isinstance(claim, Moved):
            return Decision((), claim)
        if claim is not None and claim.uid == self.uid and claim.version > self.version:  # R6
            return Decision((), Overtaken())
        obstacle = claims.obstacle(self.email_key, self.uid)
        if obstacle is not None:
            return Decision((), obstacle)
        record = self.domain.records.claim(
            self.event,
            partition=self.domain.partition_of(self.email_key),
            email_key=self.email_key,
            uid=self.uid,
            version=self.version,
        )
        return Decision((record,), Granted())


@dataclass(frozen=True, slots=True)
class Unclaim:
    """At the owner of an e-mail: remove the claim of the profile *uid*. With *version*: the profile has not carried the
    e-mail since that version, so what is older goes (R10). Without: only if it does not hold (R11)."""

    domain: Domain
    event: Event
    partitions: Sequence[int]
    email_key: bytes
    uid: bytes
    version: int | None
    known: Known = NOTHING_KNOWN

    @property
    def event_id(self) -> bytes:
        return self.event.id

    def decide(self, view: View) -> Decision:
        """See Command."""
        claims = Claims(self.domain, view, self.partitions, self.known)
        claim = claims.find(self.email_key)
        if isinstance(claim, Moved):
            return Decision((), claim)
        version = self.version
        if claim is None or claim.uid != self.uid:
            return Decision((), Settled(is_held=False))
        if version is None:
            obstacle = claims.obstacle(self.email_key, None)
            if obstacle is not None:
                return Decision((), obstacle)
            version = claim.version
        elif claim.version >= version:
            return Decision((), Settled(is_held=False))
        record = self.domain.records.release(
            self.event,
            partition=self.domain.partition_of(self.email_key),
            email_key=self.email_key,
            uid=self.uid,
            version=version,
        )
        return Decision((record,), Settled(is_held=False))


def _barrier(domain: Domain, event: Event, partition: int) -> ProducerRecord:
    return domain.records.barrier(event, partition=partition, key=_barrier_key(partition, domain.partitions))


@lru_cache(maxsize=4096)
def _barrier_key(partition: int, partitions: int) -> bytes:
    """Return the key of the barriers of a partition: always the same, so that compaction leaves one at most."""
    number = 0
    while True:
        key = hashlib.sha256(b"barrier %d" % number).digest()
        if partition_for(key, partitions) == partition:
            return key
        number += 1
