"""Random records in a topic like the service's, and whether the copy of it in another topic is exact."""

import json
import random
import time
import uuid
from collections.abc import Sequence

from kafka import KafkaAdminClient, KafkaProducer

from app.profiles.events import ORIGIN_HEADER
from streams.partitioner import partition_for
from tests.support.dump import Raw, raw_kafka

#: Records are stamped as if written in the last minutes, in no order: brokers compact by these times.
_AGE_MS = 300_000


class Origin:
    """A topic whose records are written by one transactional producer: creates, changes and deletes, in transactions of
    which some are aborted. Not thread-safe."""

    def __init__(self, bootstrap_servers: str, topic: str, *, partitions: int, seed: int) -> None:
        """Makes the topic. What is written follows from *seed*, which is printed."""
        print(f"seed {seed} for {topic}")
        self.bootstrap_servers = bootstrap_servers
        self.topic = topic
        self._partitions = partitions
        self._random = random.Random(seed)
        self._versions: dict[str, int] = {}
        self._begun_ms = round(time.time() * 1000)
        make_topic(bootstrap_servers, topic, partitions)
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap_servers, transactional_id=f"{topic}-origin", retry_backoff_ms=2, acks="all"
        )
        self._producer.init_transactions()

    def write(self, records: int) -> None:
        """Commit about so many records."""
        while records > 0:
            self._producer.begin_transaction()
            is_committed = self._random.random() < 0.8
            kept = dict(self._versions)
            for _ in range(self._random.randrange(1, 20)):
                self._write_one()
                records -= is_committed
            self._producer.flush(20)
            if is_committed:
                self._producer.commit_transaction()
            else:
                self._producer.abort_transaction()
                self._versions = kept

    def close(self) -> None:
        self._producer.close(timeout=2)

    def _write_one(self) -> None:
        live = list(self._versions)
        is_new = not live or self._random.random() < 0.4
        uid = str(uuid.UUID(int=self._random.getrandbits(128), version=4)) if is_new else self._random.choice(live)
        version = self._versions.get(uid, 0) + 1
        is_gone = not is_new and self._random.random() < 0.3
        if is_gone:
            del self._versions[uid]
        else:
            self._versions[uid] = version
        value = None if is_gone else profile(uid, version, self._random.choice(["bob", "名前", "x" * 300]))
        key = uid.encode()
        headers = [("profile-version", b"%d" % version), ("ce_id", self._random.randbytes(8)), ("empty", b"")]
        self._producer.send(
            self.topic,
            value,
            key,
            headers,
            partition_for(key, self._partitions),
            self._begun_ms - self._random.randrange(_AGE_MS),
        )


def make_topic(bootstrap_servers: str, topic: str, partitions: int, **config: str) -> None:
    """Make a compacted topic, unless *config* says otherwise."""
    configs = {"cleanup.policy": "compact", "min.compaction.lag.ms": "600000", "delete.retention.ms": "172800000"}
    configs |= {name.replace("_", "."): value for name, value in config.items()}
    with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
        admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1, "configs": configs}})


def profile(uid: str, version: int, username: str) -> bytes:
    """Return the value of a record."""
    at = "2026-03-01T08:00:00.000Z"
    document = {"uid": uid, "username": username, "email": f"{uid}@mail.com", "version": version}
    return json.dumps({**document, "created_at": at, "updated_at": at}, separators=(",", ":")).encode()


def by_partition(records: Sequence[Raw]) -> dict[int, list[Raw]]:
    """Return *records* by partition, in their order, without their offsets."""
    found: dict[int, list[Raw]] = {}
    for record in records:
        found.setdefault(record.partition, []).append(record._replace(offset=0, headers=tuple(record.headers)))
    return found


def assert_exact(origin: Origin, bootstrap_servers: str, copy: str) -> int:
    """Check that *copy* is the origin, record by record in each partition, with the origin's mark; return how many
    records that are."""
    wanted = by_partition(raw_kafka(origin.bootstrap_servers, origin.topic))
    found = by_partition(raw_kafka(bootstrap_servers, copy))
    trails = {record.headers[0] for records in found.values() for record in records}
    assert all(name == ORIGIN_HEADER for name, _ in trails), trails
    assert len(trails) == 1, trails
    bare = {n: [one._replace(headers=one.headers[1:]) for one in records] for n, records in found.items()}
    for number in wanted.keys() | bare.keys():
        mine, theirs = wanted.get(number, []), bare.get(number, [])
        first = next((at for at, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), None)
        assert first is None, f"partition {number} differs at record {first}: {mine[first]} {theirs[first]}"
        assert len(mine) == len(theirs), f"partition {number}: {len(mine)} records, {len(theirs)} in the copy"
    return sum(map(len, wanted.values()))


def wait_until_exact(origin: Origin, bootstrap_servers: str, copy: str, *, timeout_s: float) -> int:
    """As `assert_exact`, once the copy has as many records as the origin. What is there twice fails at once."""
    end = time.monotonic() + timeout_s
    wanted = len(raw_kafka(origin.bootstrap_servers, origin.topic))
    while (found := len(raw_kafka(bootstrap_servers, copy))) < wanted and time.monotonic() < end:
        time.sleep(0.2)
    assert found <= wanted, f"{found} records in the copy of {wanted}"
    return assert_exact(origin, bootstrap_servers, copy)
