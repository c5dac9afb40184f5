"""Which rows of one partition answer a question: pure over two functions that read bytes.

Rows look as `streams.topology.stores` says. Of window and session stores only what has not expired is shown, by the
greatest time that the task has put, as the stores themselves do it (`streams.stores.windows`, `.sessions`). Invariant:
`until` is a key up to which nothing is missing, so that several partitions can be merged, and a list that was cut never
looks whole.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from typing import NamedTuple

from streams.queries.asking import ALL, GET, PREFIX, RANGE, SESSION, WINDOW, Ask, WrongQuery
from streams.stores.base import Getter
from streams.topology.stores import StoreKind, StoreSpec

#: (start, stop, limit) to rows in the order of keys, at most so many.
Scan = Callable[[bytes, bytes | None, int], list[tuple[bytes, bytes]]]
Row = tuple[bytes, bytes]

#: One answer of one node holds about so many bytes at most, or a single row.
MAX_BYTES = 1 << 20
#: So many rows and bytes are looked at for one answer, however few of them fit.
MAX_LOOKED_AT = 20_000
MAX_BYTES_LOOKED_AT = 16 * MAX_BYTES
_FIRST_CHUNK = 16
_CHUNK = 256
_MOMENT = struct.Struct(">q")
_WINDOW = struct.Struct(">qi")
_SESSION = struct.Struct(">qq")
_MAX_NUMBER = b"\x7f\xff\xff\xff"

_KINDS = {
    StoreKind.KEY_VALUE: (GET, ALL, RANGE, PREFIX),
    StoreKind.WINDOW: (ALL, WINDOW),
    StoreKind.SESSION: (ALL, SESSION),
    StoreKind.MEMBERSHIP: (GET,),
}


class Selection(NamedTuple):
    """Rows in the order of keys, and the key up to which they are all; None: they are all."""

    rows: list[Row]
    until: bytes | None


def check_kind(spec: StoreSpec, kind: str) -> None:
    """Raise WrongQuery unless stores like *spec* answer questions of *kind*."""
    allowed = _KINDS[spec.kind]
    if kind not in allowed:
        raise WrongQuery(f"{spec.name} is a {spec.kind.value} store, which answers {', '.join(allowed)}, not {kind}")


def is_point(kind: str) -> bool:
    """Say whether a question of *kind* is about one key, and so about one partition."""
    return kind in (GET, WINDOW, SESSION)


def select(spec: StoreSpec, ask: Ask, *, get: Getter, scan: Scan, observed_ms: int) -> Selection:
    """Return the rows that answer *ask* in this partition, `ask.limit` at most. *observed_ms*: the greatest time that
    was put into a window or session store, -1 if none. It blocks as *scan* does; raises what the functions raise."""
    if ask.kind == GET:
        row = get(ask.key)
        return Selection([] if row is None else [(ask.key, row)], None)
    if spec.kind is StoreKind.KEY_VALUE:
        return _take(scan, [(ask.low, ask.high)], ask, lambda _: True)
    oldest = observed_ms - spec.retention_ms
    if ask.kind == ALL:
        return _take(scan, [(b"", None)], ask, lambda place: _time_of(spec, place) > oldest)
    stretches = list(_stretches(spec, ask, max(0, ask.from_ms, oldest + 1), observed_ms))
    length = _MOMENT.size + len(ask.key) + (_WINDOW if ask.kind == WINDOW else _SESSION).size
    if ask.kind == WINDOW:
        return _take(scan, stretches, ask, lambda place: len(place) == length)
    return _take(
        scan, stretches, ask, lambda place: len(place) == length and _SESSION.unpack_from(place, -16)[1] <= ask.to_ms
    )


def _time_of(spec: StoreSpec, place: bytes) -> int:
    """Return what retention counts from: the start of a window, the end of a session."""
    layout = _WINDOW if spec.kind is StoreKind.WINDOW else _SESSION
    return int(layout.unpack_from(place, len(place) - layout.size)[0])


def _stretches(spec: StoreSpec, ask: Ask, first: int, observed_ms: int) -> Iterator[tuple[bytes, bytes]]:
    """Return the ranges of keys in which the windows or sessions of one key lie, one for each segment. A longer key
    that begins alike can lie between."""
    last = min(ask.to_ms, observed_ms) if ask.kind == WINDOW else observed_ms
    for segment in range(first // spec.segment_ms, last // spec.segment_ms + 1) if first <= last else ():
        prefix = _MOMENT.pack(segment) + ask.key
        if ask.kind == WINDOW:
            yield prefix + _MOMENT.pack(first), prefix + _MOMENT.pack(last) + _MAX_NUMBER + b"\0"
        else:
            yield prefix + _MOMENT.pack(first), prefix + _MOMENT.pack(min(last + 1, (1 << 63) - 1))


def _take(
    scan: Scan, stretches: Sequence[tuple[bytes, bytes | None]], ask: Ask, fits: Callable[[bytes], bool]
) -> Selection:
    """Return the rows of *stretches*, which are in order, that fit."""
    rows: list[Row] = []
    size = seen_bytes = looked_at = 0
    last = b""
    for low, high in stretches:
        start = low if ask.after is None else max(low, ask.after + b"\0")
        while high is None or start < high:
            # As many as are likely to fit: a row can be a megabyte, and most are some dozens of bytes.
            likely = _FIRST_CHUNK if not looked_at else MAX_BYTES * looked_at // (seen_bytes + 1)
            wanted = max(1, min(_CHUNK, ask.limit + 1 - len(rows), likely))
            found = scan(start, high, wanted)
            for place, row in found:
                is_enough = looked_at == MAX_LOOKED_AT or seen_bytes > MAX_BYTES_LOOKED_AT
                if is_enough or len(rows) == ask.limit or (rows and size + len(row) > MAX_BYTES):
                    return Selection(rows, last)
                looked_at += 1
                last = place
                seen_bytes += len(place) + len(row)
                if fits(place):
                    rows.append((place, row))
                    size += len(place) + len(row)
            if len(found) < wanted:
                break
            start = last + b"\0"
    return Selection(rows, None)


def merge_rows(runs: Sequence[Sequence[Row]], until: bytes | None, limit: int) -> Selection:
    """Return the rows of *runs*, each in order and whole up to *until*, as one answer of *limit* rows and `MAX_BYTES`
    about. A key that several partitions have is never parted: what follows is found by its key alone."""
    rows: list[Row] = []
    size = 0
    for place, row in merge(*runs):
        if until is not None and place > until:
            break
        if rows and place != rows[-1][0] and (len(rows) >= limit or size + len(row) > MAX_BYTES):
            return Selection(rows, rows[-1][0])
        rows.append((place, row))
        size += len(row)
    return Selection(rows, until)


def merge_bounds(one: bytes | None, other: bytes | None) -> bytes | None:
    """Return the key up to which two answers are both whole."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
