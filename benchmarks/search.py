"""What the replicator does with a real Elasticsearch: how fast it copies, beside the helper of Elasticsearch's own
client on the same documents; how soon a burst has come through; and how soon a single change."""

import json
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import preload, servers
from benchmarks.plan import Plan
from benchmarks.report import Table, middle, ratio, spread
from tests.support.dump import raw_kafka
from tests.support.search_server import ELASTICSEARCH, SearchServer

_ROOT = Path(__file__).parent.parent
_HEAP_MIB = 1024
_TIMEOUT_S = 300.0
_CHANGES = 200  # single ones, one after the other
_POLL_S = 0.002
_BURST_POLL_S = 0.1


def measure_copy(plan: Plan, directory: Path, *, bootstrap_servers: str) -> Table:
    """Copy all profiles of a topic into an empty index, with the replicator and with the helper, in turn."""
    table = Table(
        "Copying to Elasticsearch",
        f"{plan.search_profiles:,} profiles into an empty index of Elasticsearch {ELASTICSEARCH.version} (one node, "
        f"{_HEAP_MIB} MiB of heap), in turn. Replicator: `python -m app replicate elasticsearch --once`, from the "
        "start of the process to its end, so that reading Kafka, positions and waiting for the log's end are in it. "
        "Helper: `parallel_bulk` of elasticsearch-py with its own four threads, the same documents from memory, "
        "into an index of the same mapping, from its call to its end. CPU: of the copying process.",
        ("copied by", "documents/s", "of the helper", "CPU us a document"),
    )
    settings = preload.settings_of(directory / "state", bootstrap_servers)
    preload.fill(settings, directory / "sample.tsv", first=0, count=plan.search_profiles)
    documents = directory / "documents.jsonl"
    with documents.open("wb") as file:
        for record in raw_kafka(bootstrap_servers, "profiles"):
            assert record.value is not None
            file.write(record.value + b"\n")
    ours, helpers, our_cpu, helper_cpu = [], [], [], []
    with closing(SearchServer(directory / "server", heap_mib=_HEAP_MIB, is_measured=True)) as server:
        server.start()
        for number in range(plan.runs + 1):  # The first warms the server up.
            begun_s, begun_cpu_s = time.perf_counter(), _children_cpu_s()
            _run(_command(server, f"ours-{number}", "--once"), settings, directory / "replicator.out")
            took_s, cpu_s = time.perf_counter() - begun_s, _children_cpu_s() - begun_cpu_s
            _check(server, f"ours-{number}", plan.search_profiles)
            name = _same_index(server, f"ours-{number}", f"helper-{number}")
            output = _run(
                ["-m", "benchmarks.bulk_helper", server.url, name, str(documents)], {}, directory / "helper.out"
            )
            told = json.loads(output)
            _check(server, name, plan.search_profiles)
            if number:
                ours.append(plan.search_profiles / took_s)
                our_cpu.append(cpu_s / plan.search_profiles * 1e6)
                helpers.append(plan.search_profiles / told["seconds"])
                helper_cpu.append(told["cpu_seconds"] / plan.search_profiles * 1e6)
            for index in (f"ours-{number}-000001", name):
                server.request("DELETE", f"/{index}")
    table.rows.append(("the replicator", spread(ours), ratio(ours, helpers), middle(our_cpu, 0)))
    table.rows.append(("the helper", spread(helpers), "1.00", middle(helper_cpu, 0)))
    return table


def measure_lag(plan: Plan, directory: Path, *, bootstrap_servers: str) -> Table:
    """Follow a topic: bursts, then single changes through the service."""
    table = Table(
        "Following with Elasticsearch",
        f"A replicator follows {plan.search_profiles // 10:,} profiles. Burst: {plan.search_burst:,} profiles are "
        "appended as fast as the log takes them; from the last one's timestamp until all can be searched (looked at "
        "ten times a second, with a refresh). Change: one PATCH of "
        f"{_CHANGES}, one after the other; from its acknowledgement until a GET of the document at the server shows "
        "it. For a search, the index's refresh interval (a second, by default) comes on top.",
        ("what", "seconds, or p50 ms", "p99 ms"),
    )
    settings = preload.settings_of(directory / "state", bootstrap_servers)
    profiles = plan.search_profiles // 10
    preload.fill(settings, directory / "sample.tsv", first=0, count=profiles)
    bursts = []
    with (
        closing(SearchServer(directory / "server", heap_mib=_HEAP_MIB, is_measured=True)) as server,
        _started(server),
        _replicator(server, settings, directory / "replicator.out"),
    ):
        _wait_for(server, "profiles", profiles)
        for number in range(plan.runs):
            first = (number + 1) * 10_000_000
            preload.fill(settings, directory / "burst.tsv", first=first, count=plan.search_burst)
            profiles += plan.search_burst
            _wait_for(server, "profiles", profiles)
            complete_s = time.time()
            bursts.append(complete_s - max(one.timestamp_ms for one in raw_kafka(bootstrap_servers, "profiles")) / 1000)
        table.rows.append((f"a burst of {plan.search_burst:,}", spread(bursts, 1), ""))
        with servers.service(directory, settings) as service:
            times = sorted(_change(server, service.url, uid) for uid in _some(directory / "sample.tsv"))
        p50, p99 = (1000 * times[int(len(times) * part)] for part in (0.5, 0.99))
        table.rows.append(("one change", f"{p50:,.0f}", f"{p99:,.0f}"))
    return table


def _command(server: SearchServer, index: str, *more: str) -> list[str]:
    return ["-m", "app", "replicate", "elasticsearch", "--url", server.url, "--index", index, "--name", index, *more]


@contextmanager
def _started(server: SearchServer) -> Iterator[None]:
    server.start()
    yield


@contextmanager
def _replicator(server: SearchServer, settings: Mapping[str, str], output: Path) -> Iterator[None]:
    """A replicator that follows."""
    with output.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, *_command(server, "profiles")],
            cwd=_ROOT,
            env=servers.environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _run(arguments: list[str], settings: Mapping[str, str], output: Path) -> str:
    """Run a Python program to its end and return what it printed. Raises RuntimeError with what it said."""
    with output.open("ab") as errors:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=_ROOT,
            env=servers.environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            timeout=_TIMEOUT_S,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{arguments} ended with {done.returncode}:\n{output.read_text(errors='replace')[-3000:]}")
    return done.stdout.decode()


def _same_index(server: SearchServer, alias: str, name: str) -> str:
    """Make an empty index *name* with the settings and mapping of the one behind *alias*; return its name."""
    (made,) = server.request("GET", f"/{alias}").document.values()
    settings = {key: made["settings"]["index"][key] for key in ("analysis", "auto_expand_replicas")}
    answer = server.request("PUT", f"/{name}", {"settings": {"index": settings}, "mappings": made["mappings"]})
    assert answer.status == 200, answer
    return name


def _check(server: SearchServer, index: str, documents: int) -> None:
    server.request("POST", f"/{index}/_refresh")
    count = server.request("GET", f"/{index}/_count").document["count"]
    assert count == documents, f"{index} holds {count} documents"


def _wait_for(server: SearchServer, index: str, documents: int) -> None:
    """Return when a search finds so many."""
    end_s = time.perf_counter() + _TIMEOUT_S
    while server.request("POST", f"/{index}/_refresh").status != 200 or (
        server.request("GET", f"/{index}/_count").document["count"] != documents
    ):
        if time.perf_counter() > end_s:
            raise TimeoutError(f"{index} does not reach {documents} documents")
        time.sleep(_BURST_POLL_S)


def _change(server: SearchServer, url: str, uid: str) -> float:
    """Change a profile and return how many seconds after the answer the document shows it."""
    name = f"changed {time.time_ns()}"
    request = urllib.request.Request(
        f"{url}/api/profile/{uid}",
        json.dumps({"username": name}).encode(),
        {"Content-Type": "application/merge-patch+json"},
        method="PATCH",
    )
    with urllib.request.urlopen(request, timeout=12) as answer:
        answer.read()
    begun_s = time.perf_counter()
    while _username(server, uid) != name:
        if time.perf_counter() > begun_s + _TIMEOUT_S:
            raise TimeoutError(f"the change of {uid} does not arrive")
        time.sleep(_POLL_S)
    return time.perf_counter() - begun_s


def _username(server: SearchServer, uid: str) -> Any:
    return server.request("GET", f"/profiles/_doc/{uid}").document["_source"]["username"]


def _some(sample: Path) -> list[str]:
    lines = sample.read_text().splitlines()
    return [line.split("\t")[0] for line in lines[:: max(1, len(lines) // _CHANGES)][:_CHANGES]]


def _children_cpu_s() -> float:
    """Return the processor seconds of all children of this process that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
