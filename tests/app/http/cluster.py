"""Several nodes in one process: each a whole API with the real service over a fake node, joined by fake peers that call
each other's API.

All nodes share one state, as a log would give it to them; who may serve what of it is told by the placements of the
view. The gate believes everything, but signs no more than the real one: headers of a client, body, hop and extra.
"""

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any
from urllib.parse import unquote_to_bytes

from app.cluster.assembly import Gate, join
from app.cluster.operations import read_operations
from app.cluster.ports import Members
from app.http.api import create_api
from app.http.entry import Entry
from app.profiles.email import EmailPolicy
from app.profiles.ports import ProfileSettings
from app.profiles.service import ProfileService
from app.profiles.topics import COUNTED_STORES
from streams.clock import Deadline, SystemClock
from streams.cluster import MEMBER, OBSERVER, ClusterView, NodeInfo, Placement
from streams.errors import NotOwner, Restoring, Unavailable
from streams.queries.counts import Counts
from streams.queries.fanout import FanOut
from streams.queries.peers import Caller, Headers, PeerLost, PeerReply, PeerRequest, Peers, PeerUnreachable
from streams.records import TopicPartition
from streams.runtime.commands import Command, Outcome, Refused
from tests.app.http import fakes as edge
from tests.app.profiles import fakes as profiles
from tests.app.profiles.fakes import NAMES, SECRET, FakeReader, FakeTable, State

PARTITIONS = 6
TIMEOUT_S = 0.4  # of a request: how long one waits that nobody can answer


class Node(profiles.FakeNode):
    """A node that owns and follows what `owned` and `followed` say, whatever the view says. `restoring`: what of it
    cannot be served until somebody has waited for a view."""

    def __init__(self, name: str, state: State, role: str = MEMBER) -> None:
        super().__init__(state)
        self.node_id = name
        self.is_observer = role == OBSERVER
        self.info = NodeInfo(name, "1", f"http://127.0.0.1:{8000 + ord(name[0])}", role=role)
        self.owned: set[int] = set()
        self.followed: set[int] = set()
        self.restoring: set[int] = set()
        self.view = ClusterView(0, {}, ())
        self.behind_ms = 0
        self.is_log_away = False
        self.waited = 0

    def owns(self, partition: int) -> bool:
        return partition in self.owned

    def follows(self, partition: int) -> bool:
        return partition in self.owned | self.followed

    def role_of(self, partition: int) -> str:
        if partition in self.owned:
            return "owner"
        return "observer" if self.info.role == "observer" else "standby"

    def reader(self, store: str, partition: int) -> FakeReader:
        if partition not in self.owned:
            raise NotOwner("not here", partition=partition)
        if partition in self.restoring:
            raise Restoring("not yet", partition=partition, lag_records=0)
        return FakeReader(self, store, partition)

    def replica(self, store: str, partition: int) -> FakeReader:
        if not self.follows(partition):
            raise NotOwner("not here", partition=partition)
        return Copy(self, store, partition)

    @property
    def view_age_s(self) -> float:
        return 1.0

    def offer_view(self, view: ClusterView) -> None:
        if view.epoch > self.view.epoch:
            self.view = view

    async def wait_view(self, after_epoch: int, deadline: Deadline) -> ClusterView:
        self.waited += 1
        await asyncio.sleep(max(0.0, deadline.remaining_s(SystemClock())))
        self.restoring.clear()
        if self.view.epoch <= after_epoch:
            raise Unavailable("no newer view")
        return self.view

    async def barrier(self, partitions: Iterable[int], deadline: Deadline) -> None:
        if self.is_log_away:
            raise Unavailable("the log did not tell its end in time")
        await super().barrier(partitions, deadline)

    async def wait_applied(self, targets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        await super().wait_applied(targets, deadline)
        if targets and self.behind_ms:
            await asyncio.sleep(max(0.0, deadline.remaining_s(SystemClock())))
            raise Unavailable("the position is not applied here yet")


class Copy(FakeReader):
    """A reader of a copy: it has no lease, whatever the node has."""

    def __init__(self, node: Node, store: str, partition: int) -> None:
        super().__init__(node, store, partition)
        self._copied = node

    def check_lease(self) -> None:
        raise AssertionError("the lease of a node says nothing of its copies")

    def staleness_ms(self) -> int:
        return self._copied.behind_ms


class Table(FakeTable):
    """Refuses what the node does not own."""

    def __init__(self, state: State, node: Node) -> None:
        super().__init__(state)
        self._node = node

    async def execute(self, command: Command, deadline: Deadline) -> Outcome:
        for partition in command.partitions:
            if not self._node.owns(partition):
                return Refused(NotOwner("not here", partition=partition))
        return await super().execute(command, deadline)


class Visit:
    """A forwarded request that came in."""

    proof = (b"profile-peer", b"proof")

    def __init__(self, caller: Caller, headers: Headers) -> None:
        self.caller = caller
        self.headers = headers

    def __enter__(self) -> Caller:
        return self.caller

    def __exit__(self, *_: object) -> None:
        return None


class Member(edge.Edge):
    """One node with its API. `sent`: what it forwarded, with the node's id; `called`: the operations it asked for.
    `suspected`, `unreachable` and `losing`: what its peers are to it."""

    def __init__(self, name: str, state: State, members: "dict[str, Member]", role: str = MEMBER) -> None:
        self.node_id = name
        self.state = state
        self.node = Node(name, state, role)  # type: ignore[assignment]
        self.metrics = edge.FakeMetrics()
        self.events_left = 0
        self.members = members
        self.sent: list[tuple[str, PeerRequest]] = []
        self.called: list[tuple[str, str, bytes]] = []
        self.suspected: set[str] = set()
        self.unreachable: set[str] = set()
        self.losing: set[str] = set()
        self.visits: dict[bytes, Caller] = {}
        self._numbers = itertools.count()
        self.table = Table(state, self.cluster_node)
        self.profiles = ProfileService(
            node=self.cluster_node,
            table=self.table,
            topics=NAMES,
            clock=SystemClock(),
            random=Random(name).randbytes,
            settings=ProfileSettings(token_secret=SECRET, email_policy=EmailPolicy.PUBLIC),
        )
        self.open(self, self)

    def open(self, peers: Peers, gate: Gate) -> None:
        """Make the API, with these ways out and in."""
        clock = SystemClock()
        fan_out = FanOut(node=self.cluster_node, peers=peers, clock=clock)
        counts = Counts(node=self.cluster_node, stores=COUNTED_STORES, peers=peers, fan_out=fan_out)
        self.operations = {**read_operations(self.profiles.reads), **counts.operations()}
        cluster = join(
            node=self.cluster_node,
            peers=peers,
            gate=gate,
            reads=self.profiles.reads,
            fan_out=fan_out,
            clock=clock,
        )
        self.api = create_api(
            service=self.profiles,
            node=edge.FakeNode(),
            clock=clock,
            metrics=self.metrics,
            request_timeout_s=TIMEOUT_S,
            random=Random(f"edge of {self.node_id}").randbytes,
            members=Members(self.cluster_node, lambda one: {0: 7} if one == "a" else None, peers.is_suspected),
            feed=edge.silent_feed(),
            cluster=cluster,
            counts=counts,
        )

    @property
    def cluster_node(self) -> Node:
        node: Any = self.node
        assert isinstance(node, Node)
        return node

    # What it is as `Peers`.

    def is_suspected(self, node_id: str) -> bool:
        return node_id in self.suspected

    def set_view(self, view: ClusterView) -> None:
        raise AssertionError("not of the edge")

    async def forward(self, node_id: str, request: PeerRequest, deadline: Deadline) -> PeerReply:
        self.sent.append((node_id, request))
        other = self._reach(node_id)
        reply = await other.serve_peer(self.node_id, request, deadline)
        if node_id in self.losing:
            raise PeerLost("no answer came")
        return reply._replace(headers=[*reply.headers, (b"via", b"1.1 " + self.node_id.encode())])

    async def call(self, node_id: str, operation: str, body: bytes, deadline: Deadline) -> bytes:
        self.called.append((node_id, operation, body))
        other = self._reach(node_id)
        await asyncio.sleep(0)
        try:
            answer = await other.operations[operation](body, Caller(self.node_id, deadline, 0))
        except Unavailable as error:
            raise PeerUnreachable(str(error)) from error
        if node_id in self.losing:
            raise PeerLost("no answer came")
        return answer

    def _reach(self, node_id: str) -> "Member":
        if node_id in self.unreachable or node_id not in self.members:
            raise PeerUnreachable("refused")
        return self.members[node_id]

    # What it is as `Gate`.

    async def enter(
        self, method: bytes, target: bytes, headers: Headers, body: bytes, *, client_host: str | None
    ) -> PeerReply | Visit:
        token = dict(headers)[b"profile-peer"]
        if token not in self.visits:
            return PeerReply(401, [(b"content-length", b"0")], b"")
        return Visit(self.visits.pop(token), [(name, value) for name, value in headers if name != b"profile-peer"])

    async def serve_peer(self, sender: str, request: PeerRequest, deadline: Deadline) -> PeerReply:
        """Answer a forwarded request through the whole API."""
        token = b"%d" % next(self._numbers)
        self.visits[token] = Caller(sender, deadline, 0, request.hop, request.extra)
        headers = [*request.headers, (b"profile-peer", token)]
        # In a context of its own, as in another process.
        answering = ask(self.api, request._replace(headers=headers))
        reply = await asyncio.get_running_loop().create_task(answering)
        assert (b"profile-peer", b"proof") in reply.headers
        return reply._replace(headers=[pair for pair in reply.headers if pair[0] != b"profile-peer"])


async def ask(api: Entry, request: PeerRequest, client_host: str = "127.0.0.1") -> PeerReply:
    """Send one request to an API on the running loop, and return its answer."""
    path, _, query = request.target.partition(b"?")
    names = {name for name, _ in request.headers}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method.decode(),
        "scheme": "http",
        "path": unquote_to_bytes(path).decode(),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [*request.headers, *([] if b"host" in names else [(b"host", b"127.0.0.1")])],
        "server": ("127.0.0.1", 8080),
        "client": (client_host, 50000),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await api(scope, receive, send)
    headers = [(name.lower(), value) for name, value in sent[0]["headers"]]
    return PeerReply(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


class Nodes:
    """Nodes a, b and c: a owns partitions 0 and 3, b 1 and 4, c 2 and 5; each one's are followed by the next."""

    def __init__(self) -> None:
        self.state = State(PARTITIONS)
        self.members: dict[str, Member] = {}
        for name in "abc":
            self.members[name] = Member(name, self.state, self.members)
        self.place(["a", "b", "c"] * 2, ["b", "c", "a"] * 2)

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    def place(
        self, owners: Sequence[str | None], standbys: Sequence[str | None], *, knows: str | None = None, epoch: int = 1
    ) -> None:
        """Move the partitions; only the nodes of *knows* (all) learn of it."""
        placements = [Placement(owner, (by,) if by else ()) for owner, by in zip(owners, standbys, strict=True)]
        infos = {name: member.cluster_node.info for name, member in self.members.items()}
        view = ClusterView(epoch, infos, placements)
        for name, member in self.members.items():
            if member.cluster_node.info.role == "observer":
                member.cluster_node.view = view
                continue
            member.cluster_node.owned = set(view.owned_by(name))
            member.cluster_node.followed = set(view.followed_by(name))
            if knows is None or name in knows:
                member.cluster_node.view = view

    def observer(self) -> Member:
        """Add a node that follows everything and is in nobody's map."""
        member = Member("o", self.state, self.members, role="observer")
        member.cluster_node.view = self["a"].cluster_node.view
        member.cluster_node.followed = set(range(PARTITIONS))
        return member

    def __iter__(self) -> Any:
        return iter(self.members.values())
