"""Restoring a profile: written under the uid, version and times that an export says it had, where nothing is of it yet.

The decision is pure. To the claims of e-mails a restore is a change of e-mail from none, driven by the owner of the
uid (rules R1 to R13 of `tests/simulation/claims.py`). Invariants: what is there is never overwritten; a uid that is
known to have been deleted is never used again, so that its versions never go back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.profiles import model
from app.profiles.claims import NOTHING_KNOWN, Claims, Domain, Known, Unclaimed
from app.profiles.commands import Done, creation_records
from app.profiles.deletions import is_deleted
from app.profiles.events import Event
from app.profiles.model import Profile
from app.profiles.results import ProfileDiffers, ProfileGone
from app.profiles.rows import body_of, event_id_of, version_of
from app.profiles.topics import PROFILE_STORE
from streams.runtime.commands import Decision, View


@dataclass(frozen=True, slots=True)
class Restore:
    """The profile as it was exported. `partitions`: the uid's first. `is_own_export`: it was exported from this very
    topic, which loses nothing: what is not there was deleted. `now_ms` judges, against `ttl_ms`, what is remembered.
    """

    domain: Domain
    event: Event
    partitions: Sequence[int]
    profile: Profile
    is_own_export: bool
    now_ms: int
    ttl_ms: int
    known: Known = NOTHING_KNOWN

    @property
    def event_id(self) -> bytes:
        return self.event.id

    @property
    def uid(self) -> str:
        return self.profile.uid

    def decide(self, view: View) -> Decision:
        """See Command."""
        profile, uid = self.profile, self.uid.encode()
        row = view.get(PROFILE_STORE, self.domain.partition_of(uid), uid)
        if row is not None:
            if event_id_of(row) == self.event.id:
                return Decision((), Done(model.from_row(row).stored, is_created=True))
            if body_of(row) == profile.body:
                return Decision((), Done(profile.stored, is_changed=False))
            return Decision((), ProfileDiffers(self.uid, version_of(row)))
        if self.is_own_export or is_deleted(self.domain, view, uid, now_ms=self.now_ms, ttl_ms=self.ttl_ms):
            return Decision((), ProfileGone(self.uid))
        email_key = profile.address.key
        claims = Claims(self.domain, view, self.partitions, self.known)
        is_away = claims.is_away(email_key)
        if is_away:
            if not claims.is_granted(email_key, profile.version):
                return Decision((), Unclaimed(email_key, uid, profile.version))
        else:
            obstacle = claims.obstacle(email_key, uid)
            if obstacle is not None:
                return Decision((), obstacle)
        claim, state = creation_records(self.domain, self.event, profile)
        return Decision((state,) if is_away else (claim, state), Done(profile.stored, is_created=True))
