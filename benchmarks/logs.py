"""The logs without the service above them: what the embedded one keeps on disk, what a broker needs for a write."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from app.bootstrap import lock_state_dir, open_log, topics_of
from app.config import AppConfig
from benchmarks import machine, preload
from benchmarks.plan import Plan
from benchmarks.report import Table, middle, spread
from streams.clock import Deadline, SystemClock
from streams.records import ProducerRecord

_VALUE = bytes(200)
_GROUP = 500
_TRANSACTIONS = 300
_TIMEOUT_S = 30.0


def measure_disk(plan: Plan, directory: Path) -> Table:
    """Update few keys very often, and look what the directory of the embedded log holds then."""
    table = Table(
        "Disk of the embedded log",
        f"{plan.disk_keys:,} keys with values of {len(_VALUE)} bytes, updated {plan.disk_updates:,} times in groups of "
        f"{_GROUP}, through the log's own writer. Live data: the last record of each key.",
        ("records appended", "records/s", "live MB", "largest directory, MB", "after a reopening, MB"),
    )
    clock = SystemClock()
    config = AppConfig.from_env(preload.settings_of(directory / "state"))
    sizes: list[float] = []

    def groups() -> Iterator[Sequence[ProducerRecord]]:
        topic = config.topic_prefix + "profiles"
        for first in range(0, plan.disk_updates, _GROUP):
            numbers = [number % plan.disk_keys for number in range(first, first + _GROUP)]
            yield [ProducerRecord(topic, number % 8, b"key-%030d" % number, _VALUE) for number in numbers]
            if first % (_GROUP * 100) == 0:
                sizes.append(machine.directory_bytes(config.state_dir) / 1e6)

    lock = lock_state_dir(config)
    try:
        log = open_log(config, node_id="disk", clock=clock)
        log.ensure_topics(topics_of(config), Deadline.after(_TIMEOUT_S, clock))
        start = time.perf_counter()
        preload.append_all(log, config, groups(), clock)
        rate = plan.disk_updates / (time.perf_counter() - start)
        log.close()
        sizes.append(machine.directory_bytes(config.state_dir) / 1e6)
        open_log(config, node_id="disk", clock=clock).close()
    finally:
        lock.release()
    after_mb = machine.directory_bytes(config.state_dir) / 1e6
    live_mb = plan.disk_keys * (34 + len(_VALUE)) / 1e6
    table.rows.append(
        (f"{plan.disk_updates:,}", f"{rate:,.0f}", f"{live_mb:.2f}", f"{max(sizes):,.1f}", f"{after_mb:,.1f}")
    )
    return table


def measure_transaction(plan: Plan, *, bootstrap_servers: str) -> Table:
    """Commit transactions of one record, one after the other, by the client library alone."""
    table = Table(
        "A bare transaction on the broker",
        f"One record a transaction, {_TRANSACTIONS} one after the other, kafka-python with `retry_backoff_ms` 2: the "
        "least that a write of one connection on Kafka can take.",
        ("transaction", "p50 ms", "p99 ms"),
    )
    topic = "bare-transactions"
    with KafkaAdminClient(bootstrap_servers=bootstrap_servers.split(",")) as admin:
        admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    producer = KafkaProducer(
        bootstrap_servers=bootstrap_servers.split(","), transactional_id="bare", acks="all", retry_backoff_ms=2
    )
    producer.init_transactions()
    p50s, p99s = [], []
    for _ in range(plan.runs):
        times = []
        for _ in range(_TRANSACTIONS):
            start = time.perf_counter()
            producer.begin_transaction()
            producer.send(topic, key=b"key", value=_VALUE)
            producer.commit_transaction()
            times.append(1000 * (time.perf_counter() - start))
        times.sort()
        p50s.append(times[len(times) // 2])
        p99s.append(times[int(len(times) * 0.99)])
    producer.close(timeout=5)
    table.rows.append(("begin, send, commit", spread(p50s, 2), middle(p99s)))
    return table
