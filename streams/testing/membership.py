"""The membership of a log in memory whose ownership a test chooses: one node, no group, no protocol."""

from collections.abc import Callable

from streams.clock import Deadline
from streams.cluster import ClusterView, LoneMember, Member, Placement
from streams.log.base import Ownership, OwnershipListener


class MemoryMembership:
    """A group whose only rule is what the test says."""

    def __init__(self, partitions: Callable[[], int]) -> None:
        """*partitions* tells how many partitions there are."""
        self._partitions = partitions
        self._listener: OwnershipListener | None = None
        self.member: Member = LoneMember.named("n1")
        self.lease_until = float("inf")
        self.current: Ownership | None = None
        #: Assign all partitions when started; a test that wants to do it itself sets this to False before.
        self.is_automatic = True

    def start(self, listener: OwnershipListener) -> None:
        self._listener = listener
        self.lease_until = float("inf")
        if self.is_automatic:
            self.assign(generation=1)

    def assign(self, *, generation: int, partitions: frozenset[int] | None = None) -> None:
        """Give *partitions* (default: all) under a new generation; writers of older ones are fenced."""
        assert self._listener is not None
        count = self._partitions()
        owned = frozenset(range(count)) if partitions is None else partitions
        self.current = Ownership(generation, f"member-{generation}", owned)
        info = self.member.info
        places = [Placement(info.node_id if number in owned else None) for number in range(count)]
        self._listener.on_view(ClusterView(generation, {info.node_id: info}, places))
        self._listener.on_assigned(self.current)

    def lose(self, *, lease_until: float = 0.0) -> None:
        """Take everything away without asking."""
        assert self._listener is not None
        lost, self.current = self.current, None
        self.lease_until = lease_until
        self._listener.on_lost(lost.partitions if lost is not None else frozenset())

    def revoke(self) -> None:
        """Ask for everything back; returns when the listener has let go."""
        assert self._listener is not None
        if self.current is not None:
            self._listener.on_revoked(self.current.partitions)
        self.current = None

    def rebalance(self) -> None:
        """The test divides."""

    def leave(self, deadline: Deadline) -> None:
        if self._listener is not None and self.current is not None:
            self.revoke()
        self.lease_until = 0.0
