"""Makes HTTP load and measures it: wrk where it is installed, else some processes of `client.py`.

wrk (Debian package `wrk`) takes a small part of a core for what costs a Python client several, so only its figures say
what the server can do; the table names the client that was used.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HAS_WRK = shutil.which("wrk") is not None
GENERATOR = "wrk" if HAS_WRK else "a Python client in 2 processes (wrk is not installed: the figures are too low)"

_GRACE_S = 20.0  # beyond the time asked for, until a load that does not end is killed
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Load(NamedTuple):
    """One run: good answers a second, latencies in ms, and what went wrong (statuses of 400 and above, and broken or
    timed-out connections)."""

    rate: float
    p50_ms: float
    p99_ms: float
    errors: int


def run(mode: str, url: str, profiles: Path, *, connections: int, seconds: float, pause_ms: float = 0.0) -> Load:
    """Send requests of *mode* for *seconds* and return what came back. *pause_ms*: mean pause before each request."""
    with begin(mode, url, profiles, connections=connections, seconds=seconds, pause_ms=pause_ms) as process:
        output, _ = process.communicate(timeout=seconds + _GRACE_S)
    return _parse(output)


@contextmanager
def begin(
    mode: str, url: str, profiles: Path, *, connections: int, seconds: float, pause_ms: float = 0.0
) -> Iterator["subprocess.Popen[str]"]:
    """Run a load in the background while the block runs; it is killed at the block's end."""
    run_id = _base36(time.time_ns() // 1000)
    arguments = [mode, str(profiles), run_id, f"{pause_ms:.3f}"]
    if HAS_WRK:
        script = str(Path(__file__).with_name("load.lua"))
        limits = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "12s"]
        command = ["wrk", *limits, "-s", script, url, "--", *arguments]
    else:
        command = [sys.executable, "-m", "benchmarks.client", url, str(connections), str(seconds), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _parse(output: str) -> Load:
    for line in output.splitlines():
        if line.startswith("FIGURES "):
            requests, duration_us, bad, broken, p50_us, p99_us = map(int, line.split()[1:])
            return Load((requests - bad) / duration_us * 1e6, p50_us / 1000, p99_us / 1000, bad + broken)
    raise RuntimeError(f"the load generator gave no figures: {json.dumps(output[-500:])}")


def _base36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text
