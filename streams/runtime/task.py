"""One task: partition *p* of every topic of the topology, materialised into one database.

The stream thread owns a task and is the only one to change it; other threads read its stores through `getters` and
look at `state`, `positions` and `barrier`, each of which is replaced whole and never changed in place. Invariant: the
rows of a store and the positions beside them are committed in one batch, and a record that cannot be processed is
quarantined in that same batch, so that no record is skipped without a trace.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence

from streams.clock import Clock
from streams.errors import PoisonRecord, StoreDamaged, StoreMismatch
from streams.records import Record, RecordBatch, TopicPartition
from streams.runtime.local_rows import LocalRows
from streams.runtime.states import TaskState, transition
from streams.runtime.tenure import Tenure
from streams.stores.base import Getter, StoreBatch, StoreFactory, StoreIdentity, TaskStore
from streams.topology.graph import Topology

logger = logging.getLogger(__name__)

QUARANTINE_STORE = "quarantine"
_QUARANTINE_DETAIL_LENGTH = 200  # characters of a fault's description that are kept


class StreamTask:
    """The materialised state of one partition."""

    def __init__(
        self,
        partition: int,
        *,
        topology: Topology,
        stores: StoreFactory,
        identity: StoreIdentity,
        clock: Clock,
        on_poison: Callable[[str, str], None],
    ) -> None:
        """Open the stores, wiping and beginning anew what is damaged or of another log. *on_poison* is told topic and
        reason of each quarantined record. Raises StoreLocked, or OSError when the disk refuses."""
        self.partition = partition
        self.state = TaskState.CREATED
        self.rebuilds = 0
        self.barrier: Mapping[str, int] | None = None
        #: Of the readers of an active task; None while it is not.
        self.tenure: Tenure | None = None
        #: When all that the log held was last known to be applied, on the monotonic clock; minus infinity: never yet.
        self.caught_up_at = -math.inf
        self.getters: Mapping[str, Getter] = {}
        #: Of the stores that no topic tells of. The stream thread's.
        self.local = LocalRows(topology.local_stores)
        self._topology = topology
        self._stores = stores
        self._identity = identity
        self._clock = clock
        self._on_poison = on_poison
        self._materialise = {topic: topology.table_of(topic) for topic in topology.topics}
        self._positions: Mapping[str, int] = {}
        self._swept: dict[str, bytes] = {}  # store to the key from which the next sweep goes on
        self._store: TaskStore = self._open()

    @property
    def store(self) -> TaskStore:
        """The stores as opened now; a rebuild replaces them."""
        return self._store

    @property
    def positions(self) -> Mapping[str, int]:
        """Topic to next offset, for every topic of the topology. Any thread."""
        return self._positions

    @property
    def is_closed(self) -> bool:
        """Whether the stores are gone. Any thread."""
        return self.state is TaskState.CLOSED

    @property
    def is_serving(self) -> bool:
        """Whether somebody may be reading: the task is active, or follows closely."""
        return self.state is TaskState.ACTIVE or self.caught_up_at > -math.inf

    def set_caught_up(self, at: float) -> None:
        """Note that all is applied that the log held at the moment *at*. The stream thread only."""
        if at > self.caught_up_at:
            self.caught_up_at = at

    def topic_partitions(self) -> dict[TopicPartition, int]:
        """Return what the reader must be assigned for this task: each topic's partition and its position."""
        return {TopicPartition(topic, self.partition): offset for topic, offset in self._positions.items()}

    def lag_records(self) -> int:
        """Return how many offsets are left to the barrier; 0 without one. Any thread."""
        barrier = self.barrier
        if barrier is None:
            return 0
        return sum(max(0, end - self._positions.get(topic, 0)) for topic, end in barrier.items())

    def move_to(self, state: TaskState) -> None:
        """Change the state along a legal transition. The stream thread only."""
        if state is not self.state:
            logger.debug("task state", extra={"task": self.partition, "old": self.state.value, "new": state.value})
        self.state = transition(self.state, state)

    def apply(self, batches: Sequence[RecordBatch]) -> int:
        """Fold *batches* into the stores and commit rows and positions in one step; return the number of records.

        When it returns, the rows are visible to every reader. Raises StoreDamaged (call `rebuild`) or OSError.
        """
        batch = self._store.batch()
        positions = dict(self._positions)
        count = 0
        expired: dict[str, bytes] = {}
        first: list[Record] = []  # of the first topic
        for topic, _, records, next_offset in batches:
            if next_offset <= positions[topic]:
                continue  # read before a rebuild or a new assignment: already in the rows
            self._process(topic, records, batch, positions[topic])
            if self.local.stores and topic == self._topology.topics[0]:
                first += [record for record in records if record.offset >= positions[topic]]
            expired.update(self._expired(topic, records, positions[topic]))
            positions[topic] = next_offset
            count += len(records)
        if first:
            self.local.put(first, batch, self._store)
        for store, stop in expired.items():  # last: rows of the same group may have expired with it
            batch.delete_before(store, stop)
        caught_up_ms = self._clock.time_ms() if self.state is TaskState.ACTIVE else None
        try:
            self._store.commit(batch, positions, caught_up_ms=caught_up_ms, is_restoring=not self.is_serving)
        except BaseException:
            self.local.failed()
            raise
        self.local.committed()
        self._positions = positions
        return count

    def mark_caught_up(self) -> None:
        """Note in the stores that they hold all that the log holds now, for the age check of the next start."""
        self._store.commit(self._store.batch(), self._positions, caught_up_ms=self._clock.time_ms())

    def sweep(self, limit: int) -> int:
        """Look at the next *limit* rows of each table whose rows expire, remove those that have, and return how many.

        Goes round and round; a call costs about a microsecond a row. Raises StoreDamaged or OSError.
        """
        batch = self._store.batch()
        now_ms = self._clock.time_ms()
        for table in self._topology.tables:
            if table.expires_at_ms is None:
                continue
            rows = self._store.scan(table.store, start=self._swept.get(table.store, b""), limit=limit)
            for key, row in rows:
                if table.expires_at_ms(row) <= now_ms:
                    batch.delete(table.store, key)
            self._swept[table.store] = rows[-1][0] + b"\0" if len(rows) == limit else b""
        if len(batch):
            self._store.commit(batch, self._positions)
        return len(batch)

    def has_reached(self, barrier: Mapping[str, int]) -> bool:
        """Say whether every position is at or beyond *barrier* (topic to offset)."""
        positions = self._positions
        return all(positions.get(topic, 0) >= end for topic, end in barrier.items())

    def rebuild(self, reason: str) -> None:
        """Throw the stores away and begin at the start of the log. The stream thread only; readers see StoreClosed."""
        logger.warning("task rebuild", extra={"task": self.partition, "reason": reason})
        self.rebuilds += 1
        self.getters = {}
        self.caught_up_at = -math.inf
        if self.state is not TaskState.CREATED:
            self.move_to(TaskState.CREATED)
        self._store.close()
        self._stores.wipe(self.partition)
        self.local.forget_all()
        self._store = self._open()

    def close(self) -> None:
        """Close the stores. Idempotent."""
        if self.state is not TaskState.CLOSED:
            self.getters = {}
            self.move_to(TaskState.CLOSED)
            self._store.close()

    def discard(self) -> None:
        """Close the stores and delete them."""
        self.close()
        self._stores.wipe(self.partition)

    def _open(self) -> TaskStore:
        names = (*self._topology.stores, QUARANTINE_STORE)
        try:
            store = self._stores.open(self.partition, names, self._identity)
        except (StoreDamaged, StoreMismatch) as error:
            logger.warning("task store wiped", extra={"task": self.partition, "reason": str(error)})
            self.rebuilds += 1
            self._stores.wipe(self.partition)
            store = self._stores.open(self.partition, names, self._identity)
        self.getters = {name: store.getter(name) for name in names}
        self._positions = {topic: store.positions.get(topic, 0) for topic in self._topology.topics}
        return store

    def _process(self, topic: str, records: Sequence[Record], batch: StoreBatch, position: int) -> None:
        table = self._materialise[topic]
        materialise, store, put, delete = table.materialise, table.store, batch.put, batch.delete
        for record in records:
            if record.offset < position:
                continue
            try:
                key, row = materialise(record)
            except PoisonRecord as poison:
                self._quarantine(record, poison, batch)
                continue
            if row is None:
                delete(store, key)
            else:
                put(store, key, row)

    def _expired(self, topic: str, records: Sequence[Record], position: int) -> Mapping[str, bytes]:
        """Return what *records* say that has outlived its retention: the last one that speaks of a store counts."""
        expiry = self._materialise[topic].expiry
        found: dict[str, bytes] = {}
        if expiry is not None:
            for record in records:
                found.update(expiry(record) if record.offset >= position else {})
        return found

    def _quarantine(self, record: Record, poison: PoisonRecord, batch: StoreBatch) -> None:
        """Keep where and why, never the bytes: they are in the log, and may be somebody's data."""
        key = f"{record.topic}/{record.partition}/{record.offset:020d}".encode()
        entry = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "reason": poison.reason,
            "detail": poison.detail[:_QUARANTINE_DETAIL_LENGTH],
            "at_ms": record.timestamp_ms,
        }
        batch.put(QUARANTINE_STORE, key, json.dumps(entry).encode())
        self._on_poison(record.topic, poison.reason)
