"""Several services on one state, as nodes that divide the partitions among them: what one test node would never show.

Each node's table refuses partitions of others, its readers lose their lease with the partition, and its calls to the
others are delayed, lost, or delivered twice, as the seed wants. Commands are decided on the one state, in the order in
which they come; what is answered as unknown may be decided later, in front of whatever comes next.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress

from app.profiles.ground import Ground
from app.profiles.ports import ProfileSettings
from app.profiles.remote_claims import Operation, RemoteClaims, claim_operations
from app.profiles.settlement import Settlement
from app.profiles.writes import Writes
from streams.clock import Deadline
from streams.cluster import ClusterView, NodeInfo, Placement
from streams.errors import LeaseExpired, NotOwner, Unavailable
from streams.queries.peers import Caller, PeerLost, PeerReply, PeerRequest, PeerUnreachable
from streams.runtime.commands import Command, Decided, Outcome, Refused, Unknown
from tests.app.profiles.fakes import (
    NAMES,
    SECRET,
    CountingRandom,
    FakeNode,
    FakeReader,
    ManualClock,
    PartialView,
    State,
)


class Weather:
    """How often things go wrong, as shares. Calm by default."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.lost = 0.0
        self.doubled = 0.0
        self.unknown = 0.0
        self.delay_turns = 0

    async def delay(self) -> None:
        for _ in range(self.random.randint(0, self.delay_turns)):
            await asyncio.sleep(0)

    def strikes(self, share: float) -> bool:
        return self.random.random() < share


class Cluster:
    """The nodes, who owns what, and the state that all of them write to."""

    def __init__(self, *, nodes: int = 3, partitions: int = 4, seed: int = 0) -> None:
        self.clock = ManualClock()
        self.state = State(partitions)
        self.weather = Weather(seed)
        self.tenures = [1] * partitions
        self.epoch = 1
        self.owners = [partition % nodes for partition in range(partitions)]
        self.draw = CountingRandom()
        self.nodes = [Member(self, number) for number in range(nodes)]
        self.calls: list[str] = []

    @property
    def deadline(self) -> Deadline:
        return Deadline.after(10.0, self.clock)

    @property
    def view(self) -> ClusterView:
        infos = {f"n{number}": NodeInfo(f"n{number}", "1", "http://127.0.0.1:1") for number in range(len(self.nodes))}
        return ClusterView(self.epoch, infos, [Placement(f"n{owner}") for owner in self.owners])

    def owner_of(self, key: bytes) -> "Member":
        """Return the node that owns the partition of *key*."""
        return self.nodes[self.owners[self.nodes[0].ground.domain.partition_of(key)]]

    def move(self, partition: int, number: int) -> None:
        """Hand *partition* over: what is under way there lands before, or never."""
        before = self.nodes[self.owners[partition]]
        before.table.settle(lambda command: partition in command.partitions)
        self.owners[partition] = number
        self.tenures[partition] += 1
        self.epoch += 1

    def other_partition(self, than: Sequence[int]) -> int:
        """Return a partition of another node than the owners of *than*."""
        owners = {self.owners[partition] for partition in than}
        return next(number for number, owner in enumerate(self.owners) if owner not in owners)

    def email(self, partition: int, name: str = "bob") -> str:
        """Return an address whose claim lies in *partition*."""
        partition_of = self.nodes[0].ground.domain.partition_of
        texts = (f"{name}{number}@mail.com" for number in range(1000))
        return next(text for text in texts if partition_of(text.encode()) == partition)

    async def rest(self) -> None:
        """Wait until nothing is under way behind an answer."""
        while errands := [one for node in self.nodes for one in node.settlement._errands]:
            await asyncio.wait(errands)


class Member(FakeNode):
    """One node: its state is that of all, its partitions are its own."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        super().__init__(cluster.state)
        self.cluster = cluster
        self.number = number
        self.node_id = f"n{number}"
        self.info = NodeInfo(self.node_id, "1", "http://127.0.0.1:1")
        self.table = OwnedTable(self)
        self.ground = Ground(node=self, topics=NAMES, settings=ProfileSettings(token_secret=SECRET))
        self.writes = Writes(
            self.ground,
            table=self.table,
            clock=cluster.clock,
            random=cluster.draw,
            owners=RemoteClaims(node=self, peers=LossyPeers(self), clock=cluster.clock),
        )
        self.settlement: Settlement = self.writes.settlement
        self.operations = claim_operations(self.settlement)

    def owns(self, partition: int) -> bool:
        return self.cluster.owners[partition] == self.number

    @property
    def view(self) -> ClusterView:
        return self.cluster.view

    async def wait_view(self, after_epoch: int, deadline: Deadline) -> ClusterView:
        await asyncio.sleep(0)
        self.cluster.clock.now_ms += max(1, round(deadline.remaining_s(self.cluster.clock) * 1000))
        if self.view.epoch > after_epoch:
            return self.view
        raise Unavailable("no newer view")

    def reader(self, store: str, partition: int) -> "OwnedReader":
        if not self.owns(partition):
            raise NotOwner("", partition=partition)
        return OwnedReader(self, store, partition)


class OwnedReader(FakeReader):
    """Its lease ends with the tenure under which it was made."""

    def __init__(self, member: Member, store: str, partition: int) -> None:
        super().__init__(member, store, partition)
        self._tenures = member.cluster.tenures
        self._tenure = self._tenures[partition]

    def check_lease(self) -> None:
        super().check_lease()
        if self._tenures[self._partition] != self._tenure:
            raise LeaseExpired("", partition=self._partition)


class OwnedTable:
    """Decides commands of own partitions. What it answers as unknown stays in front of all that comes later."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._late: list[Command] = []
        self.commands: list[Command] = []
        self.is_next_unknown = False
        #: How many times a partition is still refused although the view gives it to this node.
        self.arriving: dict[int, int] = {}

    async def execute(self, command: Command, deadline: Deadline) -> Outcome:
        cluster, weather = self._member.cluster, self._member.cluster.weather
        await weather.delay()
        self.commands.append(command)
        for partition in command.partitions:
            left = self.arriving.get(partition, 0)
            self.arriving[partition] = max(0, left - 1)
            if left or not self._member.owns(partition):
                return Refused(NotOwner("", partition=partition))
        if self.is_next_unknown or weather.strikes(weather.unknown):
            self.is_next_unknown = False
            self._late.append(command)
            await weather.delay()
            return Unknown(command.event_id)
        self.settle(lambda _: True)
        decision = command.decide(PartialView(cluster.state, command.partitions))
        outcome = Decided(decision.result, cluster.state.apply(decision.records))
        await weather.delay()
        return outcome

    def settle(self, is_concerned: Callable[[Command], bool]) -> None:
        """What is open lands now, or never."""
        due = [command for command in self._late if is_concerned(command)]
        self._late = [command for command in self._late if command not in due]
        for command in due:
            if self._member.cluster.weather.strikes(0.5):
                self.land(command)

    def land(self, command: Command) -> None:
        state = self._member.cluster.state
        state.apply(command.decide(PartialView(state, command.partitions)).records)

    def land_late(self) -> None:
        """All that is open lands."""
        late, self._late = self._late, []
        for command in late:
            self.land(command)


class LossyPeers:
    """The others, as this node reaches them (`streams.queries.peers.Peers`)."""

    def __init__(self, member: Member) -> None:
        self._member = member

    async def call(self, node_id: str, operation: str, body: bytes, deadline: Deadline) -> bytes:
        cluster = self._member.cluster
        weather = cluster.weather
        cluster.calls.append(operation)
        run: Operation = cluster.nodes[int(node_id[1:])].operations[operation]
        caller = Caller(self._member.node_id, deadline, cluster.epoch)
        await weather.delay()
        if weather.strikes(weather.lost):
            raise PeerLost("the request was lost")
        try:
            answer = await run(body, caller)
        except Unavailable as error:
            raise PeerUnreachable("refused") from error
        if weather.strikes(weather.doubled):
            copy = asyncio.get_running_loop().create_task(self._again(run, body, caller))
            errands = self._member.settlement._errands
            errands.add(copy)
            copy.add_done_callback(errands.discard)
        await weather.delay()
        if weather.strikes(weather.lost):
            raise PeerLost("the answer was lost")
        return answer

    async def _again(self, run: Operation, body: bytes, caller: Caller) -> None:
        for _ in range(self._member.cluster.weather.random.randint(1, 40)):
            await asyncio.sleep(0)
        with suppress(Unavailable):
            await run(body, caller)

    async def forward(self, node_id: str, request: PeerRequest, deadline: Deadline) -> PeerReply:
        raise NotImplementedError("writes are not forwarded here")

    def is_suspected(self, node_id: str) -> bool:
        return False

    def set_view(self, view: ClusterView) -> None:
        """The view is that of the cluster."""
