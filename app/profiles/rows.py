"""The rows of the two state stores: how they are laid out, and the cheapest way to each part. No JSON is parsed here.

A profile's row is a fixed prefix, the e-mail's key, then the body as it is served:

    format u8 | version u64 | event id 16 bytes | length of the e-mail key u16 | e-mail key | body

A claim's row:  format u8 | version u64 | uid 36 bytes | op (the rest, ASCII). All numbers are big-endian. A change of
this layout needs a new FORMAT_VERSION, upon which every store is rebuilt from the log.
"""

from struct import Struct
from typing import NamedTuple

FORMAT_VERSION = 1

_PROFILE = Struct(">BQ16sH")
_PROFILE_SIZE = _PROFILE.size
_KEY_LENGTH_AT = _PROFILE_SIZE - 2
_CLAIM = Struct(">BQ36s")
_CLAIM_SIZE = _CLAIM.size

_pack_profile = _PROFILE.pack
_pack_claim = _CLAIM.pack


class ClaimRow(NamedTuple):
    """Who claims an e-mail: the profile *uid* as of its *version*, by the attempt *op*."""

    uid: bytes
    version: int
    op: bytes


def profile_row(version: int, event_id: bytes, email_key: bytes, body: bytes) -> bytes:
    """Return the row. *event_id*: the 16 bytes of the event that made this state, zeros when it had none."""
    return _pack_profile(FORMAT_VERSION, version, event_id, len(email_key)) + email_key + body


def version_of(row: bytes) -> int:
    """Return the version of a profile's row."""
    return int.from_bytes(row[1:9])


def event_id_of(row: bytes) -> bytes:
    """Return the id of the event that made this profile's row."""
    return row[9:25]


def email_key_of(row: bytes) -> bytes:
    """Return the key of the e-mail that a profile's row carries."""
    return row[_PROFILE_SIZE : _PROFILE_SIZE + (row[_KEY_LENGTH_AT] << 8 | row[_KEY_LENGTH_AT + 1])]


def body_of(row: bytes) -> bytes:
    """Return the representation in a profile's row, as it is served."""
    return row[_PROFILE_SIZE + (row[_KEY_LENGTH_AT] << 8 | row[_KEY_LENGTH_AT + 1]) :]


def claim_row(uid: bytes, version: int, op: bytes) -> bytes:
    """Return the row of a claim. *uid* has 36 bytes."""
    return _pack_claim(FORMAT_VERSION, version, uid) + op


def claimed_uid(row: bytes) -> bytes:
    """Return the uid in a claim's row."""
    return row[9:_CLAIM_SIZE]


def claim_of(row: bytes) -> ClaimRow:
    """Return what is in a claim's row."""
    _, version, uid = _CLAIM.unpack_from(row)
    return ClaimRow(uid, version, row[_CLAIM_SIZE:])
