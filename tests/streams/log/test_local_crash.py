"""The embedded log under kill -9, and under damage of every file that it has."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from streams.errors import LogDamaged, LogError
from tests.streams.log.local_node import LocalNode, group

ROUNDS = 10
ROOT = Path(__file__).parents[3]


def test_what_was_acknowledged_survives_kill_9_and_no_group_is_half_there(tmp_path: Path) -> None:
    """Ten times a child appends and is killed at a random moment; each acknowledged group is whole, each other one
    whole or absent."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    acknowledged: set[int] = set()
    for _ in range(ROUNDS):
        acknowledged |= append_until_killed(tmp_path / "log", after_s=draw.uniform(0.02, 0.25))
        node = LocalNode(tmp_path / "log")
        try:
            found = [Counter(record.value for record in node.read(partition)) for partition in range(node.partitions)]
        finally:
            node.close()
        assert found[0] == found[1]
        numbers = {int(value.split(b"/")[0]) for value in found[0] if value is not None}
        for number in numbers:
            assert found[0][group(number, 1)[0].value] == len(group(number, 1)), f"group {number} is not whole"
        assert acknowledged <= numbers, f"lost: {sorted(acknowledged - numbers)[:5]}"
    assert len(acknowledged) > ROUNDS


def append_until_killed(directory: Path, *, after_s: float) -> set[int]:
    """Run the child, kill it so long after its first acknowledgement, and return what it acknowledged."""
    command = [sys.executable, "-m", "tests.streams.log.local_node", str(directory)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert child.stdout is not None
    first = child.stdout.readline()
    timer = threading.Timer(after_s, child.send_signal, [signal.SIGKILL])
    timer.start()
    lines = [first, *child.stdout]
    child.wait()
    timer.join()
    child.stdout.close()
    # The last line may be cut: what it would say was not said.
    return {int(line) for line in lines if line.endswith(b"\n")}


def crashed_image(directory: Path) -> None:
    """Leave a log with files and a filled WAL in *directory*, as after kill -9, without a lock."""
    source = directory.with_name("source")
    node = LocalNode(source, partitions=1)
    for number in range(60):
        node.append(*group(number, 1))
    node.log._database._records.flush()  # so that there is an SST file to damage
    for number in range(60, 120):
        node.append(*group(number, 1))
    shutil.copytree(source, directory)
    node.close()


def outcome(directory: Path) -> list[bytes | None] | LogError:
    """Return all values, or the error that says that the log is damaged."""
    try:
        node = LocalNode(directory, partitions=1)
    except LogError as error:
        return error
    try:
        return [record.value for record in node.read()]
    except LogError as error:
        return error
    finally:
        node.close()


def test_a_damaged_file_is_an_error_or_does_no_harm(tmp_path: Path) -> None:
    """Flipped bytes, cuts and losses in every kind of file: all records or LogError, never a part as if it were all."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    image = tmp_path / "image"
    crashed_image(image)
    expected = outcome(Path(shutil.copytree(image, tmp_path / "intact")))
    assert isinstance(expected, list)
    assert len(expected) > 400
    errors = 0
    files = [path.name for path in (image / "db").iterdir() if path.name != "LOCK" and not path.name.startswith("LOG")]
    for name in files:
        for damage in (flip, flip, cut, empty, remove):
            copy = Path(shutil.copytree(image, tmp_path / "copy"))
            damage(copy / "db" / name, draw)
            found = outcome(copy)
            assert isinstance(found, LogError) or found == expected, f"{damage.__name__} of {name}: a partial log"
            errors += isinstance(found, LogError)
            shutil.rmtree(copy)
    assert errors >= len(files)


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def cut(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def empty(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def remove(path: Path, draw: random.Random) -> None:
    path.unlink()


@pytest.mark.parametrize("tear", ["cut", "zeros", "noise"])
def test_a_torn_unacknowledged_batch_is_dropped(tmp_path: Path, tear: str) -> None:
    """After a power failure the last batch may be torn: all that was acknowledged before it is there, and it is not."""
    image = tmp_path / "image"
    crashed_image(image)
    wal = max((image / "db").glob("*.log"))
    expected = outcome(Path(shutil.copytree(image, tmp_path / "intact")))
    assert isinstance(expected, list)
    # The batch that was torn had not been acknowledged: the note of it is one behind.
    committed = int.from_bytes((image / "committed").read_bytes(), "big")
    (image / "committed").write_bytes((committed - 1).to_bytes(8, "big"))
    content = wal.read_bytes()
    torn = {"cut": b"", "zeros": bytes(40), "noise": bytes(range(40))}[tear]
    wal.write_bytes(content[:-40] + torn)
    last = group(119, 1)
    assert outcome(image) == expected[: -len(last)]


def test_a_batch_that_was_acknowledged_and_is_gone_is_damage(tmp_path: Path) -> None:
    """The same tear, but the batch had been acknowledged: the log refuses to open and says what to do."""
    image = tmp_path / "image"
    crashed_image(image)
    wal = max((image / "db").glob("*.log"))
    wal.write_bytes(wal.read_bytes()[:-40])
    found = outcome(image)
    assert isinstance(found, LogDamaged)
    assert "restore it from a backup" in str(found)
