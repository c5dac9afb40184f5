"""The whole way from a log to a search server that misbehaves: afterwards its searchers find exactly the fold."""

import json
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TypeVar

import pytest

from app.replication.elasticsearch import SearchSink
from app.replication.log_source import change_of
from app.replication.ports import Batch, Position, SinkUnavailable, SinkUnusable, SourceExpired, Written
from app.replication.replicator import Replicator
from app.replication.search_client import SearchSettings
from streams.testing.clock import FakeClock
from tests.app.replication.world import BAD_TIME, TOPICS, World
from tests.support.fake_search import FakeSearch, Fault

T = TypeVar("T")

ALIAS = "profiles"
WAIT_S = 40.0
SLOW_S = 2.0


@pytest.fixture
def search() -> Iterator[FakeSearch]:
    """A server that answers slow requests after the client has given up."""
    with FakeSearch(slow_s=SLOW_S) as search:
        yield search
        assert search.unexpected == []


@pytest.fixture
def world() -> World:
    return World()


def sink_of(search: FakeSearch) -> SearchSink:
    """Return a sink with small requests, several of them under way, that has no patience with slow ones."""
    return SearchSink(SearchSettings([search.url], timeout_s=SLOW_S - 0.5), ALIAS, request_changes=7)


def copy(world: World, search: FakeSearch, **options: object) -> Replicator:
    """Copy what is there, as a process of its own would."""
    with closing(sink_of(search)) as sink:
        replicator = world.replicator(sink, **options)
        assert replicator.run(is_once=True)
        return replicator


@contextmanager
def following(world: World, search: FakeSearch) -> Iterator[Replicator]:
    """Follow the log on a thread."""
    with closing(sink_of(search)) as sink:
        replicator = world.replicator(sink)
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(replicator.run)
            try:
                yield replicator
            finally:
                replicator.stop()
                assert run.result(WAIT_S) is False, "it was stopped"


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when *condition* holds."""
    done = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError("it did not come about")


def first(*faults: Fault) -> Callable[[], Fault | None]:
    """Return what chooses *faults*, and then none any more."""
    left = list(faults)
    return lambda: left.pop(0) if left else None


def test_what_is_in_the_log_is_found(world: World, search: FakeSearch) -> None:
    """Creates, changes and deletes, in one go."""
    draw = random.Random(1)
    for _ in range(300):
        world.step(draw)
    replicator = copy(world, search)
    assert search.held(ALIAS) == world.wanted()
    assert replicator.progress.changes == 300
    assert replicator.progress.lag_records == 0


def test_a_restart_goes_on_where_it_was(world: World, search: FakeSearch) -> None:
    """Nothing is copied twice after an orderly stop; what came since is."""
    one = world.put("bob")
    copy(world, search)
    assert copy(world, search).progress.changes == 0
    world.delete(one)
    assert copy(world, search).progress.changes == 1
    assert search.held(ALIAS) == {}


def test_from_the_beginning_everything_is_copied_over_what_is_there(world: World, search: FakeSearch) -> None:
    """Newer documents stay as they are; what was lost comes back."""
    lost, kept = world.put("lost"), world.put("kept")
    copy(world, search)
    (index,) = search.indices.values()
    del index.docs[lost]
    progress = copy(world, search, is_from_beginning=True).progress
    assert (progress.applied, progress.stale) == (1, 1)
    assert search.held(ALIAS).keys() == {lost, kept}


@pytest.mark.parametrize("fault", Fault)
def test_nothing_is_lost_and_nothing_repeated_without_end(world: World, search: FakeSearch, fault: Fault) -> None:
    """Whatever a bulk request meets a few times, the changes arrive, with few more requests than there were faults."""
    draw = random.Random(2)
    for _ in range(60):
        world.step(draw)
    times = 1 if fault is Fault.SLOW else 4
    search.choose = first(*[fault] * times)
    replicator = copy(world, search)
    assert search.held(ALIAS) == world.wanted()
    assert search.faults == [fault] * times
    assert replicator.progress.retries >= 1
    assert replicator.progress.waits_for is None
    # Undisturbed: 9 requests of 7 documents or fewer, one for positions, and at most one for markers with each.
    assert search.bulks <= 2 * 9 + 1 + 4 * times
    assert search.items <= 60 * (times + 2)


def test_no_position_is_written_before_its_changes(world: World, search: FakeSearch) -> None:
    """What could not be written whole leaves no position, not even if somebody asks for it; the rest is told."""
    for at in range(20):
        world.put(f"user{at}")
    changes = [change_of(record) for record in world.log.dump(TOPICS.profiles)]
    batch = Batch(changes, {number: Position(20, "20", 1) for number in range(world.partitions)})
    with closing(sink_of(search)) as sink:
        sink.ensure(world.source().describe())
        sink.positions(frozenset(range(world.partitions)))
        search.choose = first(Fault.SOME_BUSY)
        with pytest.raises(SinkUnavailable) as caught:
            sink.write(batch)
        sink.flush()
        assert sink.positions(frozenset(range(world.partitions))) == {}
        rest = caught.value.rest
        assert rest is not None
        assert len(rest.changes) == 20 - caught.value.done.applied
        sink.write(rest)
        sink.flush()
        assert sink.positions(frozenset(range(world.partitions))) == batch.positions
    assert search.held(ALIAS) == world.wanted()


def test_a_server_that_is_away_is_waited_for(world: World, search: FakeSearch) -> None:
    """Also from the start; the progress tells why nothing happens."""
    world.put("early")
    search.down()
    with following(world, search) as replicator:
        wait_for(lambda: replicator.progress.waits_for is not None)
        assert "no connection" in str(replicator.progress.waits_for)
        search.up()
        wait_for(lambda: len(search.indices) == 1 and search.held(ALIAS) == world.wanted())
        search.down()
        world.put("late")
        wait_for(lambda: replicator.progress.waits_for is not None)
        search.up()
        wait_for(lambda: search.held(ALIAS) == world.wanted())
    assert replicator.progress.refused == 0


def test_a_stop_does_not_wait_for_a_server_that_is_away(world: World, search: FakeSearch) -> None:
    """What was in flight is read again by the next one."""
    world.put("one")
    search.choose = lambda: Fault.FULL
    with following(world, search) as replicator:
        wait_for(lambda: replicator.progress.waits_for is not None)
    search.choose = lambda: None
    copy(world, search)
    assert search.held(ALIAS) == world.wanted()


def test_a_batch_that_is_too_large_is_divided(world: World, search: FakeSearch) -> None:
    """Down to one document; one that is too large alone is set aside, and the others arrive."""
    for at in range(20):
        world.put(f"user{at}")
    huge = world.put("x" * 3_000)
    search.limit_bytes = 1_500
    progress = copy(world, search).progress
    assert search.held(ALIAS) == {uid: one for uid, one in world.fold.items() if uid != huge}
    assert progress.refused == 1


def test_one_bad_document_stops_nobody_and_is_listed(world: World, search: FakeSearch) -> None:
    """It is set aside once, however often it is read; when it is corrected, it is found."""
    bad = world.put("bad", created_at=BAD_TIME)
    good = world.put("good")
    assert copy(world, search).progress.refused == 1
    assert copy(world, search, is_from_beginning=True).progress.refused == 0
    assert search.held(ALIAS).keys() == {good}
    with closing(sink_of(search)) as sink:
        sink.attach()
        assert [one.uid for one in sink.refused(10)] == [bad]
    world.put("good again", uid=bad)
    copy(world, search)
    assert search.held(ALIAS).keys() == {good, bad}


def test_a_record_that_is_no_profile_is_counted_and_changes_nothing(world: World, search: FakeSearch) -> None:
    """The service quarantines it and goes on with the state of before; so does the replicator."""
    one = world.put("bob")
    world.foreign(one.encode(), b"no json")
    world.foreign(b"no uid", b"{}")
    progress = copy(world, search).progress
    assert progress.skipped == 2
    assert search.held(ALIAS) == world.wanted()


def test_records_of_a_foreign_producer_count_as_they_do_in_the_service(world: World, search: FakeSearch) -> None:
    """A tombstone without headers deletes; a state that repeats a version is the newer one all the same."""
    one, two = world.put("one"), world.put("two")
    world.foreign(one.encode(), None)
    again = {**world.fold[two], "username": "changed"}
    world.foreign(two.encode(), json.dumps(again).encode())
    copy(world, search)
    assert search.held(ALIAS) == {two: again}
    world.foreign(one.encode(), json.dumps(world.fold[one]).encode())
    copy(world, search)
    assert search.held(ALIAS).keys() == {one, two}


def test_two_that_copy_the_same_do_no_harm(world: World, search: FakeSearch) -> None:
    """As after a rebalance that one of them has not heard of."""
    draw = random.Random(3)
    with following(world, search), following(world, search):
        for _ in range(300):
            world.step(draw)
        wait_for(lambda: len(search.indices) == 1 and search.held(ALIAS) == world.wanted())


class Killed(Exception):
    """The process is gone."""


class Mortal:
    """A sink whose process is killed before or after some request."""

    def __init__(self, sink: SearchSink, draw: random.Random) -> None:
        self._sink = sink
        self._draw = draw
        self.ensure, self.close, self.positions = sink.ensure, sink.close, sink.positions

    def write(self, batch: Batch) -> Written:
        return self._perhaps(lambda: self._sink.write(batch))

    def flush(self) -> None:
        self._perhaps(self._sink.flush)

    def _perhaps(self, action: Callable[[], T]) -> T:
        if self._draw.random() < 0.15:
            raise Killed
        try:
            return action()
        finally:
            if self._draw.random() < 0.15:
                raise Killed


@pytest.mark.parametrize("run", range(6))
def test_any_history_of_faults_and_deaths_ends_with_the_fold(search: FakeSearch, run: int) -> None:
    """Random changes, while requests fail in every way and the replicator dies between any two steps: afterwards the
    searchers find the fold of the log, document by document, and the refused ones are listed."""
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(10**6))) + run
    print(f"seed {seed}: CHAOS_SEED={seed - run}")
    draw = random.Random(seed)
    world = World(partitions=draw.randint(1, 4))
    # Slow requests cost their time, so there are few of them.
    faults = [fault for fault in Fault if fault is not Fault.SLOW for _ in range(20)] + [Fault.SLOW]
    died = Counter[str]()
    for _ in range(8):
        for _ in range(draw.randint(1, 80)):
            world.step(draw)
        chance = draw.choice([0.0, 0.2, 0.5])
        chooser = random.Random(draw.random())
        search.choose = lambda chance=chance, chooser=chooser: (
            chooser.choice(faults) if chooser.random() < chance else None
        )
        with closing(sink_of(search)) as sink:
            try:
                world.replicator(Mortal(sink, draw)).run(is_once=True)  # type: ignore[arg-type]
            except Killed:
                died["killed"] += 1
            except SinkUnavailable:
                died["unavailable"] += 1
    search.choose = lambda: None
    copy(world, search)
    assert search.held(ALIAS) == world.wanted()
    with closing(sink_of(search)) as sink:
        sink.attach()
        assert {one.uid for one in sink.refused(1_000)} == world.refused()


def test_a_rebuild_leaves_no_gap(world: World, search: FakeSearch) -> None:
    """Whoever searches meanwhile finds what was there; the follower of the same name goes on with the new index."""
    uids = {world.put(f"user{at}") for at in range(200)}
    with following(world, search) as follower:
        wait_for(lambda: len(search.indices) == 1 and search.held(ALIAS) == world.wanted())
        is_over = threading.Event()
        seen: list[int] = []

        def look() -> None:
            while not is_over.is_set():
                seen.append(len(uids & search.held(ALIAS).keys()))

        searcher = threading.Thread(target=look)
        searcher.start()
        with closing(sink_of(search)) as sink:
            assert world.replicator(sink).rebuild(sink)
        late = world.put("late")
        wait_for(lambda: late in search.held(ALIAS))
        is_over.set()
        searcher.join()
        assert set(seen) == {200}
        assert list(search.indices) == [f"{ALIAS}-000002"]
        assert follower.progress.waits_for is None
    assert search.held(ALIAS) == world.wanted()


def test_a_rebuild_that_was_stopped_is_gone_on_with(world: World, search: FakeSearch) -> None:
    """Searchers have the old index meanwhile."""
    for at in range(100):
        world.put(f"user{at}")
    copy(world, search)
    search.choose = lambda: Fault.FULL if search.bulks > 20 else None
    begin_and_stop(world, search, is_rebuild=True)
    assert sorted(search.indices) == [f"{ALIAS}-000001", f"{ALIAS}-000002"]
    assert search.held(ALIAS) == world.wanted()
    search.choose = lambda: None
    with closing(sink_of(search)) as sink:
        assert world.replicator(sink).rebuild(sink)
    assert list(search.indices) == [f"{ALIAS}-000002"]
    assert search.held(ALIAS) == world.wanted()


def test_a_rebuild_forgets_what_is_not_in_the_log(world: World, search: FakeSearch) -> None:
    """Tombstones, and whatever somebody else put there."""
    gone = world.put("gone")
    world.put("stays")
    copy(world, search)
    world.delete(gone)
    copy(world, search)
    search.indices[f"{ALIAS}-000001"].docs["stray"] = (1, {"uid": "stray", "version": 1})
    with closing(sink_of(search)) as sink:
        assert world.replicator(sink).rebuild(sink)
    assert search.held(ALIAS) == world.wanted()


def test_a_sink_that_was_away_for_too_long_is_refused(search: FakeSearch) -> None:
    """The log may have lost deletes by then. The message says what to do."""
    clock = FakeClock()
    world = World(clock=clock)
    world.put("bob")
    copy(world, search)
    clock.advance(35 * 3600)
    world.put("eve")
    copy(world, search)
    clock.advance(37 * 3600)
    with pytest.raises(SourceExpired, match="--rebuild"):
        copy(world, search)
    with closing(sink_of(search)) as sink:
        assert world.replicator(sink).rebuild(sink)
    assert search.held(ALIAS) == world.wanted()


def begin_and_stop(world: World, search: FakeSearch, *, is_rebuild: bool) -> None:
    """Let a replicator begin, and stop it while it waits for the server."""
    with closing(sink_of(search)) as sink:
        replicator = world.replicator(sink)
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(lambda: replicator.rebuild(sink) if is_rebuild else replicator.run())
            wait_for(lambda: replicator.progress.waits_for is not None)
            replicator.stop()
            assert run.result(WAIT_S) is False


def test_what_was_begun_too_long_ago_is_not_gone_on_with(search: FakeSearch) -> None:
    """Also if no position was reached: a profile may have been copied, and its delete forgotten by the log since. Not
    by copying from the beginning either; a rebuild that was begun then is begun anew."""
    clock = FakeClock()
    world = World(clock=clock)
    world.put("bob")
    search.choose = lambda: Fault.BUSY if search.bulks > 1 else None
    begin_and_stop(world, search, is_rebuild=False)
    search.bulks = 0
    begin_and_stop(world, search, is_rebuild=True)
    search.choose = lambda: None
    clock.advance(37 * 3600)
    for options in ({}, {"is_from_beginning": True}):
        with pytest.raises(SourceExpired, match="--rebuild"):
            copy(world, search, **options)
    assert sorted(search.indices) == [f"{ALIAS}-000001", f"{ALIAS}-000002"]
    with closing(sink_of(search)) as sink:
        assert world.replicator(sink).rebuild(sink)
    assert search.held(ALIAS) == world.wanted()
    assert len(search.indices) == 1


def test_another_topic_is_refused(world: World, search: FakeSearch) -> None:
    """Its offsets mean nothing in this index."""
    world.put("bob")
    copy(world, search)
    with pytest.raises(SinkUnusable, match="another topic"):
        copy(World(), search)


def test_positions_beyond_the_log_are_refused(world: World, search: FakeSearch) -> None:
    """The log lost its end: the sink may have what never was."""
    world.put("bob")
    copy(world, search)
    with closing(sink_of(search)) as sink:
        sink.ensure(world.source().describe())
        sink.positions(frozenset({0}))
        sink.write(Batch((), {0: Position(999, "999", world.clock.time_ms())}))
        sink.flush()
    with pytest.raises(SourceExpired, match="--rebuild"):
        copy(world, search)


def test_an_index_that_somebody_removed_is_filled_again(world: World, search: FakeSearch) -> None:
    """A follower notices at the next change, and begins at the beginning."""
    for at in range(50):
        world.put(f"user{at}")
    with following(world, search):
        wait_for(lambda: len(search.indices) == 1 and search.held(ALIAS) == world.wanted())
        search.answer("DELETE", f"/{ALIAS}-000001", b"")
        world.put("next")
        wait_for(lambda: len(search.indices) == 1 and search.held(ALIAS) == world.wanted())
