"""What the operating system tells: which machine this is, what a process takes, how big a directory is. Linux only."""

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PACKAGES = ("falcon", "gunicorn", "gunicorn_h1c", "uvloop", "rocksdict", "kafka-python", "orjson")


class ProcessFigures(NamedTuple):
    """One process: its parent, the processor time it has used, the memory it holds now."""

    parent: int
    cpu_s: float
    rss_bytes: int


def processes() -> dict[int, ProcessFigures]:
    """Return every process that can be looked at, by its id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        found[int(path.parent.name)] = ProcessFigures(int(fields[1]), cpu_s, int(fields[21]) * _PAGE_BYTES)
    return found


def worker_of(root: int) -> int:
    """Return the process that serves below *root*, the server's parent: of its descendants the one that holds most."""
    found = processes()
    family = {root}
    grown = True
    while grown:
        children = {pid for pid, figures in found.items() if figures.parent in family} - family
        family |= children
        grown = bool(children)
    return max((family - {root}) or {root}, key=lambda pid: found[pid].rss_bytes)


def rss_mb(pid: int) -> float:
    """Return the resident memory of *pid* in MB (10^6 bytes), shared pages included."""
    return processes()[pid].rss_bytes / 1e6


def directory_bytes(directory: Path) -> int:
    """Return the sum of the sizes of all files below *directory*."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # compacted away meanwhile
    return total


def describe() -> list[str]:
    """Return the machine and the versions that matter, one fact a line."""
    memory_gb = os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES / 1e9
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    return [
        f"{os.cpu_count()} cores ({_processor()}), {memory_gb:.0f} GB, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()}, {versions}",
        f"Load average when it began: {os.getloadavg()[0]:.1f} (much above 0: the figures are of a disturbed run)",
        f"`fdatasync` of 4 KiB in the directory used: {fdatasync_ms():.2f} ms (median of 200)",
    ]


def fdatasync_ms() -> float:
    """Return the median time of a small synced write, which bounds what one connection can do on the embedded log."""
    directory = Path(os.environ.get("TMPDIR", "/tmp"))
    path = directory / f"fdatasync-{os.getpid()}"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(200):
            start = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    path.unlink()
    return 1000 * sorted(times)[len(times) // 2]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
