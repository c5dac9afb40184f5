"""`python -m app replicate <kind>`: copies the profiles to another system and follows them.

Common to all kinds of sinks: where the changes come from, who copies which partition, progress, metrics, signals and
exit codes. The kinds are in `TARGETS`.
"""

import argparse
import json
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from typing import cast

from tqdm import tqdm

from app.cli import replicate_elasticsearch, replicate_kafka
from app.cli.progress import ProgressBar
from app.cli.target import Target
from app.config import AppConfig
from app.observability.replication import ReplicationMetrics
from app.replication.assembly import open_source, sharing
from app.replication.ports import Inspectable, Rebuildable, Sink, Source
from app.replication.progress import Progress
from app.replication.replicator import Replicator
from app.replication.sharing import Everything
from app.replication.verify import verify
from streams.clock import SystemClock

TARGETS: Sequence[Target] = (replicate_elasticsearch.TARGET, replicate_kafka.TARGET)

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_SHOWN_DIFFERENCES = 20
_LISTED = 10_000


def add_arguments(parser: argparse.ArgumentParser, target: Target) -> None:
    """Add the arguments of one kind of sink: its own, and what all have."""
    target.add_arguments(parser)
    parser.set_defaults(target=target)
    parser.add_argument(
        "--name",
        type=_name,
        default=target.name,
        help="of this replicator: several of one name divide the partitions (default: %(default)s)",
    )
    parser.add_argument(
        "--source",
        action="append",
        metavar="URL",
        help="read the change feed of this node instead of Kafka; may be repeated for nodes that take over "
        "(default with the embedded log: the node of these settings)",
    )
    parser.add_argument("--from", dest="start", choices=["beginning"], help="copy everything again, over what is there")
    parser.add_argument("--once", action="store_true", help="stop when everything is copied that is there now")
    parser.add_argument("--metrics-port", type=_port, metavar="PORT", help="serve Prometheus metrics on this port")
    has_actions = target.is_rebuildable or target.is_inspectable  # argparse prints no help with an empty group
    actions = parser.add_mutually_exclusive_group() if has_actions else parser
    if target.is_rebuildable:
        actions.add_argument(
            "--rebuild", action="store_true", help="fill a new place, then let its readers switch over in one step"
        )
    if target.is_inspectable:
        actions.add_argument("--verify", action="store_true", help="compare with the log; exit code 1 for differences")
        actions.add_argument("--refused", action="store_true", help="list the changes that the sink will never take")
    parser.set_defaults(rebuild=False, verify=False, refused=False)


def replicate(config: AppConfig, options: argparse.Namespace) -> int:
    """Run one replicator, or one of the questions about its sink."""
    target: Target = options.target
    with closing(target.open_sink(config, options, SystemClock())) as sink:
        if options.refused:
            return _list_refused(options, cast("Inspectable", sink))
        if options.verify:
            return _verify(config, options, cast("Inspectable", sink))
        return _replicate(config, options, sink)


def _replicate(config: AppConfig, options: argparse.Namespace, sink: Sink) -> int:
    progress = Progress()
    runs: list[Replicator] = []
    with ExitStack() as stack:
        if options.metrics_port is not None:
            stack.enter_context(ReplicationMetrics(options.name, progress).served(options.metrics_port))
        stack.enter_context(_stopped_by_signals(runs))
        if sys.stderr.isatty():
            stack.enter_context(ProgressBar(options.name, progress))
        source = stack.enter_context(closing(_open(config, options)))
        is_divided = not (options.once or options.source or config.is_embedded)
        replicator = Replicator(
            source=source,
            sink=sink,
            share=sharing(config, name=options.name) if is_divided else Everything.of,
            clock=SystemClock(),
            progress=progress,
            is_from_beginning=options.start == "beginning",
        )
        runs.append(replicator)
        is_whole = True
        if options.rebuild:
            is_whole = replicator.rebuild(cast("Rebuildable", sink))
        if is_whole and not (options.rebuild and options.once):
            replicator.run(is_once=options.once)
    if options.json:
        print(json.dumps(_summary(progress)))
    return 0


def _list_refused(options: argparse.Namespace, sink: Inspectable) -> int:
    sink.attach()
    found = sink.refused(_LISTED)
    if options.json:
        print(json.dumps([one._asdict() for one in found], indent=2))
    else:
        for one in found:
            print(f"{one.uid} version {one.version}: {one.reason}")
        print(f"{len(found)} changes refused")
    return 0


def _verify(config: AppConfig, options: argparse.Namespace, sink: Inspectable) -> int:
    with (
        closing(_open(config, options)) as source,
        tqdm(desc="verify", unit=" records", unit_scale=True, disable=not sys.stderr.isatty()) as bar,
    ):

        def tell(done: int, left: int) -> None:
            bar.total = done + left
            bar.update(done - bar.n)

        info = source.describe()
        sink.attach(info)
        report = verify(source, sink, info, clock=SystemClock(), tell=tell)
    if options.json:
        print(json.dumps({**asdict(report), "differences": [one._asdict() for one in report.differences]}, indent=2))
    else:
        for one in report.differences[:_SHOWN_DIFFERENCES]:
            print(f"{one.uid}: {one.kind}, version {one.log_version} in the log, {one.sink_version} in the sink")
        print(
            f"{report.log_profiles} profiles in the log, {report.sink_profiles} in the sink: "
            f"{report.difference_count or 'no'} differences"
        )
    return 1 if report.difference_count else 0


def _open(config: AppConfig, options: argparse.Namespace) -> Source:
    return open_source(config, name=options.name, urls=options.source or (), clock=SystemClock())


@contextmanager
def _stopped_by_signals(runs: Sequence[Replicator]) -> Iterator[None]:
    """Stop *runs* in order at SIGTERM or Ctrl-C; a second signal ends the process at once."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def stop(_number: int, _frame: object) -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        for run in runs:
            run.stop()

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(progress: Progress) -> dict[str, int | float]:
    return {
        "changes": progress.changes,
        "applied": progress.applied,
        "stale": progress.stale,
        "refused": progress.refused,
        "skipped": progress.skipped,
        "retries": progress.retries,
        "batches": progress.batches,
        "lag_records": progress.lag_records,
    }


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("1 to 100 letters, digits, dots, hyphens or underscores")
    return text


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError("a port from 1 to 65535")
    return int(text)
