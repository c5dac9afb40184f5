"""The command line: `python -m benchmarks.streaming [--records N] [--rounds N] ...`.

On Kafka every contestant does each task in turn, once a round, so that what disturbs one disturbs all; ratios are of
the same round. Quix Streams and Faust live in an environment of their own (`make bench-streams` makes it). With
`--write` the tables go to docs/benchmarks-streams.md.
"""

import argparse
import datetime
import shutil
import signal
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from benchmarks import machine
from benchmarks.report import Table, document, middle, ratio, spread
from benchmarks.streaming import embedded, race
from benchmarks.streaming.input import produce
from tests.support.broker import Cluster

_ROOT = Path(__file__).parents[2]
_DOCUMENT = _ROOT / "docs" / "benchmarks-streams.md"
_PEERS = _ROOT / ".cache" / "peers" / "bin" / "python"
_HERE = Path(__file__).parent

TASKS = {
    "map": "stateless: decode, change, encode",
    "count": "count by key, one update for each record",
    "windows": "count by key and minute, one update for each record",
    "join": "each record with the row of its key",
}
#: What each does at its strongest. Faust's transactions do not work with the brokers of today.
GUARANTEES = {"streams": "exactly-once", "quix": "exactly-once", "faust": "at-least-once"}


def main() -> int:
    """Measure, print, write. Returns the exit code: 1 when a contestant did not do its task."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` and `with` end what runs
    facts = machine.describe()
    home = Path(tempfile.mkdtemp(prefix="streams-bench-"))
    failed: list[str] = []
    try:
        tables = [_race(arguments, home, failed)]
        print(tables[0].render(), flush=True)
        if not arguments.no_embedded:
            tables.append(_embedded(arguments, home))
            print(tables[1].render(), flush=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    for line in failed:
        print(line)
    if arguments.write:
        today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        method = ["Contestants, broker and reader share the cores; loopback only", *failed]
        _DOCUMENT.write_text(document(tables, machine=facts, method=method, date=today, command="make bench-streams"))
        print(f"written: {_DOCUMENT}")
    return 1 if failed else 0


def _embedded(arguments: argparse.Namespace, home: Path) -> Table:
    keys = arguments.embedded_keys
    return embedded.measure(home, records=arguments.records, rounds=arguments.rounds, keys=keys)


def _race(arguments: argparse.Namespace, home: Path, failed: list[str]) -> Table:
    table = Table(
        "Beside Quix Streams and Faust, on Kafka",
        f"{arguments.records:,} records of {arguments.keys:,} keys in {race.PARTITIONS} partitions, in JSON, one"
        " process each; records/s that come out, median (least to greatest) of"
        f" {arguments.rounds} rounds in which all take turns. `streams` and Quix Streams process exactly once, Faust at"
        " least once. MB: resident memory of the process. CPU: of its threads, those that wait for Kafka included.",
        (
            "task",
            "streams records/s",
            "Quix records/s",
            "Faust records/s",
            "to Quix",
            "to Faust",
            "CPU us a record: streams, Quix, Faust",
            "MB: streams, Quix, Faust",
        ),
    )
    with closing(Cluster(home / "kafka", is_measured=True)) as cluster:
        cluster.start()
        servers = cluster.bootstrap_servers
        race.create_topics(servers, ["in", "table"])
        produce(servers, records=arguments.records, keys=arguments.keys)
        for task in arguments.tasks:
            rates: dict[str, list[float]] = {name: [] for name in GUARANTEES}
            memory = dict.fromkeys(GUARANTEES, 0)
            cpu_us: dict[str, list[float]] = {name: [] for name in GUARANTEES}
            for number in range(arguments.rounds):
                for name in arguments.contestants:
                    result = _run(name, task, servers, home, number, arguments.records)
                    print(f"{task}, round {number + 1}, {name}: {result}", flush=True)
                    if result.records < arguments.records:
                        failed.append(f"{name} gave {result.records:,} of {arguments.records:,} records of {task}")
                    rates[name].append(result.rate or float("nan"))
                    cpu_us[name].append(result.cpu_us)
                    memory[name] = max(memory[name], result.rss_bytes)
            table.rows.append(_row(task, rates, cpu_us, memory))
    return table


def _row(
    task: str, rates: dict[str, list[float]], cpu_us: dict[str, list[float]], memory: dict[str, int]
) -> tuple[str, ...]:
    ours = rates["streams"]
    others = [rates["quix"], rates["faust"]]
    ratios = [ratio(ours, other) if ours and other else "-" for other in others]
    megabytes = ", ".join(middle([bytes_ / 1e6], 0) for bytes_ in memory.values())
    microseconds = ", ".join(middle(each, 0) if each else "-" for each in cpu_us.values())
    return (TASKS[task], *(spread(each) if each else "-" for each in rates.values()), *ratios, microseconds, megabytes)


def _run(name: str, task: str, servers: str, home: Path, number: int, records: int) -> race.Result:
    out = f"out-{name}-{task}-{number}"
    race.create_topics(servers, [out])
    if name == "streams":
        program = [sys.executable, "-m", "benchmarks.streaming.ours"]
    else:
        program = [str(_PEERS), str(_HERE / "peers" / f"{name}_app.py")]
    state = home / out
    command = [*program, task, servers, GUARANTEES[name], str(state), out]
    try:
        return race.run(command, bootstrap_servers=servers, out=out, expected=records, log=home / f"{out}.log")
    finally:
        shutil.rmtree(state, ignore_errors=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--contestants", nargs="+", choices=list(GUARANTEES), default=list(GUARANTEES))
    parser.add_argument("--embedded-keys", type=int, nargs="+", default=list(embedded.KEYS))
    parser.add_argument("--no-embedded", action="store_true", help="leave out the embedded log")
    parser.add_argument("--write", action="store_true", help=f"write {_DOCUMENT.relative_to(_ROOT)}")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
