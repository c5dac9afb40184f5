"""What Kafka Streams makes of a topology, `streams` makes of it too: every case of `cases/`, step by step, exactly.

What differs on purpose stands in the tables below, with the reason.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from streams.errors import ProcessingFailed, TopologyError
from streams.operators.stateless import UNPLACED
from streams.partitioner import murmur2, partition_for
from streams.serdes import (
    BOOLEAN,
    BYTES,
    DOUBLE,
    INTEGER,
    LONG,
    STRING,
    SessionWindowedSerde,
    TimeWindowedSerde,
    Windowed,
)
from streams.stores.typed import KeyValueStore
from streams.stores.windows import WindowStore
from streams.testing.driver import DrivenRecord, TopologyTestDriver
from tests.golden import functions
from tests.golden.binding import PROCESSORS, SERDES, TopologyMaker, Unsupported
from tests.golden.format import (
    AdvanceWallClock,
    Case,
    Expected,
    ExpectedStep,
    InputRecord,
    OutputRecord,
    Step,
    StoreEntry,
    StoreRead,
    case_names,
    load_case,
    load_corpus,
    load_expected,
    load_vocabulary,
)

Entry = tuple[Any, Any, int | None]  # key, value, timestamp in ms

# Cases in which `streams` does something else than Kafka Streams, and why that is right.
_NO_KEY = "a joiner is a function of two values; `map_values_with_key` before the join brings the key into the value"
DIFFERENT: dict[str, str] = {"stream_table_join_with_key": _NO_KEY, "stream_stream_join_with_key": _NO_KEY}

# Reasons for which `streams` counts a record as dropped where Kafka Streams loses it without counting: a record without
# a key has no place in a repartition topic.
COUNTED_HERE_ONLY = {UNPLACED}

BYTE_SERDES: dict[str, Any] = {
    "string": STRING,
    "bytes": BYTES,
    "integer": INTEGER,
    "long": LONG,
    "double": DOUBLE,
    "boolean": BOOLEAN,
}
# Types of Kafka's that Python has no type for; nothing of `streams` writes them.
WITHOUT_SERDE = {"short", "float"}


@pytest.mark.parametrize("name", [name for name in case_names() if name not in DIFFERENT])
def test_case_gives_what_kafka_streams_gives(name: str) -> None:
    """Outputs of every step, dropped records, errors and the stores in the end are those of Kafka Streams."""
    found = differences(load_case(name), load_expected(name))
    assert not found, "\n".join([load_case(name).description, *found])


@pytest.mark.parametrize("name", sorted(DIFFERENT))
def test_what_is_said_to_differ_does_differ(name: str) -> None:
    """The table of differences has no entry that is not needed."""
    assert differences(load_case(name), load_expected(name))


def test_binding_knows_the_vocabulary_of_the_driver() -> None:
    """The functions in Python have the names of those in Java."""
    for kind, names in load_vocabulary()["functions"].items():
        known = PROCESSORS if kind == "processor" else functions.KINDS[kind]
        assert set(known) == set(names), kind


def test_keys_go_to_the_partitions_of_kafka() -> None:
    """Hash and partition of each key of the corpus are those of Kafka's own code."""
    for entry in load_corpus("partitions"):
        data = bytes.fromhex(entry["bytes"])
        assert murmur2(data) == entry["murmur2"] & 0xFFFFFFFF, entry
        assert {n: partition_for(data, int(n)) for n in entry["partitions"]} == entry["partitions"], entry


@pytest.mark.parametrize("entry", [e for e in load_corpus("serdes") if e["type"] not in WITHOUT_SERDE], ids=str)
def test_serde_has_the_bytes_of_kafka(entry: dict[str, Any]) -> None:
    """A value has the bytes that Kafka's serializer makes, and is read back from them."""
    serde, value, data = _typed(entry)
    assert serde.serialize(value) == data
    assert serde.serialize(serde.deserialize(data)) == data


def _typed(entry: dict[str, Any]) -> tuple[Any, Any, bytes]:
    """Return serde, value and bytes of an entry of the corpus."""
    type_, value, data = entry["type"], entry["value"], bytes.fromhex(entry["bytes"])
    if match := re.fullmatch(r"(time|session)_windowed<(\w+)>", type_):
        start, end = entry["window"]
        inner = BYTE_SERDES[match[2]]
        serde = TimeWindowedSerde(inner, end - start) if match[1] == "time" else SessionWindowedSerde(inner)
        return serde, Windowed(_plain(match[2], value), start, end), data
    return BYTE_SERDES[type_], _plain(type_, value), data


def _plain(type_: str, value: Any) -> Any:
    if type_ == "bytes":
        return bytes.fromhex(value)
    return float(value) if type_ == "double" else value


def differences(case: Case, expected: Expected) -> list[str]:
    """Run *case* on `streams` and return where it is not as *expected*, in words."""
    try:
        topology = TopologyMaker(case).build()
    except Unsupported as error:
        return [f"not supported: {error}"]
    except TopologyError as error:
        return [] if expected.topology_error is not None else [f"the topology is refused: {error}"]
    if expected.topology_error is not None:
        return [f"the topology is not refused: {expected.topology_error}"]
    found = []
    topics = sum(len(each.repartition_topics) for each in topology.subtopologies)
    # Without `optimize` Kafka Streams has a repartition topic for each use of a stream; `streams` always shares them.
    if topics > expected.repartition_topics or (case.config.optimize and topics != expected.repartition_topics):
        found.append(f"repartition topics: expected {expected.repartition_topics}, got {topics}")
    with TopologyTestDriver(
        topology,
        on_deserialization_error="skip" if case.config.on_bad_record == "skip" else "stop",
        on_processing_error="skip" if case.config.on_processing_error == "skip" else "stop",
    ) as driver:
        sources = {step["topic"]: step for step in case.topology if step.op in ("stream", "table", "global_table")}
        for number, (given, wanted) in enumerate(zip(case.input, expected.steps, strict=False)):
            got = _step(driver, given, sources, expected)
            if got != wanted:
                found.append(f"step {number}: {given}\n  expected {wanted}\n  got      {got}")
        for read, entries in expected.stores:
            got_entries = _read(driver, read, has_timestamps=all(entry.timestamp is not None for entry in entries))
            if got_entries != entries:
                found.append(f"{read}\n  expected {entries}\n  got      {got_entries}")
    return found


def _step(
    driver: TopologyTestDriver,
    given: InputRecord | AdvanceWallClock,
    sources: Mapping[str, Step],
    expected: Expected,
) -> ExpectedStep:
    """Pipe one input in, and return what came out in the form of the expected files."""
    before = _dropped(driver)
    try:
        if isinstance(given, AdvanceWallClock):
            driver.advance_wall_clock(given.advance_wall_clock_ms)
        else:
            types = sources[given.topic]
            key = _bytes(types["key"], given.key, given.key_hex)
            value = _bytes(types["value"], given.value, given.value_hex)
            headers = tuple((name, text.encode()) for name, text in (given.headers or {}).items())
            driver.pipe_bytes(given.topic, key, value, given.timestamp, headers=headers)
    except ProcessingFailed as error:
        return ExpectedStep({}, 0, error.stage)
    outputs = {topic: tuple(_record(one) for one in driver.read_output(topic)) for topic in expected.topics}
    dropped = _dropped(driver) - before
    return ExpectedStep({topic: records for topic, records in outputs.items() if records}, dropped, None)


def _dropped(driver: TopologyTestDriver) -> int:
    return sum(number for reason, number in driver.dropped.items() if reason not in COUNTED_HERE_ONLY)


def _bytes(type_: str, value: Any, raw: str | None) -> bytes | None:
    if raw is not None:
        return bytes.fromhex(raw)
    return None if value is None else SERDES[type_].serialize(value)


def _record(record: DrivenRecord) -> OutputRecord:
    headers = {name: data.decode() for name, data in record.headers} or None
    key, window = _plain_key(record.key)
    return OutputRecord(key, record.value, record.timestamp_ms, window, headers)


def _plain_key(key: Any) -> tuple[Any, tuple[int, int] | None]:
    return (key.key, (key.start_ms, key.end_ms)) if isinstance(key, Windowed) else (key, None)


def _read(driver: TopologyTestDriver, read: StoreRead, *, has_timestamps: bool) -> tuple[StoreEntry, ...]:
    """Do a read of a case, and return its result in the form of the expected files."""
    found = []
    for key, value, timestamp_ms in READS[read.read](driver.store(read.store), read.arguments):
        plain, window = _plain_key(key)
        found.append(StoreEntry(plain, value, window, timestamp_ms if has_timestamps else None))
    return tuple(found)


def _all(store: Any, _: Mapping[str, Any]) -> list[Entry]:
    if isinstance(store, KeyValueStore):
        return list(store.rows())
    return _sorted(store.fetch_all() if isinstance(store, WindowStore) else store.all())


def _range(store: Any, arguments: Mapping[str, Any], *, reverse: bool = False) -> list[Entry]:
    return _stamped(store, store.range(arguments["from"], arguments["to"], reverse=reverse))


def _fetch(store: Any, arguments: Mapping[str, Any], *, reverse: bool = False) -> list[Entry]:
    key, size_ms = arguments["key"], store.spec.window_size_ms
    rows = store.fetch_rows(key, arguments["from_ms"], arguments["to_ms"], reverse=reverse)
    return [(Windowed(key, start_ms, start_ms + size_ms), value, at_ms) for start_ms, value, at_ms in rows]


def _fetch_keys(store: Any, arguments: Mapping[str, Any]) -> list[Entry]:
    keys = {"from_key": arguments.get("from"), "to_key": arguments.get("to")}
    return _sorted(store.fetch_all(arguments["from_ms"], arguments["to_ms"], **keys))


def _session(store: Any, arguments: Mapping[str, Any]) -> list[Entry]:
    key, start_ms, end_ms = arguments["key"], arguments["from_ms"], arguments["to_ms"]
    value = store.get(key, start_ms, end_ms)
    return [] if value is None else [(Windowed(key, start_ms, end_ms), value, None)]


def _sessions(store: Any, arguments: Mapping[str, Any]) -> list[Entry]:
    bounds = [arguments[name] for name in ("from_ms", "to_ms") if name in arguments]
    return [(session, value, None) for session, value in store.find(arguments["key"], *bounds)]


def _stamped(store: Any, entries: Iterable[tuple[Any, Any]]) -> list[Entry]:
    """Return entries of a key-value store with their timestamps."""
    return [(key, value, store.lookup(key)[1]) for key, value in entries]


def _get(store: Any, arguments: Mapping[str, Any]) -> list[Entry]:
    found = store.lookup(arguments["key"])
    return [] if found is None else [(arguments["key"], *found)]


def _sorted(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries of a windowed store by the bytes of the key and by window."""
    return sorted(entries, key=lambda entry: (entry[0].key.encode(), entry[0].start_ms, entry[0].end_ms))


READS: dict[str, Callable[[Any, Mapping[str, Any]], list[Entry]]] = {
    "all": _all,
    "get": _get,
    "range": _range,
    "reverse_range": lambda store, arguments: _range(store, arguments, reverse=True),
    "prefix": lambda store, arguments: _stamped(store, store.prefix(arguments["prefix"].encode())),
    "fetch": _fetch,
    "backward_fetch": lambda store, arguments: _fetch(store, arguments, reverse=True),
    "fetch_keys": _fetch_keys,
    "fetch_all": _fetch_keys,
    "fetch_session": _session,
    "sessions": _sessions,
    "find_sessions": _sessions,
}
