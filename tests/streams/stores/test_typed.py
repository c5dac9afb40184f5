"""Typed stores over their overlay: checked against models of a few lines, with commits, discards and restarts at
random."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from streams.clock import SystemClock
from streams.errors import TopologyError
from streams.processing import TaskStoreView
from streams.processing.context import TaskMoment, TaskRecord
from streams.serdes import LONG, STRING, Windowed
from streams.stores.base import StoreIdentity
from streams.stores.membership import MembershipStore
from streams.stores.memory import MemoryStoreFactory, MemoryTaskStore
from streams.stores.overlay import OverlayStore
from streams.stores.sessions import SessionStore
from streams.stores.typed import KeyValueStore, after_prefix
from streams.stores.windows import WindowStore
from streams.topology.stores import StoreKind, StoreSpec

KEYS = ["", "a", "a\x00", "aa", "ab", "b", "é", "\U0001f600"]


class Rig:
    """An overlay over a store in memory."""

    def __init__(self) -> None:
        factory = MemoryStoreFactory(max_age_ms=None, clock=SystemClock())
        self.base: MemoryTaskStore = factory.open(0, ("s",), StoreIdentity({}, 1, 1))
        view = TaskStoreView(self.base)
        self.rows = OverlayStore("s", view.getter("s"), lambda start, stop: view.scan("s", start, stop))
        self._sealed: list[dict[bytes, bytes | None]] = []

    def seal(self) -> None:
        """Take what was written."""
        self._sealed.append(dict(self.rows.written))
        self.rows.seal()

    def release(self) -> None:
        """Put what was taken first into the store."""
        if not self._sealed:
            return
        batch = self.base.batch()
        for key, row in self._sealed.pop(0).items():
            if row is None:
                batch.delete("s", key)
            else:
                batch.put("s", key, row)
        self.base.commit(batch, {})
        self.rows.release()

    def step(self, random_: random.Random) -> None:
        """Do what a runtime might do now."""
        chance = random_.random()
        if chance < 0.1:
            self.seal()
        elif chance < 0.2:
            self.release()


@pytest.mark.parametrize("seed", range(10))
def test_a_key_value_store_is_a_sorted_dictionary(seed: int) -> None:
    """Whatever was written, wherever it is by now: get, range, prefix and their reverse see it."""
    random_, rig, model = random.Random(seed), Rig(), dict[str, int]()
    store: KeyValueStore[str, int] = KeyValueStore(StoreSpec(name="s", key=STRING, value=LONG), rig.rows, TaskRecord())
    for number in range(400):
        rig.step(random_)
        key = random_.choice(KEYS)
        if random_.random() < 0.3:
            assert store.delete(key) == model.pop(key, None), f"seed {seed}"
        else:
            store.put(key, number)
            model[key] = number
        low, high = random_.choice([None, *KEYS]), random_.choice([None, *KEYS])
        ordered = sorted(model.items(), key=lambda entry: entry[0].encode())
        within = [(k, v) for k, v in ordered if (low is None or k >= low) and (high is None or k <= high)]
        prefix = random_.choice(KEYS)
        assert list(store.range(low, high)) == within, f"seed {seed}"
        assert list(store.range(low, high, reverse=True)) == within[::-1], f"seed {seed}"
        assert list(store.prefix(prefix.encode())) == [(k, v) for k, v in ordered if k.startswith(prefix)]
        assert store.get(key) == model.get(key)
        assert store.approximate_count() == len(model)


@pytest.mark.parametrize("seed", range(10))
def test_a_window_store_is_a_dictionary_that_forgets_by_stream_time(seed: int) -> None:
    """Windows at or behind the greatest start less the retention are gone, whether they are removed yet or not."""
    random_, rig, model = random.Random(seed), Rig(), dict[tuple[str, int], int]()
    retention_ms = 150_000
    spec = StoreSpec(
        name="s", kind=StoreKind.WINDOW, key=STRING, value=LONG, retention_ms=retention_ms, window_size_ms=10
    )
    observed = TaskMoment("observed", -1)
    store: WindowStore[str, int] = WindowStore(spec, rig.rows, TaskRecord(), observed)
    greatest = -1
    for number in range(400):
        rig.step(random_)
        key, start_ms = random_.choice(KEYS), max(0, number * 1000 + random_.randint(-200_000, 5000))
        if store.put(key, number, start_ms, 7):
            model[key, start_ms] = number
        else:
            assert start_ms <= max(greatest, start_ms) - retention_ms
        greatest = max(greatest, start_ms)
        live = {place: value for place, value in model.items() if place[1] > greatest - retention_ms}
        low, high = sorted((random_.randint(0, 400_000), random_.randint(0, 400_000)))
        wanted = sorted((start, value) for (k, start), value in live.items() if k == key and low <= start <= high)
        assert list(store.fetch(key, low, high)) == wanted, f"seed {seed}"
        assert list(store.fetch(key, low, high, reverse=True)) == wanted[::-1], f"seed {seed}"
        assert store.get(key, start_ms) == live.get((key, start_ms))
        everything = {(windowed.key, windowed.start_ms): value for windowed, value, _ in store.fetch_all()}
        assert everything == live, f"seed {seed}"
        for place, _ in rig.base.scan("s", stop=store.expired_before()):
            assert int.from_bytes(place[-12:-4], "big") <= greatest - retention_ms


def test_a_store_with_duplicates_keeps_each_record_in_order() -> None:
    """Two records of one key and time are two rows, also when the first are in the state store already."""
    rig = Rig()
    spec = StoreSpec(name="s", kind=StoreKind.WINDOW, key=STRING, value=LONG, retention_ms=10, has_duplicates=True)
    store: WindowStore[str, int] = WindowStore(spec, rig.rows, TaskRecord(), TaskMoment("observed", -1))
    for number in range(5):
        store.put("k", number, 3)
        rig.seal()
        if number % 2:
            rig.release()
    store.put("k\x00\x00\x00\x00\x00\x00\x00\x00\x03", 9, 3)
    assert list(store.fetch("k", 0, 10)) == [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4)]


@pytest.mark.parametrize("seed", range(10))
def test_a_session_store_finds_what_overlaps(seed: int) -> None:
    """Sessions that end late enough and start early enough, in the order of their ends."""
    random_, rig, model = random.Random(seed), Rig(), dict[tuple[str, int, int], int]()
    retention_ms = 150_000
    spec = StoreSpec(name="s", kind=StoreKind.SESSION, key=STRING, value=LONG, retention_ms=retention_ms)
    store: SessionStore[str, int] = SessionStore(spec, rig.rows, TaskRecord(), TaskMoment("observed", -1))
    greatest = -1
    for number in range(300):
        rig.step(random_)
        key = random_.choice(KEYS)
        end_ms = max(0, number * 1000 + random_.randint(-100_000, 5000))
        start_ms = max(0, end_ms - random_.randint(0, 20_000))
        value = None if random_.random() < 0.2 else number
        greatest = max(greatest, end_ms)
        if store.put(Windowed(key, start_ms, end_ms), value):
            model[key, start_ms, end_ms] = -1 if value is None else value
        live = {k: v for k, v in model.items() if v >= 0 and k[2] > greatest - retention_ms}
        earliest, latest = random_.randint(0, 300_000), random_.randint(0, 300_000)
        found = store.find(key, earliest, latest)
        wanted = {k: v for k, v in live.items() if k[0] == key and k[2] >= earliest and k[1] <= latest}
        assert {tuple(session): value for session, value in found} == wanted, f"seed {seed}"
        assert [session.end_ms for session, _ in found] == sorted(session.end_ms for session, _ in found)
        assert {tuple(session): value for session, value, _ in store.all()} == live, f"seed {seed}"


def _members(capacity: int, error_rate_ppm: int) -> tuple[Rig, MembershipStore[str]]:
    rig = Rig()
    options = {"capacity": capacity, "error_rate_ppm": error_rate_ppm}
    spec = StoreSpec(name="s", kind=StoreKind.MEMBERSHIP, key=STRING, value=LONG, options=options)
    return rig, MembershipStore(spec, rig.rows, TaskRecord())


def test_a_membership_store_never_forgets_and_is_seldom_wrong() -> None:
    """Every key that was added is found; of others no more than twice the promised rate."""
    rig, store = _members(5000, 10_000)
    for number in range(5000):
        store.add(f"in-{number}")
        if number % 500 == 0:
            rig.seal()
            rig.release()
    assert all(f"in-{number}" in store for number in range(5000))
    wrong = sum(f"out-{number}" in store for number in range(20_000))
    assert wrong < 20_000 * 0.01 * 2


def test_adding_to_a_membership_store_writes_one_small_row() -> None:
    """Not the whole filter, as its forerunners did."""
    rig, store = _members(100_000, 10_000)
    assert store.add("key") is False
    assert store.add("key") is True
    assert [len(row or b"") for row in rig.rows.written.values()] == [8 + 64]


@pytest.mark.parametrize(("capacity", "rate"), [(0, 10_000), (10, 0), (10, 1_000_000)])
def test_a_filter_of_no_shape_is_refused(capacity: int, rate: int) -> None:
    """A capacity or a rate that cannot be."""
    with pytest.raises(TopologyError):
        _members(capacity, rate)


def test_a_loop_may_write_to_the_store_that_it_reads() -> None:
    """It sees the rows as they were when it began, however many pages they take."""
    rig = Rig()
    store: KeyValueStore[str, int] = KeyValueStore(StoreSpec(name="s", key=STRING, value=LONG), rig.rows, TaskRecord())
    for number in range(200):
        store.put(f"{number:03}", number)
        if number == 150:
            rig.seal()
            rig.release()
    seen = []
    for key, number in store.all():
        seen.append(number)
        store.delete(key)
        store.put(f"{number:03}x", number)
    assert seen == list(range(200))
    assert sum(1 for _ in store.all()) == 200


def test_what_was_released_is_read_from_the_state_store() -> None:
    """The overlay does not keep what is in the store already, or it would grow for ever."""
    rig = Rig()
    rig.rows.put(b"k", b"from the overlay")
    rig.seal()
    rig.release()
    batch = rig.base.batch()
    batch.put("s", b"k", b"from the store")
    rig.base.commit(batch, {})
    assert rig.rows.get(b"k") == b"from the store"


def test_a_row_expires_exactly_at_its_retention() -> None:
    """What lies as far behind the greatest time as the retention says is gone; a millisecond later it is there."""
    for distance_ms, is_there in ((9, True), (10, False)):
        rig = Rig()
        window = StoreSpec(name="s", kind=StoreKind.WINDOW, key=STRING, value=LONG, retention_ms=10, window_size_ms=1)
        windows: WindowStore[str, int] = WindowStore(window, rig.rows, TaskRecord(), TaskMoment("observed", -1))
        windows.put("k", 1, 100, 0)
        windows.put("other", 1, 100 + distance_ms, 0)
        assert (windows.get("k", 100) is not None) is is_there
        assert bool(list(windows.fetch("k", 0, 1000))) is is_there
        rig = Rig()
        session = StoreSpec(name="s", kind=StoreKind.SESSION, key=STRING, value=LONG, retention_ms=10)
        sessions: SessionStore[str, int] = SessionStore(session, rig.rows, TaskRecord(), TaskMoment("observed", -1))
        sessions.put(Windowed("k", 90, 100), 1)
        sessions.put(Windowed("other", 100, 100 + distance_ms), 1)
        assert (sessions.get("k", 90, 100) is not None) is is_there
        assert bool(sessions.find("k")) is is_there
        assert ("k" in {found.key for found, _, _ in sessions.all()}) is is_there


@pytest.mark.parametrize("seed", range(5))
def test_undoing_leaves_what_was_before(seed: int) -> None:
    """After `undo` the overlay is as at `mark`, its scans included."""
    random_, rig = random.Random(seed), Rig()

    def write(count: int) -> None:
        for _ in range(count):
            rig.rows.put(random_.choice(KEYS).encode(), random_.choice([None, b"x" * 8, b"y" * 9]))

    for _ in range(50):
        write(3)
        rig.step(random_)
        before = list(_scan(rig))
        rig.rows.mark()
        write(4)
        assert rig.rows.undo()
        assert list(_scan(rig)) == before, f"seed {seed}"


def _scan(rig: Rig) -> Iterator[Any]:
    return rig.rows.scan(b"", None)


@pytest.mark.parametrize(
    ("prefix", "after"), [(b"", None), (b"a", b"b"), (b"a\xff", b"b"), (b"\xff\xff", None), (b"a\x00", b"a\x01")]
)
def test_what_comes_after_a_prefix(prefix: bytes, after: bytes | None) -> None:
    """The least bytes that are greater than everything with the prefix."""
    assert after_prefix(prefix) == after
