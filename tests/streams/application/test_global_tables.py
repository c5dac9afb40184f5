"""A global table whose copy is made anew while others read it."""

import pytest

from streams.application.global_tables import GlobalTables, tables_by_topic
from streams.cluster import OBSERVER
from streams.config import RuntimeConfig
from streams.dsl import StreamsBuilder
from streams.errors import SerdeUnavailable
from streams.log.base import TopicSpec
from streams.records import ProducerRecord, TopicPartition
from streams.runtime.events import Damaged
from streams.runtime.node import StreamsNode
from streams.stores.memory import MemoryStoreFactory
from streams.testing import FakeClock, MemoryLog


def test_a_partition_that_is_being_rebuilt_is_not_read() -> None:
    """What is missing there would look as if it had never been: whoever meets it waits until it is whole again."""
    builder = StreamsBuilder("app")
    builder.global_table("names", key=str, value=str, store="names")
    whole = builder.build().global_subtopology
    assert whole is not None
    (topology,) = tables_by_topic(whole).values()
    clock = FakeClock()
    log = MemoryLog(clock=clock)
    fatal: list[BaseException] = []
    node = StreamsNode(
        topology=topology,
        topics=[TopicSpec("names", {"cleanup.policy": "compact"}, 1)],
        log=log,
        stores=MemoryStoreFactory(max_age_ms=None, clock=clock),
        config=RuntimeConfig(node_id="n1", format_version=1, address="http://n1:1", role=OBSERVER),
        clock=clock,
        on_fatal=fatal.append,
    )
    assert node.thread.bootstrap()
    log.put(ProducerRecord("names", 0, b"k", b"name", ()))
    tables = GlobalTables(whole, {"names": node})

    def turn() -> None:
        for _ in range(3):
            clock.advance(1.0)
            node.thread.run_once()

    turn()
    stores = tables.stores()
    assert stores is not None
    assert stores["names"].get("k") == "name"
    log.take_away(TopicPartition("names", 0))
    node.thread.post(Damaged(0, "a test says so"))
    turn()
    for read in (lambda: stores["names"].get("k"), lambda: list(stores["names"].all())):
        with pytest.raises(SerdeUnavailable, match="restoring"):
            read()
    log.bring_back()
    turn()
    assert stores["names"].get("k") == "name"
    assert not fatal
