"""What Kafka Streams makes of a topology, `streams` makes of it too: every case of `cases/`, step by step, exactly.

What differs on purpose stands in the table below, with the reason, and in runner.py.
"""

import re
from typing import Any

import pytest

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
from streams.testing.driver import TopologyTestDriver
from tests.golden import functions
from tests.golden.binding import PROCESSORS
from tests.golden.format import Case, case_names, load_case, load_corpus, load_expected, load_vocabulary
from tests.golden.runner import differences

# Cases in which `streams` does something else than Kafka Streams, and why that is right.
_OUTDATED = (
    "the same records; but Kafka Streams counts an outdated answer between the two sides as a dropped record, and "
    "nothing of the user's was dropped"
)
DIFFERENT: dict[str, str] = {
    "foreign_key_join_empty_value": "an empty text is a value: Kafka Streams loses it on its way back to the left "
    "side, where no bytes stand for both an empty value and none (SubscriptionResponseWrapperSerde)",
    "foreign_key_join_with_itself": _OUTDATED,
    "foreign_key_join_with_itself_moves": _OUTDATED,
}

BYTE_SERDES: dict[str, Any] = {
    "string": STRING,
    "bytes": BYTES,
    "integer": INTEGER,
    "long": LONG,
    "double": DOUBLE,
    "boolean": BOOLEAN,
}
# What happens by the time of a task, or only there, is not the same when keys lie in several tasks.
BY_TASK = {"windowed_by", "suppress", "process"}
# Types of Kafka's that Python has no type for; nothing of `streams` writes them.
WITHOUT_SERDE = {"short", "float"}


SAME = [name for name in case_names() if name not in DIFFERENT]


def is_by_task(case: Case) -> bool:
    """Return whether the results of *case* depend on which keys are in one task."""
    return any(step.op in BY_TASK or "before_ms" in step.members for step in case.topology)


@pytest.mark.parametrize("name", SAME)
def test_case_gives_what_kafka_streams_gives(name: str) -> None:
    """Outputs of every step, dropped records, errors and the stores in the end are those of Kafka Streams."""
    case = load_case(name)
    found = differences(case, load_expected(name))
    assert not found, "\n".join([case.description, *found])


@pytest.mark.parametrize("name", [name for name in SAME if "wall_clock" not in str(load_case(name).topology)])
def test_a_restart_between_any_two_records_changes_nothing(name: str) -> None:
    """Whatever an operator knows is in its stores: tasks made anew before each record go on as if nothing had been.
    Intervals of the wall clock are counted from the start of a task, so cases with those are left out."""
    assert not differences(load_case(name), load_expected(name), before_each=TopologyTestDriver.restart)


@pytest.mark.parametrize("name", [name for name in SAME if "wall_clock" not in str(load_case(name).topology)])
def test_a_restore_between_any_two_records_changes_nothing(name: str) -> None:
    """Whatever a store knows is in its changelog: stores made anew before each record are what they were."""
    assert not differences(load_case(name), load_expected(name), before_each=TopologyTestDriver.restore)


@pytest.mark.parametrize("name", [name for name in SAME if not is_by_task(load_case(name))])
def test_three_partitions_give_the_records_of_one(name: str) -> None:
    """Where time plays no part, it is all the same in how many tasks the keys lie."""
    assert not differences(load_case(name), load_expected(name), partitions=3)


def test_what_is_said_to_differ_does_differ() -> None:
    """The table of differences has no entry that is not needed."""
    assert [name for name in DIFFERENT if not differences(load_case(name), load_expected(name))] == []


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
