"""What grows with the number of profiles and what does not: restore, start, memory, the cost of a request."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from app.bootstrap import open_stores
from app.config import AppConfig
from benchmarks import load, preload, servers
from benchmarks.plan import Plan
from benchmarks.report import Table, middle, spread
from streams.clock import SystemClock

_RESTORE_TIMEOUT_S = 300.0
_SHORTEST_RESTORE_S = 1.0


def measure(plan: Plan, directory: Path) -> Table:
    """Measure on the embedded log with few, many and very many profiles."""
    table = Table(
        "Number of profiles, on the embedded log",
        "Restore: the stores are deleted and rebuilt from the log; the time is that of such a start less that of a "
        "start with full stores. Start: from launching the process until `/readyz` says 200. Memory: resident, of the "
        "serving process, after a start and after the load that follows. GET and update: 32 connections, at random.",
        (
            "profiles",
            "restore, profiles/s",
            "start, s",
            "RSS after start, MB",
            "RSS after load, MB",
            "GET/s",
            "update/s",
        ),
    )
    for count in (plan.small, plan.medium, plan.large):
        home = directory / str(count)
        home.mkdir()
        settings = preload.settings_of(home / "state")
        preload.fill(settings, home / "sample.tsv", first=0, count=count)
        table.rows.append(_with(plan, home, settings, count))
    return table


def measure_kafka(plan: Plan, directory: Path, *, bootstrap_servers: str) -> Table:
    """Measure the restore from Kafka."""
    table = Table(
        "Restore from Kafka",
        "As above, one broker; each profile is two records.",
        ("profiles", "restore, profiles/s", "start with full stores, s"),
    )
    settings = preload.settings_of(directory / "state", bootstrap_servers)
    preload.fill(settings, directory / "sample.tsv", first=0, count=plan.kafka_restore)
    starts, restores = _restores(plan, directory, settings)
    table.rows.append((f"{plan.kafka_restore:,}", _rate(plan.kafka_restore, restores), spread(starts, 2)))
    return table


def _with(plan: Plan, home: Path, settings: Mapping[str, str], count: int) -> tuple[str, ...]:
    starts, restores = _restores(plan, home, settings)
    rates_of: dict[str, list[float]] = {"get": [], "update": []}
    with servers.service(home, settings) as service:
        started_mb = service.rss_mb()
        for mode, found in rates_of.items():
            for number in range(plan.runs + 1):
                seconds = plan.seconds if number else 1
                result = load.run(mode, service.url, home / "sample.tsv", connections=32, seconds=seconds)
                if number:
                    found.append(result.rate)
        loaded_mb = service.rss_mb()
    return (
        f"{count:,}",
        _rate(count, restores),
        spread(starts, 2),
        middle([started_mb], 0),
        middle([loaded_mb], 0),
        spread(rates_of["get"]),
        spread(rates_of["update"]),
    )


def _restores(plan: Plan, home: Path, settings: Mapping[str, str]) -> tuple[list[float], list[float]]:
    """Return the seconds of each start with full stores, and by how many more each start with none took."""
    starts, restores = [], []
    for _ in range(plan.runs):
        _wipe_stores(settings)
        with servers.service(home, settings, start_timeout_s=_RESTORE_TIMEOUT_S) as service:
            restored_s = service.started_s
        with servers.service(home, settings) as service:
            starts.append(service.started_s)
        restores.append(restored_s - starts[-1])
    return starts, restores


def _rate(count: int, restores: Sequence[float]) -> str:
    """Return profiles restored a second, unless the starts themselves differ by about as much as a restore takes."""
    if min(restores) < _SHORTEST_RESTORE_S:
        return "too short to tell"
    return spread([count / seconds for seconds in restores])


def _wipe_stores(settings: Mapping[str, str]) -> None:
    stores = open_stores(AppConfig.from_env(settings), SystemClock())
    for task in stores.tasks():
        stores.wipe(task)
