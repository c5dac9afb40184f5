"""Compaction of the embedded log: what stays, what goes and when, and that it can stop anywhere."""

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.errors import LogUnavailable, OffsetOutOfRange
from streams.log.local.cleaner import Cleaner, rest_after
from streams.log.local.format import Cleaning
from streams.records import ProducerRecord, TopicPartition
from streams.testing import FakeClock
from tests.streams.log.local_node import COMPACTED, LocalNode

AT = TopicPartition("t", 0)
DELETE_RETENTION_MS = 10_000
CONFIG = {**COMPACTED, "delete.retention.ms": str(DELETE_RETENTION_MS)}


class StoppedError(Exception):
    """The model's crash between two steps of the cleaner."""


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 4), st.one_of(st.none(), st.integers(0, 99))),
        st.tuples(st.just("clean"), st.integers(1, 6), st.none()),
        st.tuples(st.just("advance"), st.integers(0, 15), st.none()),
        st.tuples(st.just("reopen"), st.just(0), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps)
def test_cleaning_never_changes_the_fold(steps: list[tuple[str, int, int | None]]) -> None:
    """Whatever is appended, cleaned for some steps and opened again: the fold equals the model's, offsets stay, the
    end stays, and after a whole cleaning each key has one record, and no old tombstone is left."""
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.log.local.cleaner._STEP_RECORDS", 2)
        patch.setattr("streams.log.local.cleaner._INTERVAL_S", 1e6)
        patch.setattr("streams.log.local.cleaner._REST", 0.0)
        clock = FakeClock()
        node = LocalNode(Path(directory), clock=clock, config=CONFIG, partitions=1)
        model: dict[bytes | None, bytes] = {}
        written: list[tuple[int, bytes, bytes | None]] = []
        for what, number, value in steps:
            if what == "put":
                key, row = b"%d" % number, None if value is None else b"%d" % value
                end = node.put(key, row)
                assert end == len(written) + 1
                written.append((end - 1, key, row))
                if row is None:
                    model.pop(key, None)
                else:
                    model[key] = row
            elif what == "clean":
                clean_some(node, number)
            elif what == "advance":
                clock.advance(float(number))
            else:
                node.close()
                node = LocalNode(Path(directory), clock=clock, config=CONFIG, partitions=1)
            assert node.end() == len(written)
            assert node.fold() == model
            assert {(r.offset, r.key, r.value) for r in node.read()} <= set(written)
        clock.advance(1 + DELETE_RETENTION_MS / 1000)
        node.log.clean()
        assert node.end() == len(written)
        records = node.read()
        assert {record.key: record.value for record in records} == model
        assert len(records) == len(model)
        assert node.log.gauges()["log_records"] == len(model)
        node.close()


def clean_some(node: LocalNode, count: int) -> None:
    """Clean, but stop after so many steps, as a crash would."""
    commit = Cleaner._commit
    left = count

    def counted(*arguments: object) -> None:
        nonlocal left
        if left == 0:
            raise StoppedError
        left -= 1
        commit(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cleaner, "_commit", counted)
        with contextlib.suppress(StoppedError):
            node.log.clean()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_a_tombstone_stays_for_its_retention(tmp_path: Path, clock: FakeClock) -> None:
    """Until delete.retention.ms after it was written, then key and value are gone and the end is as before."""
    node = LocalNode(tmp_path / "log", clock=clock, config=CONFIG)
    node.put(b"k", b"v")
    node.put(b"k", None)
    clock.advance(DELETE_RETENTION_MS / 1000 - 0.001)
    node.log.clean()
    assert [(record.offset, record.value) for record in node.read()] == [(1, None)]
    clock.advance(0.001)
    node.log.clean()
    assert node.read() == []
    node.close()
    node = LocalNode(tmp_path / "log", clock=clock, config=CONFIG)
    assert node.end() == 2
    assert node.put(b"k", b"new") == 3
    node.close()


def test_a_deleted_record_leaves_the_files(tmp_path: Path, clock: FakeClock) -> None:
    """After the retention no file of the directory holds a byte of key or value."""
    node = LocalNode(tmp_path / "log", clock=clock, config=CONFIG)
    key, value = b"canary-of-the-key-7391", b"canary-of-the-value-2846"
    node.put(key, value)
    node.put(b"other", b"stays")
    node.put(key, None)
    clock.advance(DELETE_RETENTION_MS / 1000)
    node.log.clean()
    node.close()
    contents = b"".join(path.read_bytes() for path in (tmp_path / "log").rglob("*") if path.is_file())
    assert b"stays" in contents
    assert key not in contents
    assert value not in contents


def test_young_records_are_not_touched_and_a_lagging_reader_keeps_them_longer(tmp_path: Path, clock: FakeClock) -> None:
    """One second for what every reader has passed; min.compaction.lag.ms for what one has yet to read."""
    node = LocalNode(tmp_path / "log", clock=clock, config={**CONFIG, "min.compaction.lag.ms": "60000"})
    for value in (b"1", b"2", b"3"):
        node.put(b"k", value)
    node.log.clean()
    assert [record.value for record in node.read()] == [b"1", b"2", b"3"]
    reader = node.log.open_reader()
    reader.assign({AT: 1})
    clock.advance(59.0)
    node.log.clean()
    assert [record.value for record in node.read()] == [b"1", b"2", b"3"]
    reader.close()
    node.log.clean()
    assert [record.value for record in node.read()] == [b"3"]
    node.close()


def test_the_cleaner_leaves_the_machine_to_a_restore_but_not_for_ever(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a reader is far behind nothing is cleaned in the background; after ten minutes it is all the same."""
    monkeypatch.setattr("streams.log.local.cleaner._FAR_BEHIND_RECORDS", 10)
    monkeypatch.setattr("streams.log.local.cleaner._MINIMUM_DIRTY", 1)
    node = LocalNode(tmp_path / "log", clock=clock, config=CONFIG)
    reader = node.log.open_reader()
    reader.assign({AT: 0})
    for i in range(10):
        node.put(b"k", b"%d" % i)
    node.log._cleaner.clean(is_forced=False)
    assert node.log.gauges()["log_records"] == 10
    clock.advance(600.0)
    node.log._cleaner.clean(is_forced=False)
    assert node.log.gauges()["log_records"] == 1
    node.close()


def test_retention_removes_old_records_and_says_so_to_a_store_that_missed_it(tmp_path: Path, clock: FakeClock) -> None:
    """`compact,delete`: what is older than retention.ms goes; 0 is still the beginning, a position between is not."""
    config = {**CONFIG, "cleanup.policy": "compact,delete", "retention.ms": "5000"}
    node = LocalNode(tmp_path / "log", clock=clock, config=config)
    for i in range(5):
        node.put(b"k%d" % i, b"old")
    node.log.clean()
    clock.advance(5.001)
    node.put(b"k9", b"new")
    node.log.clean()
    assert [(record.offset, record.value) for record in node.read()] == [(5, b"new")]
    reader = node.log.open_reader()
    reader.assign({AT: 3})
    with pytest.raises(OffsetOutOfRange):
        reader.poll(0)
    node.close()


def test_a_record_of_long_ago_can_be_read_before_it_goes(tmp_path: Path, clock: FakeClock) -> None:
    """Age is looked at every five minutes, as a broker does: not in the moment after the append."""
    config = {"cleanup.policy": "delete", "retention.ms": "5000"}
    node = LocalNode(tmp_path / "log", clock=clock, config=config)
    node.put(b"k", b"old")
    clock.advance(299.0)
    node.log._cleaner.clean(is_forced=False)
    assert [record.value for record in node.read()] == [b"old"]
    clock.advance(1.0)
    node.log._cleaner.clean(is_forced=False)
    assert node.read() == []
    node.put(b"k", b"of long ago")
    clock.advance(6.0)
    node.log._cleaner.clean(is_forced=False)
    assert [record.value for record in node.read()] == [b"of long ago"]
    node.close()


def test_the_disk_holds_a_small_multiple_of_the_live_data(tmp_path: Path) -> None:
    """100,000 updates of 100 keys: when the cleaner has caught up, less than 1 MB, and all keys right."""
    node = LocalNode(tmp_path / "log", config={**CONFIG, "min.compaction.lag.ms": "600000"}, partitions=1)
    for number in range(500):
        node.append(*(ProducerRecord("t", 0, b"%d" % (i % 100), b"%d" % number + b"x" * 200) for i in range(200)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.log.local.cleaner._LOCAL_LAG_MS", 0)
        node.log.clean()
    assert node.fold() == {b"%d" % key: b"499" + b"x" * 200 for key in range(100)}
    assert node.log.gauges()["log_records"] == 100
    assert node.log.gauges()["log_size_bytes"] < 1_000_000
    node.close()


@pytest.mark.parametrize(
    ("dirty", "live", "rest"),
    [(0, 0, 4.0), (100_000, 0, 4.0), (400_000, 0, 1.0), (4_000_000, 1_000, 0.1), (900_000, 1_000_000, 4.0)],
)
def test_a_cleaner_that_is_far_behind_rests_less(dirty: int, live: int, rest: float) -> None:
    """Beyond 100,000 dirty records, or as many as are live, the rest shrinks as the backlog grows: so a steady writer
    meets a bound on disk."""
    assert rest_after(Cleaning(cleaned=7, live=live, start=0, end=7), 7 + dirty) == pytest.approx(rest)


def test_the_cleaner_goes_on_after_a_refusal_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One failed write of the cleaner harms neither the fold nor later appends."""
    node = LocalNode(tmp_path / "log", config=CONFIG, partitions=1)
    for i in range(20):
        node.put(b"%d" % (i % 3), b"%d" % i)
    expected = node.fold()
    original = type(node.log._database).sync

    def failing(database: object) -> None:
        monkeypatch.setattr(type(node.log._database), "sync", original)
        raise LogUnavailable("IO error: injected")

    monkeypatch.setattr(type(node.log._database), "sync", failing)
    with pytest.raises(Exception, match="injected"):
        node.log.clean()
    node.fence()
    node.log.clean()
    assert node.fold() == expected
    assert len(node.read()) == 3
    node.put(b"9", b"on")
    node.close()
