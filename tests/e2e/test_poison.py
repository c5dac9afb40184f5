"""Records that the service cannot read, in the log that it serves from: what clients and operators see of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaProducer

from streams.clock import Deadline, SystemClock
from streams.log.local.log import LocalLog
from streams.records import ProducerRecord
from tests.e2e.conftest import NewService
from tests.support.service import Service

JSON = {"Content-Type": "application/json"}
SECRET = b"secret@mail.com"


def test_poison_records_are_listed_and_stop_nothing(
    new_service: NewService, log_environment: Mapping[str, str]
) -> None:
    """Each kind behind a good record: its profile stays, its partition takes writes, `/readyz` says ready; the metrics
    count them, the running node and, when it is stopped, the stores list them by place and reason, without a value."""
    service = new_service(**log_environment).start()
    created = json.loads(service.request("POST", "/api/profile", b'{"username":"u","email":"u@mail.com"}').body)
    place = f"/api/profile/{created['uid']}"
    partition = partition_of(service, created["uid"])
    prefix = log_environment.get("PROFILES_TOPIC_PREFIX", "")
    uid = created["uid"].encode()
    newer = json.dumps({**created, "version": 2}).encode()
    poison = [
        ProducerRecord(f"{prefix}profiles", partition, uid, b'{"email":"' + SECRET),
        ProducerRecord(f"{prefix}profiles", partition, uid, b'{"email":"' + SECRET + b'"}'),
        ProducerRecord(f"{prefix}profiles", partition, uid, newer, (("profile-format", b"99"),)),
    ]
    # Without a key there is none: neither log takes such a record into a compacted topic.
    reasons = ["not-json", "wrong-shape", "newer-version"]
    assert service.stop() == 0
    offsets = append(service, log_environment, poison)
    service.start()

    expected = sorted(zip(offsets, reasons, strict=True))
    assert json.loads(service.request("GET", place).body) == created
    changed = service.request("PUT", place, b'{"username":"v","email":"u@mail.com"}', {"If-Match": '"1"', **JSON})
    assert (changed.status, changed.headers["etag"]) == (200, '"2"')
    counted = sum(
        float(line.split()[-1])
        for line in service.request("GET", "/metrics").body.decode().splitlines()
        if line.startswith("quarantined_records_total{")
    )
    assert counted == len(poison)
    assert listed(service) == expected, "of the running node"
    assert service.stop() == 0
    assert listed(service) == expected, "of the stores"
    verified = json.loads(service.command("verify", "--json").stdout)
    assert (verified["poison"], verified["difference_count"]) == (len(poison), 0)
    assert SECRET.decode() not in service.log()


def listed(service: Service) -> list[tuple[int, str]]:
    """Offset and reason of each line of `python -m app quarantine`, which must hold no value."""
    done = service.command("quarantine", "--json")
    assert done.returncode == 0, done
    assert SECRET.decode() not in done.stdout + done.stderr
    entries: list[dict[str, Any]] = json.loads(done.stdout)
    return sorted((entry["offset"], entry["reason"]) for entry in entries)


def partition_of(service: Service, uid: str) -> int:
    """The partition of a profile, as `/metadata` tells it."""
    return int(json.loads(service.request("GET", f"/metadata/stores/profile.store/key/{uid}").body)["partition"])


def append(service: Service, environment: Mapping[str, str], records: Sequence[ProducerRecord]) -> list[int]:
    """Append *records* one by one, as a foreign producer would, to the log of a service that is stopped; return their
    offsets."""
    servers = environment.get("PROFILES_BOOTSTRAP_SERVERS")
    if servers is None:
        log = LocalLog(service.state_dir / "log", clock=SystemClock())
        producer = log.open_producer()
        ends = [producer.produce([record], Deadline.after(10.0, SystemClock())) for record in records]
        producer.close()
        log.close()
        return [end - 1 for moved in ends for end in moved.values()]
    foreign = KafkaProducer(bootstrap_servers=servers)
    try:
        return [
            foreign.send(r.topic, r.value, r.key, list(r.headers), r.partition).get(timeout=15).offset for r in records
        ]
    finally:
        foreign.close()
