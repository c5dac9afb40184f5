"""A node without threads: one topology of two tables on the memory log, driven turn by turn."""

import uuid
from collections.abc import Sequence
from typing import Any

from streams.clock import Deadline
from streams.config import RuntimeConfig
from streams.errors import PoisonRecord
from streams.log.base import TopicSpec
from streams.records import ProducerRecord, Record
from streams.runtime.commands import Decision, Outcome, View
from streams.runtime.node import StreamsNode
from streams.stores.memory import MemoryStoreFactory
from streams.testing import FakeClock, MemoryLog
from streams.topology.graph import Topology

PARTITIONS = 3
ROWS, INDEX = "rows", "index"


def materialise(record: Record | ProducerRecord) -> tuple[bytes, bytes | None]:
    """The row is the value; the word `poison` cannot be processed."""
    if record.key is None:
        raise PoisonRecord("no-key")
    if record.value == b"poison":
        raise PoisonRecord("wrong-shape", "chosen by the test")
    return record.key, record.value


class Put:
    """Sets a key to a value, in one or more (topic, partition); with *expected*, only if that is the value now."""

    def __init__(
        self, key: bytes, value: bytes, *, places: Sequence[tuple[str, int]] = ((ROWS, 0),), expected: Any = ...
    ) -> None:
        self.event_id = uuid.uuid4().bytes
        self.places = places
        self.partitions = tuple({partition for _, partition in places})
        self.key = key
        self.value = value
        self.expected = expected
        self.decided = 0

    def decide(self, view: View) -> Decision:
        self.decided += 1
        topic, partition = self.places[0]
        current = view.get(f"{topic}.store", partition, self.key)
        if self.expected is not ... and current != self.expected:
            return Decision((), ("refused", current))
        headers = (("ce_id", str(uuid.UUID(bytes=self.event_id)).encode()),)
        records = [ProducerRecord(topic, partition, self.key, self.value, headers) for topic, partition in self.places]
        return Decision(records, ("put", self.value))


class Sink:
    """Collects outcomes by token."""

    def __init__(self) -> None:
        self.outcomes: dict[Any, Outcome] = {}

    def deliver(self, outcomes: list[tuple[Any, Outcome]]) -> None:
        for token, outcome in outcomes:
            assert token not in self.outcomes, "two outcomes for one command"
            self.outcomes[token] = outcome


class Rig:
    """The node with everything that a test may want to look at."""

    def __init__(
        self,
        *,
        log: MemoryLog | None = None,
        stores: MemoryStoreFactory | None = None,
        clock: FakeClock | None = None,
        node_id: str = "n1",
        **config: Any,
    ) -> None:
        self.clock = clock or FakeClock()
        self.log = log or MemoryLog(clock=self.clock)
        self.stores = stores or MemoryStoreFactory(max_age_ms=None, clock=self.clock)
        self.sink = Sink()
        self.fatal: list[BaseException] = []
        topology = Topology("test")
        specs = []
        for topic in (ROWS, INDEX):
            topology.table(topic=topic, store=f"{topic}.store", materialise=materialise)
            specs.append(TopicSpec(topic, {"cleanup.policy": "compact"}, partitions=PARTITIONS))
        self.node = StreamsNode(
            topology=topology,
            topics=specs,
            log=self.log,
            stores=self.stores,
            config=RuntimeConfig(node_id=node_id, format_version=1, address=f"http://{node_id}:1", **config),
            clock=self.clock,
            on_fatal=self.fatal.append,
        )
        self.thread = self.node.thread

    def start(self, turns: int = 4) -> "Rig":
        assert self.thread.bootstrap()
        return self.turn(turns)

    def turn(self, times: int = 1) -> "Rig":
        for _ in range(times):
            self.thread.run_once()
        return self

    def submit(self, command: Put, *, seconds: float = 10.0) -> Put:
        self.node.table.submit(command, Deadline.after(seconds, self.clock), self.sink, command)
        return command

    def outcome(self, command: Put) -> Outcome | None:
        return self.sink.outcomes.get(command)

    def get(self, key: bytes, *, topic: str = ROWS, partition: int = 0) -> bytes | None:
        return self.node.reader(f"{topic}.store", partition).get(key)
