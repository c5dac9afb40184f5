"""What the tests of running applications share: waiting until all input is processed, and looking into stores."""

import threading
import time
from pathlib import Path
from typing import Any

from streams.application import StreamsApplication, StreamsSettings
from streams.clock import Deadline
from streams.processing import TaskStoreView, committed_store
from streams.records import Record, TopicPartition
from streams.topology.subtopology import ProcessorTopology

WAIT_S = 60.0
_PAUSE = threading.Event()


def embedded(
    topology: ProcessorTopology, directory: Path, topics: dict[str, int], **settings: Any
) -> StreamsApplication:
    """Return an application on the embedded log in *directory*."""
    return StreamsApplication(topology, StreamsSettings(data_dir=directory, create_topics=topics, **settings))


def wait_until_processed(application: StreamsApplication, *, but_failed: bool = False) -> None:
    """Return when nothing is left of the input of any sub-topology; *but_failed*: of the tasks that go on."""
    end_at = time.monotonic() + WAIT_S
    while time.monotonic() < end_at:
        health = application.health()
        assert not health.error, health.error
        assert but_failed or not health.failed, health.failed
        gone = {failed.partition for failed in health.failed}
        lag = application.lag()
        if health.is_ready and not any(left for place, left in lag.items() if place.partition not in gone):
            return
        _PAUSE.wait(0.01)
    raise AssertionError(f"not processed: {application.lag()} {application.health()}")


def stores(application: StreamsApplication, name: str) -> list[Any]:
    """Return the store *name* of each partition, as it is committed."""
    node, subtopology = application.node_of(name), application.subtopology_of(name)
    tasks = node.thread.tasks
    return [committed_store(subtopology, name, TaskStoreView(tasks[p].store)) for p in sorted(tasks)]


def rows(application: StreamsApplication, name: str) -> dict[Any, Any]:
    """Return all rows of a key-value store."""
    return {key: value for store in stores(application, name) for key, value in store.all()}


def records_of(application: StreamsApplication, topic: str) -> list[Record]:
    """Return all committed records of *topic*, partition after partition."""
    assert application._logs is not None
    log = application._logs.shared
    deadline = Deadline.after(WAIT_S, application.clock)
    count = log.describe_topics([topic], deadline)[topic].partitions
    ends = log.end_offsets([TopicPartition(topic, p) for p in range(count)], deadline)
    reader = log.open_reader()
    found: list[Record] = []
    left = {place for place, end in ends.items() if end}
    reader.assign(dict.fromkeys(left, 0))
    while left:
        assert not deadline.has_passed(application.clock), f"{left} of {topic} were not read"
        for batch in reader.poll(0.5):
            found += batch.records
            place = TopicPartition(batch.topic, batch.partition)
            if batch.next_offset >= ends[place]:
                left.discard(place)
    reader.close()
    return sorted(found, key=lambda record: (record.partition, record.offset))
