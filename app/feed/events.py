"""From records to what a listener gets: events, and the answer that is made of some of them. Pure, no I/O, no HTTP.

Invariants of an answer: of each uid only the last state in it, in the order of the log; the `seq` of each result is a
place from which nothing that follows it is missed. A record that is not a profile is passed over, never an obstacle.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from orjson import dumps, loads

from app.feed.position import Position, Seqs, varint
from app.profiles.rows import version_of
from app.profiles.topology import materialise_profile
from streams.errors import PoisonRecord
from streams.records import Record, header

#: What an event takes in memory beside its body.
EVENT_BYTES = 250


class Event(NamedTuple):
    """A change of a profile. `body` is its representation, one line of JSON; None: it was deleted. `version` None: a
    deletion that somebody else wrote into the topic, without saying of what."""

    partition: int
    offset: int
    uid: bytes
    version: int | None
    body: bytes | None

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes."""
        return EVENT_BYTES + len(self.body or b"")


class Run(NamedTuple):
    """Events in the order in which they are to be told; those of one partition in offset order. `after`: the position
    behind the run of each partition that it is of, which may lie beyond the last event."""

    events: Sequence[Event]
    after: Mapping[int, int]


class Result(NamedTuple):
    """An event, and the place right behind it."""

    seq: str
    event: Event


class Answer:
    """What a listener gets at a time. `position` is the place behind all of it, `seq` that place as text. Listeners
    that stand at one place share one answer, and with it the bytes that were made of it once: `rendered`."""

    __slots__ = ("position", "rendered", "results", "seq")

    def __init__(self, results: Sequence[Result], position: Position, seq: str) -> None:
        self.results = results
        self.position = position
        self.seq = seq
        self.rendered: dict[object, bytes] = {}


def event_of(record: Record) -> Event | None:
    """Return the change that *record* is, None if it is not one of ours: it stays in quarantine, not in the feed."""
    try:
        uid, row = materialise_profile(record)
    except PoisonRecord:
        return None
    if row is None:
        return Event(record.partition, record.offset, uid, _version_in_header(record), None)
    body = record.value
    if body is not None and (b"\n" in body or b"\r" in body):
        body = dumps(loads(body))  # somebody else's record: in an event stream each line would need a field name
    return Event(record.partition, record.offset, uid, version_of(row), body)


def events_of(records: Iterable[Record]) -> list[Event]:
    """Return the changes among *records*."""
    return [event for record in records if (event := event_of(record)) is not None]


def answer_from(position: Position, runs: Iterable[Run], seqs: Seqs, *, limit: int, limit_bytes: int) -> Answer:
    """Return the first *limit* results of *runs* behind *position*, or fewer if they reach *limit_bytes*."""
    taken: list[Event] = []
    last: dict[bytes, int] = {}
    offsets = _take(position, runs, taken, last, limit=limit, limit_bytes=limit_bytes)
    after = position._replace(offsets=tuple(offsets))
    return Answer(list(_with_seqs(position, taken, last, seqs)), after, seqs.text(after))


def _take(
    position: Position,
    runs: Iterable[Run],
    taken: list[Event],
    last: dict[bytes, int],
    *,
    limit: int,
    limit_bytes: int,
) -> list[int]:
    """Fill *taken*, and *last* with the place of each uid's last event in it. Return the offsets behind."""
    offsets = list(position.offsets)
    size_bytes = 0
    for events, after in runs:
        for event in events:
            slot = position.slot(event.partition)
            if slot < 0 or event.offset < offsets[slot]:
                continue
            if len(last) >= limit or size_bytes >= limit_bytes:
                return offsets
            offsets[slot] = event.offset + 1
            size_bytes += event.size_bytes
            last[event.uid] = len(taken)
            taken.append(event)
        for partition, offset in after.items():
            slot = position.slot(partition)
            if slot >= 0:
                offsets[slot] = max(offsets[slot], offset)
    return offsets


def _with_seqs(position: Position, taken: Sequence[Event], last: Mapping[bytes, int], seqs: Seqs) -> Iterator[Result]:
    """Yield the last event of each uid. An earlier one may be left out, although its place was passed: whoever goes on
    from there meets the later one."""
    prefix = seqs.prefix(position)
    parts = [varint(offset) for offset in position.offsets]
    for number, event in enumerate(taken):
        parts[position.slot(event.partition)] = varint(event.offset + 1)
        if last[event.uid] == number:
            yield Result(seqs.signed(prefix + b"".join(parts)), event)


def _version_in_header(record: Record) -> int | None:
    text = header(record.headers, "profile-version")
    return int(text) if text is not None and text.isdigit() and len(text) <= 16 else None
