"""Several nodes on one broker: what the hop to another node costs, and whether more nodes on these cores collapse."""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks import load, preload
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.report import Table, middle, ratio, spread
from tests.support.cluster import Nodes

_CONNECTIONS = 32
_NODES = ("n1", "n2", "n3")
_MIXED = ("get", "create")


def measure(plan: Plan, directory: Path, *, bootstrap_servers: str) -> Table:
    """Measure one node alone against three, in turn."""
    table = Table(
        "Several nodes on the same machine",
        f"{plan.profiles:,} profiles, one broker, no standbys, {_CONNECTIONS} connections in all. Local: to the node "
        "that owns the profile. One hop: every request goes to a node that does not own it. Spread: each of three "
        "nodes gets a third of the connections, whatever they ask for. The ratio is to the same request to one node "
        "alone, which has the cores for itself.",
        ("request", "nodes", "requests/s", "p50 ms", "p99 ms", "of one node", "errors"),
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
        alone, entry, *_ = urls = [_url(one, "n1"), *(_url(three, name) for name in _NODES)]
        for mode in _MIXED:
            ways: dict[str, Callable[[float], Sequence[Load]]] = {
                "local": partial(_together, mode, [alone], sample_of_one),
                "spread": partial(_together, mode, urls[1:], sample_of_three),
            }
            if mode == "get":
                ways["one hop"] = partial(_together, mode, [entry], hop)
            runs = _alternate(plan, ways)
            table.rows.extend(_row(mode, how, of, runs["local"]) for how, of in runs.items())
    return table


def _fill(plan: Plan, nodes: Nodes, directory: Path, sample: Path) -> None:
    settings = {**nodes.environment, "PROFILES_STATE_DIR": str(directory)}
    preload.fill(settings, sample, first=0, count=plan.profiles)


def _url(nodes: Nodes, name: str) -> str:
    return f"http://127.0.0.1:{nodes[name].port}"


def _alternate(plan: Plan, ways: Mapping[str, Callable[[float], Sequence[Load]]]) -> dict[str, list[Sequence[Load]]]:
    runs: dict[str, list[Sequence[Load]]] = {how: [] for how in ways}
    for number in range(plan.runs + 1):
        for how, run in ways.items():
            result = run(plan.seconds if number else 1)
            if number:  # the first one warms up
                runs[how].append(result)
    return runs


def _together(mode: str, urls: Sequence[str], sample: Path, seconds: float) -> list[Load]:
    """Run a load on each of *urls* at the same time."""
    results: list[Load] = []

    def run(url: str) -> None:
        results.append(load.run(mode, url, sample, connections=_CONNECTIONS // len(urls), seconds=seconds))

    threads = [threading.Thread(target=run, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(urls), "a load generator failed"
    return results


def _write_foreign(nodes: Nodes, sample: Path, hop: Path, entry: str) -> None:
    """Leave in *hop* those profiles of *sample* that *entry* does not own."""
    mine = nodes.view().owned_by(entry)
    lines = [line for line in sample.read_text().splitlines() if nodes.partition_of(line.split("\t")[0]) not in mine]
    hop.write_text("\n".join(lines) + "\n")


def _row(mode: str, how: str, runs: Sequence[Sequence[Load]], local: Sequence[Sequence[Load]]) -> Sequence[str]:
    rates = [sum(one.rate for one in run) for run in runs]
    return (
        mode if how == "local" else f"{mode}, {how}",
        "1" if how == "local" else str(len(_NODES)),
        spread(rates),
        middle([max(one.p50_ms for one in run) for run in runs]),
        middle([max(one.p99_ms for one in run) for run in runs]),
        ratio(rates, [sum(one.rate for one in run) for run in local]),
        str(sum(one.errors for run in runs for one in run)),
    )
