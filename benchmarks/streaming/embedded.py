"""The same tasks on the embedded log, and what more keys cost there: `streams` alone, since no other has such a log."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import monotonic, sleep

from benchmarks import machine
from benchmarks.report import Table, spread
from benchmarks.streaming.input import STEP_MS, first_ms
from benchmarks.streaming.ours import topology
from streams.application import StreamsApplication, StreamsSettings
from streams.application.producing import Input, Producer
from streams.dsl import StreamsBuilder
from streams.serdes import JSON
from streams.topology.subtopology import ProcessorTopology

_PARTITIONS = 4
_PRODUCED_AT_ONCE = 2_000
_LONGEST_S = 600.0
#: Of the counts; the first also of the other tasks.
KEYS = (10_000, 1_000_000, 5_000_000)


def measure(home: Path, *, records: int, rounds: int, keys: Sequence[int]) -> Table:
    """Run each task *rounds* times in a process of its own, and the count once with each further number of *keys*."""
    table = Table(
        "On the embedded log",
        f"{records:,} records, then as many as there are keys; producing is not counted. One process, {_PARTITIONS} "
        "partitions, exactly once, every batch synced to disk.",
        ("task", "keys", "records/s", "MB resident", "MB on disk"),
    )
    for task in ("map", "count", "windows", "join"):
        table.rows.append(_row(task, keys[0], [_once(home, task, records, keys[0]) for _ in range(rounds)]))
    for more in keys[1:]:
        table.rows.append(_row("count", more, [_once(home, "count", max(records, more), more)]))
    return table


def _row(task: str, keys: int, runs: Sequence[tuple[float, float, float]]) -> tuple[str, ...]:
    rates, resident, disk = zip(*runs, strict=True)
    return (task, f"{keys:,}", spread(rates), spread(resident), spread(disk))


def _once(home: Path, task: str, records: int, keys: int) -> tuple[float, float, float]:
    directory = home / f"embedded-{task}-{keys}-{random.randrange(10**9)}"
    command = [sys.executable, "-m", "benchmarks.streaming.embedded", task, str(records), str(keys), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * _LONGEST_S, check=True)
    rate, resident, disk = json.loads(done.stdout.splitlines()[-1])
    print(f"{task} on the embedded log, {keys:,} keys: {rate:,.0f}/s", flush=True)
    return rate, resident, disk


def main() -> None:
    """Fill the log, then process it, and print records/s, MB resident, and MB on disk."""
    task, records, keys, directory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    topics = {"in": _PARTITIONS, "out": _PARTITIONS, "table": _PARTITIONS, "idle": 1}
    settings = StreamsSettings(data_dir=directory, create_topics=topics)
    with StreamsApplication(_idle(), settings) as application:
        _fill(application.producer, records, keys, with_table=task == "join")
    with StreamsApplication(topology(task, "out"), settings) as application:
        application.wait_ready(60)
        first, first_at = _processed(application), monotonic()
        count, end = first, first_at + _LONGEST_S
        while count < records and monotonic() < end:
            sleep(0.02)
            count = _processed(application)
        rate = (count - first) / (monotonic() - first_at)
        resident = machine.rss_mb(os.getpid())
    print(json.dumps([rate, resident, machine.directory_bytes(directory) / 1e6]))


def _idle() -> ProcessorTopology:
    builder = StreamsBuilder("filling")
    builder.stream("idle", key=str, value=str).peek(lambda _key, _value: None)
    return builder.build()


def _processed(application: StreamsApplication) -> int:
    return sum(counters.processed for counters in application.counters.values())


def _fill(producer: Producer, records: int, keys: int, *, with_table: bool) -> None:
    rng = random.Random(1)
    begin_ms = first_ms(records)
    if with_table:
        rows = (Input(f"host{key}", {"country": f"c{key % 200}"}, begin_ms - 1000) for key in range(keys))
        for some in _chunks(rows):
            producer.send("table", some, key=str, value=JSON)
    every_key_once = records == keys  # then each state is a new one: the most that keys can cost
    values = (
        Input(
            f"host{number if every_key_once else rng.randrange(keys)}",
            {"host": "host", "path": f"/page/{number % 1000}", "bytes": number % 50_000},
            begin_ms + STEP_MS * number,
        )
        for number in range(records)
    )
    for some in _chunks(values):
        producer.send("in", some, key=str, value=JSON)


def _chunks(records: Iterator[Input]) -> Iterator[list[Input]]:
    while some := list(islice(records, _PRODUCED_AT_ONCE)):
        yield some


if __name__ == "__main__":
    main()
