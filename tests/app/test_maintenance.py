"""`verify` says nothing of sound stores and finds each fault in others; `rebuild` deletes what was asked for."""

import json
from collections.abc import Callable, Mapping
from itertools import count

import pytest

from app.maintenance import Report, Verifier, identity_of, rebuild, topic_faults
from app.profiles.topics import PROFILE_STORE, SEARCH_STORE, TopicNames, topic_specs
from app.profiles.topology import STORE_FORMAT, build
from streams.clock import Deadline
from streams.log.base import LogReader, TopicInfo
from streams.records import ProducerRecord
from streams.runtime.task import QUARANTINE_STORE
from streams.stores.memory import MemoryStoreFactory
from streams.testing import FakeClock, MemoryLog

NAMES = TopicNames.prefixed("")
SPECS = topic_specs(NAMES, partitions=2, default_partitions=2, replication_factor=None, idempotency_ttl_ms=86_400_000)
FAR = Deadline(1e9)


def uid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def profile(number: int, email: str, *, partition: int = 0, version: int = 1) -> list[ProducerRecord]:
    """Return the records of a create: the claim and the profile, in one partition."""
    moment = "2026-01-01T00:00:00.000Z"
    state = {
        "uid": uid(number),
        "username": "u",
        "email": email,
        "version": version,
        "created_at": moment,
        "updated_at": moment,
    }
    claim = {"uid": uid(number), "version": version, "op": "a"}
    return [
        ProducerRecord(NAMES.emails, partition, email.encode(), json.dumps(claim).encode()),
        ProducerRecord(NAMES.profiles, partition, uid(number).encode(), json.dumps(state).encode()),
    ]


class World:
    """A log and stores that were materialised from it."""

    def __init__(self) -> None:
        clock = FakeClock()
        self.log = MemoryLog(clock=clock)
        self.infos = self.log.ensure_topics(SPECS, FAR)
        self.stores = MemoryStoreFactory(max_age_ms=None, clock=clock)
        self.topology = build(NAMES)
        self.identity = identity_of(self.topology, self.infos, STORE_FORMAT)
        self.ends: dict[tuple[str, int], int] = {}
        self._clock = clock

    def write(self, records: list[ProducerRecord], *, is_applied: bool = True) -> None:
        """Append *records* one by one and apply them to the stores of their partition."""
        for record in records:
            offset = next(iter(self.log.put(record).values()))
            if not is_applied:
                continue
            self.ends[record.topic, record.partition] = offset
            table = self.topology.table_of(record.topic)
            key, row = table.materialise(record)
            self.change(record.partition, table.store, key, row)

    def change(self, partition: int, store: str, key: bytes, row: bytes | None) -> None:
        """Put or delete one row, with the positions as they are."""
        task = self.stores.open(partition, (*self.topology.stores, QUARANTINE_STORE), self.identity)
        batch = task.batch()
        if row is None:
            batch.delete(store, key)
        else:
            batch.put(store, key, row)
        task.commit(batch, {topic: self.ends.get((topic, partition), 0) for topic in self.topology.topics})
        task.close()

    def row(self, partition: int, store: str, key: bytes) -> bytes:
        task = self.stores.open(partition, (*self.topology.stores, QUARANTINE_STORE), self.identity)
        row = task.getter(store)(key)
        task.close()
        assert row is not None
        return row

    def verify(self, infos: Mapping[str, TopicInfo] | None = None, *, holds_all: bool = True) -> Report:
        verifier = Verifier(
            log=self.log,
            stores=self.stores,
            topology=self.topology,
            format_version=STORE_FORMAT,
            clock=self._clock,
            progress=lambda done, total: None,
            holds_all=holds_all,
        )
        return verifier.run(infos or self.infos)


@pytest.fixture
def world() -> World:
    world = World()
    world.write(profile(1, "a@example.com"))
    world.write(profile(2, "b@example.com", partition=1))
    return world


def kinds(report: Report) -> list[str]:
    return [found.kind for found in report.differences]


def test_sound_stores_have_no_differences(world: World) -> None:
    """Also while the log holds more than the stores have applied."""
    world.write(profile(1, "a@example.com", version=2), is_applied=False)
    world.write(profile(3, "c@example.com"), is_applied=False)
    report = world.verify()
    assert report.difference_count == 0
    assert (report.profiles, report.rows) == (2, 4)


def test_a_member_of_a_cluster_verifies_what_it_holds(world: World) -> None:
    """A store that another node has is not missed, nor a claim in it; what the log says of both is judged anywhere."""
    claim, row = profile(3, "c@example.com")
    world.write([claim._replace(partition=1), row])
    world.stores.wipe(1)
    report = world.verify(holds_all=False)
    assert (report.difference_count, report.held, report.partitions, report.profiles) == (0, 1, 2, 2)
    assert kinds(world.verify()) == ["store-missing"]
    world.change(0, PROFILE_STORE, uid(1).encode(), None)
    world.write(profile(4, "d@example.com", partition=1)[1:], is_applied=False)
    assert kinds(world.verify(holds_all=False)) == ["row-missing", "email-not-claimed"]


def test_what_others_write_meanwhile_is_no_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The partitions are not read at one moment: an e-mail may be met at two profiles of which one has just given it
    up, and its claim with the other."""
    open_reader, opened = world.log.open_reader, count(1)

    def write_between_two_partitions() -> LogReader:
        if next(opened) == len(world.topology.topics) + 1:
            world.write(profile(1, "e@example.com", version=2), is_applied=False)
            world.write(profile(3, "a@example.com", partition=1), is_applied=False)
        return open_reader()

    world.write(profile(5, "f@example.com")[1:])
    monkeypatch.setattr(world.log, "open_reader", write_between_two_partitions)
    assert [found.key for found in world.verify(holds_all=False).differences] == [uid(5)]


FAULTS: dict[str, Callable[[World], None]] = {
    "row-differs": lambda world: world.change(
        0, PROFILE_STORE, uid(1).encode(), world.row(0, PROFILE_STORE, uid(1).encode()) + b" "
    ),
    "row-missing": lambda world: world.change(0, SEARCH_STORE, b"a@example.com", None),
    "row-not-in-log": lambda world: world.change(
        0, PROFILE_STORE, uid(9).encode(), world.row(0, PROFILE_STORE, uid(1).encode())
    ),
    "email-not-unique": lambda world: world.write(profile(4, "a@example.com", partition=1)),
    "email-not-claimed": lambda world: world.write(profile(5, "e@example.com")[1:]),
    "store-missing": lambda world: world.stores.wipe(1),
    "StoreMismatch": lambda world: setattr(
        world, "infos", {name: TopicInfo(name, "another", 2) for name in world.infos}
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_is_found(world: World, kind: str) -> None:
    """A check that cannot fail is none."""
    FAULTS[kind](world)
    report = world.verify()
    assert kind in kinds(report)
    assert report.difference_count >= len(report.differences) > 0


def test_no_difference_shows_an_email(world: World) -> None:
    """Reports end up in tickets."""
    for name, fault in FAULTS.items():
        if name not in ("store-missing", "StoreMismatch"):
            fault(world)
    assert "example.com" not in str(world.verify())


def test_a_claim_that_nobody_holds_is_no_fault(world: World) -> None:
    """A lost release harms nobody; it is only counted."""
    world.write(profile(6, "f@example.com")[:1])
    report = world.verify()
    assert (report.difference_count, report.stale_claims) == (0, 1)


def test_rebuild_deletes_the_chosen_stores_only(world: World) -> None:
    """The others are not restored for nothing."""
    assert rebuild(world.stores, [1, 7]) == [1]
    assert world.stores.tasks() == [0]
    assert rebuild(world.stores, None) == [0]


def test_topics_that_are_missing_or_differ_are_named() -> None:
    """Partition count and settings, each in a sentence."""
    infos = {spec.name: TopicInfo(spec.name, "id", 2, dict(spec.config)) for spec in SPECS}
    assert topic_faults(SPECS, infos) == []
    infos[NAMES.emails] = TopicInfo(NAMES.emails, "id", 3, {"cleanup.policy": "delete"})
    del infos[NAMES.requests]
    found = "\n".join(topic_faults(SPECS, infos))
    assert "profile-emails has 3 partitions, not 2" in found
    assert "cleanup.policy=delete, not compact" in found
    assert "profile-requests does not exist" in found
