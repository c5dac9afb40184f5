"""What the embedded log promises beyond the contract: lock, directory, and what it does when the disk refuses."""

import itertools
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.clock import SystemClock
from streams.errors import Fenced, LogDamaged, LogError, LogLocked, LogUnavailable, OutcomeUnknown
from streams.lockfile import DirectoryLock
from streams.log.local import LocalLog
from streams.log.local.database import Batch, Database
from streams.records import ProducerRecord, TopicPartition
from tests.streams.log.local_node import COMPACTED, LocalNode

AT = TopicPartition("t", 0)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[LocalNode]:
    opened = LocalNode(tmp_path / "log")
    yield opened
    opened.close()


def test_a_second_start_is_told_who_holds_the_log(tmp_path: Path) -> None:
    """The message names the process and its note; when the holder is gone, the log opens."""
    log = LocalLog(tmp_path / "log", clock=SystemClock(), note="http://127.0.0.1:8080")
    with pytest.raises(LogLocked, match=rf"process {os.getpid()} since .*http://127.0.0.1:8080"):
        LocalLog(tmp_path / "log", clock=SystemClock())
    log.close()
    LocalLog(tmp_path / "log", clock=SystemClock()).close()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    """Also when that process was killed and its file still names it."""
    program = (
        "import os, sys, pathlib; from streams.lockfile import DirectoryLock;"
        "DirectoryLock(pathlib.Path(sys.argv[1]), 'x').acquire(); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[3]
    child = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=root, check=False)
    assert child.returncode == -9
    lock = DirectoryLock(tmp_path, "mine")
    holder = lock.holder()
    assert holder is not None
    assert holder.pid != os.getpid()
    lock.acquire()
    holder = DirectoryLock(tmp_path).holder()
    assert holder is not None
    assert (holder.pid, holder.note) == (os.getpid(), "mine")
    lock.release()


def test_the_directory_is_private(tmp_path: Path) -> None:
    """Also when it was there before with other rights: records are personal data."""
    (tmp_path / "log").mkdir(mode=0o755)
    node = LocalNode(tmp_path / "log")
    for directory in (tmp_path / "log", tmp_path / "log" / "db"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    node.close()


def test_a_log_of_a_newer_format_is_refused(node: LocalNode, tmp_path: Path) -> None:
    """An older release must not read what it does not know."""
    batch = Batch()
    batch.put("meta", b"format", b"2")
    node.log._appender.commit(batch)
    node.close()
    with pytest.raises(LogDamaged, match="format"):
        LocalLog(tmp_path / "log", clock=SystemClock())


def test_a_record_without_a_key_is_kept_as_such(node: LocalNode) -> None:
    """None is not the empty key; an own quarantine has to see it."""
    node.put(None, b"v")
    node.put(b"", b"v")
    assert [record.key for record in node.read()] == [None, b""]


def test_threads_that_append_together_lose_nothing_and_share_syncs(node: LocalNode) -> None:
    """Each group is whole and in one piece; there are fewer syncs than groups."""
    syncs = []
    sync = node.log._database.sync

    def counted() -> None:
        syncs.append(1)
        sync()

    node.log._database.sync = counted  # type: ignore[method-assign]
    barrier = threading.Barrier(8)

    def work(thread: int) -> None:
        barrier.wait()
        for i in range(25):
            node.append(*(ProducerRecord("t", 0, b"k", b"%d-%d" % (thread, i)) for _ in range(3)))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    values = [record.value for record in node.read()]
    assert len(values) == 600
    assert all(values[i] == values[i + 1] == values[i + 2] for i in range(0, 600, 3))
    assert len(set(values)) == 200
    assert len(syncs) < 200


def test_records_come_from_memory_as_they_come_from_disk(node: LocalNode) -> None:
    """A reader that follows gets equal records to one that starts later, from wherever it follows."""
    reader = node.log.open_reader()
    reader.assign({AT: 0})
    followed = []
    for i in range(50):
        node.append(*(ProducerRecord("t", 0, b"%d" % j, b"%d" % i, (("h", b"x" * j),)) for j in range(1 + i % 4)))
        if i % 3 == 0:
            followed += [record for batch in reader.poll(0) for record in batch.records]
    followed += [record for batch in reader.poll(0) for record in batch.records]
    node.log._partitions[AT].forget_tail(node.end())
    assert node.read() == followed


class Disk:
    """Makes the database's next write or sync fail, as a bad disk does. Its own call may have worked or not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def fail(self, name: str, *, is_done: bool) -> None:
        original: Callable[..., None] = getattr(Database, name)

        def failing(database: Database, *arguments: object) -> None:
            self._monkeypatch.setattr(Database, name, original)
            if is_done:
                original(database, *arguments)
            raise LogUnavailable("IO error: injected")

        self._monkeypatch.setattr(Database, name, failing)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_after_a_failed_sync_nothing_is_appended_until_the_fence_has_looked(node: LocalNode, disk: Disk) -> None:
    """The outcome is unknown and not visible; reads go on; the fence opens the files anew and finds the true end."""
    node.put(b"k", b"before")
    disk.fail("sync", is_done=False)
    with pytest.raises(OutcomeUnknown):
        node.put(b"k", b"in doubt")
    assert [record.value for record in node.read()] == [b"before"]
    with pytest.raises(LogUnavailable):
        node.put(b"k", b"too early")
    assert node.log.gauges()["log_is_writable"] == 0.0
    barrier = node.fence()
    found = [record.value for record in node.read()]
    assert found == [b"before", b"in doubt"]  # it was written, and opening anew made it durable
    assert barrier[AT] == len(found)
    node.put(b"k", b"after")
    assert [record.value for record in node.read()] == [*found, b"after"]


@pytest.mark.parametrize("is_done", [False, True], ids=["absent", "on disk"])
def test_what_was_reported_as_not_appended_never_appears(tmp_path: Path, disk: Disk, *, is_done: bool) -> None:
    """A write failed, whether or not its bytes reached the disk: the group never appears."""
    node = LocalNode(tmp_path / "log")
    node.put(b"k", b"before")
    disk.fail("write", is_done=is_done)
    with pytest.raises(LogUnavailable):
        node.append(ProducerRecord("t", 0, b"k", b"no"), ProducerRecord("t", 1, b"k", b"no"))
    assert [record.value for record in node.read()] == [b"before"]
    node.fence()
    node.put(b"k", b"after")
    node.close()
    node = LocalNode(tmp_path / "log")
    assert [record.value for record in node.read()] == [b"before", b"after"]
    assert node.read(partition=1) == []
    node.close()


def test_a_reader_waits_while_the_files_are_opened_anew(node: LocalNode) -> None:
    """`poll` promises never to raise LogUnavailable."""
    node.put(b"k", b"v")
    node.log._partitions[AT].forget_tail(node.end())
    reader = node.log.open_reader()
    reader.assign({AT: 0})
    node.log._database._close()
    assert reader.poll(0.1) == []
    node.log._database._open()
    assert [record.value for batch in reader.poll(1.0) for record in batch.records] == [b"v"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB in memory."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(mounted)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small file system cannot be mounted without root")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def test_a_full_disk_refuses_writes_and_is_survived_without_a_restart(small_disk: Path) -> None:
    """All that was acknowledged is there, reads go on, what was refused never comes, and writes work again by
    themselves when there is room."""
    node = LocalNode(small_disk / "log", config={**COMPACTED, "min.compaction.lag.ms": "86400000"})
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(22 << 20))
    acknowledged: list[int] = []

    def fill() -> None:
        for number in itertools.count():
            value = number.to_bytes(8, "big") + os.urandom(8_000)
            node.append(*(ProducerRecord("t", 0, b"%d-%d" % (number, i), value) for i in range(20)))
            acknowledged.extend([number] * 20)

    with pytest.raises(LogError) as caught:
        fill()
    assert type(caught.value) is LogUnavailable
    for _ in range(3):
        with pytest.raises(LogUnavailable):
            node.put(b"k", b"\xff" * 8)
    assert numbers(node) == acknowledged
    ballast.unlink()
    writable = threading.Event()

    def try_again() -> None:
        while not writable.wait(0.1):
            try:
                node.put(b"last", (2**40).to_bytes(8, "big"))
                writable.set()
            except LogUnavailable:
                continue

    thread = threading.Thread(target=try_again, daemon=True)
    thread.start()
    assert writable.wait(10.0), "no write within 10 s of there being room"
    thread.join()
    assert numbers(node) == [*acknowledged, 2**40]
    node.close()
    node = LocalNode(small_disk / "log")
    assert numbers(node) == [*acknowledged, 2**40]
    node.close()


def numbers(node: LocalNode) -> list[int]:
    return [int.from_bytes((record.value or b"")[:8], "big") for record in node.read()]


def test_a_second_writer_takes_over_with_its_fence_and_not_before(node: LocalNode) -> None:
    """Opening one changes nothing; fencing refuses the first from then on."""
    second = node.log.open_writer(["t"], node.membership)
    node.put(b"k", b"first")
    second.fence(node.ownership, node.soon()).result(0)
    with pytest.raises(Fenced):
        node.put(b"k", b"zombie")
