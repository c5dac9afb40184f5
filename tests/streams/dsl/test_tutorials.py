"""Topologies as readers of Kafka Streams' documentation would write them; whole tutorials are in `examples`."""

from decimal import Decimal

from streams.dsl import StreamsBuilder, join_windows, session, tumbling
from streams.partitioner import partition_for
from streams.serdes import JSON
from streams.testing.driver import TopologyTestDriver


def test_two_streams_meet_within_their_window() -> None:
    """A join of streams as a reader of Kafka Streams' documentation would write it."""
    builder = StreamsBuilder("ads")
    clicks = builder.stream("clicks", key=str, value=str)
    views = builder.stream("views", key=str, value=JSON)
    clicks.join(views, lambda click, view: f"{click} for {view}", windows=join_windows(1000), value=str).to("paid")
    with TopologyTestDriver(builder.build()) as driver:
        driver.pipe_input("views", "ad", Decimal("0.10"), 1000)
        driver.pipe_input("clicks", "ad", "click", 2000)
        driver.pipe_input("clicks", "ad", "late", 2001)
        assert driver.read_values("paid") == [("ad", "click for 0.10")]


def test_all_windows_of_a_key_lie_in_its_partition() -> None:
    """A reader of the output who knows the key knows the partition, as with Kafka Streams."""
    builder = StreamsBuilder("windows")
    clicks = builder.stream("clicks", key=str, value=str).group_by_key()
    clicks.windowed_by(tumbling(10)).count().to_stream().to("windows")
    clicks.windowed_by(session(5)).count().to_stream().to("sessions")
    with TopologyTestDriver(builder.build(), partitions=16) as driver:
        for number in range(20):
            driver.pipe_input("clicks", "key", "", number * 10)
        wanted = partition_for(b"key", 16)
        for topic in ("windows", "sessions"):
            output = driver.read_output(topic)
            assert len(output) == 20
            assert {record.partition for record in output} == {wanted}
