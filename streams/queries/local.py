"""Answers questions about the stores of one sub-topology from what this node has, and never asks another.

What an answer rests on is said in it for each partition: the owner's lease, a barrier that was taken after the question
came, or a copy no further behind than the caller allows. Who cannot say so refuses, partition by partition. Invariant:
a partition that is told of is told of whole, up to `Answer.until`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Protocol

from streams.clock import Deadline
from streams.cluster import ClusterView, NodeInfo
from streams.errors import LeaseExpired, NotOwner, Restoring, StoreDamaged, StoreError, Unavailable
from streams.processing.context import TaskMoment, TaskRecord
from streams.processing.stores import open_store
from streams.queries.asking import GET, MAX_LIMIT, STRICT, Answer, Ask, Part, Refusal, TooStale
from streams.queries.peers import Caller
from streams.queries.refusals import refusal_of
from streams.queries.rows import Selection, check_kind, merge_bounds, merge_rows, select
from streams.runtime.reader import NEVER_MS
from streams.serdes import LONG, STRING
from streams.stores.base import Getter
from streams.stores.overlay import OverlayStore
from streams.topology.stores import StoreKind, StoreSpec
from streams.topology.subtopology import SubTopology

ASK_OPERATION = "ask"


class StoreReader(Protocol):
    """Reads one store of one task (`streams.runtime.reader.TaskReader`). Any thread."""

    get: Getter

    def scan(
        self, *, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]: ...

    def approximate_count(self) -> int: ...

    def check_lease(self) -> None: ...

    def staleness_ms(self) -> int: ...

    def explain(self, error: Exception) -> Exception: ...

    def report_damage(self, error: BaseException) -> None: ...


class QueryNode(Protocol):
    """The node of one sub-topology (`streams.runtime.node.StreamsNode`)."""

    @property
    def node_id(self) -> str: ...

    @property
    def info(self) -> NodeInfo: ...

    @property
    def partitions(self) -> int: ...

    @property
    def is_observer(self) -> bool: ...

    @property
    def view(self) -> ClusterView: ...

    @property
    def view_age_s(self) -> float: ...

    async def wait_view(self, after_epoch: int, deadline: Deadline) -> ClusterView: ...

    def offer_view(self, view: ClusterView) -> None: ...

    def owns(self, partition: int) -> bool: ...

    def follows(self, partition: int) -> bool: ...

    def positions(self) -> Mapping[int, int]: ...

    def role_of(self, partition: int) -> str: ...

    def reader(self, store: str, partition: int) -> StoreReader: ...

    def replica(self, store: str, partition: int) -> StoreReader: ...

    async def barrier(self, partitions: Iterable[int], deadline: Deadline) -> None: ...


class _Proof(Enum):
    LEASE = "lease"
    BARRIER = "barrier"
    AGE = "age"


class LocalStores:
    """The stores of one sub-topology on this node. Event loop only; the looking is done on a thread."""

    def __init__(self, *, node: QueryNode, subtopology: SubTopology) -> None:
        self.node = node
        self.subtopology = subtopology
        self._times = subtopology.times_store

    async def ask(self, ask: Ask, partitions: Sequence[int], deadline: Deadline, *, is_replica: bool = False) -> Answer:
        """Return what *partitions* have, as far as they can be told of. *is_replica*: a barrier is taken whatever the
        question asks for. Raises WrongQuery."""
        check_kind(self.subtopology.stores[ask.store], ask.kind)
        freshness = ask.freshness
        if self.subtopology.is_global:
            proof = _Proof.AGE
        elif is_replica or freshness.consistency == STRICT:
            proof = _Proof.BARRIER
        else:
            proof = _Proof.LEASE if freshness.max_staleness_s is None else _Proof.AGE
        try:
            return await self._prove_and_read(ask, partitions, proof, deadline)
        except LeaseExpired:  # which says only that the lease does not prove enough: a barrier does
            return await self._prove_and_read(ask, partitions, _Proof.BARRIER, deadline)

    def here(self, ask: Ask) -> list[int]:
        """Return the partitions that a question to this node alone is about: those that it owns; those that it follows,
        too, when it follows all or the question allows staleness. Raises Unavailable."""
        node = self.node
        takes_copies = node.is_observer or self.subtopology.is_global or ask.freshness.max_staleness_s is not None
        return [p for p in range(node.partitions) if node.owns(p) or (takes_copies and node.follows(p))]

    def operations(self) -> Mapping[str, Callable[[bytes, Caller], Awaitable[bytes]]]:
        """Return what other nodes may have this one do."""
        return {ASK_OPERATION: self._answer_peer}

    async def _answer_peer(self, body: bytes, caller: Caller) -> bytes:
        head, _, rest = body.partition(b"\n")
        try:
            ask = Ask.decode(rest)
            is_replica, *partitions = (int(number) for number in head.split(b","))
        except ValueError as error:
            raise Unavailable("the request of a peer makes no sense") from error
        is_known = ask.store in self.subtopology.stores and 1 <= ask.limit <= MAX_LIMIT
        if not is_known or not all(0 <= one < self.node.partitions for one in partitions):
            raise Unavailable("a peer asks for what is not here")
        return (await self.ask(ask, partitions, caller.deadline, is_replica=bool(is_replica))).encode()

    async def _prove_and_read(self, ask: Ask, partitions: Sequence[int], proof: _Proof, deadline: Deadline) -> Answer:
        refusals: list[Refusal] = []
        if proof is _Proof.BARRIER:
            node = self.node
            missing = [one for one in partitions if not node.follows(one) and not node.owns(one)]
            refusals += [refusal_of(one, NotOwner("it is not followed here", partition=one)) for one in missing]
            partitions = [one for one in partitions if one not in missing]
            try:
                await node.barrier(partitions, deadline)
            except Unavailable as error:
                return Answer((), None, (), [*refusals, *(refusal_of(one, error) for one in partitions)])
        if ask.kind == GET and len(partitions) == 1:  # a microsecond: a thread would take a hundred
            return self._read(ask, partitions, proof, refusals)
        return await asyncio.to_thread(self._read, ask, partitions, proof, refusals)

    def _read(self, ask: Ask, partitions: Sequence[int], proof: _Proof, refusals: list[Refusal]) -> Answer:
        """Read; on any thread. Raises LeaseExpired where a lease was to be the proof."""
        runs: list[Sequence[tuple[bytes, bytes]]] = []
        parts: list[Part] = []
        until: bytes | None = None
        for partition in partitions:
            try:
                selection, part = self._read_one(ask, partition, proof)
            except LeaseExpired:
                raise
            except (Unavailable, StoreError, OSError) as error:
                refusals.append(refusal_of(partition, error))
                continue
            runs.append(selection.rows)
            parts.append(part)
            until = merge_bounds(until, selection.until)
        rows, until = merge_rows(runs, until, ask.limit)
        return Answer(rows, until, parts, refusals)

    def _read_one(self, ask: Ask, partition: int, proof: _Proof) -> tuple[Selection, Part]:
        node, spec = self.node, self.subtopology.stores[ask.store]
        reader = self._reader(ask.store, partition, proof)
        observed_ms = -1
        if spec.kind in (StoreKind.WINDOW, StoreKind.SESSION) and self._times is not None:
            observed_ms = _observed_ms(self._reader(self._times, partition, proof), ask.store)
        try:
            if spec.kind is StoreKind.MEMBERSHIP:
                selection = _membership(spec, reader, ask)
            else:
                selection = select(
                    spec,
                    ask,
                    get=reader.get,
                    scan=lambda start, stop, limit: reader.scan(start=start, stop=stop, limit=limit),
                    observed_ms=observed_ms,
                )
        except Exception as error:
            meaning = reader.explain(error)
            if isinstance(meaning, StoreDamaged):
                reader.report_damage(meaning)
            raise meaning from error
        if proof is _Proof.LEASE:
            reader.check_lease()
        staleness_ms = 0 if proof is _Proof.BARRIER else reader.staleness_ms()
        if proof is _Proof.AGE:
            self._check_age(ask, partition, staleness_ms)
        return selection, Part(partition, node.node_id, node.role_of(partition), staleness_ms)

    def _reader(self, store: str, partition: int, proof: _Proof) -> StoreReader:
        return self.node.reader(store, partition) if proof is _Proof.LEASE else self.node.replica(store, partition)

    def _check_age(self, ask: Ask, partition: int, staleness_ms: int) -> None:
        if staleness_ms >= NEVER_MS:
            raise Restoring(f"partition {partition} was never complete here", partition=partition, lag_records=0)
        allowed_s = ask.freshness.max_staleness_s
        if allowed_s is not None and staleness_ms > allowed_s * 1000:
            raise TooStale(f"the copy of partition {partition} is {staleness_ms} ms behind", partition=partition)


def _observed_ms(reader: StoreReader, store: str) -> int:
    """Return the greatest time that was put into *store*, as the task keeps it (`streams.processing.stores`)."""
    row = reader.get(STRING.serialize(f"{store}/observed"))
    return -1 if row is None else LONG.deserialize(row[8:])


def _membership(spec: StoreSpec, reader: StoreReader, ask: Ask) -> Selection:
    """Return one row of nothing but a time of 0 if the key may have been added."""
    rows = OverlayStore(spec.name, reader.get, lambda _start, _stop: iter(()))
    store = open_store(spec, rows, TaskRecord(), lambda name: TaskMoment(name, -1))
    is_there = spec.key.deserialize(ask.key) in store
    return Selection([(ask.key, bytes(8))] if is_there else [], None)
