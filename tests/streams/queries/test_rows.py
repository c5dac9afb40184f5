"""Which rows answer a question, whatever stops the search: the pure part against a naive one."""

import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.queries import rows as module
from streams.queries.asking import ALL, RANGE, SESSION, WINDOW, Ask
from streams.queries.rows import MAX_BYTES, Row, merge_bounds, merge_rows, select
from streams.serdes import BYTES
from streams.topology.stores import StoreKind, StoreSpec

HOUR = 3_600_000
SPECS = {
    StoreKind.KEY_VALUE: StoreSpec(name="s", key=BYTES, value=BYTES),
    StoreKind.WINDOW: StoreSpec(
        name="s", kind=StoreKind.WINDOW, key=BYTES, value=BYTES, retention_ms=HOUR, window_size_ms=10
    ),
    StoreKind.SESSION: StoreSpec(name="s", kind=StoreKind.SESSION, key=BYTES, value=BYTES, retention_ms=HOUR),
}
KEYS = st.sampled_from([b"", b"\0", b"\0\0", b"a", b"a\0", b"a\0\0", b"b", b"\xff"])
TIMES = st.sampled_from([0, 1, 999, 1000, 1001, 1_799_999, 1_800_000, HOUR - 1, HOUR, HOUR + 1, 2 * HOUR, 5 * HOUR])


class Table:
    """Rows in order, and how much was read of them."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self.rows = sorted(rows.items())
        self.most = 0

    def get(self, key: bytes) -> bytes | None:
        return dict(self.rows).get(key)

    def scan(self, start: bytes, stop: bytes | None, limit: int) -> list[Row]:
        assert limit >= 1
        found = [row for row in self.rows if row[0] >= start and (stop is None or row[0] < stop)][:limit]
        self.most = max(self.most, sum(len(row) for _, row in found))
        return found


def walk(spec: StoreSpec, ask: Ask, table: Table, observed_ms: int) -> Iterator[list[Row]]:
    """Yield answer after answer, each going on where the one before was whole."""
    while True:
        found, until = select(spec, ask, get=table.get, scan=table.scan, observed_ms=observed_ms)
        assert len(found) <= ask.limit
        assert until is None or all(key <= until for key, _ in found)
        yield found
        if until is None:
            return
        assert ask.after is None or until > ask.after
        ask = ask._replace(after=until)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def shrink(looked_at: int, size: int) -> None:
        monkeypatch.setattr(module, "MAX_LOOKED_AT", looked_at)
        monkeypatch.setattr(module, "MAX_BYTES", size)
        monkeypatch.setattr(module, "MAX_BYTES_LOOKED_AT", 3 * size)

    return shrink


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_answers_put_together_are_what_fits_in_order(data: st.DataObject) -> None:
    """Windows and sessions that have expired, longer keys that begin alike, and bounds on every edge included."""
    kind = data.draw(st.sampled_from(list(SPECS)))
    spec = SPECS[kind]
    rows: dict[bytes, bytes] = {}
    naive: list[tuple[bytes, bytes, int, int]] = []  # key of the row, key, start, end
    for key, first, second in data.draw(st.lists(st.tuples(KEYS, TIMES, TIMES), max_size=30)):
        start, end = min(first, second), max(first, second)
        if kind is StoreKind.KEY_VALUE:
            place = key
        elif kind is StoreKind.WINDOW:
            place = spec.row_key(key + struct.pack(">qi", start, 0))
        else:
            place = spec.row_key(key + struct.pack(">qq", end, start))
        rows[place] = struct.pack(">q", start) + b"v" * data.draw(st.integers(0, 50))
        naive.append((place, key, start, end))
    observed_ms = data.draw(TIMES | st.just(-1))
    key, from_ms, to_ms = data.draw(KEYS), data.draw(TIMES), data.draw(TIMES)
    limit = data.draw(st.integers(1, 5) | st.just(1000))
    oldest = observed_ms - spec.retention_ms
    if kind is StoreKind.KEY_VALUE:
        low, high = data.draw(KEYS), data.draw(KEYS | st.none())
        ask = Ask("s", RANGE, low=low, high=high, limit=limit)
        fits = {place for place, *_ in naive if place >= low and (high is None or place < high)}
    elif data.draw(st.booleans()):
        ask = Ask("s", ALL, limit=limit)
        fits = {p for p, _, start, end in naive if (start if kind is StoreKind.WINDOW else end) > oldest}
    elif kind is StoreKind.WINDOW:
        ask = Ask("s", WINDOW, key=key, from_ms=from_ms, to_ms=to_ms, limit=limit)
        fits = {
            p
            for p, each, start, _ in naive
            if each == key and max(from_ms, oldest + 1) <= start <= min(to_ms, observed_ms)
        }
    else:
        ask = Ask("s", SESSION, key=key, from_ms=from_ms, to_ms=to_ms, limit=limit)
        fits = {
            p
            for p, each, start, end in naive
            if each == key and max(from_ms, oldest + 1) <= end <= observed_ms and start <= to_ms
        }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_LOOKED_AT", data.draw(st.integers(1, 40)))
        patch.setattr(module, "MAX_BYTES", data.draw(st.integers(1, 300)))
        patch.setattr(module, "MAX_BYTES_LOOKED_AT", data.draw(st.integers(1, 300)))
        found = [row for answer in walk(spec, ask, Table(rows), observed_ms) for row in answer]
    assert found == sorted((place, rows[place]) for place in fits)


def test_an_answer_of_large_rows_is_cut_by_its_size() -> None:
    """And they are not all read to find that out."""
    table = Table({b"%03d" % n: bytes(8) + b"x" * 300_000 for n in range(100)})
    answers = list(walk(SPECS[StoreKind.KEY_VALUE], Ask("s", ALL, limit=1000), table, -1))
    assert sum(len(answer) for answer in answers) == 100
    assert all(sum(len(row) for _, row in answer) <= MAX_BYTES for answer in answers)
    assert len(answers) == 34
    assert table.most <= 16 * 300_008


def test_a_row_larger_than_an_answer_is_an_answer() -> None:
    """Otherwise nobody could pass it."""
    table = Table({b"a": bytes(8), b"b": b"x" * (2 * MAX_BYTES), b"c": bytes(8)})
    answers = list(walk(SPECS[StoreKind.KEY_VALUE], Ask("s", ALL), table, -1))
    assert [[key for key, _ in answer] for answer in answers] == [[b"a"], [b"b"], [b"c"]]


def test_what_is_looked_at_in_vain_is_bounded(small: Callable[[int, int], None]) -> None:
    """An answer without a row says how far it has looked."""
    small(10, 1 << 20)
    spec = SPECS[StoreKind.WINDOW]
    table = Table({spec.row_key(b"%03d" % n + struct.pack(">qi", 5, 0)): bytes(8) for n in range(35)})
    answers = list(walk(spec, Ask("s", ALL), table, 10 * HOUR))
    assert answers == [[], [], [], []]


@settings(max_examples=200, deadline=None)
@given(tables=st.lists(st.dictionaries(KEYS, st.just(bytes(8)), max_size=6), max_size=4), limit=st.integers(1, 5))
def test_partitions_put_together_lose_no_row(tables: list[dict[bytes, bytes]], limit: int) -> None:
    """Also of a key that several of them have, wherever a page ends."""
    found: list[Row] = []
    after: bytes | None = None
    while True:
        runs: list[list[Row]] = []
        until: bytes | None = None
        for table in tables:
            left = [row for row in sorted(table.items()) if after is None or row[0] > after]
            runs.append(left[:limit])
            until = merge_bounds(until, left[limit - 1][0] if len(left) > limit else None)
        rows, after = merge_rows(runs, until, limit)
        assert len(rows) < limit + max(1, len(tables))
        found += rows
        if after is None:
            break
    assert found == sorted(row for table in tables for row in table.items())


def test_many_partitions_of_large_rows_make_no_large_answer() -> None:
    """It is bounded as that of one partition: it has to pass between nodes, and in memory."""
    runs = [[(b"%02d-%02d" % (n, partition), bytes(100_000)) for n in range(10)] for partition in range(32)]
    rows, until = merge_rows(runs, b"09-00", 1000)
    assert sum(len(row) for _, row in rows) <= MAX_BYTES
    assert rows == sorted(row for run in runs for row in run)[:10]
    assert until == rows[-1][0]


def test_two_answers_are_whole_up_to_the_nearer_bound() -> None:
    """None is no bound."""
    assert merge_bounds(None, None) is None
    assert merge_bounds(b"b", None) == merge_bounds(None, b"b") == merge_bounds(b"b", b"c") == b"b"
