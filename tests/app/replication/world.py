"""A log in memory with profiles in it, as the service writes them, and the fold that a sink must come to."""

import json
import random
import uuid
from collections.abc import Mapping
from typing import Any

from app.profiles.events import CREATED, DELETED, UPDATED, Event, Records
from app.profiles.topics import TopicNames, topic_specs
from app.replication.log_source import LogSource
from app.replication.ports import Sink
from app.replication.replicator import Replicator
from app.replication.sharing import Everything
from streams.clock import Backoff, Clock, Deadline, SystemClock
from streams.partitioner import partition_for
from streams.records import ProducerRecord
from streams.testing import MemoryLog

TOPICS = TopicNames.prefixed("")
BAD_TIME = "not a time"  # what a search server refuses as a date, and the service's derivation does not look at


class World:
    """Writes to the log. One thread."""

    def __init__(self, *, partitions: int = 3, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.log = MemoryLog(clock=self.clock)
        specs = topic_specs(
            TOPICS,
            partitions=partitions,
            default_partitions=partitions,
            replication_factor=None,
            idempotency_ttl_ms=86_400_000,
        )
        self.log.ensure_topics(specs, Deadline.after(1.0, self.clock))
        self.partitions = partitions
        self.fold: dict[str, Mapping[str, Any]] = {}
        self.versions: dict[str, int] = {}
        self._records = Records(TOPICS)

    def put(self, name: str, *, uid: str | None = None, created_at: str = "2026-01-31T23:59:59.999Z") -> str:
        """Create a profile, or change that of *uid*; return its uid."""
        kind = CREATED if uid is None else UPDATED
        uid = uid or str(uuid.uuid4())
        version = self.versions[uid] = self.versions.get(uid, 0) + 1
        self.fold[uid] = profile = {
            "uid": uid,
            "username": name,
            "email": f"{name[:40]}@mail.com",
            "version": version,
            "created_at": created_at,
            "updated_at": "2026-01-31T23:59:59.999Z",
        }
        self._write(kind, uid, version, json.dumps(profile).encode())
        return uid

    def delete(self, uid: str) -> None:
        self.versions[uid] += 1
        del self.fold[uid]
        self._write(DELETED, uid, self.versions[uid], None)

    def foreign(self, key: bytes, value: bytes | None) -> None:
        """Write a record as somebody else would, without headers."""
        self.log.put(ProducerRecord(TOPICS.profiles, self._partition(key), key, value))

    def step(self, draw: random.Random) -> None:
        """Do something: create most of the time, or change or delete one of those that are there."""
        uids = list(self.fold)
        what = draw.random()
        if what < 0.5 or not uids:
            bad = BAD_TIME if draw.random() < 0.05 else "2026-01-31T23:59:59.999Z"
            self.put(f"user{draw.randrange(10**6)}", created_at=bad)
        elif what < 0.8:
            self.put(f"user{draw.randrange(10**6)}", uid=draw.choice(uids))
        else:
            self.delete(draw.choice(uids))

    def wanted(self) -> dict[str, Mapping[str, Any]]:
        """Return what searchers must find: the fold without what a server refuses."""
        return {uid: one for uid, one in self.fold.items() if one["created_at"] != BAD_TIME}

    def refused(self) -> set[str]:
        """Return the uids whose last state a server refuses."""
        return self.fold.keys() - self.wanted().keys()

    def source(self) -> LogSource:
        return LogSource(self.log, TOPICS.profiles, self.clock)

    def replicator(self, sink: Sink, **options: Any) -> Replicator:
        options = {"backoff": Backoff(initial_s=0.001, maximum_s=0.02), "share": Everything.of, **options}
        return Replicator(source=self.source(), sink=sink, clock=self.clock, **options)

    def _partition(self, key: bytes) -> int:
        return partition_for(key, self.partitions)

    def _write(self, kind: tuple[str, bytes], uid: str, version: int, body: bytes | None) -> None:
        event_id = uuid.uuid4()
        event = Event.of(event_id.bytes, "2026-01-31T23:59:59.999Z", None)
        partition = self._partition(uid.encode())
        self.log.put(
            self._records.profile(event, kind, partition=partition, uid=uid.encode(), version=version, body=body)
        )
