"""Several nodes on one broker: what the hop to another node costs, and whether more nodes on these cores collapse.

Rates of several processes on few cores say as much of the machine as of the nodes, so processor time is told as well.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks import load, preload
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.report import Table, middle, ratio, spread
from tests.support.cluster import Nodes

_CONNECTIONS = 32
_NODES = ("n1", "n2", "n3")
_MIXED = ("get", "create")
_WARM = 2000  # requests that a way has answered before it is measured
_PATIENCE_S = 30.0


class Run(NamedTuple):
    """Loads that ran at the same time, and the processor seconds that the nodes used meanwhile."""

    loads: Sequence[Load]
    cpu_s: float
    seconds: float

    @property
    def rate(self) -> float:
        return sum(one.rate for one in self.loads)


def measure(plan: Plan, directory: Path, *, bootstrap_servers: str) -> Table:
    """Measure one node alone against three, in turn."""
    table = Table(
        "Several nodes on the same machine",
        f"{plan.profiles:,} profiles, one broker, no standbys, {_CONNECTIONS} connections in all. Local: to the node "
        "that owns the profile. One hop: every request goes to a node that does not own it. Spread: each of three "
        "nodes gets a third of the connections, whatever they ask for. The ratio is to the same request to one node "
        "alone, which has the cores for itself. CPU: of all nodes of the cluster that is asked, for each request, with "
        "what they use when nobody asks.",
        ("request", "nodes", "requests/s", "p50 ms", "p99 ms", "of one node", "CPU us", "errors"),
    )
    with (
        Nodes(directory / "one", bootstrap_servers, standbys=0) as one,
        Nodes(directory / "three", bootstrap_servers, standbys=0) as three,
    ):
        sample_of_one, sample_of_three, hop = (directory / name for name in ("one.tsv", "three.tsv", "hop.tsv"))
        _fill(plan, one, directory / "fill-one", sample_of_one)
        _fill(plan, three, directory / "fill-three", sample_of_three)
        one.start("n1")
        three.start(*_NODES)
        _write_foreign(three, sample_of_three, hop, "n1")
        for mode in _MIXED:
            ways: dict[str, Callable[[float], Run]] = {
                "local": partial(_together, mode, one, ["n1"], sample_of_one),
                "spread": partial(_together, mode, three, _NODES, sample_of_three),
            }
            if mode == "get":
                ways["one hop"] = partial(_together, mode, three, ["n1"], hop)
            runs = _alternate(plan, ways)
            table.rows.extend(_row(mode, how, of, runs["local"]) for how, of in runs.items())
    return table


def _fill(plan: Plan, nodes: Nodes, directory: Path, sample: Path) -> None:
    settings = {**nodes.environment, "PROFILES_STATE_DIR": str(directory)}
    preload.fill(settings, sample, first=0, count=plan.profiles)


def _alternate(plan: Plan, ways: Mapping[str, Callable[[float], Run]]) -> dict[str, list[Run]]:
    for run in ways.values():
        _warm_up(run)
    runs: dict[str, list[Run]] = {how: [] for how in ways}
    for _ in range(plan.runs):
        for how, run in ways.items():
            runs[how].append(run(plan.seconds))
            assert runs[how][-1].rate, f"nothing was answered in {plan.seconds} s: is the machine busy?"
    return runs


def _warm_up(run: Callable[[float], Run]) -> None:
    """Have some thousand requests answered, however long a busy machine takes for them."""
    end = time.monotonic() + _PATIENCE_S
    answered = 0.0
    while answered < _WARM and time.monotonic() < end:
        answered += run(1).rate


def _together(mode: str, nodes: Nodes, names: Sequence[str], sample: Path, seconds: float) -> Run:
    """Run a load on each of *names* at the same time."""
    results: list[Load] = []

    def run(url: str) -> None:
        results.append(load.run(mode, url, sample, connections=_CONNECTIONS // len(names), seconds=seconds))

    threads = [threading.Thread(target=run, args=(f"http://127.0.0.1:{nodes[name].port}",)) for name in names]
    before = _cpu_s(nodes)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(names), "a load generator failed"
    return Run(results, _cpu_s(nodes) - before, seconds)


def _cpu_s(nodes: Nodes) -> float:
    """Return the processor seconds that all *nodes* have used until now."""
    workers = [psutil.Process(pid) for service in nodes.running.values() for pid in service.worker_pids()]
    return sum(used.user + used.system for used in (worker.cpu_times() for worker in workers))


def _write_foreign(nodes: Nodes, sample: Path, hop: Path, entry: str) -> None:
    """Leave in *hop* those profiles of *sample* that *entry* does not own."""
    mine = nodes.view().owned_by(entry)
    lines = [line for line in sample.read_text().splitlines() if nodes.partition_of(line.split("\t")[0]) not in mine]
    hop.write_text("\n".join(lines) + "\n")


def _row(mode: str, how: str, runs: Sequence[Run], local: Sequence[Run]) -> Sequence[str]:
    rates = [run.rate for run in runs]
    loads = [one for run in runs for one in run.loads]
    return (
        mode if how == "local" else f"{mode}, {how}",
        "1" if how == "local" else str(len(_NODES)),
        spread(rates),
        middle([max(one.p50_ms for one in run.loads) for run in runs]),
        middle([max(one.p99_ms for one in run.loads) for run in runs]),
        ratio(rates, [run.rate for run in local]),
        middle([run.cpu_s / (run.rate * run.seconds) * 1e6 for run in runs], 0),
        str(sum(one.errors for one in loads)),
    )
