"""weblog with two instances, as processes, on a real Kafka: both answer for every host, and every line counts once,
whichever of them reads it, and whatever befalls one of them."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from examples.weblog import topology as t
from examples.weblog.lines import LogRecord, parse
from streams.clock import Deadline, SystemClock
from streams.log.kafka import KafkaLog
from streams.records import Record, TopicPartition
from tests.support.service import Service

pytestmark = pytest.mark.kafka

DATA = Path(__file__).parents[2] / "examples" / "weblog" / "data"
LINE = '{host} - - [28/Aug/1995:00:09:00 -0400] "GET /late HTTP/1.0" 200 10\n'
PATIENCE_S = 30.0
CLOCK = SystemClock()


@pytest.fixture
def instances(kafka_broker: str, prefix: str, tmp_path: Path) -> Iterator[dict[str, Service]]:
    with ExitStack() as stack:
        found = {}
        for name in ("a", "b"):
            environment = {
                "STREAMS_BOOTSTRAP_SERVERS": kafka_broker,
                "STREAMS_APPLICATION_ID": prefix + "weblog",
                "STREAMS_SESSION_TIMEOUT_MS": "3000",
                "STREAMS_DATA_DIR": str(tmp_path / name / "state"),
                "WEBLOG_DIRECTORY": str(tmp_path / name / "files"),
                "WEBLOG_POLL_INTERVAL_MS": "50",
            }
            service = Service(tmp_path / name, environment=environment, module="examples.weblog", arguments=())
            found[name] = stack.enter_context(service)
        listening_everywhere = found["b"].environment
        listening_everywhere["BIND"] = "0.0.0.0"
        listening_everywhere["STREAMS_ADDRESS"] = f"http://127.0.0.1:{found['b'].port}"
        yield found


def ask(instance: Service, path: str) -> Any:
    """Return the document of a GET, or the status when it is no success."""
    found = instance.request("GET", f"/weblog/{path}")
    return json.loads(found.body) if found.status == 200 else found.status


def becomes(instance: Service, path: str, wanted: Any) -> None:
    """Return when the answer for *path* is *wanted*."""
    give_up_at = time.monotonic() + PATIENCE_S
    while (found := ask(instance, path)) != wanted:
        assert time.monotonic() < give_up_at, (path, found, wanted, instance.tail())
        time.sleep(0.05)


def expected(*lines: bytes) -> tuple[dict[str, int], dict[str, int]]:
    """Return accesses and bytes of each host, counted here."""
    accesses: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for line in lines:
        record = parse(line)
        if isinstance(record, LogRecord):
            accesses[record.host] = accesses.get(record.host, 0) + 1
            sizes[record.host] = sizes.get(record.host, 0) + record.payload_size
    return dict(sorted(accesses.items())), dict(sorted(sizes.items()))


def all_agree(instances: dict[str, Service], lines: list[bytes]) -> None:
    """Return when both instances answer rightly for every host, in every way."""
    accesses, sizes = expected(*lines)
    for instance in instances.values():
        becomes(instance, "access/ALL", [list(entry) for entry in accesses.items()])
        becomes(instance, "bytes/ALL", [list(entry) for entry in sizes.items()])
    for instance in instances.values():
        assert ask(instance, "access/COUNT") == len(accesses)
        for host, number in accesses.items():
            name = quote(host, safe="")
            assert ask(instance, f"access/{name}") == number
            assert ask(instance, f"bytes/{name}") == sizes[host]
            assert ask(instance, f"access/check/{name}") is True
            assert sum(count for _, count in ask(instance, f"access/win/{name}")) == number
        assert ask(instance, "access/nobody.example") == 404
        assert ask(instance, "access/check/nobody.example") is False
        chosen = [[host, number] for host, number in accesses.items() if "a.com" <= host <= "z.org"]
        assert ask(instance, "access/range/a.com/z.org") == chosen


def owners(instance: Service) -> dict[int, str]:
    document = json.loads(instance.request("GET", f"/metadata/stores/{t.ACCESS_COUNT}").body)
    return {each["partition"]: each["owner"] for each in document["partitions"]}


def records_of(log: KafkaLog, topic: str) -> list[Record]:
    """Return all committed records of *topic*."""
    deadline = Deadline.after(PATIENCE_S, CLOCK)
    partitions = log.describe_topics([topic], deadline)[topic].partitions
    ends = log.end_offsets([TopicPartition(topic, number) for number in range(partitions)], deadline)
    left = {place for place, end in ends.items() if end}
    reader, found = log.open_reader(), []
    try:
        reader.assign(dict.fromkeys(left, 0))
        while left:
            assert not deadline.has_passed(CLOCK), left
            for batch in reader.poll(0.2):
                found += batch.records
                if batch.next_offset >= ends[TopicPartition(batch.topic, batch.partition)]:
                    left.discard(TopicPartition(batch.topic, batch.partition))
    finally:
        reader.close()
    return found


def test_two_instances_count_every_line_once_and_answer_for_each_other(
    instances: dict[str, Service], open_log: Callable[..., KafkaLog], kafka_broker: str, tmp_path: Path
) -> None:
    """Each reads a directory of its own. One is killed while lines come, and comes back to files that were touched and
    moved; the output topics have each line once, as a reader of committed records sees them."""
    a, b = instances["a"], instances["b"]
    for name in instances:
        (tmp_path / name / "files").mkdir(parents=True)
    for instance in instances.values():
        instance.start(is_waited_for=False)
    for instance in instances.values():
        instance.wait_until_ready()
    shutil.copy(DATA / "clarknet-1.log", tmp_path / "a" / "files")
    shutil.copy(DATA / "clarknet-2.log", tmp_path / "b" / "files")
    lines = [line for number in (1, 2) for line in (DATA / f"clarknet-{number}.log").read_bytes().splitlines()]
    all_agree(instances, lines)
    assert len(set(owners(a).values())) == 2, "both have a share, or nothing is asked of the other"

    more = [LINE.format(host=f"host-{number}.example").encode() for number in range(200)]
    with (tmp_path / "a" / "files" / "clarknet-1.log").open("ab") as file:
        for line in more[:100]:
            file.write(line)
        file.flush()
        a.kill()
        for line in more[100:]:
            file.write(line)
    settled = expected(*lines)[0]
    while (found := {host: ask(b, f"access/{quote(host)}") for host in settled}) != settled:
        wrong = {host: number for host, number in found.items() if number not in (settled[host], 503)}
        assert not wrong, "while nobody has a host's partition nobody says anything of it"
        time.sleep(0.05)
    (tmp_path / "a" / "files" / "clarknet-1.log").rename(tmp_path / "a" / "files" / "moved.log")
    a.start()
    all_agree(instances, [*lines, *more])

    log = open_log(kafka_broker)
    written = [parse(line) for line in (*lines, *more)]
    good = [record for record in written if isinstance(record, LogRecord)]
    for topic in (t.JSON_RECORDS, t.AVRO_RECORDS, t.ACCESS_SUMMARY, t.WINDOWED_BYTES_SUMMARY):
        assert len(records_of(log, topic)) == len(good)
    bad = sorted(json.loads(record.value or b"")[0] for record in records_of(log, t.ERRORS))
    assert bad == sorted(record.reason for record in written if not isinstance(record, LogRecord))
    accesses, _ = expected(*lines, *more)
    newest: dict[bytes | None, int] = {}
    for record in records_of(log, t.ACCESS_SUMMARY):
        newest[record.key] = int.from_bytes(record.value or b"", "big")
    assert newest == {host.encode(): number for host, number in accesses.items()}
    assert [instance.stop() for instance in instances.values()] == [0, 0]
