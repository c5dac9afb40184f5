"""Records as they are written: a profile, its deletion, a claim, its release, and what an idempotent create came to.

Each is a CloudEvent (1.0) in the binary mode of the Kafka protocol binding: attributes in `ce_` headers, the value as
it is. Tombstones carry them, too, so that a consumer can order and deduplicate by headers alone. The headers always
come in one order (see `topology.py`, which reads them by place). No e-mail is ever in a header: a tombstone keeps its
headers.
"""

from typing import NamedTuple

from app.profiles.topics import TopicNames
from app.profiles.uids import text_of
from streams.records import Headers, ProducerRecord

#: The format of keys and values, in the header `profile-format`. A reader quarantines what is newer than it knows.
RECORD_FORMAT = 1

_Header = tuple[str, bytes]

_SPEC_VERSION: _Header = ("ce_specversion", b"1.0")
_PROFILE_SOURCE: _Header = ("ce_source", b"/api/profile")
_EMAIL_SOURCE: _Header = ("ce_source", b"/api/profile/emails")
_REQUEST_SOURCE: _Header = ("ce_source", b"/api/profile/requests")
_JSON: _Header = ("content-type", b"application/json")

#: Where these two are among the headers.
EVENT_ID_AT = 3
FORMAT_AT = 8
FORMAT_HEADER: _Header = ("profile-format", b"%d" % RECORD_FORMAT)

#: Marks the copy of a record in another topic (`app.replication.kafka`); the service never writes it.
ORIGIN_HEADER = "profiles-origin"

CREATED: _Header = ("ce_type", b"profile.created")
UPDATED: _Header = ("ce_type", b"profile.updated")
DELETED: _Header = ("ce_type", b"profile.deleted")
_CLAIMED: _Header = ("ce_type", b"profile.email.claimed")
_RELEASED: _Header = ("ce_type", b"profile.email.released")
_PROVEN: _Header = ("ce_type", b"profile.ownership.proven")
_RECORDED: _Header = ("ce_type", b"profile.request.recorded")


class Event(NamedTuple):
    """What the records of one command have in common.

    `id`: 16 bytes, fresh for each attempt. `id_text`: the same as the text of a UUID; it is the `op` of claims.
    `time`: RFC 3339. `traceparent`: passed on when there is one.
    """

    id: bytes
    id_text: bytes
    time: str
    traceparent: bytes | None

    @classmethod
    def of(cls, event_id: bytes, time: str, traceparent: bytes | None) -> "Event":
        """Return the event with the text of its id."""
        return cls(event_id, text_of(event_id).encode(), time, traceparent)

    def headers(self, kind: _Header, source: _Header, uid: bytes, version: int) -> Headers:
        """Return the headers in their order. The subject is the uid, which is no personal data."""
        headers = (
            _SPEC_VERSION,
            kind,
            source,
            ("ce_id", self.id_text),
            ("ce_time", self.time.encode()),
            ("ce_subject", uid),
            _JSON,
            ("profile-version", b"%d" % version),
            FORMAT_HEADER,
        )
        return headers if self.traceparent is None else (*headers, ("traceparent", self.traceparent))


class Records:
    """Builds the records of one set of topics. Immutable; any thread."""

    def __init__(self, topics: TopicNames) -> None:
        self._profiles, self._emails, self._requests = topics

    def profile(
        self, event: Event, kind: _Header, *, partition: int, uid: bytes, version: int, body: bytes | None
    ) -> ProducerRecord:
        """Return the full state of a profile, or with *body* None its tombstone, whose *version* is one more."""
        headers = event.headers(kind, _PROFILE_SOURCE, uid, version)
        return ProducerRecord(self._profiles, partition, uid, body, headers)

    def claim(self, event: Event, *, partition: int, email_key: bytes, uid: bytes, version: int) -> ProducerRecord:
        """Return the claim of an e-mail for the profile that has *version* after this command."""
        value = b'{"uid":"%b","version":%d,"op":"%b"}' % (uid, version, event.id_text)
        return ProducerRecord(
            self._emails, partition, email_key, value, event.headers(_CLAIMED, _EMAIL_SOURCE, uid, version)
        )

    def release(self, event: Event, *, partition: int, email_key: bytes, uid: bytes, version: int) -> ProducerRecord:
        """Return the tombstone of a claim. *version*: the profile's after this command."""
        return ProducerRecord(
            self._emails, partition, email_key, None, event.headers(_RELEASED, _EMAIL_SOURCE, uid, version)
        )

    def request(
        self, event: Event, *, partition: int, key: bytes, value: bytes, uid: bytes, version: int
    ) -> ProducerRecord:
        """Return what is remembered of an idempotent create."""
        return ProducerRecord(
            self._requests, partition, key, value, event.headers(_RECORDED, _REQUEST_SOURCE, uid, version)
        )

    def barrier(self, event: Event, *, partition: int, key: bytes) -> ProducerRecord:
        """Return a record that changes nothing: the tombstone of a *key* that no request has. That it was committed
        proves that its writer owned what he owned."""
        return ProducerRecord(
            self._requests, partition, key, None, event.headers(_PROVEN, _REQUEST_SOURCE, b"barrier", 0)
        )
