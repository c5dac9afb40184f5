"""The topics as a public contract: what docs/events.md says is what the service writes, on either log.

The page is the only source: its tables, its schemas and its programs are taken from it as they stand.
"""

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from kafka import KafkaProducer

from app.profiles.events import Event, Records
from app.profiles.topics import TopicNames, topic_specs
from tests.kafka.conftest import kafka_broker
from tests.support import contract
from tests.support.broker import class_path, java
from tests.support.contract import EMAILS, PROFILES, REQUESTS, Kind, block, check, check_versions, fold, schema, table
from tests.support.dump import Raw, raw_embedded, raw_kafka
from tests.support.service import Service

__all__ = ["kafka_broker"]

_COMMANDS = 160
_CATCH_UP_S = 40.0
_TOPICS = {"profiles": PROFILES, "profile-emails": EMAILS, "profile-requests": REQUESTS}
_WRITTEN = frozenset().union(*(kind.states for kind in _TOPICS.values()))
_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Users:
    """Sends random requests, good and bad ones, to a node. The seed is in the name of the failure."""

    def __init__(self, service: Service, seed: int) -> None:
        self._service = service
        self._random = random.Random(seed)
        self._live: list[str] = []
        self._made = 0
        print(f"seed {seed}")

    def send(self, commands: int) -> None:
        for _ in range(commands):
            self._random.choice([self._create, self._create, self._change, self._change, self._change, self._delete])()

    def _create(self) -> None:
        headers = {}
        if self._random.random() < 0.4:
            headers["Idempotency-Key"] = f'"{self._random.randrange(40)}"'
        if self._random.random() < 0.3:
            headers["traceparent"] = _TRACE
        content = {"username": self._username(), "email": self._email()}
        reply = self._service.request("POST", "/api/profile", json.dumps(content).encode(), headers)
        assert reply.status in (201, 409, 410, 422), reply
        if reply.status == 201 and (uid := json.loads(reply.body)["uid"]) not in self._live:
            self._live.append(uid)

    def _change(self) -> None:
        if not self._live:
            return
        change: dict[str, Any] = {}
        if self._random.random() < 0.6:
            change["email"] = self._email()
        if not change or self._random.random() < 0.5:
            change["username"] = self._username()
        method = "PATCH" if len(change) == 1 else "PUT"
        target = f"/api/profile/{self._random.choice(self._live)}"
        assert self._service.request(method, target, json.dumps(change).encode()).status in (200, 409, 422)

    def _delete(self) -> None:
        if self._live and self._random.random() < 0.7:
            uid = self._live.pop(self._random.randrange(len(self._live)))
            assert self._service.request("DELETE", f"/api/profile/{uid}").status == 204

    def _email(self) -> str:
        number = self._random.randrange(60)
        return self._random.choice(
            [f"User{number}@Mail.com", f"jörg{number}@straße.example.org", f"a.b+{number}@xn--bcher-kva.example.net"]
        ).replace(".example", "")

    def _username(self) -> str:
        return self._random.choice(["bob", "Ünï çødé", "名前", 'quo"te\\', "x" * 64, "\u2028 line", "😀"])


def _listed(service: Service) -> dict[str, Any]:
    """Return all profiles as the service lists them."""
    found, cursor = {}, ""
    while True:
        page = json.loads(service.request("GET", f"/api/profile?limit=100{cursor}").body)
        found |= {item["uid"]: item for item in page["items"]}
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


def _check_all(read: Callable[[str], list[Raw]]) -> dict[str, Any]:
    """Check every record of the three topics, and that every kind of event was among them; return the profiles."""
    seen = set()
    for topic, kind in _TOPICS.items():
        records = read(topic)
        seen |= {check(record, kind) for record in records}
        if kind is PROFILES:
            check_versions(records)
            profiles = fold(records)
            assert {"traceparent"} <= {name for record in records for name, _ in record.headers}
        if kind is EMAILS:
            claims = fold(records)
    assert seen >= _WRITTEN | PROFILES.tombstones | EMAILS.tombstones
    assert {claim["uid"] for claim in claims.values()} == set(profiles)
    return profiles


def test_what_is_written_to_the_embedded_log_is_what_the_page_says(tmp_path: Path) -> None:
    """Every record that random requests lead to has the documented key, value and headers, tombstones included."""
    with Service(tmp_path / "node") as service:
        service.start()
        Users(service, seed=random.randrange(1 << 32)).send(_COMMANDS)
        listed = _listed(service)
        assert service.stop() == 0
        assert _check_all(lambda topic: raw_embedded(service.state_dir, topic)) == listed


@pytest.fixture
def on_kafka(kafka_broker: str, tmp_path: Path) -> Iterator[tuple[Service, str]]:
    """A node on the run's broker, with topics of its own, and their prefix."""
    prefix = f"t{uuid.uuid4().hex[:10]}-"
    environment = {
        "PROFILES_BOOTSTRAP_SERVERS": kafka_broker,
        "PROFILES_TOPIC_PREFIX": prefix,
        "PROFILES_APPLICATION_ID": prefix + "app",
        "PROFILES_PARTITIONS": "3",
    }
    with Service(tmp_path / "node", environment=environment) as service:
        service.start()
        yield service, prefix


@pytest.mark.kafka
def test_what_is_written_to_kafka_is_what_the_page_says_and_its_consumers_rebuild_the_profiles(
    on_kafka: tuple[Service, str], kafka_broker: str, tmp_path: Path
) -> None:
    """Every record has the documented shape; the programs of the page, as they stand there, come to what the service
    lists: the one in Python although it is killed while it follows, and although others leave behind transactions that
    were aborted, a record of a newer format, and one that is no profile."""
    service, prefix = on_kafka
    users = Users(service, seed=random.randrange(1 << 32))
    program, copy = tmp_path / "profiles_copy.py", tmp_path / "copy.db"
    program.write_text(block("python"))
    command = [sys.executable, str(program), kafka_broker, prefix + "profiles", str(copy)]
    users.send(_COMMANDS // 2)
    follower = subprocess.Popen(command)
    try:
        _wait_for_rows(copy, follower)
        users.send(_COMMANDS // 2)
    finally:
        follower.kill()
        follower.wait()
    listed = _listed(service)
    assert _check_all(lambda topic: raw_kafka(kafka_broker, prefix + topic)) == listed
    bad = _spoil(kafka_broker, prefix + "profiles", next(iter(listed)).encode())

    subprocess.run([*command, "--once"], check=True, timeout=_CATCH_UP_S)

    with contextlib.closing(sqlite3.connect(copy)) as db:
        rows = dict(db.execute("SELECT uid, document FROM profile"))
        aside = db.execute("SELECT count(*) FROM aside").fetchone()[0]
    assert {uid: json.loads(document) for uid, document in rows.items()} == listed == _listed(service)
    assert aside == bad
    subprocess.run([*command, "--once"], check=True, timeout=_CATCH_UP_S)  # Nothing is new.
    with contextlib.closing(sqlite3.connect(copy)) as db:
        assert dict(db.execute("SELECT uid, document FROM profile")) == rows


@pytest.mark.kafka
def test_the_consumer_in_java_rebuilds_the_profiles(
    on_kafka: tuple[Service, str], kafka_broker: str, tmp_path: Path
) -> None:
    """The program of the page compiles as it stands there, and prints what the service lists."""
    compiler = shutil.which("javac")
    if compiler is None:
        pytest.skip("no Java compiler here: the example in Java was not compiled")
    service, prefix = on_kafka
    Users(service, seed=random.randrange(1 << 32)).send(40)
    source = tmp_path / "ProfilesDump.java"
    source.write_text(block("java"))
    clients = class_path()
    # The runtime that runs it may be older than the compiler; 17 is what the clients of Kafka 4 need at least.
    subprocess.run([compiler, "--release", "17", "-cp", clients, "-d", str(tmp_path), str(source)], check=True)
    done = subprocess.run(
        [java(), "-cp", os.pathsep.join([clients, str(tmp_path)]), "ProfilesDump", kafka_broker, prefix + "profiles"],
        check=True,
        timeout=_CATCH_UP_S,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    printed = [json.loads(line) for line in done.stdout.split("\n") if line]  # names may hold other line ends
    assert {profile["uid"]: profile for profile in printed} == _listed(service)


def _wait_for_rows(path: Path, follower: "subprocess.Popen[bytes]") -> None:
    """Return once the copy holds something."""
    end = time.monotonic() + _CATCH_UP_S
    while time.monotonic() < end:
        assert follower.poll() is None, "the consumer has ended"
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as db:
            if db.execute("SELECT count(*) FROM profile").fetchone()[0]:
                return
        time.sleep(0.05)
    raise AssertionError("the consumer has copied nothing")


def _spoil(bootstrap_servers: str, topic: str, uid: bytes) -> int:
    """Write what a consumer has to cope with for the live profile *uid*; return how many records it must set aside."""
    lie = json.dumps({"uid": uid.decode(), "username": "never", "version": 99, "email": "never@mail.com"}).encode()
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, transactional_id=topic + "-rogue", retry_backoff_ms=5)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic, lie, uid)
    producer.flush(10)
    producer.abort_transaction()
    producer.begin_transaction()
    producer.send(topic, b'{"of": "the future"}', uid, headers=[("profile-format", b"2")])
    producer.send(topic, b"no profile", uid)
    producer.commit_transaction()
    producer.close(timeout=5)
    return 2


def test_a_barrier_is_a_record_of_the_third_topic() -> None:
    """What proves ownership to a claimant of another node has the documented shape, too; it is rare in a log."""
    event = Event.of(bytes(range(16)), "2026-03-01T08:00:00.000Z", None)
    record = Records(TopicNames.prefixed("")).barrier(event, partition=0, key=bytes(32))
    found = Raw(0, 0, 0, record.key, record.value, record.headers)
    assert check(found, REQUESTS) == "profile.ownership.proven"
    assert contract.headers_of(found)["ce_subject"] == "barrier"


@pytest.mark.parametrize("kind", _TOPICS.values(), ids=_TOPICS)
def test_the_check_refuses_what_the_page_does_not_name(kind: Kind) -> None:
    """A record with a member, a header or a type that is not documented fails the checks above."""
    event = Event.of(bytes(range(16)), "2026-03-01T08:00:00.000Z", None)
    uid = b"8d4b5e0e-7b0c-4c1e-9c55-0a6f4b1f2c3d"
    records = Records(TopicNames.prefixed(""))
    if kind is PROFILES:
        body = block("json", containing="bob1@mail.com").strip().encode()
        good = records.profile(event, ("ce_type", b"profile.updated"), partition=0, uid=uid, version=3, body=body)
    elif kind is EMAILS:
        good = records.claim(event, partition=0, email_key=b"a@b.c", uid=uid, version=1)
    else:
        value = b'{"fingerprint":"%b","uid":"%b","status":201,"at":1}' % (b"0" * 64, uid)
        good = records.request(event, partition=0, key=bytes(32), value=value, uid=uid, version=1)
    sound = Raw(0, 0, 0, good.key, good.value, good.headers)
    check(sound, kind)
    assert sound.value is not None
    for broken in (
        sound._replace(value=sound.value.replace(b"{", b'{"more":1,', 1)),
        sound._replace(value=sound.value.replace(b'"uid"', b'"id"', 1)),
        sound._replace(value=sound.value.replace(b":", b": ", 1)),
        sound._replace(headers=[*sound.headers, ("more", b"1")]),
        sound._replace(headers=sound.headers[::-1]),
        sound._replace(headers=sound.headers[1:]),
        sound._replace(value=None),
    ):
        with pytest.raises(Exception, match=r"."):
            check(broken, kind)


@pytest.mark.parametrize("name", ["profile", "claim", "request"])
def test_schemas_are_valid_and_open(name: str) -> None:
    """Each is a schema of draft 2020-12, allows what a later release may add, and describes every member."""
    document = schema(name)
    Draft202012Validator.check_schema(document)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "additionalProperties" not in document
    assert sorted(document["required"]) == sorted(document["properties"])
    assert all("description" in one or "$ref" in one for one in document["properties"].values())


def test_the_table_of_settings_is_the_one_in_force() -> None:
    """Figures of compaction and retention on the page are those with which topics are created."""
    specs = topic_specs(
        TopicNames.prefixed(""),
        partitions=None,
        default_partitions=8,
        replication_factor=None,
        idempotency_ttl_ms=24 * 3600 * 1000,
    )
    profiles, emails, requests = (dict(spec.config) for spec in specs)
    assert profiles == emails
    written = {row[0]: row[1:3] for row in table("Compaction and retention")}
    assert written.keys() == requests.keys()
    for name, (state, memory) in written.items():
        assert memory.split(" ")[0] == requests[name]
        assert state.split(" ")[0] == profiles.get(name, "without")


def test_the_examples_that_are_not_run_are_well_formed() -> None:
    """Connectors are JSON and read committed records; every column of the tables is a member of a profile."""
    members = set(schema("profile")["properties"])
    for text in ("profiles-to-elasticsearch", "profiles-to-jdbc", "profiles-mirror"):
        config = json.loads(block("json", containing=f'"{text}"'))["config"]
        assert config["topics"] == "profiles"
        isolation = [value for name, value in config.items() if name.endswith("isolation.level")]
        assert isolation == ["read_committed"]
        if "value.converter.schema.content" in config:
            fields = json.loads(config["value.converter.schema.content"])["fields"]
            assert {field["field"] for field in fields} == members
            assert {*config["fields.whitelist"].split(","), config["pk.fields"]} == members
    columns = block("sql").partition("CREATE TABLE profiles (")[2].partition(") WITH")[0]
    assert {line.split()[0] for line in columns.strip().splitlines()} == members
    assert "isolation.level=read_committed" in block("text")
