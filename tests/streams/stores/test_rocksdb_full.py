"""A full disk: an honest error, right reads meanwhile, and writes again once there is space (G8, G12)."""

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.stores.base import TaskStore
from tests.streams.stores import workload

#: RocksDB looks for space every 5 s, and wants a whole memtable of it.
RECOVERY_S = 30.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 MiB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def fill(store: TaskStore, *, is_restoring: bool) -> None:
    """Commit until it raises: at the WAL at once, in a restore at the flush of 4 MB."""
    for _ in range(1000):
        workload.apply(store, workload.position_of(store) + 400, is_restoring=is_restoring)


@pytest.mark.parametrize("is_restoring", [False, True])
@pytest.mark.parametrize("is_reopened", [False, True])
def test_a_full_disk_is_survived(small_disk: Path, is_restoring: bool, is_reopened: bool) -> None:
    """A commit that finds no space raises OSError and changes nothing; the next one after space was freed succeeds,
    soon, or at once after closing and opening again."""
    stores = workload.factory(small_disk)
    store = stores.open(0, workload.STORES, workload.IDENTITY)
    workload.apply(store, 3000)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - (64 << 10)))
    with pytest.raises(OSError, match="No space") as raised:
        fill(store, is_restoring=is_restoring)
    assert raised.value.errno == errno.ENOSPC
    position = workload.position_of(store)
    assert workload.read_all(store) == workload.fold(position)
    with pytest.raises(OSError, match="No space"):
        workload.apply(store, position + 400, is_restoring=is_restoring)
    assert (workload.position_of(store), workload.read_all(store)) == (position, workload.fold(position))

    ballast.unlink()
    if is_reopened:
        store.close()
        store = stores.open(0, workload.STORES, workload.IDENTITY)
        assert workload.position_of(store) <= position
        assert is_restoring or workload.position_of(store) == position
        assert workload.read_all(store) == workload.fold(workload.position_of(store))
        workload.apply(store, position + 400, is_restoring=is_restoring)
    else:
        until = time.monotonic() + RECOVERY_S
        while workload.position_of(store) == position:
            try:
                workload.apply(store, position + 400, is_restoring=is_restoring)
            except OSError:
                assert time.monotonic() < until, "no space after it was freed"
                time.sleep(0.05)  # RocksDB tells nobody when it goes on
    workload.apply(store, position + 800)
    store.close()
    store = stores.open(0, workload.STORES, workload.IDENTITY)
    assert (workload.position_of(store), workload.read_all(store)) == (position + 800, workload.fold(position + 800))
    store.close()


def test_no_space_to_open_is_no_damage(small_disk: Path) -> None:
    """A store that cannot be opened for want of space is passed on as OSError, and is whole when there is space."""
    stores = workload.factory(small_disk)
    store = stores.open(0, workload.STORES, workload.IDENTITY)
    workload.apply(store, 1000)
    store.close()
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(OSError, match="No space"):
        stores.open(0, workload.STORES, workload.IDENTITY)
    ballast.unlink()
    store = stores.open(0, workload.STORES, workload.IDENTITY)
    assert (workload.position_of(store), workload.read_all(store)) == (1000, workload.fold(1000))
    store.close()
