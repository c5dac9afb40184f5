"""About how many rows a store has, here or over the whole cluster (Kafka Streams: approximateNumEntries).

Up to `EXACT_ROWS` rows of a partition are counted one by one. Beyond that the number is estimated: where keys are
spread evenly, from how far the first `EXACT_ROWS` of them reach, which has a standard error of 3 % for one partition
and less for a sum of several, whatever was written before; elsewhere it is RocksDB's own estimate, which counts a row
once more for each time that it was overwritten since the last compaction, and too few while tombstones wait for theirs.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from streams.clock import Deadline
from streams.errors import StoreDamaged, StoreError, Unavailable
from streams.queries.fanout import FanOut, Target
from streams.queries.peers import Caller, Peers, PeerUnreachable
from streams.queries.routing import Need
from streams.runtime.reader import NEVER_MS

COUNT_OPERATION = "count"
#: So many rows of a partition are looked at, which takes about a millisecond.
EXACT_ROWS = 1000

#: Where in the space of keys one lies, from 0 to 1, for stores whose keys are spread evenly over it.
KeyPosition = Callable[[bytes], float]


class CountedReader(Protocol):
    """Reads one store of one task (`streams.runtime.reader.TaskReader`). Any thread."""

    def scan(self, *, start: bytes, stop: bytes | None, limit: int | None) -> list[tuple[bytes, bytes]]: ...

    def approximate_count(self) -> int: ...

    def staleness_ms(self) -> int: ...

    def report_damage(self, error: BaseException) -> None: ...


class CountedNode(Protocol):
    """This node's stores (`streams.runtime.node.StreamsNode`)."""

    @property
    def node_id(self) -> str: ...

    @property
    def partitions(self) -> int: ...

    @property
    def is_observer(self) -> bool: ...

    def role_of(self, partition: int) -> str: ...

    def reader(self, store: str, partition: int) -> CountedReader: ...

    def replica(self, store: str, partition: int) -> CountedReader: ...


class PartitionCount(NamedTuple):
    """The rows of one partition, as `node_id` has them. `is_exact`: they were counted. `staleness_ms`: by how much that
    node may be behind; 0 for an owner under its lease."""

    partition: int
    rows: int
    is_exact: bool
    node_id: str
    role: str
    staleness_ms: int


class NodeCounts(NamedTuple):
    """The counts of one node."""

    counts: Sequence[PartitionCount]

    @property
    def partitions(self) -> Sequence[int]:
        return [count.partition for count in self.counts]

    def encode(self) -> bytes:
        return json.dumps(self.counts, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, body: bytes) -> "NodeCounts":
        """Return what `encode` was called on. Raises ValueError."""
        try:
            return cls([PartitionCount(*row) for row in json.loads(body)])
        except (TypeError, RecursionError) as error:
            raise ValueError("not the counts of a store") from error


class StoreCount(NamedTuple):
    """The rows of a store: `counts` by partition, and the partitions that nobody could count."""

    counts: Sequence[PartitionCount]
    missing: Sequence[int]

    @property
    def rows(self) -> int:
        """The rows of all partitions in `counts`."""
        return sum(count.rows for count in self.counts)

    @property
    def is_exact(self) -> bool:
        """Whether nothing was estimated, and nothing is missing."""
        return not self.missing and all(count.is_exact for count in self.counts)

    def document(self, store: str, scope: str) -> dict[str, object]:
        """Return the answer of `/stores/{store}/approximate-num-entries`, ready for JSON."""
        return {
            "store": store,
            "scope": scope,
            "approximate_num_entries": self.rows,
            "is_exact": self.is_exact,
            "partitions": [
                {
                    "partition": count.partition,
                    "entries": count.rows,
                    "is_exact": count.is_exact,
                    "node_id": count.node_id,
                    "role": count.role,
                    "staleness_ms": count.staleness_ms,
                }
                for count in self.counts
            ],
            "missing": self.missing,
        }


class Counts:
    """Counts stores. Event loop only; the looking is done on a thread."""

    def __init__(
        self,
        *,
        node: CountedNode,
        stores: Mapping[str, KeyPosition | None],
        peers: Peers | None = None,
        fan_out: FanOut | None = None,
    ) -> None:
        """*stores*: those that may be counted. *peers* and *fan_out* None: this node is alone."""
        self._node = node
        self._stores = stores
        self._peers = peers
        self._fan_out = fan_out

    @property
    def stores(self) -> Collection[str]:
        """The names of the stores."""
        return self._stores.keys()

    async def local(self, store: str) -> StoreCount:
        """Count what this node owns of *store* and can serve; an observer, what it follows: so no partition is in the
        sums of two members. Raises Unavailable."""
        partitions = range(self._node.partitions)
        found = await self._count(store, partitions, is_replica=self._node.is_observer)
        return StoreCount(found.counts, ())

    async def cluster(self, store: str, deadline: Deadline, *, is_partial: bool) -> StoreCount:
        """Count every partition of *store* where it is, one call for each node. With *is_partial* what nobody can tell
        now is missing; without, it is waited for. Raises Unavailable."""
        if self._fan_out is None:
            counted = (await self._count(store, range(self._node.partitions), is_replica=False)).counts
            missing = sorted(set(range(self._node.partitions)).difference(count.partition for count in counted))
        else:
            answers, missing = await self._fan_out.ask(
                Need.OWNER,
                lambda target, partitions: self._ask(target, store, partitions, deadline),
                deadline,
                is_partial=is_partial,
            )
            by_partition = {count.partition: count for answer in answers for count in answer.counts}
            counted = [by_partition[partition] for partition in sorted(by_partition)]
        if missing and not (is_partial and counted):
            if self._fan_out is None:
                self._node.reader(store, missing[0])  # says why
            raise PeerUnreachable("nobody can count this partition now", partition=missing[0])
        return StoreCount(counted, missing)

    def operations(self) -> Mapping[str, Callable[[bytes, Caller], Awaitable[bytes]]]:
        """Return what other nodes may have this one do: counting from its own state, never asking a third."""
        return {COUNT_OPERATION: self._answer}

    async def _answer(self, body: bytes, _caller: Caller) -> bytes:
        try:
            store, partitions, is_replica = json.loads(body)
            wanted = [int(one) for one in partitions]
        except (ValueError, TypeError, RecursionError) as error:
            raise Unavailable("the request of a peer makes no sense") from error
        if store not in self._stores or not all(0 <= one < self._node.partitions for one in wanted):
            raise Unavailable("a peer asks for what is not here")
        return (await self._count(store, wanted, is_replica=bool(is_replica))).encode()

    async def _ask(
        self, target: Target, store: str, partitions: Sequence[int], deadline: Deadline
    ) -> NodeCounts | None:
        if target.node_id == self._node.node_id:
            return await self._count(store, partitions, is_replica=target.is_replica)
        assert self._peers is not None, "only a map names other nodes"
        body = json.dumps([store, list(partitions), target.is_replica], separators=(",", ":")).encode()
        try:
            return NodeCounts.decode(await self._peers.call(target.node_id, COUNT_OPERATION, body, deadline))
        except (Unavailable, ValueError):
            return None

    async def _count(self, store: str, partitions: Sequence[int], *, is_replica: bool) -> NodeCounts:
        return await asyncio.to_thread(self._count_here, store, partitions, is_replica)

    def _count_here(self, store: str, partitions: Sequence[int], is_replica: bool) -> NodeCounts:
        """Count those of *partitions* that can be read; on any thread."""
        node, counts = self._node, []
        for partition in partitions:
            try:
                reader = node.replica(store, partition) if is_replica else node.reader(store, partition)
            except Unavailable:
                continue
            try:
                rows, is_exact = count_rows(reader, self._stores[store])
            except StoreDamaged as error:
                reader.report_damage(error)
                continue
            except (StoreError, OSError):
                continue  # It has just moved, or the disk refuses: somebody else may know.
            staleness_ms = reader.staleness_ms()
            if staleness_ms < NEVER_MS:  # else it was never complete here
                role = node.role_of(partition)
                counts.append(PartitionCount(partition, rows, is_exact, node.node_id, role, staleness_ms))
        return NodeCounts(counts)


def count_rows(reader: CountedReader, position: KeyPosition | None) -> tuple[int, bool]:
    """Return the rows that *reader* has, and whether they were counted; see the module for how far an estimate can be
    off. *position* None: its keys are not spread evenly. It blocks. Raises StoreError, or OSError when
    the disk refuses."""
    rows = reader.scan(start=b"", stop=None, limit=EXACT_ROWS + 1)
    if len(rows) <= EXACT_ROWS:
        return len(rows), True
    reached = position(rows[-1][0]) if position is not None else 0.0
    estimate = round(EXACT_ROWS / reached) if reached > 0 else reader.approximate_count()
    return max(len(rows), estimate), False
