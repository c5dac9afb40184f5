"""The list over all nodes: one call for each node that has partitions of it, merged by uid.

Invariant: a page speaks for every partition from 0 to the last, whoever happens to be in the map; a partition that
nobody could read makes the page an error or, if the caller allows it, is named.
"""

import asyncio
from collections.abc import Sequence, Set

from app.cluster.ports import ClusterNode
from app.cluster.router import OwnerUnreachable, Router
from app.cluster.wire import ScanRequest, decode_scan
from app.profiles.reads import Reads
from app.profiles.requests import STRICT, ReadOptions
from app.profiles.results import Page, Scan
from streams.clock import Clock, Deadline
from streams.errors import Unavailable
from streams.queries.peers import Peers
from streams.queries.routing import Forward, Here, Need, decide

SCAN_OPERATION = "scan"
_PAUSE_S = 0.05
_Target = tuple[str, bool, bool]  # node, as a copy, behind the barrier


class ClusterListing:
    """Event loop only."""

    def __init__(self, *, reads: Reads, node: ClusterNode, peers: Peers, router: Router, clock: Clock) -> None:
        self._reads = reads
        self._node = node
        self._peers = peers
        self._router = router
        self._clock = clock

    async def page(
        self, *, limit: int, cursor: str | None, options: ReadOptions, deadline: Deadline, is_partial: bool
    ) -> Page:
        """Return up to *limit* profiles after *cursor*, by uid, over all nodes. Each node gives *limit* rows and one
        more at most, however many partitions it has. Raises BadCursor, OwnerUnreachable, Unavailable."""
        start = self._reads.start_of(cursor)
        self._reads.positions_of(options)
        missing = set(range(self._node.partitions))
        excluded: set[str] = set()
        scans: list[Scan] = []
        while missing:
            plan = self._plan(missing, options, excluded)
            found = await asyncio.gather(
                *(self._ask(target, partitions, start, limit + 1, options, deadline) for target, partitions in plan)
            )
            for (target, _), scan in zip(plan, found, strict=True):
                if scan is None or not missing.intersection(scan.partitions):
                    excluded.add(target[0])
                else:
                    scans.append(scan)
                    missing.difference_update(scan.partitions)
            if missing and not plan:
                if is_partial and scans:
                    break
                if deadline.has_passed(self._clock):
                    raise OwnerUnreachable("nobody has this partition", partition=min(missing))
                await self._router.wait_view(Deadline(min(deadline.at, self._clock.monotonic() + _PAUSE_S)))
                excluded.clear()
        return self._reads.page_of(scans, limit, sorted(missing))

    def _plan(self, missing: Set[int], options: ReadOptions, excluded: Set[str]) -> list[tuple[_Target, Sequence[int]]]:
        """Return whom to ask for which partitions; those that nobody can be asked for now are in none."""
        need = Need.STRICT if options.consistency == STRICT else Need.OWNER
        if need is Need.OWNER and (options.position is not None or options.max_staleness_s is not None):
            need = Need.STALE
        plan: dict[_Target, list[int]] = {}
        for partition in sorted(missing):
            local = self._router.local(partition)
            step = decide(
                self._node.view,
                partition,
                need,
                local,
                is_suspected=self._peers.is_suspected,
                excluded=excluded,
            )
            if isinstance(step, Here):
                plan.setdefault((local.node_id, step.is_replica, step.is_strict), []).append(partition)
            elif isinstance(step, Forward):
                plan.setdefault((step.node_id, step.is_replica, step.is_replica), []).append(partition)
        return list(plan.items())

    async def _ask(
        self,
        target: _Target,
        partitions: Sequence[int],
        start: bytes,
        limit: int,
        options: ReadOptions,
        deadline: Deadline,
    ) -> Scan | None:
        """Return what one node has of *partitions*, None when it cannot say."""
        node_id, is_replica, is_strict = target
        options = options._replace(is_replica=is_replica, consistency=STRICT if is_strict else options.consistency)
        try:
            if node_id == self._node.info.node_id:
                return await self._reads.scan(partitions, start, limit, options, deadline)
            body = ScanRequest(partitions, start, limit, options).encode()
            return decode_scan(await self._peers.call(node_id, SCAN_OPERATION, body, deadline))
        except (Unavailable, ValueError):
            return None
