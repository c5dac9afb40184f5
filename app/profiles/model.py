"""What a profile is and what becomes of it: values and pure functions, no I/O, no clock, no HTTP.

Invariants: `version` starts at 1 and grows by one with every effective change; a change that changes nothing gives back
the very same profile; `body` is the representation, encoded once, here, and never again.
"""

from functools import lru_cache
from time import gmtime, strftime
from typing import NamedTuple

from orjson import dumps, loads

from app.profiles.email import Address
from app.profiles.results import Stored
from app.profiles.rows import body_of, email_key_of, version_of


class NewProfile(NamedTuple):
    """The valid content of a create or a full replacement."""

    username: str
    address: Address


class Change(NamedTuple):
    """The valid content of a change: what is None stays as it is. A full replacement sets all."""

    username: str | None
    address: Address | None


class Profile(NamedTuple):
    """A profile as a whole. `body` is its representation: compact UTF-8 JSON, members in this order."""

    uid: str
    username: str
    address: Address
    version: int
    created_at: str
    updated_at: str
    body: bytes

    @property
    def stored(self) -> Stored:
        """What a caller gets of it."""
        return Stored(self.uid, self.version, self.body)


def created(uid: str, content: NewProfile, now: str) -> Profile:
    """Return a new profile. *now*: RFC 3339, see `timestamp`."""
    return _profile(uid, content.username, content.address, 1, now, now)


def restored(uid: str, content: NewProfile, *, version: int, created_at: str, updated_at: str) -> Profile:
    """Return a profile as it once was. Times: RFC 3339, see `timestamp`."""
    return _profile(uid, content.username, content.address, version, created_at, updated_at)


def changed(profile: Profile, change: Change, now: str) -> Profile:
    """Return the profile after *change*: the same object when nothing differs."""
    username = profile.username if change.username is None else change.username
    address = profile.address if change.address is None else change.address
    if username == profile.username and address == profile.address:
        return profile
    return _profile(profile.uid, username, address, profile.version + 1, profile.created_at, now)


def from_row(row: bytes) -> Profile:
    """Return the profile in a row of the profile store."""
    body = body_of(row)
    members = loads(body)
    return Profile(
        members["uid"],
        members["username"],
        Address(members["email"], email_key_of(row)),
        version_of(row),
        members["created_at"],
        members["updated_at"],
        body,
    )


def timestamp(time_ms: int) -> str:
    """Return Unix time in milliseconds as RFC 3339 in UTC, always with three digits of milliseconds."""
    return f"{_second(time_ms // 1000)}.{time_ms % 1000:03d}Z"


@lru_cache(maxsize=4)
def _second(unix_s: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(unix_s))


def _profile(uid: str, username: str, address: Address, version: int, created_at: str, updated_at: str) -> Profile:
    body = dumps(
        {
            "uid": uid,
            "username": username,
            "email": address.display,
            "version": version,
            "created_at": created_at,
            "updated_at": updated_at,
        }
    )
    return Profile(uid, username, address, version, created_at, updated_at, body)
