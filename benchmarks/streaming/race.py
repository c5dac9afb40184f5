"""One contestant, one task, one run: how many records a second come out of it, as a reader of committed records sees.

All contestants read the same topic of the same broker, each into a topic of its own, with a group of its own, commit
about twice a second, and run alone. The rate is taken between the first and the last output that is seen, so that
starting and joining the group do not count.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic

PARTITIONS = 4
_POLL_S = 0.05
_QUIET_S = 4.0  # no output for so long: it has ended, or stands still
_FIRST_OUTPUT_S = 60.0
_LONGEST_S = 240.0


class Result(NamedTuple):
    """`rate` in records/s; `records` that came out, of those that should have; `cpu_us`: processor time for a record;
    `rss_bytes`: the most it took."""

    rate: float
    records: int
    cpu_us: float
    rss_bytes: int


def create_topics(bootstrap_servers: str, names: Sequence[str]) -> None:
    """Create topics of PARTITIONS partitions."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
    finally:
        admin.close()


def run(command: Sequence[str], *, bootstrap_servers: str, out: str, expected: int, log: Path) -> Result:
    """Run *command* until *expected* records (or no more) came out into the topic *out*, and end it."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, isolation_level="read_committed")
    places = [TopicPartition(out, partition) for partition in range(PARTITIONS)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        return _watch(process, consumer, places, expected)
    finally:
        if process.poll() is not None:
            print(f"it ended by itself: {log.read_text(errors='replace')[-2000:]}", flush=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        consumer.close()


def _watch(
    process: "subprocess.Popen[bytes]", consumer: KafkaConsumer, places: Sequence[TopicPartition], expected: int
) -> Result:
    begun = time.monotonic()
    first: tuple[float, int, float] | None = None
    last = (begun, 0, 0.0)
    rss_bytes = 0
    while process.poll() is None:
        count = sum(consumer.end_offsets(places).values())
        now = time.monotonic()
        if count > last[1]:
            rss, cpu_s = _taken_by(process.pid)
            last = (now, count, cpu_s)
            first = first or last
            rss_bytes = max(rss_bytes, rss)
        waited = now - last[0]
        if (first and (waited > _QUIET_S)) or (first is None and waited > _FIRST_OUTPUT_S) or now - begun > _LONGEST_S:
            break
        if last[1] >= expected and waited > 1.0:
            break
        time.sleep(_POLL_S)
    if first is None or last[0] == first[0]:
        return Result(0.0, last[1], 0.0, rss_bytes)
    done = min(last[1], expected) - first[1]
    return Result(done / (last[0] - first[0]), last[1], (last[2] - first[2]) / done * 1e6, rss_bytes)


def _taken_by(pid: int) -> tuple[int, float]:
    """Return resident memory in bytes and processor time in s."""
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        times = [process.cpu_times() for process in processes]
        return sum(process.memory_info().rss for process in processes), sum(one.user + one.system for one in times)
    except psutil.NoSuchProcess:
        return 0, 0.0
