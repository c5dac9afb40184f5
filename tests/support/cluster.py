"""Many nodes on one Kafka as black boxes: members and observers, each a process with a port and a directory of its own.

`Nodes` starts, kills, freezes and adds them, and asks them who owns what. Invariants: every wait is bounded, and every
process ends with the one that started it. Run by hand: `python -m tests.support.cluster` (`make cluster`), which keeps
three brokers, three members and an observer until it is interrupted, with what `examples/cluster_tour.sh` needs in
files below its directory.
"""

import argparse
import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from streams.cluster import ClusterView, NodeInfo, Placement
from streams.partitioner import partition_for
from tests.support.broker import Cluster
from tests.support.service import Service

SETTLE_TIMEOUT_S = 40.0
PARTITIONS = 8

_ROLES = ("owner", "standby", "warming")

FIRST_PORT = 8081
ENVIRONMENT_FILE = "environment"


class Nodes:
    """The nodes of one cluster, by name. Not thread-safe."""

    def __init__(
        self,
        directory: Path,
        bootstrap_servers: str,
        *,
        standbys: int = 1,
        session_timeout_ms: int = 4000,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """*directory* keeps states and logs. Topics and group are new ones, unless *environment* says otherwise."""
        self._directory = directory
        name = f"c{uuid.uuid4().hex[:10]}"
        self.environment = {
            "PROFILES_BOOTSTRAP_SERVERS": bootstrap_servers,
            "PROFILES_TOPIC_PREFIX": f"{name}-",
            "PROFILES_APPLICATION_ID": name,
            "PROFILES_PARTITIONS": str(PARTITIONS),
            "PROFILES_CLUSTER_SECRET": secrets.token_urlsafe(24),
            "PROFILES_NUM_STANDBY_REPLICAS": str(standbys),
            "PROFILES_SESSION_TIMEOUT_MS": str(session_timeout_ms),
            **(environment or {}),
        }
        self.standbys = standbys
        self.session_s = session_timeout_ms / 1000
        self.services: dict[str, Service] = {}
        self._observers: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> Service:
        return self.services[name]

    @property
    def running(self) -> dict[str, Service]:
        """Those that have not ended, by name; frozen ones, too."""
        return {name: service for name, service in self.services.items() if service.is_running}

    @property
    def members(self) -> list[str]:
        """The names of the running ones that may own partitions."""
        return [name for name in self.running if name not in self._observers]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where the running ones listen."""
        return [service.address for service in self.running.values()]

    def add(
        self,
        name: str,
        *,
        is_observer: bool = False,
        module: str = "app",
        arguments: tuple[str, ...] = ("run",),
        environment: Mapping[str, str] | None = None,
    ) -> Service:
        """Start a node and return at once. *environment* is added to that of all; see `Service` for the rest."""
        settings = {**self.environment, "PROFILES_NODE_ID": name, **(environment or {})}
        if is_observer:
            settings["PROFILES_ROLE"] = "observer"
            self._observers.add(name)
        service = Service(self._directory / name, environment=settings, module=module, arguments=arguments)
        self.services[name] = service
        return service.start(is_waited_for=False)

    def restart(self, name: str) -> Service:
        """Start an ended node again, on its port and directory, and return at once."""
        return self.services[name].start(is_waited_for=False)

    def start(self, *names: str, observers: tuple[str, ...] = ()) -> Self:
        """Add *names* and *observers*, and return when all have settled."""
        for name in names:
            self.add(name)
        for name in observers:
            self.add(name, is_observer=True)
        self.wait_until_settled()
        return self

    def wait_until_settled(self, timeout_s: float = SETTLE_TIMEOUT_S) -> ClusterView:
        """Return the view when every running node is ready and has the same one, in which each partition has an owner
        that runs and its standbys, and nobody warms up any more. Raises AssertionError."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            ended = [name for name, service in self.services.items() if service.exit_code not in (None, 0, -9)]
            assert not ended, self.services[ended[0]].tail()
            if (view := self._settled()) is not None:
                return view
            time.sleep(0.05)
        views = {name: self._view_or_none(name) for name in self.running}
        raise AssertionError(f"not settled after {timeout_s} s: {views}\n" + self.tails(15))

    def _settled(self) -> ClusterView | None:
        views = [self._view_or_none(name) for name in self.running]
        view = views[0]
        if view is None or any(other is None or other.epoch != view.epoch for other in views):
            return None
        members = set(self.members)
        standbys = min(self.standbys, len(members) - 1)
        for place in view.placements:
            if place.owner not in members or place.warming or len(members.intersection(place.standbys)) != standbys:
                return None
        are_ready = all(service.status_of("/readyz") == 200 for service in self.running.values())
        return view if view.placements and are_ready else None

    def view(self, via: str | None = None) -> ClusterView:
        """Return who owns what, as *via* (by default any node that answers) says. Raises AssertionError."""
        for name in [via] if via else list(self.running):
            if (view := self._view_or_none(name)) is not None:
                return view
        raise AssertionError(f"nobody tells the view: {self.tails(10)}")

    def _view_or_none(self, name: str) -> ClusterView | None:
        try:
            reply = self.services[name].request("GET", "/metadata", timeout_s=2.0)
        except OSError:
            return None
        return view_of(reply.body) if reply.status == 200 else None

    def partition_of(self, key: str) -> int:
        """Return the partition of a uid or an e-mail's key."""
        return partition_for(key.encode(), PARTITIONS)

    def owner_of(self, key: str) -> str:
        """Return the name of the node that owns *key*. Raises AssertionError when nobody does."""
        owner = self.view().owner_of(self.partition_of(key))
        assert owner is not None, f"nobody owns {key}"
        return owner.node_id

    def kill(self, name: str) -> None:
        """kill -9 the node's processes."""
        self.services[name].kill()

    def terminate(self, name: str) -> int:
        """SIGTERM; return the exit code when it has ended."""
        return self.services[name].stop()

    def tails(self, lines: int = 40) -> str:
        """Return the ends of all logs."""
        return "\n".join(service.tail(lines) for service in self.services.values())

    def close(self) -> None:
        """End whatever runs. Idempotent."""
        for service in self.services.values():
            service.close()


def view_of(body: bytes) -> ClusterView:
    """Return what a `/metadata` answer tells; it leaves out the incarnations, and who was refused."""
    document = json.loads(body)
    nodes = [
        NodeInfo(one["node_id"], "", one["address"], rack=one["rack"], role=one["role"]) for one in document["nodes"]
    ]
    placements = []
    for partition in document["partitions"]:
        holders = {role: [one["node_id"] for one in partition["instances"] if one["role"] == role] for role in _ROLES}
        placements.append(Placement(partition["owner"], holders["standby"], holders["warming"]))
    return ClusterView(document["epoch"], {node.node_id: node for node in nodes}, placements)


def wait_for(condition: Callable[[], Any], *, timeout_s: float, what: str) -> Any:
    """Return the first true value of *condition*. Raises AssertionError after *timeout_s*."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run a cluster in the foreground until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.cluster",
        description="Run three brokers, three nodes and an observer on loopback.",
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data/cluster"), help="emptied at the start (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=FIRST_PORT, help="of the first node (default: %(default)s)")
    options = parser.parse_args(arguments)
    data: Path = options.data.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True, mode=0o700)
    with contextlib.ExitStack() as stack:
        brokers = stack.enter_context(contextlib.closing(Cluster(data / "kafka", brokers=3)))
        print("starting three brokers", flush=True)
        brokers.start()
        names = {"PROFILES_TOPIC_PREFIX": "", "PROFILES_APPLICATION_ID": "profiles"}
        nodes = stack.enter_context(
            Nodes(data, brokers.bootstrap_servers, session_timeout_ms=10_000, environment=names)
        )
        _write_environment(data / ENVIRONMENT_FILE, nodes.environment)
        print("starting three nodes and an observer", flush=True)
        for number, name in enumerate(("node-1", "node-2", "node-3", "observer")):
            nodes.add(name, is_observer=name == "observer", environment={"PORT": str(options.port + number)})
            (data / f"{name}.pid").write_text(str(nodes[name].pid))
        nodes.wait_until_settled()
        for name, service in nodes.services.items():
            print(f"{name}\thttp://127.0.0.1:{service.port}\tprocess group {service.pid}")
        print(
            f"Logs and process ids are below {data}. The tour: examples/cluster_tour.sh. The end: Ctrl-C.", flush=True
        )
        with contextlib.suppress(KeyboardInterrupt):
            _watch(nodes)
    return 0


def _watch(nodes: Nodes) -> None:
    """Say when a node ends. Never returns."""
    known = set(nodes.running)
    while True:
        for name in known - set(nodes.running):
            print(f"{name} has ended ({nodes[name].exit_code})", flush=True)
        known = set(nodes.running)
        time.sleep(0.5)


def _write_environment(path: Path, environment: Mapping[str, str]) -> None:
    """Write what a further node needs, for a shell to read; it holds the secret."""
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()]
    lines.append(f"PYTHON={shlex.quote(sys.executable)}\n")
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(lines)


if __name__ == "__main__":
    sys.exit(main())
