"""When the machine itself stood still. A limit in seconds is a promise about the service, and a virtual machine that
gets no processor, or whose disk takes no byte, for a second keeps no such promise for anybody.

A process of its own does next to nothing: every 10 ms it wakes up and writes a page to a file. What keeps it for longer
than `LEAST_S` is noted. A process that slept goes first, so it hardly waits for ours: load that we make is no excuse.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

LEAST_S = 0.2
_NS_PER_S = 1_000_000_000
# Ends when its parent does, since then its input does.
_SCRIPT = """
import os, select, time
page, fd = b"." * 4096, os.open(os.environ["SCRATCH"], os.O_RDWR | os.O_CREAT)
while True:
    begun = time.monotonic_ns()
    if select.select([0], [], [], 0.01)[0]:
        break
    os.pwrite(fd, page, 0)
    ended = time.monotonic_ns()
    if ended - begun > int(os.environ["LEAST_NS"]):
        os.write(1, b"%d %d\\n" % (begun, ended))
"""


class Stalls:
    """`with Stalls() as stalls:` watches; `seconds_since` tells. Not for two threads at once."""

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="stalls-")
        self._noted = Path(self._directory.name) / "noted"
        with self._noted.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _SCRIPT],
                stdin=subprocess.PIPE,
                stdout=output,
                env={"SCRATCH": f"{self._directory.name}/page", "LEAST_NS": str(int(LEAST_S * _NS_PER_S))},
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._directory.cleanup()

    @property
    def pid(self) -> int:
        """The process that watches."""
        return self._process.pid

    def seconds_since(self, since_ns: int) -> float:
        """Return for how long in all, after *since_ns* of the monotonic clock, the machine stood still."""
        lines = [line.split() for line in self._noted.read_text().splitlines()]
        return sum(max(0, int(end) - max(since_ns, int(begin))) for begin, end in lines) / _NS_PER_S
