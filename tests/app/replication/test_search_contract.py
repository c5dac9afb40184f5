"""What the sink promises, on a small server of ours and on the real ones: the same tests, so that the first can stand
for the others where faults are to be had."""

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from app.replication.elasticsearch import SearchSink
from app.replication.ports import Batch, Change, Position, Refused, SinkMoved, SinkUnusable, SourceInfo
from app.replication.search_client import SearchSettings
from tests.search.conftest import SERVERS, NewServer
from tests.search.conftest import new_server as new_server  # the fixture
from tests.support.fake_search import FakeSearch
from tests.support.search_server import DISTRIBUTIONS

pytestmark = pytest.mark.timeout(300)

SOURCE = SourceInfo("1122334455667788", 2)
ALL = frozenset({0, 1})
NOTHING = Batch((), {})


@pytest.fixture(
    scope="module",
    params=["fake", *(pytest.param(one.values[0], marks=[*one.marks, pytest.mark.search]) for one in SERVERS)],
)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that serves all tests of the file."""
    if request.param == "fake":
        with FakeSearch() as search:
            yield search.url
            assert search.unexpected == []
        return
    assert request.param in DISTRIBUTIONS
    new: NewServer = request.getfixturevalue("new_server")
    server = new(request.param)
    yield server.url
    server.close()


class Place:
    """An alias of one test, and sinks that write to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.alias = f"t{uuid.uuid4().hex[:10]}"
        self.sinks: list[SearchSink] = []

    def sink(self) -> SearchSink:
        """Return a new sink, as another process would have it."""
        sink = SearchSink(SearchSettings([self.url]), self.alias)
        self.sinks.append(sink)
        return sink

    def opened(self) -> SearchSink:
        """Return a new sink that is ready to be written to."""
        sink = self.sink()
        sink.ensure(SOURCE)
        sink.positions(ALL)
        return sink

    def sink_positions(self) -> dict[int, Position]:
        """Return the positions that a new process finds."""
        sink = self.sink()
        sink.ensure(SOURCE)
        return dict(sink.positions(ALL))

    def request(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}/{path}", data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    def found(self) -> dict[str, Any]:
        """Return what searchers find now, by id."""
        self.request("POST", f"{self.alias}/_refresh")
        hits = self.request("POST", f"{self.alias}/_search", {"size": 1000})["hits"]["hits"]
        return {hit["_id"]: hit["_source"] for hit in hits}

    def indices(self) -> list[str]:
        return sorted(self.request("GET", f"{self.alias}-*/_mapping"))


@pytest.fixture
def place(url: str) -> Iterator[Place]:
    place = Place(url)
    yield place
    for sink in place.sinks:
        sink.close()


def profile(uid: str, version: int, **members: object) -> bytes:
    document = {"uid": uid, "username": "bob", "email": "bob@mail.com", "version": version, **members}
    return json.dumps(document, separators=(",", ":")).encode()


def state(uid: str, offset: int, version: int = 1, **members: object) -> Change:
    return Change(0, offset, uid, version, profile(uid, version, **members))


def delete(uid: str, offset: int, version: int = 2) -> Change:
    return Change(0, offset, uid, version, None)


def batch(*changes: Change) -> Batch:
    return Batch(changes, {0: Position(changes[-1].offset + 1, "token", 1)})


def uid() -> str:
    return str(uuid.uuid4())


def test_a_profile_is_found_as_it_is(place: Place) -> None:
    """Searchers get the document of the service, and nothing else."""
    one = uid()
    sink = place.opened()
    assert sink.write(batch(state(one, 0, created_at="2026-01-31T23:59:59.999Z"))).applied == 1
    sink.flush()
    assert place.found() == {one: json.loads(profile(one, 1, created_at="2026-01-31T23:59:59.999Z"))}


def test_an_older_change_never_replaces_a_newer_one(place: Place) -> None:
    """Whatever comes late, comes again, or comes from somebody else: the greatest offset stays."""
    one = uid()
    sink, other = place.opened(), place.opened()
    sink.write(batch(state(one, 5, 2, username="new")))
    assert other.write(batch(state(one, 3, 1, username="old"))).stale == 1
    assert sink.write(batch(state(one, 5, 2, username="new"))).stale == 1
    assert place.found()[one]["username"] == "new"


def test_a_deleted_profile_never_comes_back(place: Place) -> None:
    """The delete outlives the memory of the server for deletes: it is a document."""
    one = uid()
    sink = place.opened()
    (index,) = place.indices()
    place.request("PUT", f"{index}/_settings", {"index": {"gc_deletes": "0ms"}})
    sink.write(batch(state(one, 0)))
    sink.write(batch(delete(one, 1)))
    assert place.found() == {}
    assert sink.write(batch(state(one, 0))).stale == 1
    assert place.found() == {}


def test_a_restored_profile_comes_back_although_its_version_is_older(place: Place) -> None:
    """What counts is the place in the log: an import may restore a version that was there before the delete."""
    one = uid()
    sink = place.opened()
    sink.write(batch(state(one, 0, 7), delete(one, 1, 8)))
    sink.write(batch(state(one, 2, 3)))
    assert place.found()[one]["version"] == 3


def test_the_last_of_several_changes_in_a_batch_counts(place: Place) -> None:
    """A batch may hold a whole life."""
    one, two = uid(), uid()
    place.opened().write(batch(state(one, 0), delete(one, 1), state(two, 2), state(two, 3, 2, username="last")))
    assert {key: found["username"] for key, found in place.found().items()} == {two: "last"}


def test_what_is_refused_is_set_aside_and_the_rest_goes_on(place: Place) -> None:
    """The reason is listed without the content; an older state is not found any more; a good one takes its place."""
    good, bad = uid(), uid()
    sink = place.opened()
    sink.write(batch(state(bad, 0)))
    written = sink.write(batch(state(bad, 1, 2, created_at="secret"), state(good, 2)))
    assert (written.applied, [one.uid for one in written.refused]) == (1, [bad])
    assert place.found().keys() == {good}
    (listed,) = sink.refused(10)
    assert (listed.uid, listed.version) == (bad, 2)
    assert "created_at" in listed.reason
    assert "secret" not in listed.reason
    assert sink.write(batch(state(bad, 1, 2, created_at="secret"))).refused == []
    sink.write(batch(state(bad, 3, 3)))
    assert sink.refused(10) == []
    assert place.found().keys() == {good, bad}


def test_a_term_that_is_too_long_is_refused(place: Place) -> None:
    """Lucene takes 32,766 bytes."""
    one = uid()
    written = place.opened().write(batch(state(one, 0, email="x" * 40_000)))
    assert [refused.uid for refused in written.refused] == [one]
    assert "field email" in written.refused[0].reason


def test_a_profile_cannot_pass_for_a_document_of_ours(place: Place) -> None:
    """A foreign producer may write any member."""
    one = uid()
    forged = state(one, 0, replication={"kind": "position", "order": 9, "token": "9", "as_of_ms": 9})
    sink = place.opened()
    assert [refused.uid for refused in sink.write(batch(forged)).refused] == [one]
    assert place.found() == {}


def test_any_json_that_is_a_profile_is_taken(place: Place) -> None:
    """Somebody else's record may be written on several lines."""
    one = uid()
    body = json.dumps(json.loads(profile(one, 1)), indent=2).encode()
    place.opened().write(batch(Change(0, 0, one, 1, body)))
    assert place.found() == {one: json.loads(body)}


def test_positions_are_kept_beside_the_data_and_never_go_back(place: Place) -> None:
    """A new process finds them; one that was paused cannot set them back."""
    sink, late = place.opened(), place.opened()
    sink.write(Batch((), {0: Position(7, "seven", 70), 1: Position(3, "three", 30)}))
    assert place.sink_positions() == {}, "not before the flush"
    sink.flush()
    late.write(Batch((), {0: Position(4, "four", 40)}))
    late.flush()
    assert place.sink_positions() == {0: Position(7, "seven", 70), 1: Position(3, "three", 30)}
    sink.write(Batch((), {0: Position(7, "seven", 99)}))
    sink.flush()
    assert place.sink_positions()[0].as_of_ms == 99
    assert place.found() == {}


def test_an_index_that_was_set_back_is_noticed(place: Place) -> None:
    """Restored from a snapshot, the index has older positions, or none: whoever writes to it has to go back to them."""
    sink = place.opened()
    sink.write(Batch((), {0: Position(7, "seven", 70), 1: Position(3, "three", 30)}))
    sink.flush()
    (index,) = place.indices()
    place.request("DELETE", f"{index}/_doc/position-0")
    sink.write(Batch((), {0: Position(8, "eight", 80)}))
    with pytest.raises(SinkMoved, match="set back"):
        sink.flush()
    assert sink.positions(ALL) == {1: Position(3, "three", 30)}


def test_an_index_that_was_removed_is_noticed(place: Place) -> None:
    """Also when there is one of the same name again."""
    sink = place.opened()
    (index,) = place.indices()
    place.request("DELETE", index)
    place.opened()
    assert place.indices() == [index]
    for action in (lambda: sink.write(batch(state(uid(), 8))), lambda: sink.positions(ALL)):
        with pytest.raises(SinkMoved):
            action()
    sink.ensure(SOURCE)
    assert sink.positions(ALL) == {}
    assert place.found() == {}


def test_two_that_begin_at_the_same_time_make_one_index(place: Place) -> None:
    """Whoever is slower takes what is there."""
    first, second = place.opened(), place.opened()
    first.write(batch(state(uid(), 0)))
    second.write(batch(state(uid(), 1)))
    assert len(place.indices()) == 1
    assert len(place.found()) == 2


def test_searchers_can_never_have_two_indices(place: Place) -> None:
    """One who began when there was none, and was paused until there was one, cannot add his."""
    place.opened()
    body = {"settings": {"index": {}}, "mappings": {}, "aliases": {place.alias: {"is_write_index": True}}}
    assert place.request("PUT", f"{place.alias}-000009", body) in (400, 500)
    assert place.indices() == [f"{place.alias}-000001"]


def test_an_index_of_somebody_else_is_refused(place: Place) -> None:
    """Neither its data nor its name is ours to take."""
    place.request("PUT", place.alias, {"settings": {"index": {}}, "mappings": {}})
    for action in (place.sink().ensure, place.sink().begin_rebuild):
        with pytest.raises(SinkUnusable, match="choose another name"):
            action(SOURCE)
    with pytest.raises(SinkUnusable):
        place.sink().attach()


def test_an_alias_of_somebody_else_is_refused(place: Place) -> None:
    """The same, when it is an alias."""
    place.request("PUT", f"{place.alias}-x", {"settings": {"index": {}}, "mappings": {}, "aliases": {place.alias: {}}})
    with pytest.raises(SinkUnusable, match="did not make"):
        place.sink().ensure(SOURCE)


def test_another_topic_is_refused(place: Place) -> None:
    """Its offsets say nothing about what is there. A rebuild is the way."""
    place.opened()
    for action in (place.sink().ensure, place.sink().attach):
        with pytest.raises(SinkUnusable, match="--rebuild"):
            action(SourceInfo("another", 2))


def test_questions_make_nothing(place: Place) -> None:
    """Who only asks leaves no index behind."""
    with pytest.raises(SinkUnusable, match="nothing was copied"):
        place.sink().attach(SOURCE)
    assert place.indices() == []


def test_everything_that_is_held_can_be_read(place: Place) -> None:
    """In pages, each uid once, deletes and refusals too."""
    sink = place.opened()
    uids = [uid() for _ in range(2_500)]
    sink.write(batch(*(state(one, at) for at, one in enumerate(uids))))
    sink.write(batch(delete(uids[0], 3_000), state(uids[1], 3_001, 2, created_at="?")))
    sink.flush()
    held = {one.uid: one for one in sink.scan()}
    assert held.keys() == set(uids)
    assert held[uids[0]].body is None
    assert (held[uids[1]].body, bool(held[uids[1]].reason)) == (None, True)
    assert json.loads(held[uids[2]].body or b"") == json.loads(profile(uids[2], 1))
    assert sink.look_up([*uids[:3], uid()]) == {one: held[one] for one in uids[:3]}
    assert sink.look_up([]) == {}


def test_a_rebuild_changes_places_in_one_step(place: Place) -> None:
    """Searchers see the old index until the new one is whole; then the old one is gone, tombstones and all."""
    gone, stays = uid(), uid()
    sink = place.opened()
    sink.write(batch(state(gone, 0), delete(gone, 1), state(stays, 2, username="old")))
    sink.flush()
    builder = place.sink()
    builder.begin_rebuild(SourceInfo("another", 2))
    assert builder.positions(ALL) == {}
    builder.write(batch(state(stays, 0, username="new")))
    builder.flush()
    assert place.found()[stays]["username"] == "old"
    builder.finish_rebuild()
    assert place.found()[stays]["username"] == "new"
    assert len(place.indices()) == 1
    builder.finish_rebuild()
    builder.ensure(SourceInfo("another", 2))
    assert builder.positions(ALL)[0].order == 1


def test_an_interrupted_rebuild_is_gone_on_with(place: Place) -> None:
    """The half index has positions of its own; one that was begun from another topic is begun anew."""
    place.opened()
    first = place.sink()
    first.begin_rebuild(SOURCE)
    first.write(batch(state(uid(), 4)))
    first.flush()
    second = place.sink()
    second.begin_rebuild(SOURCE)
    assert second.positions(ALL)[0].order == 5
    third = place.sink()
    third.begin_rebuild(SourceInfo("another", 2))
    assert third.positions(ALL) == {}
    with pytest.raises(SinkMoved):
        second.write(batch(state(uid(), 5)))


def test_a_late_write_reaches_neither_the_old_index_nor_the_new_one(place: Place) -> None:
    """A replicator that was paused over a rebuild: what it has in its hands would bring a deleted profile back, since
    the tombstones went with the old index. It is told that everything moved, and goes on from the new positions."""
    gone = uid()
    paused = place.opened()
    paused.write(batch(state(uid(), 0)))
    builder = place.sink()
    builder.begin_rebuild(SOURCE)
    builder.write(Batch((), {0: Position(9, "nine", 9)}))
    builder.flush()
    builder.finish_rebuild()
    with pytest.raises(SinkMoved):
        paused.write(batch(state(gone, 3)))
    with pytest.raises(SinkMoved):
        paused.flush()
    assert place.found() == {}
    assert len(place.indices()) == 1
    paused.ensure(SOURCE)
    assert paused.positions(ALL) == {0: Position(9, "nine", 9)}


def test_a_large_batch_takes_several_requests(place: Place) -> None:
    """Each is bounded in documents and bytes."""
    sink = place.opened()
    uids = [uid() for _ in range(3_000)]
    assert sink.write(batch(*(state(one, at, note="x" * 3_000) for at, one in enumerate(uids)))).applied == 3_000
    with closing(place.sink()) as other:
        other.attach(SOURCE)
        assert sum(1 for _ in other.scan()) == 3_000


def test_refusals_are_listed_up_to_a_limit(place: Place) -> None:
    """So that a million of them can be looked at."""
    sink = place.opened()
    sink.write(batch(*(state(uid(), at, created_at="?") for at in range(5))))
    listed = sink.refused(3)
    assert len(listed) == 3
    assert all(isinstance(one, Refused) for one in listed)
