"""An export is the exact fold of each partition at the positions that it names, whoever writes meanwhile."""

import gzip
import io
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.backfill.exporting import (
    Exporter,
    positions_document,
    scratch_directory,
    whole_file,
    write_positions,
)
from streams.clock import SystemClock
from streams.errors import StoreLocked
from streams.stores.rocksdb import RocksStoreFactory
from tests.app.replication.world import TOPICS, World

CLOCK = SystemClock()


def export(world: World, directory: Path) -> tuple[list[bytes], dict[str, Any]]:
    """Return the lines and the positions' document."""
    stores = RocksStoreFactory(directory, cache_bytes=1 << 20, max_age_ms=None, clock=CLOCK)
    out = io.BytesIO()
    source = world.source()
    try:
        exported = Exporter(source=source, stores=stores, clock=CLOCK, progress=lambda *_: None).run(out)
    finally:
        source.close()
    document = positions_document(exported, topic=TOPICS.profiles, time="")
    assert document["profiles"] == len(out.getvalue().splitlines())
    assert document["bytes"] == len(out.getvalue())
    return out.getvalue().splitlines(), document


def fold_at(world: World, document: dict[str, Any]) -> dict[str, bytes]:
    """Return the fold of the log at the document's positions, by uid: read record by record, of the log itself."""
    offsets = {one["partition"]: one["offset"] for one in document["positions"]}
    state: dict[str, bytes] = {}
    for record in world.log.dump(TOPICS.profiles):
        if record.offset >= offsets[record.partition] or len(record.key) != 36:
            continue
        if record.value is None:
            state.pop(record.key.decode(), None)
        else:
            state[record.key.decode()] = record.value
    return state


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.log.close()


def test_every_live_profile_is_there_once_as_it_is_served(world: World, tmp_path: Path) -> None:
    """In the order of uids; deleted ones and records that are no profiles are not."""
    draw = random.Random(1)
    for _ in range(2000):
        world.step(draw)
    world.foreign(b"no uid", b"{}")
    lines, document = export(world, tmp_path)
    assert lines == [body for _, body in sorted(fold_at(world, document).items())]
    assert {line["uid"]: line for line in map(json.loads, lines)} == world.fold
    assert sum(one["offset"] for one in document["positions"]) == 2001


def test_an_empty_topic_is_an_empty_export(world: World, tmp_path: Path) -> None:
    """With positions, from which a consumer can begin."""
    lines, document = export(world, tmp_path)
    assert (lines, [one["offset"] for one in document["positions"]]) == ([], [0, 0, 0])


def test_an_export_while_others_write_is_the_fold_at_its_positions(world: World, tmp_path: Path) -> None:
    """Nothing that was there when it began is missing; what came later is there up to the positions, exactly."""
    draw = random.Random(2)
    for _ in range(500):
        world.step(draw)
    must_stop = threading.Event()

    def write() -> None:
        while not must_stop.is_set():
            world.step(draw)

    for number in range(5):
        before = len(world.log.dump(TOPICS.profiles))
        writer = threading.Thread(target=write)
        writer.start()
        try:
            lines, document = export(world, tmp_path / str(number))
        finally:
            must_stop.set()
            writer.join()
            must_stop.clear()
        assert lines == [body for _, body in sorted(fold_at(world, document).items())]
        assert sum(one["offset"] for one in document["positions"]) >= before


def test_the_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    """A failure leaves what was there before; the positions of another file never stand beside a new one."""
    path = tmp_path / "out.jsonl"
    with whole_file(path) as file:
        file.write(b"first\n")
    write_positions(path, {"of": "first"})

    def fail() -> None:
        with whole_file(path) as file:
            file.write(b"second\n")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_bytes() == b"first\n"
    with whole_file(path) as file:
        file.write(b"third\n")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.jsonl"]
    assert path.stat().st_mode & 0o077 == 0


def test_a_packed_export_depends_on_the_profiles_alone(tmp_path: Path) -> None:
    """Neither name nor time is in it."""
    for name in ("a.gz", "b.gz"):
        with whole_file(tmp_path / name) as file:
            file.write(b"{}\n" * 100)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"{}\n" * 100


def test_what_a_killed_export_left_behind_is_removed(tmp_path: Path) -> None:
    """And two exports to one file do not meet."""
    path = tmp_path / "out.jsonl"
    left = tmp_path / ".out.jsonl.export" / "fold"
    left.mkdir(parents=True)
    (left / "remains").write_text("x")
    with scratch_directory(path) as scratch:
        assert list(scratch.iterdir()) == []
        assert scratch.stat().st_mode & 0o077 == 0
        with pytest.raises(StoreLocked, match="export to"), scratch_directory(path):
            pass
    assert list(tmp_path.iterdir()) == []
