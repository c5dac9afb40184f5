"""Comparing a sink with the log: what agrees, what differs, and what changes meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from app.replication import verify as verification
from app.replication.elasticsearch import SearchSink
from app.replication.search_client import SearchSettings
from app.replication.verify import Report, verify
from tests.app.replication.world import BAD_TIME, World
from tests.support.fake_search import FakeSearch

ALIAS = "profiles"


@pytest.fixture
def search() -> Iterator[FakeSearch]:
    with FakeSearch() as search:
        yield search
        assert search.unexpected == []


def sink_of(search: FakeSearch) -> SearchSink:
    return SearchSink(SearchSettings([search.url]), ALIAS)


def copy(world: World, search: FakeSearch) -> None:
    with closing(sink_of(search)) as sink:
        assert world.replicator(sink).run(is_once=True)


def compare(world: World, search: FakeSearch) -> Report:
    with closing(sink_of(search)) as sink, closing(world.source()) as source:
        info = source.describe()
        sink.attach(info)
        return verify(source, sink, info, clock=world.clock, tell=lambda _done, _left: None)


def test_a_whole_copy_has_no_differences(search: FakeSearch) -> None:
    """Deleted profiles count on neither side."""
    world = World()
    uids = [world.put(f"user{at}") for at in range(50)]
    world.put("again", uid=uids[0])
    world.delete(uids[1])
    copy(world, search)
    report = compare(world, search)
    assert (report.log_profiles, report.sink_profiles, report.difference_count) == (49, 49, 0)


def test_each_kind_of_difference_is_named(search: FakeSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the versions on both sides; never with content."""
    monkeypatch.setattr(verification, "PATIENCE_S", 0.1)
    world = World()
    missing, changed, deleted, refused = (
        world.put("a"),
        world.put("b"),
        world.put("c"),
        world.put("d", created_at=BAD_TIME),
    )
    copy(world, search)
    (index,) = search.indices.values()
    stray = "00000000-0000-4000-8000-000000000000"
    left_over = dict(index.docs[deleted][1])
    index.docs[stray] = (0, {**left_over, "uid": stray, "version": 4})
    index.docs[changed] = (index.docs[changed][0], {**index.docs[changed][1], "username": "else"})
    del index.docs[missing]
    world.delete(deleted)
    report = compare(world, search)
    assert report.difference_count == 5
    assert {(one.uid, one.kind, one.log_version, one.sink_version) for one in report.differences} == {
        (missing, "missing", 1, None),
        (changed, "other", 1, 1),
        (deleted, "extra", 2, 1),
        (refused, "refused", 1, 1),
        (stray, "extra", None, 4),
    }


def test_what_is_still_on_its_way_is_no_difference(search: FakeSearch) -> None:
    """The sink is a moment behind; it is looked at again."""
    world = World()
    one = world.put("a")
    copy(world, search)
    world.put("b", uid=one)
    world.put("c")
    late = threading.Timer(0.5, copy, (world, search))
    late.start()
    report = compare(world, search)
    late.join()
    assert report.difference_count == 0
