"""Compares what a sink holds with the fold of the log, profile by profile. Changes neither.

Both sides go into a temporary database on disk, as digests, so that memory stays small however many profiles there are.
Others may write meanwhile: what differs is looked at again, with what the log says by then, until it agrees or patience
ends. Invariant: a difference that is reported was there at the end, too.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import orjson

from app.replication.ports import Batch, Held, Inspectable, Source, SourceInfo
from streams.clock import Clock

#: Told (records read, records that follow).
Tell = Callable[[int, int], None]

_POLL_S = 0.5
_ROWS = 2_000
_DIGEST_BYTES = 16
#: So many differences are looked at again; with more, something is wrong for certain.
_LOOKED_AT_AGAIN = 1_000
PATIENCE_S = 10.0

_TABLES = """
pragma journal_mode = off;
pragma synchronous = off;
create table log (uid text primary key, version integer not null, digest blob) without rowid;
create table sink (uid text primary key, version integer not null, digest blob, reason text) without rowid;
"""
# A digest that is null stands for a profile that is not there.
_DIFFERENCES = """
select log.uid, log.version, sink.version, log.digest, sink.digest, sink.reason
    from log left join sink on log.uid = sink.uid where log.digest is not sink.digest
union all
select sink.uid, null, sink.version, null, sink.digest, sink.reason
    from sink where sink.digest is not null and sink.uid not in (select uid from log)
"""


class Difference(NamedTuple):
    """A profile that is not in the sink as the log has it. `kind`: missing, extra (it was deleted, or never was),
    other, refused. Versions: None where the side knows nothing of the uid."""

    uid: str
    kind: str
    log_version: int | None
    sink_version: int | None
    reason: str | None = None


@dataclass(slots=True)
class Report:
    """What `verify` found: profiles on both sides, how many differ, and the first of those."""

    log_profiles: int = 0
    sink_profiles: int = 0
    difference_count: int = 0
    differences: Sequence[Difference] = field(default_factory=list)


def verify(source: Source, sink: Inspectable, info: SourceInfo, *, clock: Clock, tell: Tell) -> Report:
    """Compare. Raises SourceUnavailable, SinkUnavailable, SinkUnusable."""
    # An empty name is a file in the directory for temporary files that nobody else sees, and that goes with it.
    with closing(sqlite3.connect("", isolation_level=None)) as database:
        database.executescript(_TABLES)
        fold = _Fold(source, database, range(info.partitions), clock)
        fold.catch_up(tell)
        _insert(database, "insert or replace into sink values (?, ?, ?, ?)", map(_sink_row, sink.scan()))
        count = 0
        first: list[Difference] = []
        for found in map(_difference, database.execute(_DIFFERENCES)):
            count += 1
            if len(first) < _LOOKED_AT_AGAIN:
                first.append(found)
        if count <= _LOOKED_AT_AGAIN:
            first = _settle(first, fold, sink, clock)
            count = len(first)
        return Report(_count(database, "log"), _count(database, "sink"), count, first)


class _Fold:
    """The last state of each uid, as far as the log was read."""

    def __init__(self, source: Source, database: sqlite3.Connection, partitions: Iterable[int], clock: Clock) -> None:
        self._source = source
        self._database = database
        self._partitions = tuple(partitions)
        self._clock = clock
        self._records = 0
        source.assign(dict.fromkeys(self._partitions))

    def catch_up(self, tell: Tell | None = None) -> None:
        """Read all that the log holds now."""
        since = self._clock.monotonic()
        while any(self._source.caught_up_at(number) < since for number in self._partitions):
            batch = self._source.poll(_POLL_S)
            if batch is not None:
                self._add(batch)
            if tell is not None:
                tell(self._records, sum(self._source.lag(number) or 0 for number in self._partitions))

    def _add(self, batch: Batch) -> None:
        self._records += len(batch.changes)
        rows = ((one.uid, one.version, _digest(one.body)) for one in batch.changes)
        _insert(self._database, "insert or replace into log values (?, ?, ?)", rows)

    def look_up(self, uid: str) -> tuple[int, bytes | None] | None:
        """Return version and digest of *uid*, None if the log has nothing of it."""
        found: tuple[int, bytes | None] | None = self._database.execute(
            "select version, digest from log where uid = ?", (uid,)
        ).fetchone()
        return found


def _settle(found: list[Difference], fold: _Fold, sink: Inspectable, clock: Clock) -> list[Difference]:
    """Return those of *found* that do not go away while the log and the sink are looked at again."""
    until = clock.monotonic() + PATIENCE_S
    while found:
        held = sink.look_up([one.uid for one in found])
        fold.catch_up()
        found = [again for one in found if (again := _compare(one.uid, fold, held)) is not None]
        if clock.monotonic() >= until:
            break
    return found


def _compare(uid: str, fold: _Fold, held: Mapping[str, Held]) -> Difference | None:
    logged, one = fold.look_up(uid), held.get(uid)
    version, digest = logged or (None, None)
    _, sink_version, sink_digest, reason = _sink_row(one) if one is not None else (uid, None, None, None)
    if digest == sink_digest:
        return None
    return _difference((uid, version, sink_version, digest, sink_digest, reason))


def _difference(row: tuple[str, int | None, int | None, bytes | None, bytes | None, str | None]) -> Difference:
    uid, log_version, sink_version, digest, sink_digest, reason = row
    kind = "refused" if reason else "extra" if digest is None else "missing" if sink_digest is None else "other"
    return Difference(uid, kind, log_version, sink_version, reason)


def _sink_row(held: Held) -> tuple[str, int, bytes | None, str | None]:
    return held.uid, held.version, _digest(held.body), held.reason


def _digest(body: bytes | None) -> bytes | None:
    """Return the digest of what *body* says, however it is written."""
    if body is None:
        return None
    canonical = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    return blake2b(canonical, digest_size=_DIGEST_BYTES).digest()


def _insert(database: sqlite3.Connection, statement: str, rows: Iterator[tuple[object, ...]]) -> None:
    database.execute("begin")
    database.executemany(statement, rows)
    database.execute("commit")


def _count(database: sqlite3.Connection, table: str) -> int:
    statement = {"log": "select count(digest) from log", "sink": "select count(digest) from sink"}[table]
    return int(database.execute(statement).fetchone()[0])
