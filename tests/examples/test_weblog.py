"""The web server's log: what is computed, tried without a log of our own."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import fastavro
import pytest

from examples.weblog import topology as t
from examples.weblog.avro import SCHEMA
from examples.weblog.files import Line, lines_from
from examples.weblog.lines import NAMES
from streams.errors import SerdeUnavailable
from streams.partitioner import partition_for
from streams.serdes import Windowed
from streams.testing import TopologyTestDriver
from tests.support.registry import Registry

DATA = Path(__file__).parents[2] / "examples" / "weblog" / "data"
PARTITIONS = 3
MINUTE_MS = 1_517_518_200_000
FIRST = {
    "204.249.225.59": 1,
    "access9.accsyst.com": 2,
    "cssu24.cs.ust.hk": 1,
    "cyclom1-1-6.intersource.com": 1,
    "d24-1.cpe.Brisbane.aone.net.au": 1,
    "er6.rutgers.edu": 1,
    "world.std.com": 3,
}


@pytest.fixture
def driver() -> Iterator[TopologyTestDriver]:
    with TopologyTestDriver(t.weblog(), partitions=PARTITIONS) as found:
        yield found


def lines_of(name: str) -> list[Line]:
    with (DATA / name).open("rb") as file:
        return lines_from(file, 0)


def pipe_file(driver: TopologyTestDriver, name: str, at_ms: int = MINUTE_MS) -> None:
    for line in lines_of(name):
        driver.pipe_bytes(t.LINES, None, line.data, at_ms)


def pipe_place(driver: TopologyTestDriver, file_id: str, begin: int, text: bytes) -> None:
    place = b"%d-%d" % (begin, begin + len(text))
    driver.pipe_bytes(t.LINES, file_id.encode(), text, MINUTE_MS, headers=((t.PLACE, place), ("other", b"x")))


def whole(driver: TopologyTestDriver, store: str) -> dict[str, int]:
    return {host: number for p in range(PARTITIONS) for host, number in driver.store(store, p).all()}


def windows(driver: TopologyTestDriver, store: str, host: str) -> list[tuple[int, int]]:
    partition = partition_for(host.encode(), PARTITIONS)
    return list(driver.store(store, partition).fetch(host, 0, MINUTE_MS * 2))


def test_hosts_are_counted_and_their_bytes_summed(driver: TopologyTestDriver) -> None:
    """The numbers of the tutorial, also after all state was lost."""
    pipe_file(driver, "clarknet-1.log")
    driver.restore()
    assert whole(driver, t.ACCESS_COUNT) == FIRST
    assert whole(driver, t.BYTES_SUM)["world.std.com"] == 124532
    pipe_file(driver, "clarknet-2.log")
    counts = whole(driver, t.ACCESS_COUNT)
    assert counts == {"reddit.com": 2, **{host: 2 * number for host, number in FIRST.items()}}


def test_minutes_are_counted_apart(driver: TopologyTestDriver) -> None:
    """By the time at which a line was read; one that comes late is still counted in its minute."""
    pipe_file(driver, "clarknet-1.log")
    pipe_file(driver, "clarknet-2.log", MINUTE_MS + 60_000)
    pipe_file(driver, "clarknet-1.log", MINUTE_MS + 59_999)
    assert windows(driver, t.WINDOWED_ACCESS_COUNT, "world.std.com") == [(MINUTE_MS, 6), (MINUTE_MS + 60_000, 3)]
    assert windows(driver, t.WINDOWED_BYTES_SUM, "world.std.com") == [
        (MINUTE_MS, 2 * 124532),
        (MINUTE_MS + 60_000, 7914),
    ]
    assert windows(driver, t.WINDOWED_ACCESS_COUNT, "world.stx.co") == []
    assert driver.dropped == {}


def test_every_output_topic_gets_its_records(driver: TopologyTestDriver) -> None:
    """Summaries have the newest number of each host last; records in JSON have the members that consumers know."""
    pipe_file(driver, "clarknet-1.log")
    assert dict(driver.read_values(t.ACCESS_SUMMARY)) == FIRST
    assert dict(driver.read_values(t.BYTES_SUMMARY))["world.std.com"] == 124532
    minute = Windowed("world.std.com", MINUTE_MS, MINUTE_MS + 60_000)
    assert dict(driver.read_values(t.WINDOWED_ACCESS_SUMMARY))[minute] == 3
    assert dict(driver.read_values(t.WINDOWED_BYTES_SUMMARY))[minute] == 124532
    first = driver.read_bytes(t.JSON_RECORDS)[0]
    assert first.key == b"204.249.225.59"
    assert first.value is not None
    assert list(json.loads(first.value)) == list(NAMES)
    assert json.loads(first.value)["timestamp"] == "1995-08-28T00:00:34-04:00"


def test_records_in_avro_are_read_by_another_library(driver: TopologyTestDriver) -> None:
    """With the schema alone, and they say the same as those in JSON."""
    pipe_file(driver, "clarknet-1.log")
    in_json = [json.loads(each.value or b"") for each in driver.read_bytes(t.JSON_RECORDS)]
    in_avro = [
        fastavro.schemaless_reader(io.BytesIO(each.value or b""), SCHEMA, None)
        for each in driver.read_bytes(t.AVRO_RECORDS)
    ]
    assert in_avro == in_json
    assert len(in_avro) == sum(FIRST.values())


def test_records_in_avro_name_their_schema_where_there_is_a_registry() -> None:
    """In its wire format, under the topic's subject; a registry that is away sets no record aside."""
    registry = Registry()
    try:
        with TopologyTestDriver(t.weblog(registry.url)) as driver:
            registry.status = 503
            line = lines_of("clarknet-1.log")[0].data
            with pytest.raises(SerdeUnavailable):
                driver.pipe_bytes(t.LINES, None, line, MINUTE_MS)
        registry.status = None
        with TopologyTestDriver(t.weblog(registry.url)) as driver:
            driver.pipe_bytes(t.LINES, None, line, MINUTE_MS)
            (written,) = driver.read_bytes(t.AVRO_RECORDS)
            (in_json,) = driver.read_bytes(t.JSON_RECORDS)
    finally:
        registry.close()
    assert list(registry.subjects) == ["avro-topic-value"]
    assert written.value is not None
    assert written.value[:5] == b"\0\0\0\0\x01"
    schema = json.loads(registry.schemas[0])
    assert fastavro.schemaless_reader(io.BytesIO(written.value[5:]), schema, None) == json.loads(in_json.value or b"")


def test_bad_lines_go_apart_with_their_reasons(driver: TopologyTestDriver) -> None:
    """They are in no count, and the error topic says what is wrong with them."""
    pipe_file(driver, "clarknet-1.log")
    driver.pipe_bytes(t.LINES, None, b"\xff", MINUTE_MS)
    driver.pipe_bytes(t.LINES, None, None, MINUTE_MS)
    assert [each.value for each in driver.read_bytes(t.ERRORS)] == [
        b'["no user at column 17","GET /index.html HTTP/1.0"]',
        b'["no UTF-8 at byte 0","\\\\xff"]',
        b'["a record without a value",""]',
    ]
    assert whole(driver, t.ACCESS_COUNT) == FIRST


def test_a_host_is_remembered_where_it_is_asked_for(driver: TopologyTestDriver) -> None:
    """In the partition of the host, whatever partition its lines were in, and after a restore, too."""
    pipe_file(driver, "clarknet-1.log")
    driver.restore()
    for host in FIRST:
        assert host in driver.store(t.SEEN_HOSTS, partition_for(host.encode(), PARTITIONS))
    assert "world.stx.co" not in driver.store(t.SEEN_HOSTS, partition_for(b"world.stx.co", PARTITIONS))


def test_a_line_of_a_file_counts_once(driver: TopologyTestDriver) -> None:
    """Sent again, sent by two at once, or sent before what stands in front of it, also across the loss of all state."""
    lines = (DATA / "clarknet-1.log").read_bytes().splitlines(keepends=True)[:6]
    begins = [sum(map(len, lines[:n])) for n in range(len(lines))]
    places = list(zip(begins, lines, strict=True))
    for place in (places[0], places[0], places[1], places[3], places[0]):
        pipe_place(driver, "a", *place)
    driver.restore()
    for place in (*places[:4], *places[2:], *places):
        pipe_place(driver, "a", *place)
    pipe_place(driver, "b", *places[0])
    found = driver.read_bytes(t.JSON_RECORDS)
    assert [each.key for each in found] == [line.split()[0] for line in (*lines, lines[0])]
    assert {each.headers for each in found} == {(("other", b"x"),)}


def test_the_topology_owns_as_many_topics_as_the_documents_say() -> None:
    """One topic brings equal hosts together for all four stores, where the original needed one for each."""
    internal = t.weblog().internal_topics(dict.fromkeys(t.TOPICS, PARTITIONS))
    repartition = [name for name in internal if name.endswith("-repartition")]
    assert repartition == ["weblog-by-host-repartition"]
    stores = (
        t.ACCESS_COUNT,
        t.WINDOWED_ACCESS_COUNT,
        t.BYTES_SUM,
        t.WINDOWED_BYTES_SUM,
        t.SEEN_HOSTS,
        t.FILE_POSITIONS,
    )
    assert {f"weblog-{store}-changelog" for store in stores} < set(internal)
