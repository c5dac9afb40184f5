"""The copy of a topic in another Kafka: exact, whatever happens to who makes it, and never taken for an original."""

import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from app.cli import replicate_kafka
from app.cli.main import build_parser
from app.config import AppConfig
from app.profiles.topology import materialise_profile
from app.replication.kafka.origin import copied, headers_of, trail_of
from app.replication.kafka.sink import KafkaSink
from app.replication.kafka.target import TargetCluster
from app.replication.log_source import LogSource
from app.replication.ports import Batch, Change, Position, SinkMoved, SinkUnavailable, SinkUnusable, SourceInfo
from app.replication.replicator import Replicator
from app.replication.sharing import Everything
from app.replication.verify import Difference, verify
from streams.clock import SystemClock
from streams.errors import ConfigError, LogUnavailable, OutcomeUnknown, PoisonRecord
from streams.log.kafka import KafkaLog, KafkaSettings
from streams.log.kafka.producing import Producing
from streams.records import Record
from tests.kafka.conftest import kafka_broker, own_cluster
from tests.support.contract import PROFILES, block, check
from tests.support.copies import Origin, assert_exact, by_partition, make_topic, profile
from tests.support.dump import Raw, raw_kafka
from tests.support.service import Service

__all__ = ["kafka_broker", "own_cluster"]

PARTITIONS = 3
CLOCK = SystemClock()
BEGUN_MS = CLOCK.time_ms()
#: A request that times out is tried again by the replicator, but is a failure in tests of the sink alone.
_PATIENT = {"request_timeout_ms": 15_000, "max_block_ms": 15_000, "delivery_timeout_ms": 15_000}
UID = "8d4b5e0e-7b0c-4c1e-9c55-0a6f4b1f2c3d"


class Rig:
    """Origins, sinks and runs on one broker or two; what is opened is closed after the test."""

    def __init__(self, stack: ExitStack, address: str) -> None:
        self.name = f"t{uuid.uuid4().hex[:10]}"
        self.address = address
        self._stack = stack

    def origin(self, topic: str = "origin", *, address: str | None = None) -> Origin:
        origin = Origin(
            address or self.address, f"{self.name}-{topic}", partitions=PARTITIONS, seed=random.randrange(1 << 32)
        )
        self._stack.callback(origin.close)
        return origin

    def sink(self, topic: str = "copy", *, address: str | None = None, name: str = "r") -> KafkaSink:
        settings = KafkaSettings(address or self.address, f"{self.name}-{name}", "copy", client_overrides=_PATIENT)
        sink = KafkaSink(TargetCluster(settings, CLOCK), f"{self.name}-{topic}", clock=CLOCK)
        self._stack.callback(sink.close)
        return sink

    def source(self, topic: str, *, address: str | None = None) -> LogSource:
        settings = KafkaSettings(address or self.address, f"{self.name}-reader", "reader")
        return LogSource(KafkaLog(settings, clock=CLOCK), f"{self.name}-{topic}", CLOCK)

    def copy_once(self, source: LogSource, sink: KafkaSink) -> None:
        """Copy what is there now."""
        try:
            Replicator(source=source, sink=sink, share=Everything.of, clock=CLOCK).run(is_once=True)
        finally:
            source.close()
            sink.close()

    def differences(self, source: str, copy: str) -> Sequence[Difference]:
        """Return what `--verify` finds."""
        with contextlib.closing(self.source(source)) as log:
            sink, info = self.sink(copy), log.describe()
            sink.attach(info)
            return verify(log, sink, info, clock=CLOCK, tell=lambda *_: None).differences

    def read(self, topic: str, *, address: str | None = None) -> list[Raw]:
        return raw_kafka(address or self.address, f"{self.name}-{topic}")


@pytest.fixture
def rig(kafka_broker: str) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(stack, kafka_broker)


@pytest.mark.kafka
def test_a_copy_is_the_origin_record_by_record_and_goes_on_where_it_was(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, values, headers, times and tombstones, in the same partitions and order, and nothing of what was aborted;
    a second run adds what is new, and a third nothing."""
    origin = rig.origin()
    for records in (300, 200, 0):
        origin.write(records)
        rig.copy_once(rig.source("origin"), rig.sink())
        assert assert_exact(origin, rig.address, f"{rig.name}-copy") >= 300
    monkeypatch.setattr("app.replication.verify.PATIENCE_S", 1.0)
    assert rig.differences("origin", "copy") == []
    origin.write(50)  # of which nobody has made a copy
    last = {record.key: record for record in rig.read("origin")}
    copied = {record.key: record for record in rig.read("copy")}
    wanted = {one for one in last if last[one].value != (copied[one].value if one in copied else None)}
    assert {found.uid.encode() for found in rig.differences("origin", "copy")} == wanted != set()


@pytest.mark.kafka
def test_who_was_shut_out_writes_nothing_more(rig: Rig) -> None:
    """A second replicator of the same name takes the partitions: what the first one still holds never appears, and is
    in the copy once, by the second."""
    source, changes = _changes(12)
    first, second = rig.sink(), rig.sink()
    first.ensure(source)
    assert first.positions(frozenset({0})) == {}
    first.write(_batch(changes[:4]))
    second.ensure(source)
    assert second.positions(frozenset({0}))[0].order == 4
    with pytest.raises(SinkMoved):
        first.write(_batch(changes[4:8]))
    second.write(_batch(changes[4:8]))
    second.write(_batch(changes[8:]))
    first.flush()  # has nothing to say any more
    assert _versions(rig) == list(range(1, 13))


@pytest.mark.kafka
@pytest.mark.parametrize("is_committed", [True, False], ids=["committed", "not committed"])
def test_a_commit_whose_outcome_is_not_known_is_looked_up(
    rig: Rig, is_committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is tried again as it was, and is in the copy once in either case."""
    source, changes = _changes(8)
    sink = rig.sink()
    sink.ensure(source)
    sink.positions(frozenset({0}))
    sink.write(_batch(changes[:4]))
    transact = Producing.transact

    def lose_the_answer(self: Producing, *arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(Producing, "transact", transact)
        if is_committed:
            transact(self, *arguments, **options)
        self.discard()
        raise OutcomeUnknown("the answer was lost")

    monkeypatch.setattr(Producing, "transact", lose_the_answer)
    with pytest.raises(SinkUnavailable) as caught:
        sink.write(_batch(changes[4:]))
    assert caught.value.rest is not None
    written = sink.write(caught.value.rest)
    assert (written.applied, written.stale) == ((0, 4) if is_committed else (4, 0))
    assert _versions(rig) == list(range(1, 9))


@pytest.mark.kafka
def test_a_position_of_the_past_does_not_replace_a_later_one(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replicator that could not commit a position, slept, and tries again after another one has gone on: the position
    stays where that one was, and nothing comes twice."""
    source, changes = _changes(12)
    first, second = rig.sink(), rig.sink()
    first.ensure(source)
    first.positions(frozenset({0}))
    first.write(_batch(changes[:4]))
    first.write(Batch((), {0: Position(4, "token", 2)}))
    with monkeypatch.context() as patch:
        patch.setattr(Producing, "transact", _unreachable)
        with pytest.raises(SinkUnavailable):
            first.flush()
    second.ensure(source)
    assert second.positions(frozenset({0}))[0].order == 4
    second.write(_batch(changes[4:8]))
    first.flush()
    with pytest.raises(SinkMoved):  # It was shut out: the first one had to, to learn how far the copy is.
        second.write(_batch(changes[8:]))
    assert second.positions(frozenset({0}))[0].order == 8
    second.write(_batch(changes[8:]))
    assert _versions(rig) == list(range(1, 13))


@pytest.mark.kafka
def test_a_position_alone_is_kept_by_a_flush(rig: Rig) -> None:
    """Where nothing is to be copied the position still goes on, and does not go back."""
    source, changes = _changes(2)
    sink = rig.sink()
    sink.ensure(source)
    sink.positions(frozenset({0, 1}))
    sink.write(_batch(changes))
    position = Position(9, "nine", 5)
    sink.write(Batch((), {0: position, 1: Position(0, "none", 6)}))
    sink.flush()
    sink.close()
    later = rig.sink()
    later.ensure(source)
    assert later.positions(frozenset({0, 1})) == {0: position, 1: Position(0, "none", 6)}


@pytest.mark.kafka
@pytest.mark.timeout(400)
def test_two_clusters_that_copy_each_other_do_not_send_a_record_round(
    own_cluster: Callable[..., Any], rig: Rig
) -> None:
    """A copy may be copied on, but never to a cluster whose topics it has come through."""
    there = own_cluster().bootstrap_servers
    origins = rig.origin("a"), rig.origin("b", address=there)
    for origin in origins:
        origin.write(100)
    for _ in range(2):  # as often as they like
        for source, target, at, to in (
            ("a", "a-there", rig.address, there),
            ("a-there", "a-back", there, rig.address),
            ("b", "b-here", there, rig.address),
            ("b-here", "b-back", rig.address, there),
            ("a-there", "a-there-again", there, there),
            ("a-there-again", "a-there-once-more", there, there),
        ):
            rig.copy_once(rig.source(source, address=at), rig.sink(target, address=to, name=target))
    assert_exact(origins[0], there, f"{rig.name}-a-there")
    assert_exact(origins[1], rig.address, f"{rig.name}-b-here")
    assert rig.read("a-back") == []
    assert rig.read("b-back", address=there) == []
    again = rig.read("a-there-again", address=there)
    assert len(again) == len(rig.read("a"))
    assert {len(trail_of(record.headers)) for record in again} == {2}
    assert rig.read("a-there-once-more", address=there) == []


@pytest.mark.kafka
def test_a_topic_that_cannot_be_an_exact_copy_is_refused(rig: Rig) -> None:
    """One with another partition count, one that loses records or times, one that holds something already, and one
    that was filled from another log: by name, with what to do, and nothing is written to it."""
    source, changes = _changes(4)
    make_topic(rig.address, f"{rig.name}-narrow", 2)
    make_topic(rig.address, f"{rig.name}-cut", PARTITIONS, cleanup_policy="delete")
    make_topic(rig.address, f"{rig.name}-stamped", PARTITIONS, message_timestamp_type="LogAppendTime")
    for topic, reason in (("narrow", "partitions"), ("cut", "cleanup.policy"), ("stamped", "LogAppendTime")):
        with pytest.raises(SinkUnusable, match=reason):
            rig.sink(topic).ensure(source)
    sink = rig.sink()
    sink.ensure(source)
    sink.positions(frozenset({0}))
    sink.write(_batch(changes))
    for name, info, reason in (
        ("other", source, "holds records, but no position"),
        ("r", SourceInfo("another", PARTITIONS), "copy of another log"),
    ):
        other = rig.sink(name=name)
        other.ensure(info)
        with pytest.raises(SinkUnusable, match=reason):
            other.positions(frozenset({0}))
    assert _versions(rig) == [1, 2, 3, 4]


@pytest.mark.kafka
def test_what_was_aborted_before_the_first_commit_does_not_look_like_somebody_elses(rig: Rig) -> None:
    """A replicator that was killed in its first transaction can be started again."""
    source, changes = _changes(2)
    sink = rig.sink()
    sink.ensure(source)
    rogue = KafkaProducer(bootstrap_servers=rig.address, transactional_id=f"{rig.name}-x", retry_backoff_ms=5)
    rogue.init_transactions()
    rogue.begin_transaction()
    rogue.send(f"{rig.name}-copy", b"lost", b"k", partition=0)
    rogue.flush(10)
    rogue.abort_transaction()
    rogue.close(timeout=5)
    assert sink.positions(frozenset({0})) == {}
    sink.write(_batch(changes))
    assert _versions(rig) == [1, 2]


@pytest.mark.kafka
@pytest.mark.timeout(400)
def test_the_copy_of_a_service_can_be_made_a_service_again(rig: Rig, tmp_path: Path) -> None:
    """The whole way of docs/replication-kafka.md: the feed of a node on the embedded log is copied, with the documented
    headers; the program of docs/events.md takes the profiles out of the copy; and a new service, into which they are
    imported, lists what the first one listed."""
    topic = f"{rig.name}-copy"
    with Service(tmp_path / "first") as first:
        first.start()
        for number in range(40):
            body = json.dumps({"username": f"user {number}", "email": f"u{number}@mail.com"}).encode()
            uid = json.loads(first.request("POST", "/api/profile", body).body)["uid"]
            if number % 3 == 0:
                assert first.request("PATCH", f"/api/profile/{uid}", b'{"username": "changed"}').status == 200
            if number % 5 == 0:
                assert first.request("DELETE", f"/api/profile/{uid}").status == 204
        replicate = ("replicate", "kafka", "--bootstrap-servers", rig.address, "--topic", topic, "--once", "--json")
        for _ in range(2):
            done = first.command(*replicate)
            assert done.returncode == 0, done.stderr
        listed = first.request("GET", "/api/profile?limit=500").body
    copies = rig.read("copy")
    assert {check(record._replace(headers=record.headers[1:]), PROFILES) for record in copies} == {
        "profile.created",
        "profile.updated",
        "profile.deleted",
    }
    assert len({dict(record.headers)["ce_id"] for record in copies}) == len(copies)
    program, database, lines = (tmp_path / name for name in ("profiles_copy.py", "copy.db", "profiles.jsonl"))
    program.write_text(block("python"))
    subprocess.run([sys.executable, str(program), rig.address, topic, str(database), "--once"], check=True, timeout=60)
    with contextlib.closing(sqlite3.connect(database)) as db:
        lines.write_text("".join(f"{document}\n" for (document,) in db.execute("SELECT document FROM profile")))
    with Service(tmp_path / "second") as second:
        second.start()
        done = second.command("import", str(lines))
        assert done.returncode == 0, done.stderr
        assert second.request("GET", "/api/profile?limit=500").body == listed


@pytest.mark.parametrize("name", ["profiles", "eu.profiles", "eu-profile-emails", "profile-requests"])
def test_a_copy_has_no_name_that_a_service_could_use(name: str) -> None:
    """Whatever prefix a service is given, it never takes a copy for its own topic."""
    config = AppConfig.from_env({})
    arguments = ["replicate", "kafka", "--bootstrap-servers", "127.0.0.1:1", "--topic", name]
    with pytest.raises(ConfigError, match="a copy must not be named"):
        replicate_kafka.TARGET.open_sink(config, build_parser().parse_args(arguments), CLOCK)


def test_credentials_of_the_other_cluster_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    """They are masked where settings are shown; one that is given twice, or a file that is not there, is said."""
    file = tmp_path / "password"
    file.write_text("secret\n")
    family = "PROFILES_SINK_KAFKA_"
    given = {f"{family}SECURITY_PROTOCOL": "SASL_SSL", f"{family}SASL_PLAIN_PASSWORD_FILE": str(file)}
    config = AppConfig.from_env(given)
    assert replicate_kafka.overrides(config.sink_kafka) == {
        "security_protocol": "SASL_SSL",
        "sasl_plain_password": "secret",
    }
    config = AppConfig.from_env({**given, f"{family}SASL_PLAIN_PASSWORD": "secret"})
    assert not [row for row in config.describe() if "secret" in row.value]
    with pytest.raises(ConfigError, match="both set"):
        replicate_kafka.overrides(config.sink_kafka)
    with pytest.raises(ConfigError, match="cannot be read"):
        replicate_kafka.overrides({"sasl_plain_password_file": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="cannot be set"):
        AppConfig.from_env({f"{family}TRANSACTIONAL_ID": "mine"})


def test_the_service_serves_no_copied_record() -> None:
    """One that somebody brought into a service's own topic is quarantined, so that its e-mail is not held there, too;
    a replicator may pass it on."""
    headers = copied(headers_of(Change(0, 0, UID, 1, profile(UID, 1, "bob")), 0), "origin")
    for value in (profile(UID, 1, "bob"), None):
        record = Record("profiles", 0, 0, 0, UID.encode(), value, headers)
        with pytest.raises(PoisonRecord) as caught:
            materialise_profile(record)
        assert caught.value.reason == "copy"
        assert materialise_profile(record, may_be_copy=True)[0] == UID.encode()


def test_headers_that_the_source_does_not_tell_are_made_and_always_the_same() -> None:
    """Records from a change feed get the documented headers; the id of an event follows from uid and version."""
    states = [Change(0, n, UID, n, profile(UID, n, "bob")) for n in (1, 2)] + [Change(0, 3, UID, 3, None)]
    made = [headers_of(change, 1_000) for change in states]
    kinds = [
        check(Raw(0, 0, 0, UID.encode(), change.body, headers), PROFILES)
        for change, headers in zip(states, made, strict=True)
    ]
    assert kinds == ["profile.created", "profile.updated", "profile.deleted"]
    assert len({dict(headers)["ce_id"] for headers in made}) == 3
    assert made == [headers_of(change, 1_000) for change in states]


def test_the_trail_grows_and_stays_in_front() -> None:
    """Each copy adds the topic it was read from."""
    headers = copied(copied((("a", b"1"),), "first"), "second")
    assert headers == (("profiles-origin", b"first,second"), ("a", b"1"))
    assert trail_of(headers) == ("first", "second")
    assert trail_of((("a", b"1"),)) == ()


def _unreachable(*_: Any, **__: Any) -> Any:
    raise LogUnavailable("no broker answers")


def _changes(count: int) -> tuple[SourceInfo, list[Change]]:
    """Return a source, and the first versions of one profile as its changes in partition 0."""
    source = SourceInfo(uuid.uuid4().hex, PARTITIONS, None)
    return source, [Change(0, n, UID, n + 1, profile(UID, n + 1, "bob"), (), BEGUN_MS + n) for n in range(count)]


def _batch(changes: list[Change]) -> Batch:
    return Batch(changes, {0: Position(changes[-1].offset + 1, "token", 1)})


def _versions(rig: Rig) -> list[int]:
    records = by_partition(rig.read("copy"))[0]
    assert [record.timestamp_ms for record in records] == [BEGUN_MS + n for n in range(len(records))]
    return [int(dict(record.headers)["profile-version"]) for record in records]
