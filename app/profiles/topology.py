"""The topology of the profile service: three tables, and how a record of each becomes a row. Pure functions, no I/O.

Each function takes what was read and what is about to be written alike, and is the only derivation of rows: decisions,
materialisation and `verify` all go through it. It is also the wall against foreign records: what it does not raise
PoisonRecord for can be served. Restore is bound by these functions, so they avoid loops and calls: our own headers are
read by place, foreign ones by search.
"""

import re
from binascii import unhexlify
from operator import itemgetter

from orjson import JSONDecodeError, loads

from app.profiles.email import InvalidEmail, stored_key
from app.profiles.events import EVENT_ID_AT, FORMAT_AT, FORMAT_HEADER, ORIGIN_HEADER, RECORD_FORMAT
from app.profiles.rows import FORMAT_VERSION, claim_row, profile_row
from app.profiles.topics import PROFILE_STORE, REQUEST_STORE, SEARCH_STORE, TopicNames
from app.profiles.uids import UID_LENGTH
from streams.errors import PoisonRecord
from streams.records import Headers, ProducerRecord, Record, header
from streams.topology.graph import Topology

STORE_FORMAT = FORMAT_VERSION

_NO_EVENT = bytes(16)
_MAX_VERSION = 2**53  # what every JSON reader can hold exactly
_MAX_OP = 64
_MAX_EMAIL_KEY = 2048  # the key of an address of 254 bytes is shorter, however it is folded
_REQUEST_KEY_LENGTH = 32

_is_uuid = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z").match
_profile_members = itemgetter("uid", "username", "email", "version", "created_at", "updated_at")
_claim_members = itemgetter("uid", "version", "op")
_request_members = itemgetter("fingerprint", "uid", "status", "at")


def build(topics: TopicNames, *, idempotency_ttl_ms: int = 24 * 3600 * 1000) -> Topology:
    """Return the topology over *topics*. The first, `profiles`, carries the group's offset commits.

    *idempotency_ttl_ms*: how long a create is remembered; the row goes when nobody can ask for it any more.
    """

    def expires_at_ms(row: bytes) -> int:
        at_ms: int = loads(row)["at"]
        return at_ms + idempotency_ttl_ms

    topology = Topology("profiles")
    topology.table(topic=topics.profiles, store=PROFILE_STORE, materialise=materialise_profile)
    topology.table(topic=topics.emails, store=SEARCH_STORE, materialise=materialise_claim)
    topology.table(
        topic=topics.requests,
        store=REQUEST_STORE,
        materialise=materialise_request,
        expires_at_ms=expires_at_ms,
    )
    return topology


def materialise_profile(record: Record | ProducerRecord, *, may_be_copy: bool = False) -> tuple[bytes, bytes | None]:
    """Return uid and row of a profile, or None for the row of a deleted one. Raises PoisonRecord.

    A foreign record without our headers is taken when its value is a profile; its event id is then zero. The copy of
    another log's record is refused unless it *may_be_copy*: its e-mail belongs to whoever owns it there, and no claim
    here says so.
    """
    key = record.key
    if key is None:
        raise PoisonRecord("no-key")
    if _is_uuid(key) is None:
        raise PoisonRecord("bad-key", "the key is not the text of a UUID in lower case")
    headers = record.headers
    if len(headers) > FORMAT_AT and headers[FORMAT_AT] == FORMAT_HEADER:
        event_id_text = headers[EVENT_ID_AT][1] or b""  # a foreign header can be null
    else:
        _check_format(headers)
        if not may_be_copy and header(headers, ORIGIN_HEADER) is not None:
            raise PoisonRecord("copy", "the record was copied from another log, and copies are only read")
        event_id_text = header(headers, "ce_id") or b""
    value = record.value
    if value is None:
        return key, None
    try:
        uid, username, email, version, created_at, updated_at = _profile_members(loads(value))
        email_key = email.lower().encode() if email.isascii() and "@" in email else stored_key(email)
    except JSONDecodeError:
        raise PoisonRecord("not-json") from None
    except (KeyError, TypeError, AttributeError, InvalidEmail):
        raise PoisonRecord("wrong-shape", "a member is missing, or the e-mail is not an address") from None
    if (
        type(version) is not int
        or not 0 < version <= _MAX_VERSION
        or type(username) is not str
        or type(created_at) is not str
        or type(updated_at) is not str
        or uid != key.decode()
        or len(email_key) > _MAX_EMAIL_KEY
    ):
        raise PoisonRecord("wrong-shape", "a member has another type, or the uid is not the key")
    try:
        event_id = unhexlify(event_id_text.replace(b"-", b""))
    except ValueError:
        event_id = _NO_EVENT  # a CloudEvents id may be any text
    if len(event_id) != len(_NO_EVENT):
        event_id = _NO_EVENT
    return key, profile_row(version, event_id, email_key, value)


def materialise_claim(record: Record | ProducerRecord) -> tuple[bytes, bytes | None]:
    """Return e-mail key and row of a claim, or None for the row of a released one. Raises PoisonRecord.

    The uid is judged by its length alone: a claim for a profile that cannot exist is a claim that does not hold.
    """
    key = record.key
    if key is None:
        raise PoisonRecord("no-key")
    if b"@" not in key:
        raise PoisonRecord("bad-key", "the key is not an e-mail address")
    headers = record.headers
    if len(headers) <= FORMAT_AT or headers[FORMAT_AT] != FORMAT_HEADER:
        _check_format(headers)
    value = record.value
    if value is None:
        return key, None
    try:
        uid, version, op = _claim_members(loads(value))
        uid, op = uid.encode(), op.encode()
    except JSONDecodeError:
        raise PoisonRecord("not-json") from None
    except (KeyError, TypeError, AttributeError):
        raise PoisonRecord("wrong-shape", "a member is missing or has another type") from None
    if type(version) is not int or not 0 < version <= _MAX_VERSION or len(uid) != UID_LENGTH or len(op) > _MAX_OP:
        raise PoisonRecord("wrong-shape", "a member is out of range")
    return key, claim_row(uid, version, op)


def materialise_request(record: Record | ProducerRecord) -> tuple[bytes, bytes | None]:
    """Return key and row of a remembered create; the row is the value itself. Raises PoisonRecord."""
    key = record.key
    if key is None:
        raise PoisonRecord("no-key")
    if len(key) != _REQUEST_KEY_LENGTH:
        raise PoisonRecord("bad-key", "the key is not a hash")
    _check_format(record.headers)
    value = record.value
    if value is None:
        return key, None
    try:
        fingerprint, uid, status, at_ms = _request_members(loads(value))
    except JSONDecodeError:
        raise PoisonRecord("not-json") from None
    except (KeyError, TypeError):
        raise PoisonRecord("wrong-shape", "a member is missing") from None
    if type(fingerprint) is not str or type(status) is not int or type(at_ms) is not int:
        raise PoisonRecord("wrong-shape", "a member has another type")
    if type(uid) is not str or _is_uuid(uid.encode()) is None:
        raise PoisonRecord("wrong-shape", "the uid is not one")
    return key, value


def _check_format(headers: Headers) -> None:
    """Raise PoisonRecord when the headers name a format that is newer than this release, or none that can be read."""
    found = header(headers, FORMAT_HEADER[0])
    if found is None or found == FORMAT_HEADER[1]:
        return
    if not found.isdigit() or int(found[:9]) < RECORD_FORMAT:
        raise PoisonRecord("wrong-shape", "the header profile-format is not a format")
    raise PoisonRecord("newer-version", "the record was written by a newer release")
