"""How a topology is divided, which topics it needs, and what is refused when it is built or when its topics are
looked at."""

import pytest

from streams.dsl import StreamsBuilder, join_windows, tumbling
from streams.errors import ConfigError, TopologyError
from streams.topology.nodes import SinkNode
from streams.topology.subtopology import ProcessorTopology


def word_count() -> ProcessorTopology:
    """The example of the documentation, with a window."""
    builder = StreamsBuilder("word-count")
    words = builder.stream("text", key=str, value=str).flat_map_values(str.split).select_key(lambda _, word: word)
    words.group_by_key().count(store="counts").to_stream().to("counts")
    words.group_by_key().windowed_by(tumbling(60_000)).count(store="per-minute")
    return builder.build()


def test_groupings_of_one_rekeyed_stream_share_one_repartition_topic() -> None:
    """Two aggregations, one topic, and one sub-topology behind it with both stores."""
    before, after = word_count().subtopologies
    assert before.source_topics == ("text",)
    assert after.source_topics == ("word-count-counts-repartition",)
    assert set(after.stores) == {"counts", "per-minute", after.times_store}
    assert not before.stores


def test_internal_topics_have_the_partitions_and_settings_that_they_need() -> None:
    """As many partitions as what they come from; changelogs of windows also delete by age, after retention and a
    day."""
    topics = word_count().internal_topics({"text": 5})
    assert {name: topic.partitions for name, topic in topics.items()} == dict.fromkeys(
        (
            "word-count-counts-repartition",
            "word-count-counts-changelog",
            "word-count-per-minute-changelog",
            "word-count-1-times-changelog",
        ),
        5,
    )
    assert topics["word-count-counts-changelog"].config["cleanup.policy"] == "compact"
    per_minute = topics["word-count-per-minute-changelog"].config
    assert per_minute["cleanup.policy"] == "compact,delete"
    assert per_minute["retention.ms"] == str(60_000 + 86_400_000)
    assert topics["word-count-counts-repartition"].config["retention.ms"] == "-1"


def test_a_table_has_its_source_topic_as_changelog() -> None:
    """No second copy in the log of what is there already; and no store at all when nobody reads the table."""
    builder = StreamsBuilder("tables")
    builder.table("users", key=str, value=str, store="users")
    builder.table("plain", key=str, value=str).to_stream().to("out")
    topology = builder.build()
    assert set(topology.stores) == {"users"}
    assert topology.subtopology_of("users").changelog_of("users") == "users"
    assert topology.internal_topics({"users": 3, "plain": 4}) == {}
    assert topology.task_counts({"users": 3, "plain": 4}) == (3, 4)


def test_state_is_described_as_tables() -> None:
    """Whoever restores or follows sees a table for each store, made from its changelog."""
    _, after = word_count().subtopologies
    state = after.state
    assert set(state.stores) == set(after.stores)
    assert state.table_of("word-count-counts-changelog").store == "counts"


def test_topics_of_a_join_must_have_one_number_of_partitions() -> None:
    """The message names the topics, the numbers and what to do."""
    builder = StreamsBuilder("join")
    table = builder.table("table", key=str, value=str)
    builder.stream("stream", key=str, value=str).join(table, lambda a, b: a + b).to("out")
    topology = builder.build()
    assert topology.task_counts({"stream": 3, "table": 3}) == (3,)
    with pytest.raises(TopologyError, match=r"'stream' has 3, 'table' has 4.*repartition"):
        topology.task_counts({"stream": 3, "table": 4})


def test_a_repartition_topic_takes_the_number_of_what_it_is_joined_with() -> None:
    """So a re-keyed stream can be joined with a table of any number of partitions."""
    builder = StreamsBuilder("join")
    table = builder.table("table", key=str, value=str)
    stream = builder.stream("stream", key=str, value=str).select_key(lambda _, value: value)
    stream.join(table, lambda a, b: a + b, name="enriched").to("out")
    topics = builder.build().internal_topics({"stream": 3, "table": 7})
    assert topics["join-enriched-repartition"].partitions == 7


def test_a_stream_can_meet_its_own_repartitioned_records() -> None:
    """Then one sub-topology writes a topic that it reads; the number follows from what comes before."""
    builder = StreamsBuilder("meet")
    stream = builder.stream("in", key=str, value=str)
    stream.merge(stream.map_values(str.upper).repartition(name="again")).to("out")
    assert builder.build().internal_topics({"in": 6})["meet-again-repartition"].partitions == 6


def test_a_number_that_was_asked_for_is_kept_or_refused() -> None:
    """repartition(partitions=) decides, and a join that it does not fit is refused."""
    builder = StreamsBuilder("parts")
    left = builder.stream("in", key=str, value=str).repartition(name="mine", partitions=2)
    left.group_by_key().count()
    topology = builder.build()
    assert topology.internal_topics({"in": 9})["parts-mine-repartition"].partitions == 2
    left.join(builder.stream("other", key=str, value=str), lambda a, b: a + b, windows=join_windows(5)).to("out")
    with pytest.raises(TopologyError, match="'parts-mine-repartition' has 2"):
        builder.build().internal_topics({"in": 9, "other": 3})


def test_a_topic_that_does_not_exist_is_named() -> None:
    """Before anything runs."""
    with pytest.raises(TopologyError, match="'text' does not exist"):
        word_count().internal_topics({})


def test_a_global_table_is_apart_and_fits_any_number_of_partitions() -> None:
    """It makes no tasks, and its topic need not fit those of the streams that look into it."""
    builder = StreamsBuilder("global")
    products = builder.global_table("products", key=str, value=str, store="products")
    builder.stream("orders", key=str, value=str).join(products, lambda a, b: a + b, on=lambda _, v: v).to("out")
    topology = builder.build()
    assert topology.task_counts({"orders": 3, "products": 11}) == (3,)
    assert topology.global_subtopology is not None
    assert topology.global_subtopology.source_topics == ("products",)
    assert topology.source_topics == ("orders", "products")


def test_a_topology_is_frozen_by_build() -> None:
    """What comes after does not change what was built, and another application id does not, either."""
    builder = StreamsBuilder("twice")
    counts = builder.stream("in", key=str, value=str).group_by_key().count(store="counts")
    first = builder.build()
    counts.to_stream().to("out")
    second = builder.build(application_id="other")
    assert not first.subtopologies[0].sinks
    assert [sink.topic for sink in second.subtopologies[0].sinks] == ["out"]
    assert second.subtopologies[0].changelog_of("counts") == "other-counts-changelog"


def test_the_topology_is_described_in_three_ways() -> None:
    """Every node, topic and store is in each; Kafka Streams' form of the text is kept."""
    topology = word_count()
    for form in ("text", "mermaid", "graphviz"):
        described = topology.describe(form)
        for each in topology.subtopologies:
            for word in (*(node.name for node in each.nodes), *each.stores, *each.source_topics):
                assert word in described, form
            for sink in each.sinks:
                assert isinstance(sink, SinkNode)
                assert str(sink.topic) in described
    text = topology.describe()
    assert text.startswith(
        "Topology: word-count\n   Sub-topology: 0\n    Source: KSTREAM-SOURCE-0000000000 (topics: [text])"
    )
    assert "Processor: KSTREAM-AGGREGATE-0000000003 (stores: [counts])" in text
    assert "      <-- word-count-counts" not in text
    with pytest.raises(ConfigError, match="ascii"):
        topology.describe("ascii")
