"""Writes every live profile to a file, one JSON line each, as GET serves it: for each partition the exact fold of the
log up to a position, which is noted beside it.

The source is that of the replicator: Kafka, the embedded log of a node that does not run, or the change feed of one
that does. The fold is kept in a state store on disk, so memory is bounded whatever the number of profiles, and the
lines come in the order of their uids, whatever the number of partitions. Invariant: a file of the wanted name is whole.
"""

import gzip
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import orjson

from app.backfill.checkpoint import positions_path
from app.backfill.errors import NobodyAnswers
from app.replication.ports import Position, Source, SourceInfo, SourceUnavailable
from streams.clock import Backoff, Clock, Deadline
from streams.files import write_durably
from streams.lockfile import DirectoryLock
from streams.stores.base import StoreFactory, StoreIdentity, TaskStore

#: Told (changes taken or lines written, how many there will be as far as is known, what is being done).
Progress = Callable[[int, int, str], None]

_STORE = "profiles"
_TOPIC = "export"
_POLL_S = 0.5
_SILENCE_S = 60.0
_SCAN_ROWS = 5000
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported. `positions`: by partition, the position up to which the lines are the fold of the log.
    `skipped`: records that are no profiles, which the service quarantines, too."""

    info: SourceInfo
    positions: Mapping[int, Position]
    changes: int
    skipped: int
    profiles: int = 0
    bytes: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)


class Exporter:
    """One export. One thread."""

    def __init__(self, *, source: Source, stores: StoreFactory, clock: Clock, progress: Progress) -> None:
        """*stores*: in an empty directory that nobody else uses."""
        self._source = source
        self._stores = stores
        self._clock = clock
        self._progress = progress

    def run(self, out: IO[bytes]) -> Exported:
        """Write the lines to *out*. All that was in the log when this was called is in them, and perhaps more. Raises
        NobodyAnswers, SourceExpired (the log was replaced meanwhile), OSError."""
        info = self._describe()
        identity = StoreIdentity({_TOPIC: info.identity}, info.partitions, _FORMAT)
        store = self._stores.open(0, [_STORE], identity)
        try:
            exported = self._fold(info, store)
            return self._write(exported, store, out)
        finally:
            store.close()

    def _describe(self) -> SourceInfo:
        deadline = Deadline.after(_SILENCE_S / 4, self._clock)
        backoff = Backoff(initial_s=0.2)
        while True:
            try:
                return self._source.describe()
            except SourceUnavailable as error:
                if deadline.has_passed(self._clock):
                    raise NobodyAnswers(f"there is nothing to export from: {error}") from error
                threading.Event().wait(backoff.next_s())

    def _fold(self, info: SourceInfo, store: TaskStore) -> Exported:
        """Read every partition to where it ends now, or a little further."""
        source, begun = self._source, self._clock.monotonic()
        positions = dict.fromkeys(range(info.partitions), Position(0, "0", 0))
        source.assign(dict.fromkeys(positions))
        deadline = Deadline.after(_SILENCE_S, self._clock)
        changes, reasons = 0, dict[str, int]()
        while not all(source.caught_up_at(partition) >= begun for partition in positions):
            step = source.poll(_POLL_S)
            if step is None:
                if deadline.has_passed(self._clock):
                    raise NobodyAnswers(f"nothing was read for {_SILENCE_S:.0f} s, before the end of the log")
                continue
            deadline = Deadline.after(_SILENCE_S, self._clock)
            batch = store.batch()
            for change in step.changes:
                if change.body is None:
                    batch.delete(_STORE, change.uid.encode())
                else:
                    batch.put(_STORE, change.uid.encode(), change.body)
            changes += len(step.changes)
            store.commit(batch, {_TOPIC: changes}, is_restoring=True)
            positions.update(step.positions)
            for one in step.skipped:
                reasons[one.reason] = reasons.get(one.reason, 0) + 1
            left = sum(source.lag(partition) or 0 for partition in positions)
            self._progress(changes, changes + left, "reading")
        return Exported(info, positions, changes, sum(reasons.values()), reasons=reasons)

    def _write(self, exported: Exported, store: TaskStore, out: IO[bytes]) -> Exported:
        start, profiles, size = b"", 0, 0
        about = store.approximate_count(_STORE)
        while rows := store.scan(_STORE, start=start, limit=_SCAN_ROWS):
            text = b"".join([body + b"\n" for _, body in rows])
            out.write(text)
            profiles += len(rows)
            size += len(text)
            start = rows[-1][0] + b"\0"
            self._progress(profiles, max(about, profiles), "writing")
        out.flush()
        return replace(exported, profiles=profiles, bytes=size)


@contextmanager
def scratch_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory beside *path* that no other export to *path* uses, and remove it in the end. What an
    export left behind that was killed is removed first. Raises StoreLocked, OSError."""
    directory = path.with_name(f".{path.name}.export")
    directory.mkdir(mode=0o700, exist_ok=True)
    lock = DirectoryLock(directory, note=f"export to {path.name}")
    lock.acquire()
    try:
        fold = directory / "fold"
        shutil.rmtree(fold, ignore_errors=True)
        fold.mkdir(mode=0o700)
        yield fold
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        lock.release()


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write, which takes the name *path* in the end, on disk, or not at all; packed when the name ends
    in `.gz`. It is readable for its owner alone. Raises OSError."""
    aside = path.with_name(path.name + ".new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if path.suffix == ".gz":
                with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0) as packed:
                    yield packed  # type: ignore[misc]
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    # The positions of an earlier export must not stand beside another file, whenever this ends.
    positions_path(path).unlink(missing_ok=True)
    aside.rename(path)


def positions_document(exported: Exported, *, topic: str, time: str) -> dict[str, Any]:
    """Return what is written beside an export: what it is of, and for each partition the offset of the first record
    that is not in it; of a change feed also the place to go on from (`since`)."""
    positions = [
        {"partition": partition, "offset": position.order}
        | ({} if position.token == str(position.order) else {"since": position.token})
        for partition, position in sorted(exported.positions.items())
    ]
    return {
        "format": _FORMAT,
        "topic": topic,
        "topic_id": exported.info.identity,
        "partitions": exported.info.partitions,
        "positions": positions,
        "profiles": exported.profiles,
        "bytes": exported.bytes,
        "exported_at": time,
    }


def write_positions(path: Path, document: Mapping[str, Any]) -> None:
    """Write *document* beside the export in *path*, durably. Raises OSError."""
    write_durably(positions_path(path), orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
