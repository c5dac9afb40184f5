"""Where the time of a request goes: starts the service, loads it, and samples its stacks with py-spy.

    pip install py-spy
    python -m benchmarks.profile get [--connections 32] [--seconds 8] [--kafka HOST:PORT] [--lines 25]

For each thread that was seen it prints which functions were on top of the stack (self) and which were anywhere in it
(total), in percent of the thread's samples. Samples without the interpreter lock are left out, unless `--idle`: what
holds the lock is what bounds the service.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks import load, preload, servers

_SAMPLES_PER_S = 250
_PROFILES = 20_000


def main() -> int:
    """Profile what the command line asks for. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=["get", "search", "create", "update"])
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--kafka", default="", metavar="HOST:PORT", help="use this broker and not the embedded log")
    parser.add_argument("--lines", type=int, default=25, help="functions to print for each thread")
    parser.add_argument("--idle", action="store_true", help="count samples that did not hold the interpreter lock, too")
    arguments = parser.parse_args()
    tool = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if tool is None:
        print("py-spy is missing: pip install py-spy")
        return 2
    directory = Path(tempfile.mkdtemp(prefix="profiles-profile-"))
    try:
        stacks, result = _record(arguments, tool, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{arguments.mode}, {arguments.connections} connections: {result.rate:,.0f}/s under the profiler")
    _print(stacks, arguments.lines)
    return 0


def _record(arguments: argparse.Namespace, tool: str, directory: Path) -> tuple[str, load.Load]:
    settings = preload.settings_of(directory / "state", arguments.kafka)
    sample, output = directory / "sample.tsv", directory / "stacks.txt"
    preload.fill(settings, sample, first=0, count=_PROFILES)
    with servers.service(directory, settings) as service:
        load.run(arguments.mode, service.url, sample, connections=arguments.connections, seconds=1)
        command = [tool, "record", "--pid", str(service.worker), "--duration", str(arguments.seconds)]
        command += [
            "--rate",
            str(_SAMPLES_PER_S),
            "--format",
            "raw",
            "--threads",
            "--function",
            "--output",
            str(output),
        ]
        command += ["--nonblocking", "--idle" if arguments.idle else "--gil"]
        recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            result = load.run(
                arguments.mode, service.url, sample, connections=arguments.connections, seconds=arguments.seconds + 1
            )
            recorder.wait(30)
        finally:
            recorder.kill()
            recorder.wait()
    return output.read_text(), result


def _print(stacks: str, lines: int) -> None:
    selves: dict[str, Counter[str]] = defaultdict(Counter)
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for line in stacks.splitlines():
        text, _, count = line.rpartition(" ")
        thread, *frames = text.split(";")
        selves[thread][frames[-1] if frames else "?"] += int(count)
        totals[thread].update(dict.fromkeys(frames, int(count)))
    everything = sum(sum(counts.values()) for counts in selves.values())
    for thread, counts in sorted(selves.items(), key=lambda item: -sum(item[1].values())):
        samples = sum(counts.values())
        print(f"\n{thread}: {samples} samples, {100 * samples / everything:.0f} % of all")
        rows = zip(counts.most_common(lines), totals[thread].most_common(lines), strict=False)
        for (own, own_count), (total, total_count) in rows:
            own_part, total_part = 100 * own_count / samples, 100 * total_count / samples
            print(f"  self {own_part:5.1f} % {own:<60} total {total_part:5.1f} % {total}")


if __name__ == "__main__":
    sys.exit(main())
