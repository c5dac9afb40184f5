"""The watched directory, before the topology that keeps how far each file was taken: every line counts once."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from examples.weblog import topology as t
from examples.weblog.files import CHUNK_BYTES, FilePosition, Line, lines_from
from examples.weblog.watcher import DirectoryWatcher
from streams.errors import LogUnavailable, OutcomeUnknown, Restoring
from streams.testing import TopologyTestDriver

LINE = '{host} - - [28/Aug/1995:00:00:34 -0400] "GET /{number} HTTP/1.0" 200 1\n'


class Site:
    """A directory, the topology, and a watcher that can be started anew. What is sent is processed when `process` is
    called, or at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.driver = TopologyTestDriver(t.weblog())
        self.waiting: list[tuple[str, Line]] = []
        self.is_slow = False
        self.on_question: Callable[[str], None] = lambda _file_id: None
        self.fail: Callable[[list[tuple[str, Line]]], None] = lambda _lines: None
        self.restart()

    def restart(self) -> None:
        self.watcher = DirectoryWatcher(
            self.directory, pattern="*", source="here", position_of=self.position_of, send=self.send
        )

    async def position_of(self, file_id: str) -> FilePosition | None:
        self.on_question(file_id)
        found: FilePosition | None = self.driver.store(t.FILE_POSITIONS).get(file_id)
        return found

    async def send(self, file_id: str, lines: Sequence[Line]) -> None:
        batch = [(file_id, line) for line in lines]
        self.fail(batch)
        self.waiting += batch
        if not self.is_slow:
            self.process()

    def process(self) -> None:
        for file_id, line in self.waiting:
            place = b"%d-%d" % (line.begin, line.end)
            self.driver.pipe_bytes(t.LINES, file_id.encode(), line.data, 0, headers=((t.PLACE, place),))
        self.waiting = []

    def look(self) -> None:
        """Look until nothing is new. Raises the first failure."""

        async def until_nothing_is_new() -> None:
            sent, failures = 1, {}
            while sent and not failures:
                sent, failures = await self.watcher.look()
            for error in failures.values():
                raise error

        asyncio.run(until_nothing_is_new())

    def write(self, name: str, *hosts: str, mode: str = "a") -> None:
        with (self.directory / name).open(mode) as file:
            file.writelines(LINE.format(host=host, number=random.random()) for host in hosts)

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.driver.store(t.ACCESS_COUNT).all())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    with found.driver:
        yield found


def test_what_is_appended_is_sent_and_a_touched_file_is_not_sent_again(site: Site) -> None:
    """The original sent the whole file anew whenever it was touched."""
    site.write("a.log", "x", "y")
    site.look()
    os.utime(site.directory / "a.log", (1, 1))
    site.look()
    assert site.counts == {"x": 1, "y": 1}
    site.write("a.log", "x")
    site.look()
    assert site.counts == {"x": 2, "y": 1}


def test_a_line_is_sent_when_its_end_is_there(site: Site) -> None:
    """A writer may be in the midst of it, or in the midst of the first one."""
    path = site.directory / "a.log"
    text = LINE.format(host="x", number=1) * 2
    for end in (10, len(text) // 2 + 10, len(text)):
        path.write_text(text[:end])
        site.look()
    assert site.counts == {"x": 2}
    assert site.driver.read_bytes(t.ERRORS) == []


def test_a_new_watcher_goes_on_where_the_topology_is(site: Site) -> None:
    """Also when it died with lines under way that were not processed yet, and when all state was lost."""
    site.write("a.log", *"xyz")
    site.look()
    site.is_slow = True
    site.write("a.log", *"xy")
    site.look()
    site.restart()
    site.write("a.log", *"x")
    site.look()
    site.process()
    site.driver.restore()
    site.restart()
    site.look()
    site.process()
    assert site.counts == {"x": 3, "y": 2, "z": 1}


def test_a_file_that_is_moved_is_the_same_file(site: Site) -> None:
    """Rotation: the old one gets another name and its last lines, a new one begins under the old name."""
    site.write("access.log", *"xy")
    site.look()
    site.write("access.log", "z")
    (site.directory / "access.log").rename(site.directory / "access.log.1")
    site.write("access.log", "new")
    site.look()
    site.restart()
    site.look()
    assert site.counts == {"x": 1, "y": 1, "z": 1, "new": 1}


def test_a_file_that_comes_back_is_the_same_file(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Although the watcher has forgotten it, and before the topology has taken all of it."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    site.write("a.log", *"xy")
    site.look()
    site.is_slow = True
    site.write("a.log", "z")
    site.look()
    (site.directory / "a.log").rename(elsewhere / "a.log")
    site.look()
    (elsewhere / "a.log").rename(site.directory / "b.log")
    site.write("b.log", "more")
    site.look()
    site.process()
    site.look()
    assert site.counts == {"x": 1, "y": 1, "z": 1, "more": 1}


def test_a_file_that_is_moved_while_it_is_looked_at_is_the_same_file(site: Site) -> None:
    """Its path leads to another file by then, or it has two names for a moment (here: for good)."""
    site.write("access.log", *"xy")
    site.look()
    site.restart()

    def rotate(_file_id: str) -> None:
        site.on_question = lambda _file_id: None
        (site.directory / "access.log").rename(site.directory / "access.log.1")
        site.write("access.log", *"abc")

    site.write("access.log", "z")
    site.on_question = rotate
    site.look()
    os.link(site.directory / "access.log", site.directory / "another.log")
    site.look()
    site.restart()
    site.look()
    assert site.counts == dict.fromkeys("abcxyz", 1)


def test_a_file_that_is_written_anew_is_another_file(site: Site) -> None:
    """Cut off and begun again, shorter or longer than it was, with the same first line or another."""
    first = LINE.format(host="first", number=0)
    path = site.directory / "a.log"
    path.write_text(first)
    site.write("a.log", "x")
    site.look()
    path.write_text(first)
    site.look()
    site.write("a.log", "y", "z")
    site.look()
    site.restart()
    site.look()
    path.write_text("")
    site.look()
    site.write("a.log", *"wwwwww")
    site.look()
    assert site.counts == {"first": 2, "x": 1, "y": 1, "z": 1, "w": 6}


def test_files_that_begin_alike_are_all_read(site: Site) -> None:
    """And are told apart after a restart, whatever their names are then."""
    first = LINE.format(host="balancer", number=0)
    for name in "abc":
        (site.directory / name).write_text(first)
        site.write(name, name)
    site.look()
    (site.directory / "a").rename(site.directory / "z")
    (site.directory / "b").unlink()
    site.restart()
    site.write("c", "more")
    site.look()
    assert site.counts == {"balancer": 3, "a": 1, "b": 1, "c": 1, "more": 1}


def test_a_file_that_fails_keeps_no_other_from_its_turn(site: Site) -> None:
    """One whose place nobody can tell now, for instance."""
    for name in "abc":
        site.write(name, name)

    def fail(file_id: str) -> None:
        site.on_question = lambda _file_id: None
        raise Restoring("not now", partition=0, lag_records=1)

    site.on_question = fail
    sent, failures = asyncio.run(site.watcher.look())
    assert (sent, [path.name for path in failures]) == (2, ["a"])
    assert site.counts == {"b": 1, "c": 1}
    site.look()
    assert site.counts == {"a": 1, "b": 1, "c": 1}


def test_a_copy_is_another_file(site: Site) -> None:
    """As long as both are there: each goes its own way, and no line of either is lost."""
    site.write("a", *"xy")
    site.look()
    (site.directory / "b").write_bytes((site.directory / "a").read_bytes())
    site.look()
    assert site.counts == {"x": 2, "y": 2}
    site.write("a", "more")
    site.write("b", "other")
    site.look()
    assert site.counts == {"x": 2, "y": 2, "more": 1, "other": 1}


@pytest.mark.parametrize("is_lost", [True, False], ids=["lost", "written"])
def test_lines_whose_sending_failed_are_sent_again(site: Site, is_lost: bool) -> None:
    """Whether the log has none of them, a part, or all."""

    def fail(batch: list[tuple[str, Line]]) -> None:
        site.fail = lambda _batch: None
        if is_lost:
            raise LogUnavailable("nobody is there")
        site.waiting += batch[::2]
        site.process()
        raise OutcomeUnknown("the answer did not come")

    site.write("a.log", *"wxyz")
    site.fail = fail
    with pytest.raises((LogUnavailable, OutcomeUnknown)):
        site.look()
    site.look()
    assert site.counts == dict.fromkeys("wxyz", 1)


def test_two_who_watch_one_directory_count_nothing_twice(site: Site) -> None:
    """Whoever is ahead; nor does anything wait for the one who is gone."""
    first = site.watcher
    site.restart()
    second = site.watcher
    site.is_slow = True
    site.write("a.log", *"xyz")
    for watcher in (first, second, second):
        site.watcher = watcher
        site.look()
        site.write("a.log", "x")
    assert len(site.waiting) == 3 + 4 + 1
    site.process()
    site.watcher = first
    site.look()
    site.process()
    assert site.counts == {"x": 4, "y": 1, "z": 1}


def test_what_is_too_long_for_a_line_is_cut_and_goes_apart(site: Site) -> None:
    """It takes bounded memory, the lines behind it are read, and it is not read again after a restart."""
    path = site.directory / "a.log"
    path.write_bytes(b"x" * (CHUNK_BYTES * 2 + 5) + b"\n" + LINE.format(host="x", number=1).encode())
    site.look()
    with path.open("rb") as file:
        assert max(len(line.data) for line in lines_from(file, 0)) == CHUNK_BYTES
    assert site.counts == {"x": 1}
    assert len(site.driver.read_bytes(t.ERRORS)) == 3
    site.restart()
    os.utime(path, (1, 1))
    site.look()
    assert site.counts == {"x": 1}


def test_many_looks_at_what_many_do_count_each_line_once(site: Site) -> None:
    """Random writing, moving, touching, restarting and failing; the seed is in the failure's message."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    written: Counter[str] = Counter()
    names: list[str] = []

    def fail(batch: list[tuple[str, Line]]) -> None:
        if chance.random() < 0.2:
            site.waiting += batch[: chance.randrange(len(batch) + 1)]
            raise OutcomeUnknown("perhaps")

    site.fail = fail
    for step in range(300):
        action = chance.choice(["write", "write", "new", "move", "touch", "restart", "slow", "look", "look", "look"])
        if action == "new" or not names:
            names.append(f"file-{step}")
        name = chance.choice(names)
        if action in ("write", "new"):
            hosts = [chance.choice("abcdef") for _ in range(chance.randint(1, 5))]
            site.write(name, *hosts)
            written.update(hosts)
        elif action == "move" and (site.directory / name).exists():
            names.append(f"moved-{step}")
            (site.directory / name).rename(site.directory / names[-1])
            names.remove(name)
        elif action == "touch" and (site.directory / name).exists():
            os.utime(site.directory / name, (step, step))
        elif action == "restart":
            site.restart()
        elif action == "slow":
            site.is_slow = not site.is_slow
            site.process()
        else:
            try:
                site.look()
            except OutcomeUnknown:
                continue
    site.fail, site.is_slow = lambda _batch: None, False
    site.process()
    site.look()
    assert site.counts == written, f"seed {seed}"
