"""Nodes that fail, lag or restore: the answer is whole, names what it lacks, or is an error; it is never just short."""

import asyncio
from collections.abc import Iterator

import pytest

from streams.clock import Deadline
from streams.errors import LeaseExpired, NotOwner, Restoring, Unavailable
from streams.queries.asking import (
    ALL,
    CLUSTER,
    GET,
    LOCAL,
    PREFIX,
    STRICT,
    Answer,
    Ask,
    Freshness,
    Part,
    Refusal,
    TooStale,
)
from streams.queries.peers import PeerUnreachable
from streams.queries.reads import StoreReads
from streams.queries.refusals import error_of, refusal_of
from streams.runtime.reader import TaskReader
from tests.streams.queries.rig import CLOCK, PARTITIONS, Cluster, cluster, soon, wait_until

KEYS = [f"key-{n:02}" for n in range(40)]
EVERYTHING = Ask("last", ALL, limit=1000)


@pytest.fixture
def three() -> Iterator[Cluster]:
    """Three nodes without copies."""
    with cluster("n1", "n2", "n3") as found:
        found.feed("words", *((key, n, n) for n, key in enumerate(KEYS)))
        yield found


@pytest.fixture
def copies() -> Iterator[Cluster]:
    """Two nodes, each with a copy of what the other owns."""
    with cluster("n1", "n2", standbys=1) as found:
        found.feed("words", *((key, n, n) for n, key in enumerate(KEYS)))
        wait_until(lambda: all(node.follows(p) for node in found.nodes.values() for p in range(PARTITIONS)))
        copies = [node.replica("last", p) for node in found.nodes.values() for p in range(PARTITIONS)]
        wait_until(lambda: all(copy.staleness_ms() < 5000 for copy in copies))
        yield found


def keys_of(reads: StoreReads, question: Ask, seconds: float = 10.0, **options: object) -> list[str]:
    page = asyncio.run(reads.ask(question, soon(seconds), **options))  # type: ignore[arg-type]
    return [place.decode() for place, _ in page.rows]


def other(found: Cluster, name: str) -> str:
    """Return another node that owns something."""
    return next(one for one, node in found.nodes.items() if one != name and node.thread.owned)


def test_a_connection_that_breaks_once_changes_nothing(three: Cluster) -> None:
    """The question is put again, to whoever has the partition then."""
    reads = three.all_reads()["n1"]
    three.peers.failing = {"n2": 1, "n3": 1}
    assert keys_of(reads, EVERYTHING) == KEYS


def test_without_a_copy_of_a_dead_node_there_is_no_list(three: Cluster) -> None:
    """Unless the caller takes what there is, and then it says what is missing."""
    reads = three.all_reads()["n1"]
    dead = other(three, "n1")
    three.peers.down = {dead}
    with pytest.raises(PeerUnreachable):
        keys_of(reads, EVERYTHING, 0.5)
    page = asyncio.run(reads.ask(EVERYTHING, soon(), is_partial=True))
    assert set(page.missing) == set(three.nodes[dead].thread.owned)
    assert {part.partition for part in page.parts} | set(page.missing) == set(range(PARTITIONS))
    assert 0 < len(page.rows) < len(KEYS)


def test_a_node_that_dies_between_two_pages_ends_the_list_with_an_error(three: Cluster) -> None:
    """What came before it is not taken for the whole."""
    reads = three.all_reads()["n1"]
    first = asyncio.run(reads.ask(EVERYTHING._replace(limit=10), soon()))
    assert first.next is not None
    three.peers.down = {other(three, "n1")}
    with pytest.raises(Unavailable):
        keys_of(reads, EVERYTHING._replace(limit=10), 0.5, cursor=first.next)


def test_a_node_that_dies_while_it_is_asked_is_not_left_out(three: Cluster) -> None:
    """It breaks off each time, and is never suspected."""
    reads = three.all_reads()["n1"]
    three.peers.failing = {other(three, "n1"): 1_000_000}
    with pytest.raises(Unavailable):
        keys_of(reads, EVERYTHING, 0.5)


def test_a_copy_answers_for_a_dead_owner(copies: Cluster) -> None:
    """After a barrier: it knows all that was committed."""
    reads = copies.all_reads()["n1"]
    copies.peers.down = {"n2"}
    page = asyncio.run(reads.ask(EVERYTHING, soon()))
    assert [place.decode() for place, _ in page.rows] == KEYS
    assert {
        (part.role, part.staleness_ms) for part in page.parts if part.partition not in copies.nodes["n1"].thread.owned
    } == {("standby", 0)}
    for key in KEYS:
        assert keys_of(reads, Ask("last", GET, key=key.encode(), limit=1)) == [key]


def test_a_copy_that_is_fresh_enough_answers_at_once_and_says_how_old_it_is(copies: Cluster) -> None:
    """Nobody else is asked."""
    reads = copies.all_reads()["n1"]
    question = EVERYTHING._replace(freshness=Freshness(max_staleness_s=30))
    wait_until(lambda: keys_of(reads, question) == KEYS)
    copies.peers.calls.clear()
    for scope in ("local", "cluster"):
        page = asyncio.run(reads.ask(question, soon(), scope=scope))
        assert len(page.rows) == len(KEYS)
        owned = copies.nodes["n1"].thread.owned
        for part in page.parts:
            assert part.role == ("owner" if part.partition in owned else "standby")
            assert (part.staleness_ms == 0) == (part.partition in owned)
    assert not copies.peers.calls


def test_a_copy_that_is_too_old_is_not_shown(copies: Cluster) -> None:
    """Here alone it is an error; over the cluster the owner answers."""
    reads = copies.all_reads()["n1"]
    copies.log.is_reachable = False
    start = CLOCK.monotonic()
    wait_until(lambda: CLOCK.monotonic() - start > 0.3)
    question = EVERYTHING._replace(freshness=Freshness(max_staleness_s=0.001))
    with pytest.raises(TooStale):
        asyncio.run(reads.ask(question, soon(1), scope=LOCAL))
    page = asyncio.run(reads.ask(question, soon(3)))
    assert {part.role for part in page.parts} == {"owner"}
    copies.log.is_reachable = True


def test_a_strict_answer_rests_on_a_barrier_wherever_it_comes_from(copies: Cluster) -> None:
    """Who has a copy answers himself; while the log cannot be reached, nobody does."""
    reads = copies.all_reads()["n1"]
    question = EVERYTHING._replace(freshness=Freshness(STRICT))
    assert keys_of(reads, question) == KEYS
    assert not copies.peers.calls
    copies.log.is_reachable = False
    with pytest.raises(Unavailable):
        keys_of(reads, question, 0.5)
    copies.log.is_reachable = True


def test_an_owner_without_a_lease_takes_a_barrier(three: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers rightly, a little later."""
    reads = three.reads("n1", is_alone=True)
    (partition, *_) = three.nodes["n1"].thread.owned
    key = next(key for key in KEYS if reads.partition_of("last", key.encode()) == partition)
    node, seen = three.nodes["n1"], []
    real, real_barrier = node.reader, node.barrier

    class Late:
        def __init__(self, reader: object) -> None:
            self._reader = reader

        def __getattr__(self, name: str) -> object:
            return getattr(self._reader, name)

        def check_lease(self) -> None:
            raise LeaseExpired("it ran out", partition=partition)

    async def barrier(partitions: list[int], deadline: Deadline) -> None:
        seen.append(list(partitions))
        await real_barrier(partitions, deadline)

    monkeypatch.setattr(node, "reader", lambda store, number: Late(real(store, number)))
    monkeypatch.setattr(node, "barrier", barrier)
    assert keys_of(reads, Ask("last", GET, key=key.encode(), limit=1)) == [key]
    assert seen == [[partition]]


def test_who_restores_is_named_as_the_reason(three: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when another node restores: it says so, and by how much."""
    reads = three.all_reads()["n1"]
    there = other(three, "n1")

    def restoring(store: str, partition: int) -> object:
        raise Restoring("it restores", partition=partition, lag_records=17)

    monkeypatch.setattr(three.nodes[there], "reader", restoring)
    with pytest.raises(Restoring) as caught:
        keys_of(reads, EVERYTHING, 0.5)
    assert caught.value.lag_records == 17
    assert caught.value.partition in three.nodes[there].thread.owned


def test_a_global_table_is_answered_here_whoever_is_dead(three: Cluster) -> None:
    """Every node has it whole; of a key in two partitions the newer row counts."""
    three.feed_global("names", ("a", "Anna", 1, 0), ("b", "Berta", 5, 1), ("b", "Bea", 3, 3), ("ab", "x", 1, 2))
    three.feed_global("names", ("d", "Dan", 3, 0), ("d", "Dora", 5, 2))
    all_reads = three.all_reads()
    three.peers.down = set(three.nodes)
    for reads in all_reads.values():
        assert keys_of(reads, Ask("names", GET, key=b"a", limit=1)) == ["a"]
        assert keys_of(reads, Ask("names", GET, key=b"c", limit=1)) == []
        for key, name in ((b"b", b"Berta"), (b"d", b"Dora")):
            ((_, row),) = asyncio.run(reads.ask(Ask("names", GET, key=key, limit=1), soon())).rows
            assert row[8:] == name
        assert keys_of(reads, Ask("names", PREFIX, low=b"a", high=b"b")) == ["a", "ab"]
        page = asyncio.run(reads.ask(Ask("names", ALL, limit=3), soon()))
        rest = asyncio.run(reads.ask(Ask("names", ALL, limit=3), soon(), cursor=page.next))
        assert [place for place, _ in (*page.rows, *rest.rows)] == [b"a", b"ab", b"b", b"b", b"d", b"d"]
    assert not three.peers.calls


def test_counts_agree_over_the_cluster(three: Cluster) -> None:
    """The parts of the nodes are the whole."""
    all_reads = three.all_reads()
    whole = [asyncio.run(reads.count("last", soon())).rows for reads in all_reads.values()]
    assert whole == [len(KEYS)] * 3
    parts = [asyncio.run(reads.count("last", soon(), scope=LOCAL)).rows for reads in all_reads.values()]
    assert sum(parts) == len(KEYS)


@pytest.mark.parametrize(("store", "scope"), [("last", LOCAL), ("names", CLUSTER), ("names", LOCAL)])
def test_a_count_of_this_node_is_never_just_short(
    three: Cluster, monkeypatch: pytest.MonkeyPatch, store: str, scope: str
) -> None:
    """What it has and cannot count now is missing, or an error."""
    node = (three.global_nodes if store == "names" else three.nodes)["n1"]
    three.feed_global("names", *((f"name-{p}", "x", 1, p) for p in range(PARTITIONS)))
    reads, real = three.all_reads()["n1"], node.reader
    broken = min(node.thread.owned)

    def reader(store: str, partition: int) -> TaskReader:
        if partition == broken:
            raise Restoring("it restores", partition=partition, lag_records=17)
        return real(store, partition)

    monkeypatch.setattr(node, "reader", reader)
    with pytest.raises(Unavailable) as caught:
        asyncio.run(reads.count(store, soon(), scope=scope))
    assert caught.value.partition == broken
    if len(node.thread.owned) > 1:
        found = asyncio.run(reads.count(store, soon(), scope=scope, is_partial=True))
        assert (found.missing, found.is_exact) == ([broken], False)


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"0,1\n[]", b"0,99\n" + EVERYTHING.encode(), b"x\n" + EVERYTHING.encode()]
)
def test_a_peer_that_talks_nonsense_is_refused(three: Cluster, body: bytes) -> None:
    """Without an error that nobody expects."""
    three.all_reads()
    with pytest.raises(Unavailable):
        asyncio.run(three.peers.call("n1", "ask", body, soon()))


@pytest.mark.parametrize(
    "answer",
    [
        Answer([], None, [], []),
        Answer(
            [(b"", b""), (b"\0\xff\n", b"x" * 1000)], b"\xff", [Part(3, "n", "owner", 5)], [Refusal(1, "w", "m", 2)]
        ),
    ],
)
def test_an_answer_between_nodes_comes_back_as_it_was(answer: Answer) -> None:
    """And one that was cut off does not come back at all."""
    data = answer.encode()
    assert Answer.decode(data) == answer
    for end in range(len(data)):
        with pytest.raises(ValueError):
            Answer.decode(data[:end])


@pytest.mark.parametrize(
    "error", [Restoring("r", partition=1, lag_records=2), NotOwner("n"), TooStale("t"), Unavailable("u")]
)
def test_a_reason_survives_the_way_between_nodes(error: Unavailable) -> None:
    """It is the same error on the other side."""
    back = error_of(refusal_of(1, error))
    assert type(back) is type(error)
    assert back.partition == 1
