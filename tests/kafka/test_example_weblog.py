"""weblog with two instances, as processes, on a real Kafka: both answer for every host, and every line counts once,
whichever of them reads it, and whatever befalls one of them."""

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import pytest

from examples.weblog import topology as t
from examples.weblog.lines import LogRecord, parse
from streams.clock import Deadline, SystemClock
from streams.log.kafka import KafkaLog
from streams.records import Record, TopicPartition
from tests.support.broker import Cluster
from tests.support.service import Service

pytestmark = pytest.mark.kafka

DATA = Path(__file__).parents[2] / "examples" / "weblog" / "data"
LINE = '{host} - - [28/Aug/1995:00:09:00 -0400] "GET /late HTTP/1.0" 200 10\n'
PATIENCE_S = 30.0
CLOCK = SystemClock()


@pytest.fixture
def instances_on(prefix: str, tmp_path: Path) -> Iterator[Callable[[str], dict[str, Service]]]:
    """Makes two instances on the Kafka at an address; their topics have fixed names, so one test has them alone."""
    with ExitStack() as stack:

        def make(bootstrap_servers: str) -> dict[str, Service]:
            found = {}
            for name in ("a", "b"):
                environment = {
                    "STREAMS_BOOTSTRAP_SERVERS": bootstrap_servers,
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
            return found

        yield make


def ask(instance: Service, path: str) -> Any:
    """Return the document of a GET, or the status when it is no success."""
    found = instance.request("GET", f"/weblog/{path}")
    return json.loads(found.body) if found.status == 200 else found.status


def becomes(instance: Service, path: str, wanted: Any) -> None:
    """Return when the answer for *path* is *wanted*."""
    give_up_at = time.monotonic() + PATIENCE_S
    while (found := ask(instance, path)) != wanted:
        assert time.monotonic() < give_up_at, f"{path}: {found}, and not {wanted}"
        time.sleep(0.1)


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


def everything_said(instances: dict[str, Service]) -> str:
    return "\n".join(instance.tail() for instance in instances.values())


def all_agree(instances: dict[str, Service], lines: list[bytes], *, is_every_way_tried: bool = True) -> None:
    """Return when both instances answer rightly for every host, in every way."""
    accesses, sizes = expected(*lines)
    for instance in instances.values():
        try:
            becomes(instance, "access/ALL", [list(entry) for entry in accesses.items()])
            becomes(instance, "bytes/ALL", [list(entry) for entry in sizes.items()])
        except AssertionError as error:
            raise AssertionError(f"{error}\n{everything_said(instances)}") from None
    for instance in instances.values() if is_every_way_tried else ():
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
    deadline = Deadline.after(4 * PATIENCE_S, CLOCK)
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
    instances_on: Callable[[str], dict[str, Service]],
    open_log: Callable[..., KafkaLog],
    kafka_broker: str,
    tmp_path: Path,
) -> None:
    """Each reads a directory of its own. One is killed while lines come, and comes back to files that were touched and
    moved; the output topics have each line once, as a reader of committed records sees them."""
    instances = instances_on(kafka_broker)
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

    more = [LINE.format(host=f"host-{number % 20}.example").encode() for number in range(200)]
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


class Writer:
    """Web servers: lines are appended to the files of both instances, evenly over some time, and files are rotated."""

    def __init__(self, directories: list[Path], lines: list[bytes], seconds: float, random: Random) -> None:
        self._directories = directories
        self._lines = lines
        self._seconds = seconds
        self._random = random
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        self._is_stopping.wait(seconds)

    def join(self) -> None:
        self._thread.join(self._seconds + 60)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        self._is_stopping.set()
        self._thread.join(10)

    def _write(self) -> None:
        begun_at, done, total = time.monotonic(), 0, len(self._lines)
        while done < total and not self._is_stopping.is_set():
            due = min(total, round(total * (time.monotonic() - begun_at + 0.05) / self._seconds))
            for number, directory in enumerate(self._directories):
                path = directory / "access.log"
                with path.open("ab") as file:
                    file.writelines(self._lines[done + number : due : len(self._directories)])
                if self._random.random() < 0.01:
                    path.rename(directory / f"{done}.log")
            done = due
            time.sleep(0.05)


def run_with_kills(
    instances: dict[str, Service], log: KafkaLog, directory: Path, *, number: int, kills: int, seconds: float, seed: int
) -> None:
    """Write *number* lines over *seconds*, kill an instance again and again meanwhile, and check what came of it."""
    random = Random(seed)
    print("seed", seed)
    template = '{} - - [28/Aug/1995:00:09:00 -0400] "GET /{} HTTP/1.0" 200 {}\n'
    hosts = max(10, number // 100)
    lines = [
        template.format(f"h{random.randrange(hosts)}.example", n, random.randrange(1000)).encode()
        for n in range(number)
    ]
    directories = [directory / name / "files" for name in instances]
    for each in directories:
        each.mkdir(parents=True, exist_ok=True)
    for instance in instances.values():
        instance.start()
    writer = Writer(directories, lines, seconds, random)
    try:
        for _ in range(kills):
            victim = random.choice(list(instances.values()))
            writer.wait(seconds / (kills + 1))
            victim.kill()
            writer.wait(random.uniform(0.0, 1.0))
            victim.start(is_waited_for=False)
        writer.join()
    finally:
        writer.stop()
    give_up_at = time.monotonic() + 60 + number / 300
    while len(seen := records_of(log, t.ACCESS_SUMMARY)) < number:
        assert time.monotonic() < give_up_at, f"{len(seen)} of {number}"
        time.sleep(2.0)
    endpoints = Counter(json.loads(record.value or b"")["endpoint"] for record in records_of(log, t.JSON_RECORDS))
    written = Counter(f"/{n}" for n in range(number))
    assert (endpoints - written, written - endpoints) == (Counter(), Counter())
    counted: dict[bytes | None, list[int]] = {}
    for record in records_of(log, t.ACCESS_SUMMARY):
        counted.setdefault(record.key, []).append(int.from_bytes(record.value or b"", "big"))
    accesses, _ = expected(*lines)
    assert counted == {host.encode(): list(range(1, count + 1)) for host, count in accesses.items()}
    minutes: dict[bytes, int] = {}
    for record in records_of(log, t.WINDOWED_ACCESS_SUMMARY):
        assert record.key is not None
        minutes[record.key] = int.from_bytes(record.value or b"", "big")
    by_host: dict[str, int] = {}
    for key, count in minutes.items():
        host = key[:-8].decode()
        by_host[host] = by_host.get(host, 0) + count
    assert by_host == accesses
    assert records_of(log, t.ERRORS) == []
    all_agree(instances, lines, is_every_way_tried=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_in_two_hundred_thousand_lines(
    instances_on: Callable[[str], dict[str, Service]],
    open_log: Callable[..., KafkaLog],
    own_cluster: Callable[..., Cluster],
    tmp_path: Path,
) -> None:
    """Files are written and rotated while instances are killed: every line is in every output once, and counts go up
    one by one, as in a single run that nothing disturbs."""
    address = own_cluster().bootstrap_servers
    run_with_kills(instances_on(address), open_log(address), tmp_path, number=200_000, kills=20, seconds=200.0, seed=3)
