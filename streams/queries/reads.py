"""Questions to the stores of an application, in bytes: answered here, by the owner of the key one hop away, or by all
nodes that have a part of the store, each asked once for a page.

Invariant: a page speaks for every partition from 0 to the last; one that nobody could tell of makes it an error or, if
the caller allows that, is named. What goes over HTTP and what Python gets are made from the same answers
(`streams.http.stores`, `streams.queries.stores`).
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from streams.clock import Clock, Deadline
from streams.errors import Unavailable
from streams.partitioner import partition_for
from streams.queries.asking import (
    ALL,
    CLUSTER,
    GET,
    LOCAL,
    MAX_LIMIT,
    STRICT,
    Answer,
    Ask,
    BadParameter,
    NotHere,
    Part,
    Refusal,
    UnknownStore,
)
from streams.queries.counts import Counts, StoreCount
from streams.queries.cursors import Cursors
from streams.queries.fanout import FanOut, Target
from streams.queries.local import ASK_OPERATION, LocalStores, QueryNode
from streams.queries.peers import Peers, PeerUnreachable
from streams.queries.refusals import RESTORING, error_of
from streams.queries.routing import Need
from streams.queries.rows import check_kind, is_point, merge_bounds, merge_rows
from streams.topology.stores import StoreSpec
from streams.topology.subtopology import SubTopology

#: (node id, deadline) to the position of each partition; raises Unavailable, ValueError.
AskPositions = Callable[[str, Deadline], Awaitable[Mapping[int, int] | None]]


@dataclass(frozen=True, slots=True)
class Channel:
    """One group of nodes, and the stores that they have: those of a sub-topology, or of one global topic. `peers` and
    `fan_out` None: this node is alone, or has everything itself. `ask_positions`: asks another node how far its copies
    are."""

    stores: Sequence[str]
    local: LocalStores
    counts: Counts
    clock: Clock
    peers: Peers | None = None
    fan_out: FanOut | None = None
    ask_positions: AskPositions | None = None

    @property
    def node(self) -> QueryNode:
        """This node."""
        return self.local.node

    @property
    def subtopology(self) -> SubTopology:
        """What the node runs."""
        return self.local.subtopology


class RawPage(NamedTuple):
    """Rows as they are stored, in the order of their keys. `next`: the cursor of what follows, None at the end.
    `missing`: the partitions that nobody could tell of."""

    rows: Sequence[tuple[bytes, bytes]]
    next: str | None
    parts: Sequence[Part]
    missing: Sequence[int] = ()


class StoreReads:
    """Event loop only."""

    def __init__(self, channels: Sequence[Channel] | None, *, cursors: Cursors, clock: Clock) -> None:
        """*channels* None: they come with `bind`, when the application has started."""
        self.clock = clock
        self.channels: Sequence[Channel] = ()
        self._cursors = cursors
        self._by_store: Mapping[str, Channel] | None = None
        if channels is not None:
            self.bind(channels)

    def bind(self, channels: Sequence[Channel]) -> None:
        """Answer from *channels* from now on."""
        self.channels = channels
        self._by_store = {
            name: channel
            for channel in channels
            for name in channel.stores
            if channel.subtopology.stores[name].is_queryable
        }

    @property
    def is_bound(self) -> bool:
        """Whether there is an application to ask."""
        return self._by_store is not None

    @property
    def stores(self) -> Mapping[str, StoreSpec]:
        """The stores that can be queried, by name."""
        return {name: channel.subtopology.stores[name] for name, channel in sorted(self._bound().items())}

    def channel(self, store: str) -> Channel:
        """Return the channel of *store*. Raises UnknownStore, Unavailable before the application has started."""
        found = self._bound().get(store)
        if found is None:
            raise UnknownStore("there is no such store")
        return found

    def spec(self, store: str) -> StoreSpec:
        """Return what *store* is. Raises UnknownStore."""
        return self.channel(store).subtopology.stores[store]

    def partition_of(self, store: str, key: bytes) -> int:
        """Return the partition of *key*, as Kafka's default partitioner has it. Raises UnknownStore, Unavailable."""
        return partition_for(key, self.channel(store).node.partitions)

    async def ask(
        self,
        ask: Ask,
        deadline: Deadline,
        *,
        scope: str = CLUSTER,
        cursor: str | None = None,
        is_partial: bool = False,
    ) -> RawPage:
        """Answer *ask*. *scope* LOCAL: from this node alone. *cursor*: of the page before. *is_partial*: name the
        partitions that cannot be told of now instead of failing. Raises QueryError, Unavailable (NotHere, Restoring,
        ...), and a page that says less than it seems never."""
        channel = self.channel(ask.store)
        check_kind(self.spec(ask.store), ask.kind)
        if not 1 <= ask.limit <= MAX_LIMIT:
            raise BadParameter("limit", f"limit is from 1 to {MAX_LIMIT}")
        if cursor is not None:
            origin = channel.node.node_id if scope == LOCAL and not channel.subtopology.is_global else ""
            ask = ask._replace(after=self._cursors.read(ask, cursor, origin=origin))
        if channel.subtopology.is_global:
            return await self._ask_global(channel, ask, deadline)
        partitions: Collection[int] = range(channel.node.partitions)
        if is_point(ask.kind):
            partitions = (self.partition_of(ask.store, ask.key),)
        if scope == LOCAL:
            return await self._ask_here(channel, ask, partitions, deadline)
        if channel.fan_out is None:
            answer = await channel.local.ask(ask, list(partitions), deadline)
            return self._page(ask, [answer], answer.refusals, partitions, is_partial)
        return await self._ask_all(channel, channel.fan_out, ask, partitions, deadline, is_partial)

    async def count(
        self, store: str, deadline: Deadline, *, scope: str = CLUSTER, is_partial: bool = False
    ) -> StoreCount:
        """Count the rows of *store*, about; see `streams.queries.counts`. Raises UnknownStore, Unavailable."""
        channel = self.channel(store)
        if scope == CLUSTER and not channel.subtopology.is_global:
            return await channel.counts.cluster(store, deadline, is_partial=is_partial)
        is_global = channel.subtopology.is_global
        wanted = range(channel.node.partitions) if is_global else channel.local.here(Ask(store, ALL))
        counts = (await channel.counts.local(store)).counts
        missing = sorted(set(wanted).difference(count.partition for count in counts))
        if missing and not (is_partial and counts):
            raise Unavailable("this partition cannot be counted now", partition=missing[0])
        return StoreCount(counts, missing)

    def _bound(self) -> Mapping[str, Channel]:
        if self._by_store is None:
            raise Unavailable("the application has not been started")
        return self._by_store

    async def _ask_global(self, channel: Channel, ask: Ask, deadline: Deadline) -> RawPage:
        """Answer from the copy of a global table that is here. A key is looked for in every partition: whoever filled
        the topic may have partitioned it in his own way, and of a key that is twice there the newer row counts."""
        partitions = range(channel.node.partitions)
        if ask.kind != GET:
            answer = await channel.local.ask(ask, partitions, deadline)
            return self._page(ask, [answer], answer.refusals, partitions, is_partial=False)
        ask = ask._replace(limit=MAX_LIMIT)  # one from each partition, if it comes to that
        answers = [await channel.local.ask(ask, [partition], deadline) for partition in partitions]
        refusals = [refusal for answer in answers for refusal in answer.refusals]
        page = self._page(ask, answers, refusals, partitions, is_partial=False)
        return page._replace(rows=sorted(page.rows, key=lambda row: row[1][:8])[-1:], next=None)

    async def _ask_here(self, channel: Channel, ask: Ask, partitions: Collection[int], deadline: Deadline) -> RawPage:
        here = channel.local.here(ask)
        if is_point(ask.kind):
            if not set(partitions) <= set(here):
                raise NotHere(
                    "another node has this key, and the question is to this node alone", partition=min(partitions)
                )
            here = list(partitions)
        answer = await channel.local.ask(ask, here, deadline)
        return self._page(ask, [answer], answer.refusals, here, is_partial=False, origin=channel.node.node_id)

    async def _ask_all(
        self,
        channel: Channel,
        fan_out: FanOut,
        ask: Ask,
        partitions: Collection[int],
        deadline: Deadline,
        is_partial: bool,
    ) -> RawPage:
        refusals: dict[int, Refusal] = {}

        async def question(target: Target, wanted: Sequence[int]) -> Answer | None:
            answer = await _put(channel, target, ask, wanted, deadline)
            refusals.update({} if answer is None else {refusal.partition: refusal for refusal in answer.refusals})
            return answer

        need = Need.STRICT if ask.freshness.consistency == STRICT else Need.OWNER
        if need is Need.OWNER and ask.freshness.max_staleness_s is not None:
            need = Need.STALE
        answers, missing = await fan_out.ask(need, question, deadline, is_partial=is_partial, only=partitions)
        known = [refusals[partition] for partition in missing if partition in refusals]
        return self._page(ask, answers, known, partitions, is_partial)

    def _page(
        self,
        ask: Ask,
        answers: Sequence[Answer],
        refusals: Sequence[Refusal],
        partitions: Collection[int],
        is_partial: bool,
        origin: str = "",
    ) -> RawPage:
        """Make one page of *answers*, whose partitions are those of *partitions*, or some. *origin*: see `Cursors`."""
        parts = sorted(part for answer in answers for part in answer.parts)
        missing = sorted(set(partitions).difference(part.partition for part in parts))
        if missing and not (is_partial and parts):
            raise _why(missing, refusals)
        until: bytes | None = None
        for answer in answers:
            until = merge_bounds(until, answer.until)
        rows, until = merge_rows([answer.rows for answer in answers], until, ask.limit)
        cursor = None if until is None else self._cursors.make(ask, until, origin=origin)
        return RawPage(rows, cursor, parts, missing)


async def _put(
    channel: Channel, target: Target, ask: Ask, partitions: Sequence[int], deadline: Deadline
) -> Answer | None:
    """Put the question to one node; None: it did not answer."""
    if target.node_id == channel.node.node_id:
        return await channel.local.ask(ask, partitions, deadline, is_replica=target.is_strict)
    assert channel.peers is not None, "only a map names other nodes"
    head = ",".join(str(number) for number in (int(target.is_strict), *partitions)).encode()
    try:
        body = await channel.peers.call(target.node_id, ASK_OPERATION, head + b"\n" + ask.encode(), deadline)
        return Answer.decode(body)
    except (Unavailable, ValueError):
        return None


def _why(missing: Sequence[int], refusals: Sequence[Refusal]) -> Unavailable:
    """Return why there is no page: that a partition restores says more than that nobody could be reached."""
    ranked = sorted(refusals, key=lambda refusal: refusal.reason != RESTORING)
    if ranked:
        return error_of(ranked[0])
    return PeerUnreachable("nobody who has this partition answers", partition=missing[0])
