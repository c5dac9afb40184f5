"""How much slower the slow reads become while records of other writers are materialised in the same process."""

from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median

from benchmarks import foreign, load, preload, servers
from benchmarks.load import Load
from benchmarks.plan import Plan
from benchmarks.report import Table, middle, spread

_CONNECTIONS = 64
_RECORDS_PER_S = 5000
_CREATES_PER_S = _RECORDS_PER_S // 2  # each writes a profile and a claim


def measure(plan: Plan, directory: Path, *, bootstrap_servers: str = "") -> Table:
    """Measure GET at half of its top rate, without and with writes of others."""
    if bootstrap_servers:
        log, writers = "Kafka", f"another process produces {_RECORDS_PER_S:,} profiles a second to the topic"
    else:
        log, writers = (
            "the embedded log",
            f"another client creates {_CREATES_PER_S:,} profiles a second (2 records each)",
        )
    table = Table(
        f"Slow reads beside writes, on {log}",
        f"GET at half of its top rate over {_CONNECTIONS} connections with pauses at random; {writers}. The clients"
        f"{' and the broker' if bootstrap_servers else ''} share the machine's cores with the service.",
        ("GET", "GET/s", "p50 ms", "p99 ms", "p99 of the unloaded", "records applied/s"),
    )
    settings = preload.settings_of(directory / "state", bootstrap_servers)
    sample = directory / "sample.tsv"
    preload.fill(settings, sample, first=0, count=plan.profiles)
    with servers.service(directory, settings) as service:
        top = load.run("get", service.url, sample, connections=_CONNECTIONS, seconds=plan.seconds).rate
        pause_ms = _pause_for(top / 2, service.url, sample)
        quiet, loud, applied = [], [], []
        for _ in range(plan.runs):
            quiet.append(_paced(service.url, sample, plan.seconds, pause_ms))
            with _writers(service.url, sample, plan.seconds + 3, bootstrap_servers):
                load.run("get", service.url, sample, connections=_CONNECTIONS, seconds=1, pause_ms=pause_ms)
                before = service.metric("records_applied_total")
                loud.append(_paced(service.url, sample, plan.seconds, pause_ms))
                applied.append((service.metric("records_applied_total") - before) / plan.seconds)
    unloaded = median(run.p99_ms for run in quiet)
    table.rows.append(("alone", *_cells(quiet), "1.00", "0"))
    ratios = [run.p99_ms / unloaded for run in loud]
    table.rows.append(("beside writes", *_cells(loud), spread(ratios, 2), middle(applied, 0)))
    return table


def _cells(runs: list[Load]) -> tuple[str, str, str]:
    p50s, p99s = [run.p50_ms for run in runs], [run.p99_ms for run in runs]
    return spread([run.rate for run in runs]), middle(p50s), spread(p99s, 2)


def _paced(url: str, sample: Path, seconds: int, pause_ms: float) -> Load:
    return load.run("get", url, sample, connections=_CONNECTIONS, seconds=seconds, pause_ms=pause_ms)


def _pause_for(rate: float, url: str, sample: Path) -> float:
    """Return the mean pause with which the connections together send about *rate* requests a second."""
    pause_ms = _CONNECTIONS / rate * 1000
    for _ in range(3):
        reached = _paced(url, sample, 1, pause_ms).rate
        pause_ms = max(1.0, pause_ms + (_CONNECTIONS / rate - _CONNECTIONS / reached) * 1000)
    return pause_ms


def _writers(url: str, sample: Path, seconds: int, bootstrap_servers: str) -> AbstractContextManager[object]:
    if bootstrap_servers:
        return foreign.begin(bootstrap_servers, records_per_s=_RECORDS_PER_S, seconds=seconds)
    pause_ms = _CONNECTIONS / 2 / _CREATES_PER_S * 1000
    return load.begin("create", url, sample, connections=_CONNECTIONS // 2, seconds=seconds, pause_ms=pause_ms)
