"""Instances behind real sockets: every key from each, whatever its bytes, and lists that are whole or say so."""

import asyncio
import json
import logging
from typing import Any
from urllib.parse import quote

import pytest

from streams.clock import Deadline, SystemClock
from streams.errors import Unavailable
from streams.queries.asking import LOCAL, BadCursor, BadParameter, Freshness, NotHere, UnknownStore, WrongQuery
from streams.queries.peers import PeerUnreachable
from streams.queries.stores import Entry, Options
from tests.streams.http.applications import instances, knock
from tests.streams.http.rig import until

KEYS = [
    "",
    "a",
    "a/b",
    "/",
    "//",
    "a%2Fb",
    "%",
    "%%",
    "+",
    "a+b",
    "a b",
    " ",
    "all",
    "get",
    "..",
    ".",
    "?",
    "#",
    "&=",
    "ü",
]
KEYS += ["日本/語", "\0", "\n", "\x7f", "x" * 2000, '"', "\\", "a;b", "key", "🙂"]
MANY = [f"many-{n:04}" for n in range(1300)]


def run(scenario: Any) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


def test_every_key_is_answered_by_every_instance() -> None:
    """Through raw sockets, percent-encoded with as much and as little as a client may; and through both clients."""

    async def scenario() -> None:
        async with instances("n1", "n2", "n3") as (cluster, found):
            await asyncio.to_thread(cluster.feed, "words", *((key, n, n) for n, key in enumerate(KEYS)))
            for instance in found:
                for number, key in enumerate(KEYS):
                    texts = {quote(key, safe=""), "".join(f"%{byte:02x}" for byte in key.encode())}
                    if not set(key) & set(' %?#"\\\0\n\x7f') and key.isascii() and key.strip("./"):
                        texts.add(key)  # a slash of a key need not be encoded
                    for text in texts:
                        reply = await instance.get(f"/stores/last/get/{text}")
                        document = json.loads(reply.body)
                        assert (reply.status, document.get("key"), document.get("value")) == (200, key, number), text
                    by_parameter = await instance.get(f"/stores/last/get?key={quote(key, safe='')}")
                    assert json.loads(by_parameter.body)["value"] == number
                    assert await instance.remote.get("last", key) == Entry(key, number, number)
                    assert await instance.remote.get("last", key.encode()) == Entry(key, number, number)
                    assert await instance.queries.stores.get("last", key) == Entry(key, number, number)
                    exact = await instance.remote.range("last", key, key)
                    assert exact.entries == [Entry(key, number, number)]
                    windows = await instance.remote.window("minutes", key)
                    assert [(entry.key.key, entry.value) for entry in windows.entries] == [(key, 1)]
                    document = await instance.remote.metadata_of_key("last", key)
                    assert document["owner"] == cluster.owner(document["partition"]).node_id
                assert await instance.remote.get("last", "nobody") is None

    run(scenario())


def test_lists_are_the_same_in_the_process_and_from_afar() -> None:
    """Pages, and one stream of lines, on each instance."""

    async def scenario() -> None:
        async with instances("n1", "n2", "n3") as (cluster, found):
            await asyncio.to_thread(cluster.feed, "words", *((key, n, n) for n, key in enumerate(MANY)))
            expected = [Entry(key, n, n) for n, key in enumerate(MANY)]
            for instance in found:
                assert [entry async for entry in instance.remote.scan("last")] == expected
                assert [entry async for entry in instance.queries.stores.scan("last")] == expected
                pages, cursor = [], None
                while True:
                    page = await instance.remote.all("last", limit=700, cursor=cursor)
                    pages += page.entries
                    cursor = page.next
                    if cursor is None:
                        break
                assert pages == expected
                assert await instance.remote.prefix("last", "many-12") == await instance.queries.stores.prefix(
                    "last", "many-12"
                )
                assert await instance.remote.session("sessions", MANY[5]) == await instance.queries.stores.session(
                    "sessions", MANY[5]
                )
                assert await instance.remote.approximate_num_entries("last") == len(MANY)
                assert await instance.remote.stores() == await instance.queries.stores.stores()
            parts = [await one.remote.count("last", options=Options(scope=LOCAL)) for one in found]
            assert sum(part.rows for part in parts) == len(MANY)

    run(scenario())


def test_an_instance_that_dies_while_a_list_is_streamed_ends_it_with_a_problem() -> None:
    """The last line says what is wrong, and the client raises; a request after that is refused in time."""

    async def scenario() -> None:
        async with instances("n1", "n2") as (cluster, found):
            await asyncio.to_thread(cluster.feed, "words", *((key, n, n) for n, key in enumerate(MANY)))
            first, second = found
            await until(lambda: not first.queries.reads.channels[0].peers.is_suspected("n2"))  # type: ignore[union-attr]
            lines: list[bytes] = []
            reads = first.queries.reads
            real, calls = reads.ask, 0

            async def dying(ask: Any, deadline: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == 2:
                    second.server.is_frozen = True
                    await second.queries.stop()
                    await second.server.stop()
                    deadline = Deadline.after(1.0, SystemClock())
                return await real(ask, deadline, **options)

            reads.ask = dying  # type: ignore[method-assign]
            reply = await first.get("/stores/last/all", Accept="application/x-ndjson")
            lines = reply.body.splitlines()
            end = json.loads(lines[-1])
            assert end["problem"]["status"] == 503
            assert end["count"] == len(lines) - 1 < len(MANY)
            assert not any(b'"end"' in line for line in lines)
            reads.ask = real  # type: ignore[method-assign]
            options = Options(timeout_s=0.5)
            with pytest.raises(PeerUnreachable):
                await first.remote.all("last", options=options)
            with pytest.raises(Unavailable):
                _ = [entry async for entry in first.remote.scan("last", options=options)]
            partial = await first.remote.all("last", limit=1000, options=options._replace(is_partial=True))
            assert partial.missing
            assert partial.entries

    run(scenario())


def test_statuses_become_the_same_errors_everywhere() -> None:
    """Who asks from afar gets what who asks in the process gets."""

    async def scenario() -> None:
        async with instances("n1", "n2") as (cluster, found):
            await asyncio.to_thread(cluster.feed, "words", ("a", 1, 1), ("b", 2, 2))
            owner = cluster.owner(found[0].queries.reads.partition_of("last", b"a")).node_id
            elsewhere = next(one for one in found if one.name != owner)
            for client in (elsewhere.remote, elsewhere.queries.stores):
                for error, call in (
                    (UnknownStore, client.get("nix", "a")),
                    (UnknownStore, client.metadata_of("nix")),
                    (WrongQuery, client.get("minutes", "a")),
                    (WrongQuery, client.window("last", "a")),
                    (WrongQuery, client.prefix("sessions", "a")),
                    (BadParameter, client.all("last", limit=0)),
                    (BadParameter, client.all("last", limit=1001)),
                    (BadCursor, client.all("last", cursor="nonsense")),
                    (NotHere, client.get("last", "a", options=Options(scope=LOCAL))),
                ):
                    with pytest.raises(error):
                        await call
                fresh = Options(freshness=Freshness(max_staleness_s=30))
                strict = Options(freshness=Freshness("strict"))
                for options in (fresh, strict):
                    assert await client.get("last", "a", options=options) == Entry("a", 1, 1)
            assert await found[0].remote.metadata_of("last") == await found[1].remote.metadata_of("last")
            everything = await found[0].remote.metadata()
            assert [one["node_id"] for one in everything["instances"]] == ["n1", "n2"]
            active = [one["active"]["last"] for one in everything["instances"]]
            assert sorted(number for numbers in active for number in numbers) == [0, 1, 2, 3]
            assert everything["global_stores"] == ["names"]

    run(scenario())


def test_strangers_and_other_channels_get_nothing_from_the_channel_between_instances() -> None:
    """Without a signature, with another cluster's, or on a path of nobody."""

    async def scenario() -> None:
        async with instances("n1") as (_, found), instances("n1", secret=b"another secret of the tests") as (_, others):
            target = "/peers/0/ask"
            assert (await found[0].get(target)).status == 401
            assert (await found[0].get("/peers/7/ask")).status == 404
            assert (await found[0].get("/peers/ask")).status == 404
            peers = others[0].queries.reads.channels[0].peers
            view = others[0].queries.reads.channels[0].node.view
            assert peers is not None
            info = found[0].queries.reads.channels[0].node.info
            peers.set_view(view.__class__(9, {"n9": info.__class__("n9", info.incarnation, info.address)}, ()))
            with pytest.raises(PeerUnreachable):
                await peers.call("n9", "ask", b"", Deadline.after(1.0, SystemClock()))

    run(scenario())


def test_who_follows_the_others_no_more_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """From then on an old map is asked, so that it must not happen in silence."""

    async def scenario() -> None:
        async with instances("n1", "n2") as (cluster, _):

            async def wait_view(*_: object) -> object:
                raise RuntimeError("a fault")

            monkeypatch.setattr(cluster.nodes["n1"], "wait_view", wait_view)
            await until(lambda: "the other instances are not followed any more" in caplog.text)

    run(scenario())


@pytest.mark.filterwarnings("error:Please define the sink")
def test_a_websocket_is_refused_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """It is nobody's fault here, and leaves no trace in the log for each that knocks."""

    async def scenario() -> None:
        async with instances("n1") as (_, (instance,)):
            for path in ("/stores", "/stores/last/get/a", "/metadata", "/peers/0/ping"):
                assert await knock(instance.app, path) == ["websocket.close"], path

    run(scenario())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
