"""A group of several members on a log in memory: generations, sessions, leases, and the division by the real assignor.

The protocol is Kafka's classic one as far as a node can tell: who wants to change something makes all rejoin; who does
not rejoin or falls silent is put out; what a member loses it gives up first, and only the next generation gives that to
somebody else. Nothing here moves by itself: `GroupMembership.step` is one look of one member at its group. A test calls
it, or a thread does (`is_threaded`).
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from streams.assignment import Joining, assign
from streams.clock import Clock, Deadline
from streams.cluster import NOWHERE, OBSERVER, ClusterView, Member
from streams.log.base import Ownership, OwnershipListener

_STEP_INTERVAL_S = 0.02


@dataclass
class _Session:
    """What the coordinator knows of one member."""

    joining: Joining
    seen_at: float
    has_joined: bool = True  # for the rebalance that goes on


@dataclass
class _Generation:
    """The outcome of the last rebalance."""

    number: int = 0
    view: ClusterView = NOWHERE
    owned: Mapping[str, frozenset[int]] = field(default_factory=dict)


class MemoryGroup:
    """The coordinator. Any thread; time is that of *clock*."""

    def __init__(
        self,
        *,
        clock: Clock,
        session_timeout_s: float = 10.0,
        rebalance_timeout_s: float = 10.0,
        is_threaded: bool = False,
    ) -> None:
        self.clock = clock
        self.session_timeout_s = session_timeout_s
        self.is_threaded = is_threaded
        self.lock = threading.RLock()
        self.generation = _Generation()
        self._rebalance_timeout_s = rebalance_timeout_s
        self._sessions: dict[str, _Session] = {}
        self._rebalance_since: float | None = None
        self._joined = 0
        self._partitions = 0

    def open(self, member: Member, partitions: int) -> "GroupMembership":
        """Return a membership of *member* in this group."""
        self._partitions = partitions
        return GroupMembership(self, member)

    def look(self) -> None:
        """Let time do what it does: end sessions, and a rebalance for which all have joined or which took too long."""
        now = self.clock.monotonic()
        gone = [name for name, one in self._sessions.items() if now - one.seen_at > self.session_timeout_s]
        if self._rebalance_since is not None and now - self._rebalance_since > self._rebalance_timeout_s:
            gone += [name for name, one in self._sessions.items() if not one.has_joined]
        for name in gone:
            self.remove(name)
        if self._rebalance_since is not None and all(one.has_joined for one in self._sessions.values()):
            self._complete()

    def join(self, joining: Joining) -> str:
        """Take a request to join, and return the member's id."""
        if joining.member_id not in self._sessions:
            self._joined += 1
            joining = replace(joining, member_id=f"member-{self._joined}")
        self._sessions[joining.member_id] = _Session(joining, self.clock.monotonic())
        self._prepare(joining.member_id)
        return joining.member_id

    def heartbeat(self, member_id: str) -> bool | None:
        """Return True when all is well, False when the member has to rejoin, None when it is not known."""
        session = self._sessions.get(member_id)
        if session is None:
            return None
        session.seen_at = self.clock.monotonic()
        return self._rebalance_since is None or session.has_joined

    def is_stable(self) -> bool:
        """Whether no rebalance is going on."""
        return self._rebalance_since is None

    def remove(self, member_id: str) -> None:
        """The member has left, or was put out."""
        if self._sessions.pop(member_id, None) is not None:
            self._prepare("")

    def is_current(self, ownership: Ownership | None) -> bool:
        """Say whether a commit under *ownership* would be accepted."""
        with self.lock:
            self.look()
            return (
                ownership is not None
                and ownership.member_id in self._sessions
                and ownership.generation == self.generation.number
            )

    def _prepare(self, joined: str) -> None:
        if self._rebalance_since is None:
            self._rebalance_since = self.clock.monotonic()
            for name, session in self._sessions.items():
                session.has_joined = name == joined

    def _complete(self) -> None:
        self._rebalance_since = None
        number = self.generation.number + 1
        result = assign([one.joining for one in self._sessions.values()], self._partitions, epoch=number)
        self.generation = _Generation(number, result.view, result.owned)


class GroupMembership:
    """One member. `step` and the start belong to one thread; the properties to any."""

    def __init__(self, group: MemoryGroup, member: Member) -> None:
        self.member = member
        self.lease_until = 0.0
        self._group = group
        self._listener: OwnershipListener | None = None
        self._member_id = ""
        self._reported: Ownership | None = None
        self._seen = NOWHERE
        self._is_waiting = False  # has joined, and the generation is not there yet
        self._must_join = True
        self._revocation: tuple[ClusterView, Ownership, Callable[[], bool]] | None = None
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-membership", daemon=True)

    @property
    def current(self) -> Ownership | None:
        """The ownership under which the log accepts appends now; None: none of this member's."""
        return self._reported if self._group.is_current(self._reported) else None

    def start(self, listener: OwnershipListener) -> None:
        self._listener = listener
        if self._group.is_threaded:
            self._thread.start()

    def step(self) -> None:
        """Look at the group once: join, learn of a new generation, give up what is lost, send a heartbeat."""
        assert self._listener is not None
        with self._group.lock:
            self._group.look()
            if self.member.info.role == OBSERVER:
                self._tell(self._group.generation.view)
            elif self._revocation is not None:
                self._go_on_revoking()
            elif self._must_join:
                self._join()
            else:
                self._beat(self._group.heartbeat(self._member_id))

    def rebalance(self) -> None:
        if self.member.info.role != OBSERVER:
            self._must_join = True

    def leave(self, deadline: Deadline) -> None:
        self._is_stopping.set()
        if self._thread.is_alive():
            self._thread.join(deadline.remaining_s(self._group.clock))
        if self._listener is not None and self._reported is not None and self._revocation is None:
            self._listener.on_revoked(self._reported.partitions)
        self.lease_until = 0.0
        self._reported = self._revocation = None
        with self._group.lock:
            self._group.remove(self._member_id)

    def _run(self) -> None:
        while not self._is_stopping.wait(_STEP_INTERVAL_S):
            self.step()

    def _join(self) -> None:
        reported, info = self._reported, self.member.info
        view = self._seen
        joining = Joining(
            self._member_id,
            info,
            self.member.num_standby_replicas,
            self.member.settings,
            self.member.positions(),
            reported.partitions if reported is not None else (),
            view.followed_by(info.node_id) if reported is not None else (),
            reported.generation if reported is not None else -1,
            view.refusal_of(info) is not None,
        )
        self._member_id = self._group.join(joining)
        self._must_join = False
        self._is_waiting = True
        self._group.look()

    def _beat(self, is_well: bool | None) -> None:
        if is_well is None:
            self._lose()
        elif not is_well:
            self._must_join = True
        elif self._group.is_stable():
            self._renew()
            reported = self._reported
            if reported is None or reported.generation != self._group.generation.number:
                self._sync()

    def _renew(self) -> None:
        self.lease_until = max(self.lease_until, self._group.clock.monotonic() + self._group.session_timeout_s * 0.95)

    def _sync(self) -> None:
        """A generation that this member belongs to: give up what is gone, then report it."""
        assert self._listener is not None
        generation = self._group.generation
        owned = generation.owned[self._member_id]
        reported = self._reported
        before = reported.partitions if reported is not None else frozenset()
        ownership = Ownership(generation.number, self._member_id, owned)
        if before - owned:
            self._revocation = generation.view, ownership, _begin_revocation(self._listener, before - owned)
            self._go_on_revoking()
        else:
            self._report(generation.view, ownership)

    def _go_on_revoking(self) -> None:
        assert self._revocation is not None
        view, ownership, is_done = self._revocation
        if self._group.heartbeat(self._member_id) is None:
            self._revocation = None
            self._lose()
        elif is_done():
            self._revocation = None
            self._report(view, ownership)
            self._must_join = True  # What was given up can be given to somebody now.

    def _report(self, view: ClusterView, ownership: Ownership) -> None:
        assert self._listener is not None
        self._reported = ownership
        self._tell(view)
        self._listener.on_assigned(ownership)

    def _tell(self, view: ClusterView) -> None:
        assert self._listener is not None
        if view.epoch > self._seen.epoch:
            self._seen = view
            self._listener.on_view(view)

    def _lose(self) -> None:
        assert self._listener is not None
        self.lease_until = 0.0
        lost, self._reported = self._reported, None
        self._member_id = ""
        self._must_join = True
        self._listener.on_lost(lost.partitions if lost is not None else frozenset())


def _begin_revocation(listener: OwnershipListener, partitions: frozenset[int]) -> Callable[[], bool]:
    """Have *partitions* given up; return what tells whether they are. A listener that can begin without waiting for the
    end (`begin_revocation`, which returns an event) gets its turns from the same test that steps the group."""
    begin = getattr(listener, "begin_revocation", None)
    if begin is None:
        listener.on_revoked(partitions)
        return lambda: True
    is_released: threading.Event = begin(partitions)
    return is_released.is_set
