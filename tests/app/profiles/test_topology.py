"""Records to rows: what is written can be read back; what is foreign is taken or refused with a reason."""

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.profiles.events import CREATED, DELETED, Event, Records
from app.profiles.rows import body_of, claim_of, email_key_of, event_id_of, version_of
from app.profiles.topics import TopicNames, topic_specs
from app.profiles.topology import build, materialise_claim, materialise_profile, materialise_request
from app.profiles.uids import text_of
from streams.errors import PoisonRecord
from streams.records import Headers, ProducerRecord, Record, header
from tests.app.profiles.fakes import NAMES

UID = b"74292b21-0fbb-4f1d-a18f-fa80f947fa5d"
NOW = "2026-11-21T11:32:35.123Z"
MEMBERS: dict[str, Any] = {
    "uid": UID.decode(),
    "username": "bob",
    "email": "Bob1@mail.com",
    "version": 7,
    "created_at": NOW,
    "updated_at": NOW,
}
CLAIM: dict[str, Any] = {"uid": UID.decode(), "version": 7, "op": "an-op"}
REQUEST: dict[str, Any] = {"fingerprint": "ab", "uid": UID.decode(), "status": 201, "at": 5}
EVENT_ID = bytes(range(16))
EVENT = Event.of(EVENT_ID, NOW, None)
RECORDS = Records(NAMES)


def foreign(key: bytes | None, value: object, headers: Headers = ()) -> ProducerRecord:
    encoded = value if value is None or isinstance(value, bytes) else orjson.dumps(value)
    return ProducerRecord("t", 0, key, encoded, headers)


def as_read(record: ProducerRecord) -> Record:
    return Record(record.topic, record.partition, 5, 0, record.key, record.value, record.headers)


def test_written_profile_becomes_its_row_before_and_after_the_log() -> None:
    """Version, event id, e-mail key and the very bytes of the body are in the row, from either kind of record."""
    body = orjson.dumps(MEMBERS)
    record = RECORDS.profile(EVENT, CREATED, partition=1, uid=UID, version=7, body=body)
    key, row = materialise_profile(record)
    assert (key, row) == materialise_profile(as_read(record))
    assert key == UID
    assert row is not None
    assert (version_of(row), event_id_of(row), email_key_of(row)) == (7, EVENT_ID, b"bob1@mail.com")
    assert body_of(row) == body


def test_written_claim_becomes_its_row_before_and_after_the_log() -> None:
    """Uid, version and op are in the row; op is the text of the event id."""
    record = RECORDS.claim(EVENT, partition=1, email_key=b"bob1@mail.com", uid=UID, version=3)
    assert materialise_claim(record) == materialise_claim(as_read(record))
    key, row = materialise_claim(record)
    assert key == b"bob1@mail.com"
    assert row is not None
    assert claim_of(row) == (UID, 3, text_of(EVENT_ID).encode())
    assert orjson.loads(record.value or b"") == {"uid": UID.decode(), "version": 3, "op": text_of(EVENT_ID)}


def test_every_record_is_a_cloud_event_tombstones_included() -> None:
    """Each kind of record carries all attributes in its headers, so headers alone order and deduplicate."""
    event = Event.of(EVENT_ID, NOW, b"00-trace-01")
    place = {"partition": 1, "uid": UID, "version": 8}
    written = [
        RECORDS.profile(event, CREATED, body=b"{}", **place),
        RECORDS.profile(event, DELETED, body=None, **place),
        RECORDS.claim(event, email_key=b"a@b.co", **place),
        RECORDS.release(event, email_key=b"a@b.co", **place),
        RECORDS.request(event, key=bytes(32), value=b"{}", **place),
    ]
    for record in written:
        named = dict(record.headers)
        assert len(named) == len(record.headers)
        assert named["ce_specversion"] == b"1.0"
        assert named["ce_id"] == text_of(EVENT_ID).encode()
        assert named["ce_type"].startswith(b"profile.")
        assert named["ce_source"].startswith(b"/")
        assert named["ce_time"] == NOW.encode()
        assert named["ce_subject"] == UID
        assert named["content-type"] == b"application/json"
        assert named["profile-version"] == b"8"
        assert named["traceparent"] == b"00-trace-01"
        assert b"@" not in b"".join(named.values())  # a tombstone keeps its headers
    assert header(RECORDS.release(EVENT, email_key=b"a@b.co", **place).headers, "traceparent") is None


def test_tombstones_remove_the_row() -> None:
    """A record without a value is a deletion in each table, with or without our headers."""
    assert materialise_profile(foreign(UID, None)) == (UID, None)
    assert materialise_claim(foreign(b"a@b.co", None)) == (b"a@b.co", None)
    assert materialise_request(foreign(bytes(32), None)) == (bytes(32), None)


def test_foreign_profile_without_headers_is_taken() -> None:
    """A well-formed value of another producer is served as it is; its event id is zero."""
    pretty = orjson.dumps({**MEMBERS, "more": 1}, option=orjson.OPT_INDENT_2)
    _, row = materialise_profile(foreign(UID, pretty))
    assert row is not None
    assert (body_of(row), version_of(row), event_id_of(row)) == (pretty, 7, bytes(16))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((("ce_id", text_of(EVENT_ID).encode()),), EVENT_ID),  # in another place than ours
        ((("ce_id", b"not a uuid"),), bytes(16)),
        ((("ce_id", b"abcd"),), bytes(16)),
        ((("x", b""), ("profile-format", b"1")), bytes(16)),
    ],
)
def test_foreign_headers_are_read_by_name(headers: Headers, expected: bytes) -> None:
    """Headers in another order are searched, and an event id that is no UUID counts as none."""
    _, row = materialise_profile(foreign(UID, MEMBERS, headers))
    assert row is not None
    assert event_id_of(row) == expected


NEWER = (("profile-format", b"2"),)
NEWER_IN_PLACE = (*((f"h{number}", b"") for number in range(8)), ("profile-format", b"2"))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (foreign(None, MEMBERS), "no-key"),
        (foreign(b"", MEMBERS), "bad-key"),
        (foreign(b"bob", MEMBERS), "bad-key"),
        (foreign(UID.upper(), MEMBERS), "bad-key"),
        (foreign(UID + b"\n", MEMBERS), "bad-key"),
        (foreign(b"bob", None), "bad-key"),
        (foreign(UID, b"\xff"), "not-json"),
        (foreign(UID, b""), "not-json"),
        (foreign(UID, b'{"uid":'), "not-json"),
        (foreign(UID, b"[" * 5000), "not-json"),
        (foreign(UID, MEMBERS, NEWER), "newer-version"),
        (foreign(UID, MEMBERS, NEWER_IN_PLACE), "newer-version"),
        (foreign(UID, None, NEWER), "newer-version"),
        (foreign(UID, MEMBERS, (("profile-format", b"x"),)), "wrong-shape"),
        *((foreign(UID, other), "wrong-shape") for other in ([], [MEMBERS], "x", 1, True)),
        *(
            (foreign(UID, {name: value for name, value in MEMBERS.items() if name != gone}), "wrong-shape")
            for gone in MEMBERS
        ),
        *(
            (foreign(UID, {**MEMBERS, name: odd}), "wrong-shape")
            for name in MEMBERS
            for odd in (None, True, 1.5, [], {}, -1, 2**63)
        ),
        (foreign(UID, {**MEMBERS, "uid": "74292b21-0fbb-4f1d-a18f-fa80f947fa5e"}), "wrong-shape"),
        (foreign(UID, {**MEMBERS, "version": 0}), "wrong-shape"),
        (foreign(UID, {**MEMBERS, "email": "nobody"}), "wrong-shape"),
        (foreign(UID, {**MEMBERS, "email": "ü"}), "wrong-shape"),
        (foreign(UID, {**MEMBERS, "email": "@" * 100_000}), "wrong-shape"),
    ],
)
def test_poison_profiles_are_named(record: ProducerRecord, reason: str) -> None:
    """Each way in which a record can be wrong has its word, in either kind of record."""
    for form in (record, as_read(record)):
        with pytest.raises(PoisonRecord) as caught:
            materialise_profile(form)
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (foreign(None, CLAIM), "no-key"),
        (foreign(b"nobody", CLAIM), "bad-key"),
        (foreign(b"a@b.co", b"{"), "not-json"),
        (foreign(b"a@b.co", CLAIM, NEWER), "newer-version"),
        (foreign(b"a@b.co", []), "wrong-shape"),
        *(
            (foreign(b"a@b.co", {**CLAIM, name: odd}), "wrong-shape")
            for name in CLAIM
            for odd in (None, True, 1.5, [], -1, "x" * 65)
        ),
    ],
)
def test_poison_claims_are_named(record: ProducerRecord, reason: str) -> None:
    """The same for claims."""
    with pytest.raises(PoisonRecord) as caught:
        materialise_claim(record)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (foreign(None, REQUEST), "no-key"),
        (foreign(b"short", REQUEST), "bad-key"),
        (foreign(bytes(32), b"{"), "not-json"),
        (foreign(bytes(32), REQUEST, NEWER), "newer-version"),
        (foreign(bytes(32), {**REQUEST, "uid": "bob"}), "wrong-shape"),
        *((foreign(bytes(32), {**REQUEST, name: None}), "wrong-shape") for name in REQUEST),
    ],
)
def test_poison_requests_are_named(record: ProducerRecord, reason: str) -> None:
    """The same for remembered creates."""
    with pytest.raises(PoisonRecord) as caught:
        materialise_request(record)
    assert caught.value.reason == reason


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_names = st.sampled_from(["profile-format", "ce_id", "x"])
_headers = st.lists(st.tuples(_names, st.none() | st.binary(max_size=8)), max_size=12).map(tuple)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([None, UID, b"a@b.co", bytes(32), b"", b"\xff"]),
    st.binary(max_size=20)
    | st.builds(
        lambda base, name, odd: orjson.dumps({**base, name: odd}),
        st.sampled_from([MEMBERS, CLAIM, REQUEST]),
        st.sampled_from([*MEMBERS, *CLAIM, *REQUEST]),
        _json,
    ),
    _headers,
)
def test_no_record_does_anything_but_a_row_or_poison(key: bytes | None, value: bytes, headers: Any) -> None:
    """Whatever bytes somebody writes into our topics, a task goes on."""
    for table in (materialise_profile, materialise_claim, materialise_request):
        with contextlib.suppress(PoisonRecord):
            table(ProducerRecord("t", 0, key, value, headers))


def test_topology_has_three_tables_and_profiles_first() -> None:
    """The first topic carries the group's commits; the stores have the names that the API shows."""
    topology = build(TopicNames.prefixed("x."))
    assert topology.topics == ("x.profiles", "x.profile-emails", "x.profile-requests")
    assert topology.stores == ("profile.store", "search.store", "request.store")


def test_topics_keep_what_must_not_be_lost() -> None:
    """State is compacted and never deleted by age; only remembered requests are, after the promised time."""
    profiles, emails, requests = topic_specs(
        NAMES, partitions=None, default_partitions=8, replication_factor=3, idempotency_ttl_ms=86_400_000
    )
    for state in (profiles, emails):
        assert state.config["cleanup.policy"] == "compact"
        assert "retention.ms" not in state.config
    assert requests.config["cleanup.policy"] == "compact,delete"
    assert int(requests.config["retention.ms"]) >= 86_400_000
    for spec in (profiles, emails, requests):
        assert spec.config["min.insync.replicas"] == "2"
        assert spec.config["min.compaction.lag.ms"] == "600000"
        assert spec.config["max.compaction.lag.ms"] == "86400000"
        assert spec.config["delete.retention.ms"] == "172800000"
