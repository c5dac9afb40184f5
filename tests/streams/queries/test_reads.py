"""Every kind of question to every kind of store answers what the store itself would, on one node and over three."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.errors import Restoring
from streams.queries import rows
from streams.queries.asking import ALL, GET, LOCAL, PREFIX, RANGE, SESSION, WINDOW, Ask, BadCursor, NotHere, WrongQuery
from streams.queries.reads import RawPage, StoreReads
from streams.queries.text import python_entry
from streams.stores.typed import after_prefix
from tests.streams.queries.rig import MINUTE, PARTITIONS, Cluster, cluster, soon

KEYS = [
    "",
    "a",
    "aa",
    "a/b",
    "a%2Fb",
    "all",
    "b",
    "c+d",
    "e f",
    "ü",
    "日本",
    "z" * 300,
    *(f"key-{n}" for n in range(40)),
]


@pytest.fixture(scope="module")
def three() -> Iterator[tuple[Cluster, dict[str, StoreReads]]]:
    """Three nodes with the same random words."""
    with cluster("n1", "n2", "n3") as found:
        draw = random.Random(7)
        now = 0
        for _ in range(40):
            records = []
            for _ in range(20):
                now += draw.randrange(2000)
                late = draw.choice([0, 0, 0, 30_000, 90_000])
                records.append((draw.choice(KEYS), draw.randrange(-5, 1000), max(0, now - late)))
            found.feed("words", *records)
        yield found, found.all_reads()


def ask(reads: StoreReads, question: Ask, **options: Any) -> RawPage:
    return asyncio.run(reads.ask(question, soon(), **options))


def pages(reads: StoreReads, question: Ask, **options: Any) -> list[Any]:
    """Return all entries, page by page."""

    async def walk() -> list[Any]:
        found, cursor = [], None
        while True:
            page = await reads.ask(question, soon(), cursor=cursor, **options)
            assert len(page.rows) <= question.limit
            found += [python_entry(reads.spec(question.store), *row) for row in page.rows]
            cursor = page.next
            if cursor is None:
                return found

    return asyncio.run(walk())


def model(found: Cluster, store: str) -> list[Any]:
    """Return everything that the engine's own stores show, with timestamps."""
    entries: list[Any] = []
    for partition in range(PARTITIONS):
        typed = found.expected(store, partition)
        entries += list(typed.rows() if store == "last" else typed.fetch_all() if store == "minutes" else typed.all())
    return entries


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    low=st.none() | st.sampled_from(KEYS),
    high=st.none() | st.sampled_from(KEYS),
    limit=st.sampled_from([1, 3, 7, 1000]),
)
def test_ranges_are_those_of_the_store_wherever_they_are_asked_for(
    three: tuple[Cluster, dict[str, StoreReads]], low: str | None, high: str | None, limit: int
) -> None:
    """Both bounds included, in the order of bytes, whatever the size of a page."""
    found, all_reads = three
    expected = sorted(
        (
            entry
            for entry in model(found, "last")
            if (low is None or entry[0].encode() >= low.encode())
            and (high is None or entry[0].encode() <= high.encode())
        ),
        key=lambda entry: entry[0].encode(),
    )
    question = Ask(
        "last",
        RANGE,
        low=b"" if low is None else low.encode(),
        high=None if high is None else high.encode() + b"\0",
        limit=limit,
    )
    for reads in all_reads.values():
        assert pages(reads, question) == expected


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prefix=st.sampled_from(KEYS).flatmap(lambda key: st.integers(0, 4).map(lambda n: key.encode()[:n])))
def test_prefixes_are_those_of_the_bytes(three: tuple[Cluster, dict[str, StoreReads]], prefix: bytes) -> None:
    """Also of a part of a character."""
    found, all_reads = three
    expected = sorted(entry for entry in model(found, "last") if entry[0].encode().startswith(prefix))
    question = Ask("last", PREFIX, low=prefix, high=after_prefix(prefix), limit=5)
    assert sorted(pages(all_reads["n2"], question)) == expected


@pytest.mark.parametrize("store", ["last", "minutes", "sessions"])
@pytest.mark.parametrize("limit", [1, 10, 1000])
def test_all_is_everything_that_has_not_expired(
    three: tuple[Cluster, dict[str, StoreReads]], store: str, limit: int
) -> None:
    """Each once, over all nodes."""
    found, all_reads = three
    entries = pages(all_reads["n3"], Ask(store, ALL, limit=limit))
    assert sorted(entries) == sorted(model(found, store))
    assert len(entries) > 5


@pytest.mark.parametrize("store", ["last", "minutes", "sessions"])
@pytest.mark.parametrize(("looked_at", "size", "limit"), [(1000, 60, 1000), (3, 1000, 1000), (7, 200, 4), (2, 1000, 3)])
def test_nodes_that_stop_at_different_places_leave_nothing_out(
    three: tuple[Cluster, dict[str, StoreReads]],
    monkeypatch: pytest.MonkeyPatch,
    store: str,
    looked_at: int,
    size: int,
    limit: int,
) -> None:
    """A page goes no further than every node has told; who has more stops earlier than the others."""
    found, all_reads = three
    monkeypatch.setattr(rows, "MAX_LOOKED_AT", looked_at)
    monkeypatch.setattr(rows, "MAX_BYTES", size)
    entries = pages(all_reads["n1"], Ask(store, ALL, limit=limit))
    assert sorted(entries) == sorted(model(found, store))
    assert len(entries) > 5


def test_partitions_that_stop_at_different_places_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same within one node, whose answer has more rows than a page and less than it owns."""
    with cluster("n1") as found:
        keys = [f"{n:03}" for n in range(120)]
        found.feed("words", *((key, n, n) for n, key in enumerate(keys)))
        reads = found.reads("n1", is_alone=True)
        for looked_at, limit in ((2, 3), (3, 5), (1, 2), (5, 7)):
            monkeypatch.setattr(rows, "MAX_LOOKED_AT", looked_at)
            assert [entry[0] for entry in pages(reads, Ask("last", ALL, limit=limit))] == keys


def test_every_key_is_found_by_every_node(three: tuple[Cluster, dict[str, StoreReads]]) -> None:
    """With its value and timestamp; and one that is nowhere by nobody."""
    found, all_reads = three
    expected = {key: (value, moment) for key, value, moment in model(found, "last")}
    for reads in all_reads.values():
        for key in [*KEYS, "nobody"]:
            page = ask(reads, Ask("last", GET, key=key.encode(), limit=1))
            entries = [python_entry(reads.spec("last"), *row)[1:] for row in page.rows]
            assert entries == ([expected[key]] if key in expected else [])
            assert len(page.parts) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(KEYS), data=st.data())
def test_windows_and_sessions_of_a_key_are_those_of_the_store(
    three: tuple[Cluster, dict[str, StoreReads]], key: str, data: st.DataObject
) -> None:
    """Windows that start in the stretch of time; sessions that touch it."""
    found, all_reads = three
    reads = all_reads["n1"]
    partition = reads.partition_of("last", key.encode())
    bound = st.integers(0, 900) | st.just(1 << 40)
    from_ms, to_ms = (data.draw(bound) * 1000 for _ in range(2))
    windows = [
        (key, start, start + MINUTE, value)
        for start, value in found.expected("minutes", partition).fetch(key, from_ms, to_ms)
    ]
    asked = pages(reads, Ask("minutes", WINDOW, key=key.encode(), from_ms=from_ms, to_ms=to_ms, limit=2))
    assert [(*windowed, value) for windowed, value, _ in asked] == windows
    sessions = found.expected("sessions", partition).find(key, from_ms, to_ms)
    asked = pages(reads, Ask("sessions", SESSION, key=key.encode(), from_ms=from_ms, to_ms=to_ms, limit=2))
    assert [(windowed, value) for windowed, value, _ in asked] == sessions


def test_the_model_has_windows_and_sessions_that_can_be_missed(three: tuple[Cluster, dict[str, StoreReads]]) -> None:
    """Expired ones lie in the stores beside those that are shown: without them the tests above would prove little."""
    found, _ = three
    for store in ("minutes", "sessions"):
        kept = sum(len(each.scan(store)) for each in found.stores)
        assert 0 < len(model(found, store)) < kept


def test_local_is_what_this_node_owns(three: tuple[Cluster, dict[str, StoreReads]]) -> None:
    """The nodes' parts are the whole, without overlap; another node's key is refused, not denied."""
    found, all_reads = three
    parts = [pages(reads, Ask("last", ALL, limit=9), scope=LOCAL) for reads in all_reads.values()]
    assert all(parts)
    assert sorted(entry for part in parts for entry in part) == sorted(model(found, "last"))
    owner = {name for name in found.nodes if found.nodes[name].owns(all_reads["n1"].partition_of("last", b"a"))}
    for name, reads in all_reads.items():
        if name in owner:
            assert ask(reads, Ask("last", GET, key=b"a", limit=1), scope=LOCAL).rows
        else:
            with pytest.raises(NotHere):
                ask(reads, Ask("last", GET, key=b"a", limit=1), scope=LOCAL)


@pytest.mark.parametrize(
    ("store", "kind"),
    [
        ("minutes", GET),
        ("minutes", RANGE),
        ("sessions", WINDOW),
        ("last", WINDOW),
        ("last", SESSION),
        ("minutes", PREFIX),
    ],
)
def test_a_question_for_another_kind_of_store_is_refused(
    three: tuple[Cluster, dict[str, StoreReads]], store: str, kind: str
) -> None:
    """Before anything is read."""
    with pytest.raises(WrongQuery):
        ask(three[1]["n1"], Ask(store, kind))


def test_a_cursor_serves_its_question_on_every_node_and_no_other(three: tuple[Cluster, dict[str, StoreReads]]) -> None:
    """What was changed, or belongs to another list, is refused."""
    _, all_reads = three
    question = Ask("last", ALL, limit=3)
    cursor = ask(all_reads["n1"], question).next
    assert cursor is not None
    assert ask(all_reads["n2"], question, cursor=cursor) == ask(all_reads["n3"], question, cursor=cursor)
    assert ask(all_reads["n1"], question._replace(limit=9), cursor=cursor).rows
    for wrong in (cursor[:-1], cursor + "A", "B" + cursor[1:], "", "é", "====", cursor[:20]):
        with pytest.raises(BadCursor):
            ask(all_reads["n1"], question, cursor=wrong)
    for other in (Ask("last", RANGE, low=b"a", limit=3), Ask("minutes", ALL, limit=3)):
        with pytest.raises(BadCursor):
            ask(all_reads["n1"], other, cursor=cursor)


def test_a_cursor_of_one_node_alone_serves_nobody_else(three: tuple[Cluster, dict[str, StoreReads]]) -> None:
    """Others have rows before that key, which would be left out."""
    found, all_reads = three
    question = Ask("last", ALL, limit=1)
    one, another, *_ = (name for name, node in found.nodes.items() if node.thread.owned)
    local = ask(all_reads[one], question, scope=LOCAL).next
    assert local is not None
    assert ask(all_reads[one], question, scope=LOCAL, cursor=local).rows
    with pytest.raises(BadCursor):
        ask(all_reads[another], question, scope=LOCAL, cursor=local)
    with pytest.raises(BadCursor):
        ask(all_reads[one], question, cursor=local)
    whole = ask(all_reads[one], question).next
    with pytest.raises(BadCursor):
        ask(all_reads[one], question, scope=LOCAL, cursor=whole)


def test_a_list_is_stable_while_rows_change() -> None:
    """What was there all the time comes exactly once; what came or went may be in the list or not."""
    with cluster("n1", "n2") as found:
        reads = found.all_reads()["n1"]
        stay = [f"stay-{n:03}" for n in range(60)]
        found.feed("words", *((key, 1, 1) for key in stay))

        async def walk() -> list[str]:
            draw, seen, cursor, step = random.Random(3), [], None, 0
            while True:
                page = await reads.ask(Ask("last", ALL, limit=7), soon(), cursor=cursor)
                seen += [place.decode() for place, _ in page.rows]
                step += 1
                keys = [f"{draw.choice(['a', 'stay-0', 'stay-05', 'z'])}{draw.random()}" for _ in range(10)]
                await asyncio.to_thread(found.feed, "words", *((key, step, step) for key in keys))
                cursor = page.next
                if cursor is None or step > 500:
                    return seen

        seen = asyncio.run(walk())
        assert seen == sorted(seen)
        assert len(seen) == len(set(seen))
        assert [key for key in seen if key in stay] == stay
        assert len(seen) > len(stay)


def test_a_node_that_restores_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an empty list nor a missing key."""
    with cluster("n1") as found:
        found.feed("words", ("a", 1, 1))
        reads = found.reads("n1", is_alone=True)
        node = found.nodes["n1"]

        def restoring(store: str, partition: int) -> Any:
            raise Restoring("partition is restoring", partition=partition, lag_records=3)

        monkeypatch.setattr(node, "reader", restoring)
        for question in (Ask("last", GET, key=b"a", limit=1), Ask("last", ALL), Ask("minutes", ALL)):
            for scope in ("local", "cluster"):
                with pytest.raises(Restoring) as caught:
                    ask(reads, question, scope=scope)
                assert caught.value.lag_records == 3
