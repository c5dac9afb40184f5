"""One node (Kafka Streams: KafkaStreams): its lifecycle, and what the rest of the process may ask of it.

Reads go straight to the stores on the caller's thread; writes go through `table`. Nothing here decides who owns what;
it only looks at what the stream thread has made true. Any thread may use a node; the `async` methods belong to an event
loop.
"""

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from streams.clock import Clock, Deadline
from streams.cluster import OBSERVER, ClusterView, NodeInfo
from streams.config import RuntimeConfig
from streams.errors import Draining, NotOwner, Restoring, Unavailable
from streams.log.base import Log, TopicSpec
from streams.records import TopicPartition
from streams.runtime.barrier import Barrier
from streams.runtime.events import Damaged
from streams.runtime.health import NodeHealth, QuarantinedRecord, TaskHealth, tasks_health
from streams.runtime.member import NodeMember
from streams.runtime.metrics import RuntimeMetrics
from streams.runtime.reader import TaskReader
from streams.runtime.states import TaskState
from streams.runtime.table import FencedTable
from streams.runtime.task import QUARANTINE_STORE
from streams.runtime.thread import StreamThread
from streams.runtime.views import Views
from streams.stores.base import StoreFactory
from streams.topology.graph import Topology

__all__ = ["NodeHealth", "QuarantinedRecord", "StreamsNode", "TaskHealth", "TaskReader"]

_MAX_QUARANTINE_SCAN = 1000  # for each task; whoever has more poison than that has another problem than sorting it


class StreamsNode:
    """A topology, its log and its stores, running in this process."""

    def __init__(
        self,
        *,
        topology: Topology,
        topics: Sequence[TopicSpec],
        log: Log,
        stores: StoreFactory,
        config: RuntimeConfig,
        clock: Clock,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self.node_id = config.node_id
        self.role = "observer" if config.role == OBSERVER else "owner"
        self.metrics = RuntimeMetrics()
        self._topology = topology
        self._log = log
        self._clock = clock
        self._reader = log.open_reader()
        self.table = FencedTable(clock=clock, max_queued=config.max_queued_commands, wakeup=self._reader.wakeup)
        self._readers: dict[str, list[TaskReader | None]] = {}
        self._replicas: dict[str, list[TaskReader | None]] = {}
        self._is_leaving = False
        self._is_draining = False
        self._views = Views(clock)
        self._member = NodeMember(config)
        self.thread = StreamThread(
            topology=topology,
            topics=topics,
            log=log,
            stores=stores,
            table=self.table,
            reader=self._reader,
            member=self._member,
            config=config,
            clock=clock,
            metrics=self.metrics,
            on_change=self._refresh_readers,
            on_view=self._views.offer_own,
            on_fatal=on_fatal,
        )
        self._barrier = Barrier(
            tasks=self.thread.tasks, waiters=self.thread.waiters, clock=clock, look=self._look_at_ends
        )

    def start(self) -> None:
        """Begin in the background: topics, group, restore. Returns at once; `health` tells how far it is."""
        self.thread.start()

    def leave(self, deadline: Deadline) -> None:
        """Leave the group, so that others take over, and go on as a copy that owns nothing: commands and plain reads
        are refused with NotOwner, `replica` and `wait_view` work. Blocks until *deadline* at most, so not on an event
        loop. `stop` is still to be called."""
        self._is_leaving = True
        membership = self.thread.membership
        if membership is not None:
            membership.leave(deadline)

    def stop(self, deadline: Deadline) -> None:
        """Refuse new commands, answer the accepted ones, leave the group, close everything. Blocks until *deadline* at
        most; idempotent. Not on an event loop."""
        self._is_draining = True
        self.table.start_draining()
        drain_until = Deadline(min(deadline.at, self._clock.monotonic() + deadline.remaining_s(self._clock) * 0.6))
        pause = threading.Event()  # nobody sets it: a wait that needs no clock of its own
        while self.thread.is_alive and not self.thread.is_idle and not drain_until.has_passed(self._clock):
            pause.wait(0.01)
        membership = self.thread.membership
        if membership is not None:
            membership.leave(deadline)
        self.thread.stop(deadline)
        self._log.close()

    @property
    def info(self) -> NodeInfo:
        """This process, as the others know it."""
        return self._member.info

    @property
    def view(self) -> ClusterView:
        """The newest map of the cluster that is known here; `NOWHERE` before any. A hint, see `streams.cluster`."""
        return self._views.newest

    @property
    def view_age_s(self) -> float:
        """For how long this node has known the newest view. Any thread."""
        return self._clock.monotonic() - self._views.changed_at

    def offer_view(self, view: ClusterView) -> None:
        """Take *view*, which a peer sent, if it is newer. It changes nothing of what this node owns or follows: that is
        for its own membership to say. Any thread."""
        self._views.offer(view)

    async def wait_view(self, after_epoch: int, deadline: Deadline) -> ClusterView:
        """Return a view newer than *after_epoch* as soon as there is one. Raises Unavailable at the deadline."""
        return await self._views.wait(after_epoch, deadline)

    def owns(self, partition: int) -> bool:
        """Say whether this node owns *partition*, whether or not it can serve it yet. Any thread."""
        return partition in self.thread.owned

    def follows(self, partition: int) -> bool:
        """Say whether this node has an open copy of *partition*, owned or not. Any thread."""
        task = self.thread.tasks.get(partition)
        return task is not None and not task.is_closed

    def positions(self) -> Mapping[int, int]:
        """Return how far each copy here is; see `streams.cluster.Member.positions`. Any thread."""
        return self._member.positions()

    def role_of(self, partition: int) -> str:
        """Return what this node is to *partition*: `owner`, `observer`, or `standby` (also when it does not follow the
        partition at all). Any thread."""
        if partition in self.thread.owned:
            return "owner"
        return "observer" if self.info.role == OBSERVER else "standby"

    @property
    def partitions(self) -> int:
        """How many partitions there are. Raises Unavailable while the log has not told yet."""
        count = self.thread.partitions
        if not count:
            raise Unavailable("the log has not been reached yet", retry_after_s=2.0)
        return count

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """The log's id of each topic. Raises Unavailable while the log has not told yet."""
        identity = self.thread.identity
        if identity is None:
            raise Unavailable("the log has not been reached yet", retry_after_s=2.0)
        return identity.topic_ids

    def store_sizes(self) -> Mapping[int, int]:
        """Return the bytes on disk of each open task. Any thread."""
        return {p: task.store.size_bytes() for p, task in list(self.thread.tasks.items()) if not task.is_closed}

    @property
    def lease_until(self) -> float:
        """Until when no other node can own what this one owns, on the monotonic clock in seconds."""
        membership = self.thread.membership
        return membership.lease_until if membership is not None else 0.0

    @property
    def sequence(self) -> int:
        """Odd while records of several tasks are being applied. A reader that found nothing in one store after
        looking into another looks again when this was odd or has changed meanwhile."""
        return self.thread.sequence

    def reader(self, store: str, partition: int) -> TaskReader:
        """Return the reader of an active task. Raises NotOwner when the partition is another node's (or nobody's),
        Restoring when it is ours and not ready, Draining; KeyError: no such store."""
        reader = self._readers[store][partition] if self._readers else None
        if reader is None:
            raise self._why_not(partition)
        return reader

    def replica(self, store: str, partition: int) -> TaskReader:
        """Return a reader of whatever is applied of *partition* here, owned or followed: good behind `barrier` or
        `wait_applied`, or for who allows what `staleness_ms` says. Raises NotOwner when it is not followed here,
        or the store is one that no topic tells of and the task not active; KeyError: no such store.

        The records of one transaction that lie in several partitions become visible one partition after the other
        here: a search that finds a claim without its profile, or none, may be in the middle of a change. Whoever has to
        know waits for a barrier of all partitions concerned and looks again.
        """
        reader = self._replicas[store][partition] if self._replicas else None
        if reader is None:
            raise NotOwner(f"partition {partition} is not followed here", partition=partition)
        return reader

    async def barrier(self, partitions: Iterable[int], deadline: Deadline) -> None:
        """Return once everything of *partitions* is applied that was committed when this was called (a *strict* read
        follows, of `replica`). Raises NotOwner for one that is not followed here, Unavailable at the deadline.

        One look at the log serves all callers that wait for it; a caller never joins a look that began before it.
        """
        await self._barrier.strict(partitions, deadline)

    async def wait_applied(self, targets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        """Return once every target position is applied here. Raises as `barrier` does."""
        await self._barrier.applied(targets, deadline)

    def report_damage(self, partition: int, reason: str) -> None:
        """Have the task of *partition* rebuilt: a read met damage. Any thread."""
        for readers in (*self._readers.values(), *self._replicas.values()):
            readers[partition] = None
        self.thread.post(Damaged(partition, reason))

    def health(self) -> NodeHealth:
        """Return how the node and its tasks stand. Any thread."""
        lease_left_s = max(0.0, self.lease_until - self._clock.monotonic())
        is_draining = self._is_leaving or self._is_draining
        return NodeHealth(
            is_live=self.thread.is_alive,
            is_ready=not is_draining and self.thread.is_serving and (self.is_observer or lease_left_s > 0),
            is_draining=is_draining,
            section=self.thread.section_state.value,
            lease_left_s=lease_left_s,
            queued_commands=self.table.queued,
            ailing_partitions=len(self.thread.ailing),
            tasks=tasks_health(self.thread.tasks, self._clock),
        )

    @property
    def is_observer(self) -> bool:
        """Whether this node follows everything and never owns anything."""
        return self.info.role == OBSERVER

    def quarantine(self, limit: int) -> list[QuarantinedRecord]:
        """Return up to *limit* quarantined records, the newest first among those looked at. It blocks a little."""
        found: list[QuarantinedRecord] = []
        for task in list(self.thread.tasks.values()):
            rows = task.store.scan(QUARANTINE_STORE, limit=_MAX_QUARANTINE_SCAN)
            found += [QuarantinedRecord(**json.loads(row)) for _, row in rows]
        found.sort(key=lambda record: record.at_ms, reverse=True)
        return found[:limit]

    def _refresh_readers(self) -> None:
        """Replace the tables of readers whole, so that a reader of them never sees a half-made one."""
        membership = self.thread.membership
        if membership is None:
            return  # It stops before it has begun.
        stores, count = self._topology.stores, self.thread.partitions
        readers: dict[str, list[TaskReader | None]] = {store: [None] * count for store in stores}
        replicas: dict[str, list[TaskReader | None]] = {store: [None] * count for store in stores}
        for task in self.thread.tasks.values():
            if task.is_closed or not task.getters:
                continue
            for store in stores:
                reader = TaskReader(
                    task,
                    store,
                    tenure=task.tenure,
                    flights=self.thread.flights,
                    membership=membership,
                    clock=self._clock,
                    report=self.report_damage,
                )
                if task.state is TaskState.ACTIVE:
                    readers[store][task.partition] = reader
                if task.state is TaskState.ACTIVE or store not in self._topology.local_stores:
                    replicas[store][task.partition] = reader
        self._readers = readers
        self._replicas = replicas

    def _why_not(self, partition: int) -> Unavailable:
        if self._is_draining:
            return Draining("this node is stopping", retry_after_s=2.0)
        if partition not in self.thread.owned:
            return NotOwner(f"partition {partition} is not owned here", partition=partition)
        task = self.thread.tasks.get(partition)
        lag_records = task.lag_records() if task is not None else 0
        return Restoring(f"partition {partition} is restoring", partition=partition, lag_records=lag_records)

    def _look_at_ends(self, deadline: Deadline) -> Mapping[TopicPartition, int]:
        topics = self._topology.topics
        places = [TopicPartition(topic, p) for p in range(self.partitions) for topic in topics]
        ends = self._log.end_offsets(places, deadline, is_partial=True)
        return {place: end for place, end in ends.items() if all((topic, place[1]) in ends for topic in topics)}
