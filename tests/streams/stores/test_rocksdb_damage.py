"""Damage of the files of a store: a right answer or a refusal, never a wrong or a partial answer (G8)."""

import os
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from streams.errors import StoreDamaged, StoreMismatch
from streams.stores.base import TaskStore
from tests.streams.stores import workload
from tests.streams.stores.test_rocksdb_crash import SEED, copy_open_store

IMAGES = int(os.environ.get("TEST_IMAGES", "50"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """State directories of tasks 0 and 1: one closed, one as a crash of a serving node leaves it, one of a restore."""
    root = tmp_path_factory.mktemp("images")
    stores = [workload.factory(root / "live").open(task, workload.STORES, workload.IDENTITY) for task in (0, 1)]
    found = []
    for name, is_restoring in (("restore", True), ("serving", False)):
        for store in stores:
            for step in range(6):
                start = workload.position_of(store)
                workload.apply(store, start + 700, is_restoring=True)
                workload.apply(store, start + 1000 + step, is_restoring=is_restoring)  # flushes when not restoring
        for task in (0, 1):
            copy_open_store(root / "live" / "tasks" / str(task), root / name / "tasks" / str(task))
        found.append(root / name)
    for store in stores:
        store.close()
    return [*found, root / "live"]


def test_a_damaged_image_is_never_answered_wrongly(images: list[Path], tmp_path: Path) -> None:
    """Each image is opened after one damage: its rows are those of the position that it claims, or it is refused."""
    print(f"TEST_SEED={SEED}")
    seen: Counter[str] = Counter()
    for number in range(IMAGES):
        chance = random.Random(SEED + number)
        state_dir = tmp_path / str(number)
        shutil.copytree(images[number % len(images)], state_dir)
        done = damage(state_dir / "tasks" / "0", chance)
        print(f"image {number}: {done}")
        seen[judge(state_dir)] += 1
        shutil.rmtree(state_dir)
    print(seen)
    assert seen["refused"] > IMAGES // 10
    assert seen["right"] > IMAGES // 10


def test_a_manifest_that_lost_its_end_is_never_answered_wrongly(images: list[Path], tmp_path: Path) -> None:
    """RocksDB takes a MANIFEST that ends between two of its records for whole: the store is one of the past then, or
    lacks files, but its rows and its position are of one moment."""
    (manifest,) = (images[-1] / "tasks" / "0").glob("MANIFEST-*")
    data = manifest.read_bytes()
    end, answer = 0, ""
    while end <= len(data):
        state_dir = tmp_path / str(end)
        shutil.copytree(images[-1], state_dir)
        (state_dir / "tasks" / "0" / manifest.name).write_bytes(data[:end])
        answer = judge(state_dir)
        shutil.rmtree(state_dir)
        end += 7 + int.from_bytes(data[end + 4 : end + 6], "little")  # a record: checksum 4, length 2, type 1
    assert answer == "right", "the whole manifest"


def judge(state_dir: Path) -> str:
    """Open and read everything; fail on a wrong answer. A refused store can be wiped and made anew."""
    factory = workload.factory(state_dir)
    try:
        store = factory.open(0, workload.STORES, workload.IDENTITY)
        try:
            expected = workload.fold(workload.position_of(store))
            check_gets(store, expected)
            check_scans(store, expected)
            return "right"
        finally:
            store.close()
    except (StoreDamaged, StoreMismatch):
        factory.wipe(0)
        store = factory.open(0, workload.STORES, workload.IDENTITY)
        assert (workload.position_of(store), workload.read_all(store)) == (0, workload.fold(0))
        store.close()
        return "refused"


def check_scans(store: TaskStore, expected: workload.Rows) -> None:
    """Scan in pieces and as a whole: a damaged block must not end one early."""
    for name in workload.STORES:
        rows = sorted(expected[name].items())
        for start in range(0, len(rows), 40):
            assert store.scan(name, start=rows[start][0], limit=40) == rows[start : start + 40]
        assert store.scan(name) == rows


def check_gets(store: TaskStore, expected: workload.Rows) -> None:
    """Get every key of the log. The getter's error must mean damage."""
    get = store.getter("rows")
    for key in workload.KEYS:
        try:
            value = get(key)
        except Exception as error:
            raise store.explain(error) from error
        assert value == expected["rows"].get(key)


def damage(directory: Path, chance: random.Random) -> str:
    """Do one thing to one file, preferring those that matter; return what was done."""
    kind = chance.choice([".sst", ".sst", ".log", ".log", "MANIFEST", "CURRENT", ""])
    files = sorted(path for path in directory.iterdir() if path.name != "LOCK" and kind in path.name)
    path = chance.choice(files or sorted(directory.iterdir()))
    data = path.read_bytes()
    act = chance.choice(["flip", "flip", "flip", "zero", "cut", "cut", "delete", "empty", "append", "swap"])
    place = chance.randrange(max(1, len(data)))
    if act == "flip":
        path.write_bytes(
            data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :] if data else b"x"
        )
    elif act == "zero":
        path.write_bytes(data[:place] + bytes(min(512, len(data) - place)) + data[place + 512 :])
    elif act == "cut":
        path.write_bytes(data[:place])
    elif act == "delete":
        path.unlink()
    elif act == "empty":
        path.write_bytes(b"")
    elif act == "append":
        path.write_bytes(data + chance.randbytes(100))
    else:
        other = chance.choice(files or [path])
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
    return f"{act} {path.name} at {place} of {len(data)}"


def test_a_damaged_block_ends_no_scan_early(images: list[Path], tmp_path: Path) -> None:
    """rocksdict's iterators end at a damaged block as if there were no more rows; a scan raises."""
    state_dir = tmp_path / "state"
    shutil.copytree(images[-1], state_dir)
    directory = state_dir / "tasks" / "0"
    store = workload.factory(state_dir).open(0, workload.STORES, workload.IDENTITY)
    for path in directory.glob("*.sst"):  # below an open store: opening has read the index, not the rows
        with path.open("r+b") as file:
            for place in range(0, path.stat().st_size * 3 // 4, 1000):
                file.seek(place)
                file.write(b"\xff\xff")
    with pytest.raises(StoreDamaged):
        store.scan("rows")
    with pytest.raises(StoreDamaged):
        check_gets(store, workload.fold(workload.position_of(store)))
    store.close()


@pytest.mark.parametrize("act", ["swap", "other log"])
def test_directories_of_others_are_refused(images: list[Path], tmp_path: Path, act: str) -> None:
    """Directories of two tasks that were exchanged, and that of another log, are sound and still not ours."""
    state_dir = tmp_path / "state"
    shutil.copytree(images[-1], state_dir)
    identity = workload.IDENTITY
    if act == "swap":
        (state_dir / "tasks" / "0").rename(state_dir / "tasks" / "x")
        (state_dir / "tasks" / "1").rename(state_dir / "tasks" / "0")
        (state_dir / "tasks" / "x").rename(state_dir / "tasks" / "1")
    else:
        identity = replace(identity, topic_ids={workload.TOPIC: "topic-2"})
    for task in (0, 1):
        with pytest.raises(StoreMismatch):
            workload.factory(state_dir).open(task, workload.STORES, identity)


@pytest.mark.parametrize("is_older_log_lost", [False, True])
def test_a_hole_below_the_position_is_found(tmp_path: Path, is_older_log_lost: bool) -> None:
    """RocksDB replays a WAL although what came before it is gone, as a power failure during a flush can leave it."""
    directory, copies = tmp_path / "live" / "tasks" / "0", tmp_path / "copy" / "tasks"
    store = workload.factory(tmp_path / "live").open(0, workload.STORES, workload.IDENTITY)
    workload.apply(store, 100)
    copy_open_store(directory, copies / "0")
    workload.apply(store, 150, is_restoring=True)
    workload.apply(store, 200)  # after a flush, so in the next log
    copy_open_store(directory, copies / "later")
    store.close()
    (older,), (newer,) = (copies / "0").glob("*.log"), (copies / "later").glob("*.log")
    assert newer.name > older.name
    assert newer.stat().st_size > 0
    newer.rename(copies / "0" / newer.name)
    if is_older_log_lost:
        older.unlink()
    with pytest.raises(StoreDamaged):
        workload.factory(tmp_path / "copy").open(0, workload.STORES, workload.IDENTITY)


def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """What lies in it would be believed."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    (tmp_path / "tasks").mkdir()
    os.chown(tmp_path / "tasks", 12345, 12345)
    with pytest.raises(PermissionError):
        workload.factory(tmp_path).open(0, workload.STORES, workload.IDENTITY)


def test_a_store_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Rows are personal data, whatever the umask."""
    (tmp_path / "tasks").mkdir(mode=0o755)
    workload.factory(tmp_path).open(0, workload.STORES, workload.IDENTITY).close()
    for directory in (tmp_path / "tasks", tmp_path / "tasks" / "0"):
        assert directory.stat().st_mode & 0o777 == 0o700
