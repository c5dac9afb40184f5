"""What the log holds, read without the product's own folding: every state of every profile, in the order of the log."""

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaPartition

from streams.clock import Deadline, SystemClock
from streams.log.local.log import LocalLog
from streams.records import TopicPartition
from tests.support.history import LogEntry, ProfileLog

_READ_TIMEOUT_S = 30.0


class Raw(NamedTuple):
    """A record as it is in the log."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


def dump_kafka(bootstrap_servers: str, topic: str = "profiles") -> ProfileLog:
    """Read *topic* to its end with a plain read_committed consumer."""
    return _entries(raw_kafka(bootstrap_servers, topic))


def dump_embedded(state_dir: Path, topic: str = "profiles") -> ProfileLog:
    """Read *topic* of the embedded log below *state_dir*, which no process may hold."""
    return _entries(raw_embedded(state_dir, topic))


def raw_kafka(bootstrap_servers: str, topic: str) -> list[Raw]:
    """Return the committed records of *topic*, in the order of each partition."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        group_id=None,
    )
    with contextlib.closing(consumer):
        partitions = [KafkaPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        assert partitions, f"there is no topic {topic}"
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        consumer.seek_to_beginning(*partitions)
        records: list[Raw] = []
        end = time.monotonic() + _READ_TIMEOUT_S
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            assert time.monotonic() < end, f"the end of {topic} was not reached in {_READ_TIMEOUT_S} s"
            for batch in consumer.poll(timeout_ms=200).values():
                records += [
                    Raw(one.partition, one.offset, one.timestamp, one.key, one.value, one.headers) for one in batch
                ]
        return records


def raw_embedded(state_dir: Path, topic: str) -> list[Raw]:
    """Return the records of *topic* of the embedded log below *state_dir*, in the order of each partition."""
    log = LocalLog(state_dir / "log", clock=SystemClock())
    with contextlib.closing(log):
        deadline = Deadline.after(_READ_TIMEOUT_S, SystemClock())
        info = log.describe_topics([topic], deadline)[topic]
        partitions = [TopicPartition(topic, number) for number in range(info.partitions)]
        ends = log.end_offsets(partitions, deadline)
        reader = log.open_reader()
        reader.assign(dict.fromkeys(partitions, 0))
        positions = dict.fromkeys(partitions, 0)
        records: list[Raw] = []
        while any(positions[partition] < ends[partition] for partition in partitions):
            assert not deadline.has_passed(SystemClock()), f"the end of {topic} was not reached in {_READ_TIMEOUT_S} s"
            for batch in reader.poll(0.2):
                positions[TopicPartition(batch.topic, batch.partition)] = batch.next_offset
                records += [Raw(*one[1:]) for one in batch.records]
        reader.close()
        return records


def _entries(records: Iterable[Raw]) -> ProfileLog:
    """Group by uid. The order of one uid's records is that of its partition."""
    log: dict[str, list[LogEntry]] = defaultdict(list)
    for _, _, _, key, value, headers in records:
        assert key is not None
        version = int(dict(headers)["profile-version"])
        if value is None:
            log[key.decode()].append(LogEntry(version, None, None))
            continue
        document = json.loads(value)
        assert document["version"] == version, f"the header says {version}: {document}"
        log[key.decode()].append(LogEntry(version, document["username"], document["email"]))
    return dict(log)
