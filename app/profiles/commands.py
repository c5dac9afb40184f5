"""The commands of the fenced table: create, update, delete, each decided by the owner inside its write section.

Pure: a decision takes the view and gives records and a result. Refusals are results, not exceptions. Invariants: a
claim is written in the transaction of the profile that needs it, before it; an e-mail that a live profile carries is
never claimed for another; a claim is released only by the profile that it names.

Order of checks (design: syntax before, then): 404, 412 and 428, 422, 409.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.profiles import model
from app.profiles.claims import NOTHING_KNOWN, Claims, Domain, Known, Moved, Release, Unclaimed
from app.profiles.deletions import deletion_record
from app.profiles.events import CREATED, DELETED, UPDATED, Event
from app.profiles.model import Change, NewProfile, Profile
from app.profiles.requests import ANY, IfMatch
from app.profiles.results import (
    PreconditionRequired,
    ProfileNotFound,
    Rejection,
    Stored,
    ValidationFailed,
    VersionMismatch,
)
from app.profiles.rows import email_key_of, event_id_of, version_of
from app.profiles.topics import PROFILE_STORE
from streams.records import ProducerRecord
from streams.runtime.commands import Decision, View


class Done(NamedTuple):
    """The result of a command that was carried out, in this attempt or an earlier one. `profile` None: deleted.
    `left`: the claim of the old e-mail, which another owner has to release."""

    profile: Stored | None
    is_created: bool = False
    is_changed: bool = True
    left: Release | None = None


@dataclass(frozen=True, slots=True)
class Create:
    """A new profile with a uid that was drawn for it. No other command can know the uid before this one is answered."""

    domain: Domain
    event: Event
    partitions: Sequence[int]
    uid: str
    content: NewProfile
    known: Known = NOTHING_KNOWN

    @property
    def event_id(self) -> bytes:
        return self.event.id

    def decide(self, view: View) -> Decision:
        """See Command. A uid that is there already was written by an earlier attempt of this very command."""
        uid = self.uid.encode()
        row = view.get(PROFILE_STORE, self.domain.partition_of(uid), uid)
        if row is not None:
            return Decision((), Done(model.from_row(row).stored, is_created=True))
        obstacle = Claims(self.domain, view, self.partitions, self.known).obstacle(self.content.address.key, uid)
        if obstacle is not None:
            return Decision((), obstacle)
        profile = model.created(self.uid, self.content, self.event.time)
        return Decision(creation_records(self.domain, self.event, profile), Done(profile.stored, is_created=True))


def creation_records(domain: Domain, event: Event, profile: Profile) -> tuple[ProducerRecord, ProducerRecord]:
    """Return claim and profile, in the order in which they must be in the log."""
    uid, key, version = profile.uid.encode(), profile.address.key, profile.version
    return (
        domain.records.claim(event, partition=domain.partition_of(key), email_key=key, uid=uid, version=version),
        domain.records.profile(
            event, CREATED, partition=domain.partition_of(uid), uid=uid, version=version, body=profile.body
        ),
    )


@dataclass(frozen=True, slots=True)
class Update:
    """A full replacement or a merge patch of one profile: they differ in what the change leaves out.

    `content` is the failed validation where there was one, so that it is told only after 404, 412 and 428.
    """

    domain: Domain
    event: Event
    partitions: Sequence[int]
    uid: str
    content: Change | ValidationFailed
    if_match: IfMatch
    is_if_match_required: bool
    known: Known = NOTHING_KNOWN

    @property
    def event_id(self) -> bytes:
        return self.event.id

    def decide(self, view: View) -> Decision:
        """See Command."""
        uid = self.uid.encode()
        row = view.get(PROFILE_STORE, self.domain.partition_of(uid), uid)
        if row is None:
            return Decision((), ProfileNotFound(self.uid))
        if event_id_of(row) == self.event.id:
            return Decision((), Done(model.from_row(row).stored))
        refusal = precondition_failure(version_of(row), self.if_match, is_required=self.is_if_match_required)
        if refusal is not None:
            return Decision((), refusal)
        if isinstance(self.content, ValidationFailed):
            return Decision((), self.content)
        before = model.from_row(row)
        after = model.changed(before, self.content, self.event.time)
        if after is before:
            return Decision((), Done(before.stored, is_changed=False))
        if after.address.key == before.address.key:
            return self._keep_email(view, after)
        return self._change_email(view, before, after)

    def _keep_email(self, view: View, after: Profile) -> Decision:
        """Write the profile, and its claim only when the one it should have was lost, as far as this node can see."""
        uid, key = after.uid.encode(), after.address.key
        claims = Claims(self.domain, view, self.partitions, self.known)
        records = [self._profile(after)]
        if not claims.is_away(key):
            claim = claims.find(key)
            if isinstance(claim, Moved):
                return Decision((), claim)
            if claim is None or claim.uid != uid:
                obstacle = claims.obstacle(key, uid)
                if isinstance(obstacle, Moved):
                    return Decision((), obstacle)
                if obstacle is None:
                    records.insert(0, self._claim(after))
        return Decision(records, Done(after.stored))

    def _change_email(self, view: View, before: Profile, after: Profile) -> Decision:
        """Claim the new e-mail, write the profile (the commit point), release the old e-mail: what is this node's of it
        in one transaction."""
        uid, key = after.uid.encode(), after.address.key
        claims = Claims(self.domain, view, self.partitions, self.known)
        records = [self._profile(after)]
        if claims.is_away(key):
            if not claims.is_granted(key, after.version):
                return Decision((), Unclaimed(key, uid, after.version))
        else:
            obstacle = claims.obstacle(key, uid)
            if obstacle is not None:
                return Decision((), obstacle)
            records.insert(0, self._claim(after))
        release = claims.release(self.event, before.address.key, uid, after.version)
        if isinstance(release, Moved):
            return Decision((), release)
        if isinstance(release, Release):
            return Decision(records, Done(after.stored, left=release))
        return Decision((*records, *release), Done(after.stored))

    def _claim(self, after: Profile) -> ProducerRecord:
        key = after.address.key
        return self.domain.records.claim(
            self.event,
            partition=self.domain.partition_of(key),
            email_key=key,
            uid=after.uid.encode(),
            version=after.version,
        )

    def _profile(self, after: Profile) -> ProducerRecord:
        uid = after.uid.encode()
        return self.domain.records.profile(
            self.event,
            UPDATED,
            partition=self.domain.partition_of(uid),
            uid=uid,
            version=after.version,
            body=after.body,
        )


@dataclass(frozen=True, slots=True)
class Delete:
    """The end of one profile: a tombstone that carries the next version, the memory of it, which begins at `now_ms`,
    and the release of its e-mail."""

    domain: Domain
    event: Event
    partitions: Sequence[int]
    uid: str
    if_match: IfMatch
    is_if_match_required: bool
    now_ms: int
    known: Known = NOTHING_KNOWN

    @property
    def event_id(self) -> bytes:
        return self.event.id

    def decide(self, view: View) -> Decision:
        """See Command."""
        uid = self.uid.encode()
        partition = self.domain.partition_of(uid)
        row = view.get(PROFILE_STORE, partition, uid)
        if row is None:
            return Decision((), ProfileNotFound(self.uid))
        version = version_of(row)
        refusal = precondition_failure(version, self.if_match, is_required=self.is_if_match_required)
        if refusal is not None:
            return Decision((), refusal)
        claims = Claims(self.domain, view, self.partitions, self.known)
        release = claims.release(self.event, email_key_of(row), uid, version + 1)
        if isinstance(release, Moved):
            return Decision((), release)
        tombstone = self.domain.records.profile(
            self.event, DELETED, partition=partition, uid=uid, version=version + 1, body=None
        )
        memory = deletion_record(self.domain, self.event, uid, version + 1, self.now_ms)
        if isinstance(release, Release):
            return Decision((tombstone, memory), Done(None, left=release))
        return Decision((tombstone, memory, *release), Done(None))


def precondition_failure(version: int, if_match: IfMatch, *, is_required: bool) -> Rejection | None:
    """Return why a write of a profile that has *version* may not go on (412, 428), or None."""
    if if_match is None:
        return PreconditionRequired("If-Match is required") if is_required else None
    if if_match == ANY or version in if_match:
        return None
    return VersionMismatch(version)
