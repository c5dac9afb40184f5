"""The driver, and through it what has no recorded case: chosen topics and partitions, headers, stores without
changelog."""

from typing import Any

import pytest

from streams.dsl import Processor, ProcessorRecord, StreamsBuilder
from streams.errors import ProcessingFailed, TopologyError
from streams.partitioner import partition_for
from streams.records import Record
from streams.testing import TopologyTestDriver


def test_an_unknown_topic_is_named_with_those_that_are_read() -> None:
    """A typing error in a test is found at once."""
    builder = StreamsBuilder("names")
    builder.stream("right", key=str, value=str).to("out")
    with TopologyTestDriver(builder.build()) as driver, pytest.raises(KeyError, match="right"):
        driver.pipe_input("wrong", "k", "v")


def test_topics_that_do_not_fit_together_are_refused() -> None:
    """As they would be when the application starts."""
    builder = StreamsBuilder("fit")
    builder.stream("a", key=str, value=str).join(builder.table("b", key=str, value=str), lambda x, y: x).to("out")
    with pytest.raises(TopologyError, match="same number of partitions"):
        TopologyTestDriver(builder.build(), partitions={"a": 2, "b": 3})


def test_a_record_without_a_timestamp_has_that_of_the_clock() -> None:
    """Which stands still until it is moved."""
    builder = StreamsBuilder("clock")
    builder.stream("in", key=str, value=str).to("out")
    with TopologyTestDriver(builder.build(), wall_clock_ms=5_000) as driver:
        driver.pipe_input("in", "k", "v")
        driver.advance_wall_clock(250)
        driver.pipe_input("in", "k", "v")
        assert [record.timestamp_ms for record in driver.read_output("out")] == [5_000, 5_250]


def test_a_function_can_choose_topic_and_partition() -> None:
    """Topic by key and value; partition by topic, key, value and how many there are."""
    builder = StreamsBuilder("choose")
    stream = builder.stream("in", key=str, value=str)
    stream.to(lambda key, _: f"out-{key}")
    stream.to("by-value", partitioner=lambda _topic, _key, value, count: int(value) % count)
    with TopologyTestDriver(builder.build(), partitions=4) as driver:
        for value in ("5", "6"):
            driver.pipe_input("in", "a", value)
        assert driver.read_values("out-a") == [("a", "5"), ("a", "6")]
        assert [record.partition for record in driver.read_output("by-value")] == [1, 2]


def test_a_function_can_tell_the_time_of_a_record() -> None:
    """And a record for which it cannot is refused as one that cannot be read; a table keeps that time, too."""
    builder = StreamsBuilder("times")

    def read_time(record: Record) -> int:
        return int((record.value or b"").split(b"@")[1])

    builder.table("in", key=str, value=str, store="rows", timestamp=read_time).to_stream().to("out")
    with TopologyTestDriver(builder.build(), on_deserialization_error="skip") as driver:
        driver.pipe_input("in", "k", "v@77", 5)
        driver.pipe_input("in", "k", "no time", 6)
        assert [record.timestamp_ms for record in driver.read_output("out")] == [77]
        for interrupt in (driver.restart, driver.restore):
            interrupt()
            assert driver.store("rows").lookup("k") == ("v@77", 77)


def test_a_table_has_every_row_of_its_topic_whatever_fails_behind_it() -> None:
    """A row that was set aside for what came after it is a row all the same: a restore reads the topic, and nothing
    else."""
    builder = StreamsBuilder("rows")

    def fail(_: str, value: str) -> str:
        if value == "bad":
            raise RuntimeError("bad")
        return value

    table = builder.table("in", key=str, value=str, store="rows")
    table.map_values_with_key(fail, store="mapped").to_stream().to("out")
    with TopologyTestDriver(builder.build(), on_processing_error="quarantine") as driver:
        driver.pipe_input("in", "a", "good")
        driver.pipe_input("in", "a", "bad")
        assert driver.read_values("out") == [("a", "good")]
        assert len(driver.read_bytes("rows-quarantine")) == 1
        for interrupt in (lambda: None, driver.restart, driver.restore):
            interrupt()
            assert driver.store("rows").get("a") == "bad"
            assert driver.store("mapped").get("a") == "good"


class Stamp(Processor[str, str, str, str]):
    """Forwards each record twice: with a header of its own, and as it came."""

    def process(self, record: ProcessorRecord[str, str]) -> None:
        self.context.forward(record.key, "stamped", headers=(*record.headers, ("by", b"stamp")))
        self.context.forward(record.key, "plain")


def test_headers_travel_and_a_processor_can_give_others() -> None:
    """To that one record only."""
    builder = StreamsBuilder("headers")
    stream = builder.stream("in", key=str, value=str)
    stream.process(Stamp).to("stamped")
    stream.map_values(str.upper).to("mapped")
    with TopologyTestDriver(builder.build()) as driver:
        driver.pipe_input("in", "k", "v", headers=(("a", b"1"),))
        assert [record.headers for record in driver.read_output("stamped")] == [
            (("a", b"1"), ("by", b"stamp")),
            (("a", b"1"),),
        ]
        assert [record.headers for record in driver.read_output("mapped")] == [(("a", b"1"),)]


class Remember(Processor[str, str, str, str]):
    """Counts records in two stores."""

    def process(self, record: ProcessorRecord[str, str]) -> None:
        for name in ("logged", "unlogged"):
            store = self.context.store(name)
            store.put(record.key, (store.get(record.key) or 0) + 1)


def test_a_store_without_a_changelog_is_empty_on_a_new_machine() -> None:
    """And only there: a restart finds it."""
    builder = StreamsBuilder("unlogged")
    builder.add_store("logged", key=str, value=int)
    builder.add_store("unlogged", key=str, value=int, is_logged=False)
    builder.stream("in", key=str, value=str).process(Remember, stores=["logged", "unlogged"])
    topology = builder.build()
    assert not [name for name in topology.internal_topics({"in": 1}) if "unlogged-unlogged" in name]
    with TopologyTestDriver(topology) as driver:
        driver.pipe_input("in", "k", "v")
        driver.restart()
        assert driver.store("unlogged").get("k") == 1
        driver.restore()
        assert (driver.store("logged").get("k"), driver.store("unlogged").get("k")) == (1, None)


def test_records_without_a_key_stay_where_they_came_from() -> None:
    """So that a repetition of the same input puts them there again."""
    builder = StreamsBuilder("keyless")
    builder.stream("in", key=str, value=str).values().to("out")
    with TopologyTestDriver(builder.build(), partitions=8) as driver:
        driver.pipe_input("in", "key", "v")
        assert [record.partition for record in driver.read_output("out")] == [partition_for(b"key", 8)]


def test_a_topic_in_between_can_be_read_by_others() -> None:
    """through() writes and goes on with what was written."""
    builder = StreamsBuilder("through")
    builder.stream("in", key=str, value=str).through("between").map_values(str.upper).to("out")
    with TopologyTestDriver(builder.build()) as driver:
        driver.pipe_input("in", "k", "v")
        assert driver.read_values("between") == [("k", "v")]
        assert driver.read_values("out") == [("k", "V")]


def test_a_wrong_serde_says_which() -> None:
    """The error names the serde and the type of the value."""
    builder = StreamsBuilder("wrong")
    lengths: Any = builder.stream("in", key=str, value=str).map_values(len)
    lengths.to("out")
    with TopologyTestDriver(builder.build()) as driver, pytest.raises(ProcessingFailed, match="str cannot write int 1"):
        driver.pipe_input("in", "k", "v")
