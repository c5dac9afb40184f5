"""How fresh a read has to be, and what proves it: a lease, a barrier, an applied position, or the caller's leave.

Nothing is read here. A proof is made before the read and looked at after it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from app.profiles.ports import Node, Reader
from app.profiles.requests import STRICT, ReadOptions
from streams.clock import Deadline
from streams.errors import LeaseExpired
from streams.records import TopicPartition
from streams.runtime.reader import NEVER_MS


class Proof(NamedTuple):
    """Why a read may be answered without a lease: `is_strict` after a barrier, `is_positioned` after the caller's own
    position was applied, or since he accepts `max_staleness_ms`. `is_replica`: what was read is a copy, of which
    no lease of this node says anything."""

    is_strict: bool = False
    is_positioned: bool = False
    max_staleness_ms: float = -1.0
    is_replica: bool = False

    def staleness_ms(self, reader: Reader) -> int:
        """Return by how much what was just read may be out of date. Raises LeaseExpired when that is too much.

        Called after the read: a process that was paused before it must not answer from the past.
        """
        if self.is_strict or self.is_positioned:
            # Only a copy that was begun anew behind the proof has never been caught up: nothing was proven of that.
            if self.is_replica and reader.staleness_ms() >= NEVER_MS:
                raise LeaseExpired("the copy is being rebuilt")
            if self.is_strict:
                return 0
        if not self.is_replica:
            try:
                reader.check_lease()
            except LeaseExpired:
                if not self.is_positioned and self.max_staleness_ms < 0:
                    raise
            else:
                return 0
        staleness_ms = reader.staleness_ms()
        if self.is_positioned or staleness_ms <= self.max_staleness_ms:
            return staleness_ms
        raise LeaseExpired("the copy is staler than the caller allows")


BARRIER = Proof(is_strict=True)


async def prove(
    node: Node,
    options: ReadOptions,
    positions: Mapping[TopicPartition, int] | None,
    partitions: Sequence[int],
    deadline: Deadline,
) -> Proof:
    """Wait for what *options* ask for, as far as it concerns *partitions*; *positions* are those of the caller's token.

    Raises Unavailable at the deadline.
    """
    is_positioned = False
    if positions is not None:
        targets = {place: offset for place, offset in positions.items() if place.partition in partitions}
        # A token says nothing of partitions that it does not name: those may lack what the same write did there.
        is_positioned = {place.partition for place in targets}.issuperset(partitions)
        await node.wait_applied(targets, deadline)
    if options.consistency == STRICT:
        await node.barrier(partitions, deadline)
        return Proof(is_strict=True, is_replica=options.is_replica)
    staleness_s = options.max_staleness_s
    return Proof(
        is_positioned=is_positioned,
        max_staleness_ms=-1.0 if staleness_s is None else staleness_s * 1000,
        is_replica=options.is_replica,
    )
