"""Counting stores: exact while that is cheap, an estimate with a known error beyond."""

import asyncio
import json
import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.profiles.topics import COUNTED_STORES, PROFILE_STORE
from streams.clock import SystemClock
from streams.errors import Restoring, StoreDamaged, Unavailable
from streams.queries.counts import EXACT_ROWS, Counts, NodeCounts, count_rows
from streams.queries.peers import Caller
from streams.runtime.reader import NEVER_MS
from streams.stores.base import StoreIdentity, TaskStore
from streams.stores.rocksdb import RocksStoreFactory

BY_UID = COUNTED_STORES[PROFILE_STORE]


class Reader:
    """Reads the store `rows` of a task on disk."""

    def __init__(self, store: TaskStore, error: Exception | None = None) -> None:
        self._store = store
        self._error = error
        self.damage: list[BaseException] = []

    def scan(self, *, start: bytes, stop: bytes | None, limit: int | None) -> list[tuple[bytes, bytes]]:
        if self._error is not None:
            raise self._error
        return self._store.scan("rows", start=start, stop=stop, limit=limit)

    def approximate_count(self) -> int:
        return self._store.approximate_count("rows")

    def staleness_ms(self) -> int:
        return 0

    def report_damage(self, error: BaseException) -> None:
        self.damage.append(error)


class Node:
    """Owns those of two partitions that have a reader, and follows the same."""

    node_id = "n1"
    partitions = 2
    is_observer = False

    def __init__(self, readers: dict[int, Reader]) -> None:
        self.readers = readers

    def role_of(self, partition: int) -> str:
        return "owner"

    def reader(self, store: str, partition: int) -> Reader:
        if partition not in self.readers:
            raise Restoring("not yet", partition=partition, lag_records=3)
        return self.readers[partition]

    replica = reader


@pytest.fixture
def open_store(tmp_path: Path) -> Callable[[int], TaskStore]:
    factory = RocksStoreFactory(tmp_path, cache_bytes=1 << 20, max_age_ms=None, clock=SystemClock())
    return lambda task: factory.open(task, ["rows"], StoreIdentity({"t": "1"}, 2, 1))


def uids(count: int, seed: int) -> list[bytes]:
    draw = random.Random(seed)
    return [str(uuid.UUID(int=draw.getrandbits(128), version=4)).encode() for _ in range(count)]


def write(store: TaskStore, keys: list[bytes], *, times: int = 1) -> None:
    for _ in range(times):
        for start in range(0, len(keys), 1000):
            batch = store.batch()
            for key in keys[start : start + 1000]:
                batch.put("rows", key, b"row" * 50)
            store.commit(batch, {"t": 1})


def delete(store: TaskStore, keys: list[bytes]) -> None:
    batch = store.batch()
    for key in keys:
        batch.delete("rows", key)
    store.commit(batch, {"t": 1})


def test_a_small_store_is_counted_whatever_was_written_before(open_store: Callable[[int], TaskStore]) -> None:
    """Rows that were overwritten or deleted do not count; RocksDB's own estimate has them."""
    store = open_store(0)
    keys = uids(EXACT_ROWS + 5, seed=1)
    write(store, keys, times=3)
    delete(store, keys[:5])
    assert count_rows(Reader(store), BY_UID) == (EXACT_ROWS, True)
    assert store.approximate_count("rows") != EXACT_ROWS
    store.close()


def test_a_large_store_is_estimated_from_its_keys(open_store: Callable[[int], TaskStore]) -> None:
    """Within four standard errors, however often each row was written; where keys say nothing, as RocksDB does."""
    store = open_store(0)
    keys = uids(20_000, seed=2)
    write(store, keys, times=2)
    rows, is_exact = count_rows(Reader(store), BY_UID)
    assert not is_exact
    assert abs(rows - 20_000) < 4 * 20_000 / EXACT_ROWS**0.5
    assert count_rows(Reader(store), None) == (max(EXACT_ROWS + 1, store.approximate_count("rows")), False)
    store.close()


def test_an_estimate_is_never_below_what_was_seen() -> None:
    """Tombstones can make RocksDB's own as small as 0."""

    class Tombstones(Reader):
        def scan(self, **_: Any) -> list[tuple[bytes, bytes]]:
            return [(b"k", b"v")] * (EXACT_ROWS + 1)

        def approximate_count(self) -> int:
            return 0

    assert count_rows(Tombstones(None), None) == (EXACT_ROWS + 1, False)  # type: ignore[arg-type]


def test_a_node_that_is_alone_names_what_it_cannot_count(open_store: Callable[[int], TaskStore]) -> None:
    """A partition that restores is missing, or an error that says so, as the caller chooses; `local` leaves it out."""
    store = open_store(0)
    write(store, uids(7, seed=3))
    counts = Counts(node=Node({0: Reader(store)}), stores={"rows": None})
    found = asyncio.run(counts.cluster("rows", Later, is_partial=True))
    assert (found.rows, found.missing, found.is_exact) == (7, [1], False)
    with pytest.raises(Restoring):
        asyncio.run(counts.cluster("rows", Later, is_partial=False))
    local = asyncio.run(counts.local("rows"))
    assert (local.rows, local.is_exact, [one.partition for one in local.counts]) == (7, True, [0])
    store.close()


def test_a_copy_that_was_never_complete_is_not_counted(open_store: Callable[[int], TaskStore]) -> None:
    """What it has so far would look like all."""

    class Restored(Reader):
        def staleness_ms(self) -> int:
            return NEVER_MS

    store = open_store(0)
    write(store, uids(7, seed=3))
    counts = Counts(node=Node({0: Restored(store), 1: Reader(store)}), stores={"rows": None})
    found = asyncio.run(counts.cluster("rows", Later, is_partial=True))
    assert (found.rows, found.missing, found.is_exact) == (7, [0], False)
    store.close()


def test_damage_is_reported_and_never_counted() -> None:
    """The partition is missing until it is rebuilt."""
    damaged = Reader(None, StoreDamaged("a block"))  # type: ignore[arg-type]
    full = Reader(None, OSError(24, "too many files"))  # type: ignore[arg-type]
    counts = Counts(node=Node({0: damaged, 1: full}), stores={"rows": None})
    assert asyncio.run(counts.local("rows")).counts == []
    assert (len(damaged.damage), len(full.damage)) == (1, 0)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'["rows",[0]]', b'["rows",["x"],false]', b'["rows",[2],false]', b'["x",[0],false]']
)
def test_a_peer_that_talks_nonsense_is_refused(body: bytes) -> None:
    """Unknown stores and partitions too: the names of a peer are not trusted."""
    answer = Counts(node=Node({}), stores={"rows": None}).operations()["count"]
    with pytest.raises(Unavailable):
        asyncio.run(answer(body, Caller("n2", Later, 0)))  # type: ignore[arg-type]


@pytest.mark.parametrize("body", [b"", b"{}x", b"7", b"[7]", b"[[1,2]]", json.dumps([[1] * 7]).encode()])
def test_an_answer_that_makes_no_sense_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"not the counts|Expecting|Extra data"):
        NodeCounts.decode(body)


Later: Any = None  # a deadline that nobody looks at
