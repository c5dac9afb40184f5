"""One function for each command: takes the settings and the arguments, prints, returns the exit code.

Commands that need the stores hold the state directory's lock meanwhile, so that no node can start beside them.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from app import maintenance
from app.asgi import create_app
from app.bootstrap import lock_state_dir, open_log, open_stores, topics_of, topology_of
from app.cli.cluster import ask
from app.config import AppConfig
from app.profiles.topology import STORE_FORMAT
from app.server.serving import serve
from streams.clock import Deadline, SystemClock
from streams.errors import StoreLocked
from streams.lockfile import DirectoryLock
from streams.log.base import Log, TopicInfo, TopicSpec
from streams.runtime.task import QUARANTINE_STORE

_LOG_TIMEOUT_S = 30.0


def run(config: AppConfig, _options: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    # The worker takes the lock for good. Looking first saves a second start the fork and the arbiter's own messages.
    lock_state_dir(config).release()
    serve(config, lambda: create_app(config))


def show_config(config: AppConfig, options: argparse.Namespace) -> int:
    """Print the settings in force."""
    rows = config.describe()
    if options.json:
        _print_json([row._asdict() for row in rows])
        return 0
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.name:<{width}}  {row.value or '(empty)'}  [{row.source}]")
    return 0


def create_topics(config: AppConfig, options: argparse.Namespace) -> int:
    """Create what is missing; print the topics."""
    specs = topics_of(config)
    with _opened_log(config) as log:
        infos = log.ensure_topics(specs, Deadline.after(_LOG_TIMEOUT_S, SystemClock()))
    return _report_topics(specs, infos, [], is_json=options.json)


def check_topics(config: AppConfig, options: argparse.Namespace) -> int:
    """Print the topics and what is wrong with them; create nothing."""
    specs = topics_of(config)
    with _opened_log(config) as log:
        infos = _topics(log, config)
    return _report_topics(specs, infos, maintenance.topic_faults(specs, infos), is_json=options.json)


def verify(config: AppConfig, options: argparse.Namespace) -> int:
    """Compare the stores that are here with the log; print the first differences."""
    clock = SystemClock()
    with _opened_log(config, needs_stores=True) as log, _progress_bar("verify", " records") as progress:
        verifier = maintenance.Verifier(
            log=log,
            stores=open_stores(config, clock),
            topology=topology_of(config),
            format_version=STORE_FORMAT,
            clock=clock,
            progress=progress,
            holds_all=config.is_embedded,
        )
        report = verifier.run(_topics(log, config))
    if options.json:
        _print_json({key: value for key, value in asdict(report).items() if key != "limit"})
    else:
        for found in report.differences:
            print(f"partition {found.partition}: {found.kind} {found.store} {found.key}".rstrip())
        held = "" if report.held == report.partitions or config.is_embedded else f"{report.held} of "
        print(
            f"{report.profiles} profiles, {report.rows} rows and {report.records} records compared in "
            f"{held}{report.partitions} partitions: {report.difference_count or 'no'} differences "
            f"({report.stale_claims} stale claims, {report.poison} records quarantined)"
        )
    return 1 if report.difference_count else 0


def rebuild(config: AppConfig, options: argparse.Namespace) -> int:
    """Delete stores."""
    lock = lock_state_dir(config)
    try:
        wiped = maintenance.rebuild(open_stores(config, SystemClock()), options.task)
    finally:
        lock.release()
    if options.json:
        _print_json({"wiped": wiped})
    else:
        names = ", ".join(map(str, wiped)) or "none"
        print(f"deleted the stores of these partitions: {names}; the next start restores them from the log")
    return 0


def quarantine(config: AppConfig, options: argparse.Namespace) -> int:
    """Print quarantined records, asking the running node if there is one."""
    try:
        entries = _quarantine_of_stores(config, options.limit)
    except StoreLocked:
        holder = DirectoryLock(config.state_dir).holder()
        if holder is None or not holder.note.startswith("http"):
            raise
        entries = list(ask(holder.note, f"/quarantine?limit={options.limit}")["items"])
    if options.json:
        _print_json(entries)
        return 0
    for entry in entries:
        print(f"{entry['topic']}-{entry['partition']} offset {entry['offset']}: {entry['reason']}")
    print(f"{len(entries)} records")
    return 0


def _quarantine_of_stores(config: AppConfig, limit: int) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    with _opened_log(config, needs_stores=True) as log:
        infos = _topics(log, config)
        if not infos:
            return entries
        topology = topology_of(config)
        stores = open_stores(config, SystemClock())
        identity = maintenance.identity_of(topology, infos, STORE_FORMAT)
        for task in stores.tasks():
            store = stores.open(task, (*topology.stores, QUARANTINE_STORE), identity)
            try:
                entries += [json.loads(row) for _, row in store.scan(QUARANTINE_STORE, limit=limit - len(entries))]
            finally:
                store.close()
            if len(entries) >= limit:
                break
    return entries


@contextmanager
def _opened_log(config: AppConfig, *, needs_stores: bool = False) -> Iterator[Log]:
    """Open the log, under the state directory's lock where the log or the stores in it are opened."""
    lock = lock_state_dir(config) if needs_stores or config.is_embedded else None
    try:
        log = open_log(config, node_id=config.node_id or "command-line", clock=SystemClock())
        try:
            yield log
        finally:
            log.close()
    finally:
        if lock is not None:
            lock.release()


def _topics(log: Log, config: AppConfig) -> dict[str, TopicInfo]:
    names = [spec.name for spec in topics_of(config)]
    return log.describe_topics(names, Deadline.after(_LOG_TIMEOUT_S, SystemClock()))


def _report_topics(
    specs: Sequence[TopicSpec], infos: Mapping[str, TopicInfo], faults: list[str], *, is_json: bool
) -> int:
    """Print the topics with the settings that matter here: Kafka has thirty more."""
    if is_json:
        _print_json({"topics": [asdict(info) for info in infos.values()], "faults": faults})
    else:
        for spec in specs:
            if (info := infos.get(spec.name)) is None:
                continue
            settings = ", ".join(f"{name}={info.config.get(name, '?')}" for name in sorted(spec.config))
            print(f"{info.name}: {info.partitions} partitions; {settings}")
        for fault in faults:
            print(f"wrong: {fault}")
    return 1 if faults else 0


@contextmanager
def _progress_bar(title: str, unit: str) -> Iterator[maintenance.Progress]:
    """Show a bar on stderr when that is a terminal."""
    with tqdm(desc=title, unit=unit, unit_scale=True, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, default=str))
