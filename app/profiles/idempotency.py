"""Create with an Idempotency-Key: a retry meets the record of the first attempt and gets its outcome again.

The record lies in the log under a hash of caller and key, written in the transaction of the profile: both are there or
neither is. A refused create (409, 422) leaves none. The fingerprint is taken of what the payload means, so the order of
members, or how a letter is escaped, makes no other payload. Source of the behaviour: Stripe's API; IETF draft
idempotency-key-header-07.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from orjson import dumps, loads

from app.profiles import model
from app.profiles.claims import NOTHING_KNOWN, Claims, Domain, Known, Unclaimed
from app.profiles.commands import Done, creation_records
from app.profiles.events import Event
from app.profiles.model import NewProfile
from app.profiles.results import IdempotencyKeyReused, ProfileGone
from app.profiles.topics import PROFILE_STORE, REQUEST_STORE
from streams.runtime.commands import Decision, View

_CREATED = 201


def request_key(caller: str, idempotency_key: str) -> bytes:
    """Return the key under which a create is remembered: 32 bytes. *caller* is empty without authentication."""
    # Hashed apart first, so that no pair can be split in another place and give the same bytes.
    digest = hashlib.sha256(hashlib.sha256(caller.encode("utf-8", "surrogatepass")).digest())
    digest.update(idempotency_key.encode("utf-8", "surrogatepass"))
    return digest.digest()


def fingerprint_of(content: NewProfile) -> str:
    """Return a hash of what was asked for: equal for payloads that would make equal profiles."""
    return hashlib.sha256(dumps([content.username, content.address.display])).hexdigest()


@dataclass(frozen=True, slots=True)
class IdempotentCreate:
    """A create that is remembered. The uid was drawn for the partition of `key`, so that record and profile have one
    owner; the e-mail may have another. `now_ms` judges the age of what is found, against `ttl_ms`."""

    domain: Domain
    event: Event
    partitions: Sequence[int]
    uid: str
    content: NewProfile
    key: bytes
    fingerprint: str
    now_ms: int
    ttl_ms: int
    known: Known = NOTHING_KNOWN

    @property
    def event_id(self) -> bytes:
        return self.event.id

    def decide(self, view: View) -> Decision:
        """See Command."""
        partition = self.domain.partition_of(self.key)
        row = view.get(REQUEST_STORE, partition, self.key)
        if row is not None:
            found = loads(row)
            if self.now_ms - found["at"] < self.ttl_ms:
                return Decision((), self._repeat(view, found["uid"], found["fingerprint"]))
        uid, email_key = self.uid.encode(), self.content.address.key
        claims = Claims(self.domain, view, self.partitions, self.known)
        is_away = claims.is_away(email_key)
        if is_away:
            if not claims.is_granted(email_key, 1):
                return Decision((), Unclaimed(email_key, uid, 1))
        else:
            obstacle = claims.obstacle(email_key, uid)
            if obstacle is not None:
                return Decision((), obstacle)
        profile = model.created(self.uid, self.content, self.event.time)
        claim, state = creation_records(self.domain, self.event, profile)
        value = dumps({"fingerprint": self.fingerprint, "uid": self.uid, "status": _CREATED, "at": self.now_ms})
        memory = self.domain.records.request(
            self.event, partition=partition, key=self.key, value=value, uid=uid, version=1
        )
        records = (memory, state) if is_away else (claim, memory, state)
        return Decision(records, Done(profile.stored, is_created=True))

    def _repeat(self, view: View, uid: str, fingerprint: str) -> Done | IdempotencyKeyReused | ProfileGone:
        """Return the first outcome again, with the representation as it is now."""
        if fingerprint != self.fingerprint:
            return IdempotencyKeyReused("the key was used with another payload")
        row = view.get(PROFILE_STORE, self.domain.partition_of(uid.encode()), uid.encode())
        if row is None:
            return ProfileGone(uid)
        return Done(model.from_row(row).stored, is_created=True, is_changed=False)
