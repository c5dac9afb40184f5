"""The command line: `python -m benchmarks [--quick] [--only SECTION ...]`.

A whole run takes less than a quarter of an hour and writes docs/benchmarks.md; everything it starts runs on loopback,
in a temporary directory, and is gone when it ends.
"""

import argparse
import datetime
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import backfill, cluster, feed, http, load, logs, machine, search, size, tail
from benchmarks.plan import FULL, QUICK, Plan
from benchmarks.report import Table, document
from tests.support.broker import BrokerUnavailableError, Cluster
from tests.support.search_server import ServerUnavailableError

_DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"


class Brokers:
    """Starts the one broker when the first section asks for it."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._cluster: Cluster | None = None

    def address(self) -> str:
        """Return the address of a fresh broker; the one before it is stopped. Raises BrokerUnavailableError."""
        if self._cluster is not None:
            self._cluster.close()
        directory = Path(tempfile.mkdtemp(dir=self._directory, prefix="kafka-"))
        self._cluster = Cluster(directory, is_measured=True)
        self._stack.callback(self._cluster.close)
        self._cluster.start()
        return self._cluster.bootstrap_servers


SECTIONS: dict[str, Callable[[Plan, Path, Brokers], Table]] = {
    "http-local": lambda plan, directory, _: http.measure(plan, directory),
    "http-kafka": lambda plan, directory, brokers: http.measure(plan, directory, bootstrap_servers=brokers.address()),
    "transaction": lambda plan, _, brokers: logs.measure_transaction(plan, bootstrap_servers=brokers.address()),
    "size": lambda plan, directory, _: size.measure(plan, directory),
    "restore-kafka": lambda plan, directory, brokers: size.measure_kafka(
        plan, directory, bootstrap_servers=brokers.address()
    ),
    "tail-local": lambda plan, directory, _: tail.measure(plan, directory),
    "tail-kafka": lambda plan, directory, brokers: tail.measure(plan, directory, bootstrap_servers=brokers.address()),
    "cluster": lambda plan, directory, brokers: cluster.measure(plan, directory, bootstrap_servers=brokers.address()),
    "search-copy": lambda plan, directory, brokers: search.measure_copy(
        plan, directory, bootstrap_servers=brokers.address()
    ),
    "search-lag": lambda plan, directory, brokers: search.measure_lag(
        plan, directory, bootstrap_servers=brokers.address()
    ),
    "feed": lambda plan, directory, _: feed.measure(plan, directory),
    "backfill": lambda plan, directory, _: backfill.measure(plan, directory),
    "disk": lambda plan, directory, _: logs.measure_disk(plan, directory),
}


def main() -> int:
    """Measure, print, and write the document when everything was measured in full. Returns the exit code."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` and `with` end what runs
    plan = QUICK if arguments.quick else FULL
    chosen = arguments.only or list(SECTIONS)
    tables: list[Table] = []
    missing: list[str] = []
    begun = time.monotonic()
    facts = machine.describe()  # before there is any load of ours
    home = Path(tempfile.mkdtemp(prefix="profiles-bench-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        brokers = Brokers(home, stack)
        for name in chosen:
            directory = home / name
            directory.mkdir()
            try:
                table = SECTIONS[name](plan, directory, brokers)
            except (BrokerUnavailableError, ServerUnavailableError) as error:
                missing.append(f"{name}: not measured, {error}")
                print(missing[-1], flush=True)
                continue
            tables.append(table)
            print(table.render() + "\n", flush=True)
            shutil.rmtree(directory, ignore_errors=True)
    minutes = (time.monotonic() - begun) / 60
    print(f"took {minutes:.1f} minutes")
    output = arguments.output or (None if arguments.quick or arguments.only or missing else _DOCUMENT)
    if output is not None:
        method = [
            f"Load: {load.GENERATOR}; its percentiles are corrected for coordinated omission",
            f"Figures are the median (least to greatest) of {plan.runs} runs of {plan.seconds} s each, after a warm-up",
            "Client, service and broker share the cores; loopback only",
            *(["A quick run: too short for figures to quote"] if arguments.quick else []),
            *missing,
        ]
        today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        output.write_text(document(tables, machine=facts, method=method, date=today))
        print(f"written: {output}")
    return 1 if missing else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less than three minutes; too short for figures to quote")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--output", type=Path, help="write the document here, whatever was measured")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
