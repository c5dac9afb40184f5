"""A node that runs a sub-topology, without threads: on the memory log, driven turn by turn."""

from typing import Any

from streams.clock import Deadline
from streams.config import RuntimeConfig
from streams.log.base import TopicSpec
from streams.processing import ErrorPolicy
from streams.runtime.node import StreamsNode
from streams.runtime.processing import Processing, ProcessingBounds, row_format, state_of
from streams.stores.memory import MemoryStoreFactory
from streams.testing import FakeClock, MemoryLog
from streams.topology.subtopology import ProcessorTopology


class ProcessingRig:
    """One node, its processing, and its log, which may be shared with others."""

    def __init__(
        self,
        topology: ProcessorTopology,
        topics: dict[str, int],
        *,
        log: MemoryLog | None = None,
        clock: FakeClock | None = None,
        stores: MemoryStoreFactory | None = None,
        node_id: str = "n1",
        policy: ErrorPolicy | None = None,
        bounds: ProcessingBounds | None = None,
        **config: Any,
    ) -> None:
        """*topology*, already runnable, has one sub-topology; *topics* are those of users."""
        self.clock = clock or FakeClock()
        self.log = log or MemoryLog(clock=self.clock)
        self.stores = stores or MemoryStoreFactory(max_age_ms=None, clock=self.clock)
        self.fatal: list[BaseException] = []
        (self.subtopology,) = topology.subtopologies
        (tasks,) = topology.task_counts(topics)
        state = state_of(self.subtopology)
        specs = [TopicSpec(topic, {"cleanup.policy": "compact"}, tasks) for topic in state.topics]
        users = [TopicSpec(topic, {"cleanup.policy": "delete"}, number) for topic, number in topics.items()]
        self.log.ensure_topics([*specs, *users], Deadline.after(1.0, self.clock))
        self.node = StreamsNode(
            topology=state,
            topics=specs,
            log=self.log,
            stores=self.stores,
            config=RuntimeConfig(
                node_id=node_id,
                format_version=row_format(self.subtopology),
                address=f"http://{node_id}:1",
                **config,
            ),
            clock=self.clock,
            on_fatal=self.fatal.append,
        )
        self.thread = self.node.thread
        self.processing = Processing(
            self.subtopology,
            node=self.node,
            log=self.log,
            partition_count=topics.__getitem__,
            clock=self.clock,
            policy=policy or ErrorPolicy(),
            bounds=bounds,
        )

    def start(self, turns: int = 4) -> "ProcessingRig":
        assert self.thread.bootstrap()
        return self.turn(turns)

    def turn(self, times: int = 1) -> "ProcessingRig":
        """Let both threads of the node have their turns."""
        for _ in range(times):
            self.processing.turn()
            self.thread.run_once()
        return self

    def dies(self) -> None:
        """Nothing of it runs any more; what a killed process leaves is its stores and the log."""
        self.processing.close()
        for task in self.thread.tasks.values():
            task.close()
