"""The list over all nodes: one call for each node that has partitions of it, merged by uid.

Invariant: a page speaks for every partition from 0 to the last, whoever happens to be in the map; a partition that
nobody could read makes the page an error or, if the caller allows it, is named.
"""

from collections.abc import Sequence

from app.cluster.ports import ClusterNode
from app.cluster.router import OwnerUnreachable
from app.cluster.wire import ScanRequest, decode_scan
from app.profiles.reads import Reads
from app.profiles.requests import STRICT, ReadOptions
from app.profiles.results import Page, Scan
from streams.clock import Deadline
from streams.errors import Unavailable
from streams.queries.fanout import FanOut, Target
from streams.queries.peers import Peers
from streams.queries.routing import Need

SCAN_OPERATION = "scan"


class ClusterListing:
    """Event loop only."""

    def __init__(self, *, reads: Reads, node: ClusterNode, peers: Peers, fan_out: FanOut) -> None:
        self._reads = reads
        self._node = node
        self._peers = peers
        self._fan_out = fan_out

    async def page(
        self, *, limit: int, cursor: str | None, options: ReadOptions, deadline: Deadline, is_partial: bool
    ) -> Page:
        """Return up to *limit* profiles after *cursor*, by uid, over all nodes. Each node gives *limit* rows and one
        more at most, however many partitions it has. Raises BadCursor, OwnerUnreachable, Unavailable."""
        start = self._reads.start_of(cursor)
        self._reads.positions_of(options)
        need = Need.STRICT if options.consistency == STRICT else Need.OWNER
        if need is Need.OWNER and (options.position is not None or options.max_staleness_s is not None):
            need = Need.STALE
        scans, missing = await self._fan_out.ask(
            need,
            lambda target, partitions: self._ask(target, partitions, start, limit + 1, options, deadline),
            deadline,
            is_partial=is_partial,
        )
        if missing and not (is_partial and scans):
            raise OwnerUnreachable("nobody has this partition", partition=missing[0])
        return self._reads.page_of(scans, limit, missing)

    async def _ask(
        self,
        target: Target,
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
