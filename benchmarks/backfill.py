"""How fast profiles come and go as files: `python -m app import` and `export` beside the service that they ask."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import machine, preload, servers
from benchmarks.plan import Plan
from benchmarks.report import Table, middle

_ROOT = Path(__file__).parent.parent


class _Run(NamedTuple):
    """A command that has ended: seconds by the clock, processor seconds and memory of it and of the service."""

    seconds: float
    own_cpu_s: float
    service_cpu_s: float
    own_mb: float
    service_mb: float


def measure(plan: Plan, directory: Path) -> Table:
    """Measure new profiles, the same once more, an export, and the export into an empty service."""
    count = plan.medium
    table = Table(
        "Import and export, on the embedded log",
        f"{count:,} profiles, a line each, one run; command and service share the machine. Processor time is per 1,000 "
        "profiles, that of the command with its start. Memory: the most that the command had resident, and what the "
        "service has at the end.",
        (
            "command",
            "profiles/s",
            "CPU of the command, ms",
            "CPU of the service, ms",
            "command, MB",
            "service, MB",
        ),
    )
    users, exported, again = directory / "users.jsonl", directory / "exported.jsonl", directory / "again"
    with users.open("w") as file:
        for person in range(count):
            file.write(f'{{"username":"Person {person}","email":"person-{person}@example.com"}}\n')
    runs: dict[str, _Run] = {}
    with servers.service(directory, preload.settings_of(directory / "state")) as service:
        runs["import, new profiles"] = _run(service, "import", users)
        (directory / "users.jsonl.progress").unlink()
        runs["import, all there already"] = _run(service, "import", users)
        runs["export, of the running node"] = _run(service, "export", exported)
    again.mkdir()
    with servers.service(again, preload.settings_of(again / "state")) as service:
        runs["import, of an export"] = _run(service, "import", exported)
    for name, run in runs.items():
        per_thousand = (seconds * 1e6 / count for seconds in (run.own_cpu_s, run.service_cpu_s))
        figures = (count / run.seconds, *per_thousand, run.own_mb, run.service_mb)
        table.rows.append((name, *(middle([figure], 0) for figure in figures)))
    return table


def _run(service: servers.Server, command: str, path: Path) -> _Run:
    """Run a command of the product on *service*. Raises RuntimeError when it fails."""
    before = machine.processes()[service.worker]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", command, str(path), "--url", service.url],
        cwd=_ROOT,
        env=servers.environment({}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    after = machine.processes()[service.worker]
    return _Run(
        seconds,
        usage.ru_utime + usage.ru_stime,
        after.cpu_s - before.cpu_s,
        usage.ru_maxrss * 1024 / 1e6,
        after.rss_bytes / 1e6,
    )
