"""A member of the group that is none of the cluster's: it has Kafka's door key, joins, and advertises what it likes.

What it can do is keep partitions for itself (that is what access to the group means). What it must not get is a
request of a client, a connection to a place that no node can be at, or a wrong answer into the world.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from kafka import KafkaAdminClient
from kafka.protocol.consumer.metadata import ConsumerProtocolSubscription

from streams.clock import Deadline, SystemClock
from streams.cluster import LoneMember, NodeInfo
from streams.log.kafka import KafkaLog, KafkaSettings
from streams.log.kafka.assignor import decode_joining
from streams.log.kafka.topics import describe_group
from tests.cluster.conftest import NewNodes
from tests.cluster.run import Run
from tests.support.cluster import Nodes, wait_for
from tests.support.history import Kind, Operation
from tests.support.load import Caller, Load

ROGUE = "rogue"
METADATA_SERVICE = "169.254.169.254"
CREDENTIALS = "Bearer of-a-client"
VICTIM = "victim"
KEYS = 5  # for each node; those of the rogue's partitions wait until their time is over

pytestmark = pytest.mark.cluster


class Trap:
    """Listens, and keeps every byte that it gets. Its own thread."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._listen, args=(connection,), daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(5.0)
            try:
                while data := connection.recv(65536):
                    self.got += data
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            except OSError:
                return

    def close(self) -> None:
        self._socket.close()


@contextmanager
def rogue(nodes: Nodes, directory: Path, info: NodeInfo, settings: dict[str, str]) -> Iterator[KafkaLog]:
    """Be a member of the nodes' group, with a right member's way of joining."""
    application_id = nodes.environment["PROFILES_APPLICATION_ID"]
    log = KafkaLog(
        KafkaSettings(
            bootstrap_servers=nodes.environment["PROFILES_BOOTSTRAP_SERVERS"],
            application_id=application_id,
            node_id=info.node_id,
            session_timeout_ms=3000,
        ),
        state_dir=directory / "rogue",
    )
    topic = nodes.environment["PROFILES_TOPIC_PREFIX"] + "profiles"
    membership = log.open_membership([topic], LoneMember(info, settings=settings))
    ignore = lambda *_: None  # noqa: E731  # It takes what it gets and does nothing for it.
    membership.start(SimpleNamespace(on_assigned=ignore, on_revoked=ignore, on_lost=ignore, on_view=ignore))
    try:
        yield log
    finally:
        membership.leave(Deadline.after(5.0, SystemClock()))
        log.close()


def settings_of_members(nodes: Nodes) -> dict[str, str]:
    """What all members say that their settings are; anybody who may describe the group can read it."""
    group = nodes.environment["PROFILES_APPLICATION_ID"]
    with KafkaAdminClient(bootstrap_servers=nodes.environment["PROFILES_BOOTSTRAP_SERVERS"]) as admin:
        member = admin._manager.run(describe_group, admin, group).members[0]
    said = ConsumerProtocolSubscription.decode(member.member_metadata).user_data
    return dict(decode_joining(member.member_id, said).settings)


def connections_to(nodes: Nodes, host: str) -> list[object]:
    """The connections, also those that are being tried, of any node's process to *host*."""
    pids = {pid for service in nodes.running.values() for pid in [service.pid, *service.worker_pids()]}
    return [
        one
        for pid in pids
        for one in psutil.Process(pid).net_connections(kind="tcp")
        if one.raddr and one.raddr[0] == host
    ]


async def ask_everybody(load: Load, nodes: Nodes) -> set[int]:
    """Send requests for many keys through every node, with credentials; return the statuses."""
    statuses = set()
    for name, service in nodes.running.items():
        caller = Caller([service.address], 0)
        for _ in range(KEYS):
            mark = f"{VICTIM} {name} {time.monotonic_ns()}"
            email = mark.replace(" ", "-") + "@mail.com"
            for kind in (Kind.CREATE, Kind.SEARCH):
                operation = Operation(3000, kind, 0, email=email, mark=mark if kind is Kind.CREATE else None)
                await load.perform(caller, operation, wish={"Authorization": CREDENTIALS})
                statuses.add(operation.status)
        caller.close()
    return statuses


def advertised(trap: Trap) -> dict[str, NodeInfo]:
    """What the rogue says that it is, by what is wrong with it."""
    return {
        "a place where no node can be": NodeInfo(ROGUE, "1", f"http://{METADATA_SERVICE}:80"),
        "credentials in the address": NodeInfo(ROGUE, "1", f"http://user@127.0.0.1:{trap.port}"),
        "a path in the address": NodeInfo(ROGUE, "1", f"http://127.0.0.1:{trap.port}/latest"),
        "another node's name": NodeInfo("a", "1", f"http://127.0.0.1:{trap.port}"),
        "a place of its own": NodeInfo(ROGUE, "1", f"http://127.0.0.1:{trap.port}"),
    }


async def visit(run: Run, trap: Trap, what: str, info: NodeInfo, settings: dict[str, str], directory: Path) -> None:
    """Let the rogue be there for some seconds, and look at what it got."""
    nodes = run.nodes
    epoch = nodes.view().epoch
    with rogue(nodes, directory, info, settings):
        await asyncio.to_thread(
            wait_for, lambda: nodes.view().epoch > epoch, timeout_s=20, what=f"the rogue joins: {what}"
        )
        view = nodes.view()
        statuses = await ask_everybody(run.load, nodes)
        assert statuses <= {200, 201, 404, 503, 504}, (what, statuses)
        assert 201 in statuses, "nothing worked beside the rogue"
        assert not connections_to(nodes, METADATA_SERVICE), what
        got = bytes(trap.got)
        for private in (VICTIM.encode(), b"mail.com", CREDENTIALS.encode(), b"/api/"):
            assert private not in got, (what, got[:500])
        if what != "a place of its own":  # This one may be asked who it is, since nodes are on loopback here.
            assert not trap.connections, (what, got[:500])
        if what == "another node's name":
            assert view.nodes["a"].address.endswith(str(nodes["a"].port)), "the first of the name is pushed out"
            assert view.owned_by("a")
    await run.settled()
    await run.progress(20)


@pytest.mark.timeout(300)
def test_a_rogue_member(new_nodes: NewNodes, tmp_path: Path) -> None:
    """Whatever it advertises: no client's byte reaches it, nothing goes where no node can be, and all promises hold."""
    nodes = new_nodes().start("a", "b", "c")

    async def scenario() -> None:
        async with Run(nodes, clients=8, request_timeout_s=2.0) as run:
            settings = settings_of_members(nodes)
            trap = Trap()
            for what, info in advertised(trap).items():
                print(what, flush=True)
                await visit(run, trap, what, info, settings, tmp_path / what)
            trap.close()
            await run.finish()

    asyncio.run(scenario())


def test_a_member_with_other_settings_gets_nothing(new_nodes: NewNodes, tmp_path: Path) -> None:
    """Who differs from the others in what must be the same is told so, owns nothing, and disturbs nobody."""
    nodes = new_nodes().start("a", "b")
    settings = dict.fromkeys(settings_of_members(nodes), "something else")
    epoch = nodes.view().epoch
    with rogue(nodes, tmp_path, NodeInfo(ROGUE, "1", "http://127.0.0.1:9"), settings):
        wait_for(lambda: nodes.view().epoch > epoch, timeout_s=20, what="it joins")
        view = nodes.view()
        assert ROGUE not in view.nodes
        assert all(place.owner in ("a", "b") for place in view.placements), view
        load = Load(nodes.addresses, seed=1)
        assert asyncio.run(ask_everybody(load, nodes)) == {200, 201}
