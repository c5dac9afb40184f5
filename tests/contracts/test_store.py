"""What every adapter of the store port promises, run over all of them. What only a disk can do to a store is tested in
`tests/streams/stores`.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from streams.errors import StoreClosed, StoreDamaged, StoreLocked, StoreMismatch
from streams.stores.base import StoreFactory, StoreIdentity, TaskStore
from streams.stores.memory import MemoryStoreFactory
from streams.stores.rocksdb import RocksStoreFactory
from streams.testing import FakeClock

STORES = ("rows", "index")
IDENTITY = StoreIdentity({"people": "topic-1", "people-index": "topic-2"}, 8, 3)
MAX_AGE_MS = 60_000

Changes = list[tuple[str, bytes, bytes | None]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "rocksdb"])
def factory(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> StoreFactory:
    if request.param == "memory":
        return MemoryStoreFactory(max_age_ms=MAX_AGE_MS, clock=clock)
    return RocksStoreFactory(tmp_path / "state", cache_bytes=1 << 20, max_age_ms=MAX_AGE_MS, clock=clock)


@pytest.fixture
def opened(factory: StoreFactory) -> Callable[[], TaskStore]:
    """Open the stores of task 3 again, closing them first when they are open."""
    last: list[TaskStore] = []

    def open_again() -> TaskStore:
        for store in last:
            store.close()
        last[:] = [factory.open(3, STORES, IDENTITY)]
        return last[0]

    return open_again


def write(store: TaskStore, changes: Changes, offset: int, **options: object) -> None:
    batch = store.batch()
    for name, key, value in changes:
        if value is None:
            batch.delete(name, key)
        else:
            batch.put(name, key, value)
    assert len(batch) == len(changes)
    store.commit(batch, {"people": offset, "people-index": offset}, **options)  # type: ignore[arg-type]


def contents(store: TaskStore) -> dict[str, list[tuple[bytes, bytes]]]:
    return {name: store.scan(name) for name in STORES}


def test_a_new_store_is_empty(opened: Callable[[], TaskStore]) -> None:
    """It claims nothing: no rows, no positions, never caught up."""
    store = opened()
    assert (contents(store), store.positions, store.caught_up_ms) == ({"rows": [], "index": []}, {}, None)
    assert store.getter("rows")(b"a") is None


def test_rows_and_positions_appear_with_the_commit_and_not_before(opened: Callable[[], TaskStore]) -> None:
    """A batch is invisible until it is committed, to getters that were made before too."""
    store = opened()
    get = store.getter("rows")
    batch = store.batch()
    batch.put("rows", b"a", b"1")
    assert get(b"a") is None
    assert store.scan("rows") == []
    store.commit(batch, {"people": 7, "people-index": 9})
    assert get(b"a") == b"1"
    assert store.getter("index")(b"a") is None
    assert store.positions == {"people": 7, "people-index": 9}


def test_the_last_change_of_a_key_wins(opened: Callable[[], TaskStore]) -> None:
    """Changes of one batch take effect in their order."""
    store = opened()
    write(store, [("rows", b"a", b"1"), ("rows", b"a", None), ("rows", b"b", b"1"), ("rows", b"b", b"2")], 1)
    assert store.scan("rows") == [(b"b", b"2")]
    write(store, [("rows", b"b", None), ("rows", b"b", b"3"), ("rows", b"nobody", None)], 2)
    assert store.scan("rows") == [(b"b", b"3")]


def test_an_empty_value_is_a_row(opened: Callable[[], TaskStore]) -> None:
    """Empty bytes are not the same as no row, and the empty key is a key."""
    store = opened()
    write(store, [("rows", b"a", b""), ("rows", b"", b"root")], 1)
    assert store.getter("rows")(b"a") == b""
    assert store.scan("rows") == [(b"", b"root"), (b"a", b"")]


@pytest.mark.parametrize("is_restoring", [False, True])
def test_a_reopened_store_holds_what_was_committed(
    opened: Callable[[], TaskStore], clock: FakeClock, is_restoring: bool
) -> None:
    """Rows, positions and the time of catching up outlive close, however they were written."""
    store = opened()
    write(store, [("rows", b"a", b"1"), ("index", b"x", b"a")], 5, is_restoring=True)
    write(
        store,
        [("rows", b"b", b"2"), ("rows", b"a", None)],
        6,
        is_restoring=is_restoring,
        caught_up_ms=clock.time_ms() - 1,
    )
    write(store, [], 8, is_restoring=is_restoring)
    before = contents(store)
    store = opened()
    assert contents(store) == before == {"rows": [(b"b", b"2")], "index": [(b"x", b"a")]}
    assert (store.positions, store.caught_up_ms) == ({"people": 8, "people-index": 8}, clock.time_ms() - 1)


def test_positions_are_replaced_as_a_whole(opened: Callable[[], TaskStore]) -> None:
    """A mapping that a caller keeps is not changed under it."""
    store = opened()
    write(store, [], 5)
    kept: Mapping[str, int] = store.positions
    write(store, [], 6)
    assert kept == {"people": 5, "people-index": 5}
    assert store.positions == {"people": 6, "people-index": 6}


def test_a_scan_gives_the_range_in_byte_order(opened: Callable[[], TaskStore]) -> None:
    """start is in, stop is out, limit bounds; bytes compare as unsigned."""
    store = opened()
    keys = [b"b", b"a", b"\xff", b"a\x00", b"\x80", b"c"]
    write(store, [("rows", key, key) for key in keys], 1)

    def scanned(**options: object) -> list[bytes]:
        rows = store.scan("rows", **options)  # type: ignore[arg-type]
        assert all(key == value for key, value in rows)
        return [key for key, _ in rows]

    assert scanned() == [b"a", b"a\x00", b"b", b"c", b"\x80", b"\xff"]
    assert scanned(start=b"a\x00", stop=b"c") == [b"a\x00", b"b"]
    assert scanned(start=b"aa", limit=2) == [b"b", b"c"]
    assert scanned(start=b"b", stop=b"b") == scanned(start=b"c", stop=b"b") == scanned(limit=0) == []
    assert scanned(stop=b"\xff")[-1] == b"\x80"


def test_an_unknown_store_is_a_bug_of_the_caller(opened: Callable[[], TaskStore]) -> None:
    """It raises KeyError, and no store of that name comes into being."""
    store = opened()
    for call in (
        lambda: store.batch().put("nothing", b"a", b"1"),
        lambda: store.batch().delete("nothing", b"a"),
        lambda: store.getter("nothing"),
        lambda: store.scan("nothing"),
        lambda: store.approximate_count("nothing"),
    ):
        with pytest.raises(KeyError):
            call()


@pytest.mark.parametrize(
    "identity",
    [
        replace(IDENTITY, topic_ids={**IDENTITY.topic_ids, "people": "made again"}),
        replace(IDENTITY, topic_ids={"people": "topic-1"}),
        replace(IDENTITY, partitions=16),
        replace(IDENTITY, format_version=4),
    ],
)
def test_a_store_of_another_identity_is_refused(
    opened: Callable[[], TaskStore], factory: StoreFactory, identity: StoreIdentity
) -> None:
    """Another topic, partition count or format: its rows are worth nothing; its owner can still open it."""
    store = opened()
    write(store, [("rows", b"a", b"1")], 5)
    store.close()
    with pytest.raises(StoreMismatch):
        factory.open(3, STORES, identity)
    assert opened().scan("rows") == [(b"a", b"1")]


@pytest.mark.parametrize("stores", [("rows",), ("rows", "index", "more"), ("rows", "other")])
def test_a_store_with_other_names_is_refused(
    opened: Callable[[], TaskStore], factory: StoreFactory, stores: tuple[str, ...]
) -> None:
    """A store that was added would be empty below the position that the task claims."""
    opened().close()
    with pytest.raises((StoreMismatch, StoreDamaged)):
        factory.open(3, stores, IDENTITY)


def test_a_store_that_was_caught_up_too_long_ago_is_refused(
    opened: Callable[[], TaskStore], factory: StoreFactory, clock: FakeClock
) -> None:
    """The log may have dropped tombstones that the store has not seen; exactly at the limit it has not."""
    write(opened(), [("rows", b"a", b"1")], 5, caught_up_ms=clock.time_ms())
    clock.advance(MAX_AGE_MS / 1000)
    store = opened()
    assert store.scan("rows") == [(b"a", b"1")]
    write(store, [], 6)  # applying records is not catching up
    store.close()
    clock.advance(0.001)
    with pytest.raises(StoreMismatch):
        opened()
    factory.wipe(3)
    assert opened().positions == {}


def test_a_restore_that_never_ended_ages_from_its_beginning(opened: Callable[[], TaskStore], clock: FakeClock) -> None:
    """Rows of an interrupted restore may have lost their tombstones as well."""
    write(opened(), [("rows", b"a", b"1")], 5, is_restoring=True)
    clock.advance(MAX_AGE_MS / 1000)
    opened()
    clock.advance(0.001)
    with pytest.raises(StoreMismatch):
        opened()


def test_wiping_leaves_nothing(opened: Callable[[], TaskStore], factory: StoreFactory) -> None:
    """After it the task begins anew; a task that has nothing can be wiped too."""
    store = opened()
    write(store, [("rows", b"a", b"1")], 5, caught_up_ms=1)
    store.close()
    factory.wipe(3)
    assert factory.tasks() == []
    factory.wipe(3)
    store = opened()
    assert (contents(store), store.positions, store.caught_up_ms) == ({"rows": [], "index": []}, {}, None)


def test_tasks_are_apart_and_listed(factory: StoreFactory) -> None:
    """Each task has rows and positions of its own."""
    assert factory.tasks() == []
    stores = {task: factory.open(task, STORES, IDENTITY) for task in (10, 2)}
    for task, store in stores.items():
        write(store, [("rows", b"task", b"%d" % task)], task)
    assert factory.tasks() == [2, 10]
    for task, store in stores.items():
        assert (store.scan("rows"), store.positions["people"]) == ([(b"task", b"%d" % task)], task)
        store.close()


def test_a_task_is_opened_once(opened: Callable[[], TaskStore], factory: StoreFactory) -> None:
    """A second opening is refused, and takes nothing from the first; it succeeds after close."""
    store = opened()
    for _ in range(2):
        with pytest.raises(StoreLocked, match="this process"):
            factory.open(3, STORES, IDENTITY)
    write(store, [("rows", b"a", b"1")], 5)
    assert opened().scan("rows") == [(b"a", b"1")]


def test_a_closed_store_says_so(opened: Callable[[], TaskStore]) -> None:
    """Closing twice is one closing; nothing is answered after it, and getters fail with what means StoreClosed."""
    store = opened()
    write(store, [("rows", b"a", b"1")], 5)
    get, batch = store.getter("rows"), store.batch()
    store.close()
    store.close()
    with pytest.raises(StoreClosed):
        store.scan("rows")
    with pytest.raises(StoreClosed):
        store.commit(batch, {"people": 6, "people-index": 6})
    with pytest.raises(Exception) as raised:
        get(b"a")
    assert isinstance(store.explain(raised.value), StoreClosed)


def test_errors_of_others_are_not_explained(opened: Callable[[], TaskStore]) -> None:
    """`explain` hands back what does not come from the store, so that no bug is taken for damage."""
    store = opened()
    for error in (KeyError("x"), RuntimeError("x"), StoreDamaged("x"), OSError(28, "full")):
        assert store.explain(error) is error


def test_counts_and_sizes_are_about_right(opened: Callable[[], TaskStore]) -> None:
    """Rows that were never overwritten count once, and take at least their bytes."""
    store = opened()
    write(store, [("rows", b"%d" % number, b"v" * 100) for number in range(1000)], 1)
    assert store.approximate_count("rows") == 1000
    assert store.approximate_count("index") == 0
    assert store.size_bytes() > 100_000


def test_readers_survive_the_closing(factory: StoreFactory) -> None:
    """Threads that read while the store is closed get rows or an error that means StoreClosed; and the store can be
    opened again at once."""
    store = factory.open(3, STORES, IDENTITY)
    for _ in range(10):
        write(store, [("rows", b"%d" % number, b"v") for number in range(3000)], 1)
        store, errors = reopen_under_readers(factory, store, readers=4)
        assert errors == [StoreClosed] * 4


def reopen_under_readers(
    factory: StoreFactory, store: TaskStore, *, readers: int
) -> tuple[TaskStore, list[type[Exception]]]:
    """Close *store* while threads get and scan, and open it again; return it, and what the threads' errors meant."""
    started = threading.Barrier(readers + 1)
    errors: list[type[Exception]] = []

    def read(is_scanning: bool) -> None:
        get = store.getter("rows")
        started.wait()
        try:
            while True:
                if is_scanning:
                    assert len(store.scan("rows")) == 3000
                else:
                    assert get(b"7") == b"v"
        except Exception as error:
            errors.append(type(store.explain(error)))

    threads = [threading.Thread(target=read, args=(number % 2 == 0,)) for number in range(readers)]
    for thread in threads:
        thread.start()
    started.wait()
    store.close()
    reopened = factory.open(3, STORES, IDENTITY)
    for thread in threads:
        thread.join(timeout=10)
    return reopened, errors


def test_rows_before_a_key_are_removed_in_one_step(opened: Callable[[], TaskStore]) -> None:
    """Also those that the same batch has put before, and not those that it puts after; for good, and in one store."""
    store = opened()
    write(store, [("rows", b"%d" % n, b"old") for n in range(9)] + [("index", b"0", b"other")], 1)
    batch = store.batch()
    batch.put("rows", b"2a", b"put before")
    batch.delete_before("rows", b"5")
    batch.put("rows", b"3", b"put after")
    store.commit(batch, {"people": 2, "people-index": 2})
    for look in (lambda: store, opened):
        each = look()
        assert [key for key, _ in each.scan("rows")] == [b"3", b"5", b"6", b"7", b"8"]
        assert (each.getter("rows")(b"2"), each.getter("rows")(b"3")) == (None, b"put after")
        assert each.scan("index") == [(b"0", b"other")]
    with pytest.raises(KeyError):
        opened().batch().delete_before("no such store", b"5")
