"""Runs a case on `streams` and compares with what Kafka Streams did: every record, every count, every store.

Invariant: nothing is compared loosely; the one thing that is left out has its reason beside it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from streams.errors import ProcessingFailed, TopologyError
from streams.operators.stateless import UNPLACED
from streams.serdes import Windowed
from streams.stores.typed import KeyValueStore
from streams.stores.windows import WindowStore
from streams.testing.driver import DrivenRecord, TopologyTestDriver
from tests.golden.binding import SERDES, TopologyMaker
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
)

Entry = tuple[Any, Any, int | None]  # key, value, timestamp in ms

# Reasons for which `streams` counts a record as dropped where Kafka Streams loses it without counting: a record without
# a key has no place in a repartition topic.
COUNTED_HERE_ONLY = {UNPLACED}


def differences(
    case: Case,
    expected: Expected,
    *,
    before_each: Callable[[TopologyTestDriver], object] = lambda _: None,
    partitions: int = 1,
) -> list[str]:
    """Run *case* on `streams` and return where it is not as *expected*, in words.

    *before_each* is called before each input. With several *partitions* the order of a step's records is nobody's
    promise and stores lie in pieces: records are compared without their order, and stores are not.
    """
    try:
        topology = TopologyMaker(case).build()
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
        partitions=partitions,
        on_deserialization_error="skip" if case.config.on_bad_record == "skip" else "stop",
        on_processing_error="skip" if case.config.on_processing_error == "skip" else "stop",
    ) as driver:
        sources = {step["topic"]: step for step in case.topology if step.op in ("stream", "table", "global_table")}
        for number, (given, wanted) in enumerate(zip(case.input, expected.steps, strict=False)):
            before_each(driver)
            got = _step(driver, given, sources, expected)
            if got != wanted and (partitions == 1 or _unordered(got) != _unordered(wanted)):
                found.append(f"step {number}: {given}\n  expected {wanted}\n  got      {got}")
        for read, entries in expected.stores if partitions == 1 else ():
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


def _unordered(step: ExpectedStep) -> ExpectedStep:
    return replace(step, outputs={topic: tuple(sorted(some, key=repr)) for topic, some in step.outputs.items()})


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
