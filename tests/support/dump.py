"""What the log holds, read without the product's own folding: every state of every profile, in the order of the log."""

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaPartition

from streams.clock import Deadline, SystemClock
from streams.log.local.log import LocalLog
from streams.records import TopicPartition
from tests.support.history import LogEntry, ProfileLog

_READ_TIMEOUT_S = 30.0

_Raw = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]


def dump_kafka(bootstrap_servers: str, topic: str = "profiles") -> ProfileLog:
    """Read *topic* to its end with a plain read_committed consumer."""
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
        records: list[_Raw] = []
        end = time.monotonic() + _READ_TIMEOUT_S
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            assert time.monotonic() < end, f"the end of {topic} was not reached in {_READ_TIMEOUT_S} s"
            for batch in consumer.poll(timeout_ms=200).values():
                records += [(record.key, record.value, record.headers) for record in batch]
        return _entries(records)


def dump_embedded(state_dir: Path, topic: str = "profiles") -> ProfileLog:
    """Read *topic* of the embedded log below *state_dir*, which no process may hold."""
    log = LocalLog(state_dir / "log", clock=SystemClock())
    with contextlib.closing(log):
        deadline = Deadline.after(_READ_TIMEOUT_S, SystemClock())
        info = log.describe_topics([topic], deadline)[topic]
        partitions = [TopicPartition(topic, number) for number in range(info.partitions)]
        ends = log.end_offsets(partitions, deadline)
        reader = log.open_reader()
        reader.assign(dict.fromkeys(partitions, 0))
        positions = dict.fromkeys(partitions, 0)
        records: list[_Raw] = []
        while any(positions[partition] < ends[partition] for partition in partitions):
            assert not deadline.has_passed(SystemClock()), f"the end of {topic} was not reached in {_READ_TIMEOUT_S} s"
            for batch in reader.poll(0.2):
                positions[TopicPartition(batch.topic, batch.partition)] = batch.next_offset
                records += [(record.key, record.value, record.headers) for record in batch.records]
        reader.close()
        return _entries(records)


def _entries(records: Iterable[_Raw]) -> ProfileLog:
    """Group by uid. The order of one uid's records is that of its partition."""
    log: dict[str, list[LogEntry]] = defaultdict(list)
    for key, value, headers in records:
        assert key is not None
        version = int(dict(headers)["profile-version"])
        if value is None:
            log[key.decode()].append(LogEntry(version, None, None))
            continue
        document = json.loads(value)
        assert document["version"] == version, f"the header says {version}: {document}"
        log[key.decode()].append(LogEntry(version, document["username"], document["email"]))
    return dict(log)
