"""Requests: how many, how fast, and beside a bare application on the same server in the same run."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import load, preload, servers
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.report import Table, middle, ratio, spread

_COLUMNS = ("request", "connections", "requests/s", "p50 ms", "p99 ms", "of the bare application", "errors")
_READS = ("get", "search")
_WRITES = ("create", "update")


def measure(plan: Plan, directory: Path, *, bootstrap_servers: str = "") -> Table:
    """Measure all four requests on the embedded log, or on Kafka when *bootstrap_servers* are given."""
    log = "Kafka, one broker" if bootstrap_servers else "the embedded log"
    table = Table(
        f"Requests on {log}",
        f"{plan.profiles:,} profiles. Runs of the bare application and of the service alternate; each ratio is that of "
        "one such pair. Every write is acknowledged after it is in the log and applied.",
        _COLUMNS,
    )
    settings = preload.settings_of(directory / "state", bootstrap_servers)
    sample = directory / "sample.tsv"
    preload.fill(settings, sample, first=0, count=plan.profiles)
    with servers.bare(directory) as bare, servers.service(directory, settings) as service:
        for connections in (1, 32, 128):
            modes = (*_READS, *_WRITES) if connections < 128 else _WRITES
            runs: dict[str, list[Load]] = {mode: [] for mode in ("bare", *modes)}
            for number in range(plan.runs + 1):
                seconds = plan.seconds if number else 1
                for mode in runs:
                    url, request = (bare.url, "get") if mode == "bare" else (service.url, mode)
                    result = load.run(request, url, sample, connections=connections, seconds=seconds)
                    if number:  # the first one warms up
                        runs[mode].append(result)
            table.rows.extend(_row(mode, connections, of, runs["bare"]) for mode, of in runs.items())
    return table


def _row(mode: str, connections: int, runs: Sequence[Load], bare: Sequence[Load]) -> Sequence[str]:
    rates = [run.rate for run in runs]
    return (
        mode if mode != "bare" else "bare GET",
        str(connections),
        spread(rates),
        middle([run.p50_ms for run in runs]),
        middle([run.p99_ms for run in runs]),
        "" if mode == "bare" else ratio(rates, [run.rate for run in bare]),
        str(sum(run.errors for run in runs)),
    )
