"""Topics that an application creates for its users."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from streams.application import StreamsSettings
from streams.application.topics import PartitionCounts, prepare, runnable
from streams.clock import Deadline
from streams.dsl import StreamsBuilder
from streams.errors import ConfigError
from streams.log.base import TopicInfo, TopicSpec
from streams.processing import QUARANTINE, ErrorPolicy
from streams.testing import FakeClock, MemoryLog
from tests.streams.application.rig import embedded


def test_a_topic_that_is_read_as_a_table_is_compacted(tmp_path: Path) -> None:
    """It is the only place where its rows are: of any other, old records may be deleted."""
    builder = StreamsBuilder("shop")
    products = builder.table("products", key=str, value=str)
    builder.global_table("shops", key=str, value=str)
    builder.stream("purchases", key=str, value=str).join(products, lambda purchase, _: purchase).to("named")
    topics = dict.fromkeys(("products", "shops", "purchases", "named"), 2)
    with embedded(builder.build(), tmp_path, topics) as application:
        found = application.log.describe_topics(list(topics), Deadline.after(5, application.clock))
        policies = {name: info.config["cleanup.policy"] for name, info in found.items()}
    assert policies == {"products": "compact", "shops": "compact", "purchases": "delete", "named": "delete"}


def test_a_topic_that_others_read_as_a_table_is_compacted_when_the_settings_say_so(tmp_path: Path) -> None:
    """The topology that writes it cannot know; a topic that it does not make cannot be meant."""
    builder = StreamsBuilder("writer")
    builder.stream("lines", key=str, value=str).to("counts")
    topics = {"lines": 1, "counts": 1}
    with embedded(builder.build(), tmp_path, topics, compacted_topics=("counts",)) as application:
        found = application.log.describe_topics(list(topics), Deadline.after(5, application.clock))
        policies = {name: info.config["cleanup.policy"] for name, info in found.items()}
    assert policies == {"lines": "delete", "counts": "compact"}
    given = {"STREAMS_CREATE_TOPICS": "lines=1,counts=2", "STREAMS_COMPACTED_TOPICS": "counts, lines"}
    assert StreamsSettings.from_env(given).compacted_topics == ("counts", "lines")
    with pytest.raises(ConfigError, match="'orders' is not among"):
        StreamsSettings.from_env({**given, "STREAMS_COMPACTED_TOPICS": "orders"})


def test_the_quarantine_topic_takes_any_time_and_has_the_replicas_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A record that is set aside may have any timestamp, and is as hard to lose as what the application makes else."""
    clock = FakeClock()
    log = MemoryLog(clock=clock)
    made: dict[str, TopicSpec] = {}
    ensure = log.ensure_topics

    def ensure_topics(specs: Sequence[TopicSpec], deadline: Deadline) -> dict[str, TopicInfo]:
        made.update({spec.name: spec for spec in specs})
        return ensure(specs, deadline)

    monkeypatch.setattr(log, "ensure_topics", ensure_topics)
    builder = StreamsBuilder("shop")
    builder.stream("in", key=str, value=str).group_by_key().count(store="counts")
    prepare(
        runnable(builder.build(), None),
        log,
        PartitionCounts(log, clock),
        create_topics={"in": 3},
        compacted=(),
        policy=ErrorPolicy(on_processing=QUARANTINE),
        replication_factor=2,
        deadline=Deadline.after(5, clock),
    )
    assert {spec.replication_factor for spec in made.values()} == {2}
    quarantine, changelog = made["shop-quarantine"], made["shop-counts-changelog"]
    assert quarantine.default_partitions == 3
    name = "message.timestamp.after.max.ms"
    assert quarantine.config[name] == changelog.config[name]
