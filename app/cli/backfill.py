"""`python -m app export` and `python -m app import`: all profiles to a file of JSON lines, and from one into a running
service.

Files, bars, signals and exit codes are here; what is done is in `app.backfill`.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from tqdm import tqdm

from app.backfill import checkpoint
from app.backfill.checkpoint import Checkpoint, Tally, positions_path, progress_path
from app.backfill.client import Place, place_of
from app.backfill.errors import WrongFiles
from app.backfill.exporting import Exporter, positions_document, scratch_directory, whole_file, write_positions
from app.backfill.importing import Importer, read_once
from app.backfill.lines import Line, Mark, open_input, read_lines
from app.backfill.rejected import Rejected
from app.backfill.rules import Rules
from app.bootstrap import lock_state_dir, open_log
from app.config import AppConfig
from app.profiles.email import EmailPolicy
from app.profiles.model import timestamp
from app.profiles.topics import TopicNames
from app.replication.assembly import open_source
from app.replication.feed_source import FeedSource
from app.replication.log_source import LogSource
from app.replication.ports import Source
from streams.clock import Clock, SystemClock
from streams.errors import StoreLocked
from streams.lockfile import DirectoryLock
from streams.stores.rocksdb import RocksStoreFactory

STDIO = "-"
_CACHE_BYTES = 8 * 1024 * 1024
_SHOWN_REJECTIONS = 20


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.add_argument("file", help="to write, one profile in each line; packed if it ends in .gz; - is the output")
    parser.add_argument(
        "--url",
        action="append",
        metavar="URL",
        help="read the change feed of this node; may be repeated (default: Kafka, or the embedded log)",
    )


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `import`."""
    parser.add_argument("file", help="to read, one profile in each line; unpacked if it ends in .gz; - is the input")
    parser.add_argument(
        "--url",
        action="append",
        metavar="URL",
        help="of a running node; may be repeated (default: the one of these settings)",
    )
    parser.add_argument("--errors", type=Path, metavar="FILE", help="write refused lines here, each with its reason")
    parser.add_argument("--dry-run", action="store_true", help="judge the lines by the rules alone, and send nothing")


def export_profiles(config: AppConfig, options: argparse.Namespace) -> int:
    """Write all profiles."""
    clock = SystemClock()
    path = None if options.file == STDIO else Path(options.file).absolute()
    with ExitStack() as stack:
        stack.enter_context(_terminated_like_interrupted())
        source = _open_source(config, options.url, clock, stack)
        if path is None:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="profiles-export-")))
        else:
            scratch = stack.enter_context(scratch_directory(path))
        stores = RocksStoreFactory(scratch, cache_bytes=_CACHE_BYTES, max_age_ms=None, clock=clock)
        bar = stack.enter_context(_bar("export", " records"))

        def progress(done: int, total: int, phase: str) -> None:
            bar.total = total
            bar.set_description_str(phase, refresh=False)
            bar.update(done - bar.n)

        exporter = Exporter(source=source, stores=stores, clock=clock, progress=progress)
        if path is None:
            exported = exporter.run(sys.stdout.buffer)
        else:
            with whole_file(path) as file:
                exported = exporter.run(file)
        document = positions_document(
            exported,
            topic=TopicNames.prefixed(config.topic_prefix).profiles,
            time=timestamp(clock.time_ms()),
        )
        if path is not None:
            write_positions(path, document)
    _print_summary(
        {**document, "changes": exported.changes, "skipped": dict(exported.reasons)},
        f"{exported.profiles} profiles exported"
        + (f", {exported.skipped} records skipped that are no profiles" if exported.skipped else ""),
        is_json=options.json,
        to_stderr=path is None,
    )
    return 0


def import_profiles(config: AppConfig, options: argparse.Namespace) -> int:
    """Bring profiles in; exit code 1 if lines were refused."""
    path = None if options.file == STDIO else Path(options.file).absolute()
    if options.dry_run:
        return _judge_only(config, options, path)
    places = [place_of(url) for url in options.url or [config.local_url]]
    try:
        return asyncio.run(_import(options, places, path))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _import(options: argparse.Namespace, places: list[Place], path: Path | None) -> int:
    clock = SystemClock()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    begun = clock.monotonic()
    with ExitStack() as stack:
        file = stack.enter_context(closing(open_input(path, sys.stdin.buffer)))
        told = _Told(options.errors, path)
        importer = Importer(places=places, source=_source_of(path), told=told, clock=clock)
        topic_id = await importer.hello()
        found = told.begin(topic_id)
        if found.is_complete:
            print(f"{path} was imported before; remove {told.progress} to go through it again", file=sys.stderr)
            return _report(found.tally, found.mark, 0.0, Mark(), options)
        stack.callback(told.close)
        bar = stack.enter_context(_bar("import", "B", unit_divisor=1024))
        if path is not None and path.suffix != ".gz":
            bar.total = path.stat().st_size
        bar.update(found.mark.offset)
        watching = asyncio.create_task(_watch(bar, importer))
        try:
            tally = await importer.run(read_lines(file, found.mark), found.mark, found.tally)
        except EOFError as error:
            raise WrongFiles(f"{path} ends in the middle: {error}") from error
        finally:
            watching.cancel()
        told.finish(importer.mark, tally)
    return _report(tally, importer.mark, clock.monotonic() - begun, found.mark, options)


async def _watch(bar: Any, importer: Importer) -> None:
    while True:
        bar.set_postfix_str(f"{importer.mark.lines} lines {importer.waits_for or ''}".rstrip(), refresh=False)
        bar.update(importer.mark.offset - bar.n)
        bar.refresh()
        await asyncio.sleep(0.25)


def _judge_only(config: AppConfig, options: argparse.Namespace, path: Path | None) -> int:
    clock = SystemClock()
    begun = clock.monotonic()
    rules = Rules(EmailPolicy(config.email_policy))
    told = _Told(options.errors, None)
    told.begin("")
    last = Mark()

    def counted(lines: Iterator[Line]) -> Iterator[Line]:
        nonlocal last
        for line in lines:
            last = Mark(line.end, line.number)
            yield line

    with closing(open_input(path, sys.stdin.buffer)) as file, closing(told):
        tally = read_once(counted(read_lines(file, Mark())), rules.judge, told)
    return _report(tally, last, clock.monotonic() - begun, Mark(), options)


class _Told:
    """Keeps what an import tells: refused lines, and how far it is (`app.backfill.importing.Target`)."""

    def __init__(self, errors: Path | None, path: Path | None) -> None:
        """*path*: of the input whose progress is kept; None: it is not."""
        self._errors = errors.absolute() if errors is not None else None
        self._path = path
        self.progress = progress_path(path) if path is not None else None
        self._fingerprint = checkpoint.fingerprint_of(path) if path is not None else ""
        self._topic_id = ""
        self._rejected: Rejected | None = None
        self._shown = 0

    def begin(self, topic_id: str) -> Checkpoint:
        """Return where to begin: where an earlier run of this input into this topic ended, or at the beginning."""
        self._topic_id = topic_id
        found = checkpoint.load(self.progress) if self.progress is not None else None
        if found is not None and (found.fingerprint, found.topic_id) != (self._fingerprint, topic_id):
            print(f"{self.progress} is of another input or service: this import begins anew", file=sys.stderr)
            found = None
        if found is None:
            found = self._checkpoint(Mark(), Tally(), is_complete=False)
        elif found.is_complete:
            return found
        elif found.errors_path != (str(self._errors) if self._errors else None):
            raise WrongFiles(
                f"this import was begun with --errors {found.errors_path}; go on with it, or remove {self.progress}"
                if found.errors_path
                else f"this import was begun without --errors; go on so, or remove {self.progress}"
            )
        if self._errors is not None:
            self._rejected = Rejected(self._errors, found.errors_bytes)
        return found

    def refused(self, line: Line, reason: dict[str, Any]) -> None:
        """See Target."""
        if self._rejected is not None:
            self._rejected.add(line, reason)
        self._shown += 1
        if self._shown <= _SHOWN_REJECTIONS:
            tqdm.write(f"line {line.number}: {_sentence(reason)}", file=sys.stderr)
        elif self._shown == _SHOWN_REJECTIONS + 1:
            more = "" if self._errors is not None else "; --errors FILE keeps all of them"
            tqdm.write(f"further refused lines are only counted here{more}", file=sys.stderr)

    def checkpoint(self, mark: Mark, tally: Tally) -> None:
        """See Target."""
        self._save(mark, tally, is_complete=False)

    def finish(self, mark: Mark, tally: Tally) -> None:
        """The input was read to its end."""
        self._save(mark, tally, is_complete=True)

    def close(self) -> None:
        """Close the errors file."""
        if self._rejected is not None:
            self._rejected.close()

    def _save(self, mark: Mark, tally: Tally, *, is_complete: bool) -> None:
        state = self._checkpoint(mark, tally, is_complete=is_complete)
        if self.progress is not None:
            state.save(self.progress)

    def _checkpoint(self, mark: Mark, tally: Tally, *, is_complete: bool) -> Checkpoint:
        return Checkpoint(
            fingerprint=self._fingerprint,
            topic_id=self._topic_id,
            mark=mark,
            tally=tally,
            errors_path=str(self._errors) if self._errors is not None else None,
            errors_bytes=self._rejected.sync() if self._rejected is not None else 0,
            is_complete=is_complete,
        )


def _report(tally: Tally, mark: Mark, seconds: float, start: Mark, options: argparse.Namespace) -> int:
    rate = (mark.lines - start.lines) / seconds if seconds else 0.0
    summary = {**asdict(tally), "lines": mark.lines, "resumed_at_line": start.lines, "seconds": round(seconds, 3)}
    word = "would be sent" if options.dry_run else "created"
    sentence = (
        f"{mark.lines} lines: {tally.created} {word}, {tally.already_there} already there, {tally.refused} refused"
    )
    reasons = sorted(tally.reasons.items(), key=lambda item: -item[1])
    sentence += "".join(f"\n  {count} {reason}" for reason, count in reasons)
    sentence += f"\n{seconds:.1f} s, {rate:,.0f} lines/s" if seconds else ""
    _print_summary(summary, sentence, is_json=options.json, to_stderr=False)
    return 1 if tally.refused else 0


def _print_summary(document: Mapping[str, Any], sentence: str, *, is_json: bool, to_stderr: bool) -> None:
    stream = sys.stderr if to_stderr else sys.stdout
    print(json.dumps(document, indent=2) if is_json else sentence, file=stream)


def _sentence(reason: Mapping[str, Any]) -> str:
    """Return why a line was refused, as text: a problem's members, none of which holds an e-mail."""
    faults = [f"{fault['pointer']} {fault['code']}" for fault in reason.get("errors", ())]
    what = ", ".join(faults) or str(reason["detail"])
    rest = [f"{name}={reason[name]}" for name in ("existing_uid", "uid", "current_version") if name in reason]
    return f"{reason['reason']}: {what}" + (f" ({', '.join(rest)})" if rest else "")


def _source_of(path: Path | None) -> str | None:
    """Return the id of the topic that *path* was exported from, if that is noted beside it. Raises WrongFiles."""
    if path is None or not positions_path(path).exists():
        return None
    try:
        return str(orjson.loads(positions_path(path).read_bytes())["topic_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise WrongFiles(f"{positions_path(path)} does not say what was exported; remove it if it is none") from error


def _open_source(config: AppConfig, urls: list[str] | None, clock: Clock, stack: ExitStack) -> Source:
    """Return what to export from; *stack* closes it."""
    if urls or not config.is_embedded:
        return stack.enter_context(closing(open_source(config, name="export", urls=urls or (), clock=clock)))
    try:
        lock = lock_state_dir(config)
    except StoreLocked:
        holder = DirectoryLock(config.state_dir).holder()
        if holder is None or not holder.note.startswith("http"):
            raise
        return stack.enter_context(closing(FeedSource([holder.note], clock)))
    stack.callback(lock.release)
    log = open_log(config, node_id="command-line", clock=clock)
    topic = TopicNames.prefixed(config.topic_prefix).profiles
    return stack.enter_context(closing(LogSource(log, topic, clock)))


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end this command as Ctrl-C does: what is half written is removed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _bar(title: str, unit: str, **options: Any) -> Any:
    return tqdm(desc=title, unit=unit, unit_scale=True, disable=not sys.stderr.isatty(), **options)
