"""Who is there: suspicion comes within a bound, goes away by itself, and neither load nor our own pauses bring it."""

import asyncio
import time

import pytest

from streams.cluster import NOWHERE, NodeInfo
from streams.http.peers import PeerSettings
from streams.queries.peers import PeerLost, PeerRequest
from tests.streams.http.rig import CLOCK, Node, cluster, get, soon, until, view_of

ORDINARY = PeerSettings()
PUT = PeerRequest(b"PUT", b"/x", (), b"{}")
GET = PeerRequest(b"GET", b"/x", (), b"")


async def all_alive(node: Node, *names: str) -> None:
    await until(lambda: not any(node.peers.is_suspected(name) for name in names))


def test_a_silent_peer_is_suspected_soon_and_its_callers_go_free() -> None:
    """It stops answering with its port open, as a stopped process does; what waits for it ends within 700 ms."""

    async def run() -> None:
        async with cluster("a", "b", "c", settings=ORDINARY) as (a, b, _c):
            await all_alive(a, "b", "c")
            b.server.is_frozen = True
            frozen_at = CLOCK.monotonic()
            with pytest.raises(PeerLost, match="suspected"):
                await a.peers.forward("b", GET, soon(30))
            assert 0.2 < CLOCK.monotonic() - frozen_at < 0.7
            assert a.peers.is_suspected("b")
            assert not a.peers.is_suspected("c")

    asyncio.run(run())


def test_a_write_is_waited_for_also_when_its_node_is_suspected_or_has_left() -> None:
    """Until its deadline: given up before, its outcome would only be unknown, and a leaving node may yet answer."""

    async def run() -> None:
        async with cluster("a", "b", settings=ORDINARY) as (a, b):
            await all_alive(a, "b")
            b.server.is_frozen = True
            write = asyncio.ensure_future(a.peers.forward("b", PUT, soon(2)))
            await until(lambda: a.peers.is_suspected("b"))
            a.peers.set_view(NOWHERE)
            await asyncio.sleep(0.1)
            assert not write.done()
            with pytest.raises(PeerLost):
                await write

    asyncio.run(run())


def test_a_dead_peer_is_suspected_soon() -> None:
    """Its port is closed and its connections are gone."""

    async def run() -> None:
        async with cluster("a", "b", settings=ORDINARY) as (a, b):
            await all_alive(a, "b")
            await b.server.stop()
            assert await until(lambda: a.peers.is_suspected("b")) < 0.7

    asyncio.run(run())


def test_a_peer_that_comes_back_is_alive_again() -> None:
    """Within a ping or two, and requests pass."""

    async def run() -> None:
        async with cluster("a", "b") as (a, b):
            await all_alive(a, "b")
            port = b.server.port
            await b.server.stop()
            await until(lambda: a.peers.is_suspected("b"))
            await b.server.start(port)
            assert await until(lambda: not a.peers.is_suspected("b")) < 0.7
            assert (await a.peers.forward("b", PUT, soon())).status == 200

    asyncio.run(run())


def test_a_slow_peer_holds_up_nobody_else() -> None:
    """While one does not answer, others are asked and pinged as ever."""

    async def run() -> None:
        async with cluster("a", "b", "c") as (a, b, _c):
            await all_alive(a, "b", "c")
            b.server.delay_s = 1.0
            waiting = [asyncio.create_task(a.peers.forward("b", get(), soon())) for _ in range(20)]
            started = CLOCK.monotonic()
            for _ in range(20):
                await a.peers.forward("c", get(), soon())
            assert CLOCK.monotonic() - started < 0.5
            assert not a.peers.is_suspected("b")
            assert {reply.status for reply in await asyncio.gather(*waiting)} == {200}

    asyncio.run(run())


def test_a_peer_that_answers_requests_is_not_suspected_for_its_pings() -> None:
    """A busy peer that is late with one and not with the other is alive; when it falls silent altogether, it is not."""

    async def run() -> None:
        async with cluster("a", "b", settings=ORDINARY) as (a, b):
            await all_alive(a, "b")
            b.server.ping_delay_s = 30
            started = CLOCK.monotonic()
            while CLOCK.monotonic() - started < 1.2:
                assert (await a.peers.forward("b", get(), soon())).status == 200
                assert not a.peers.is_suspected("b")
                await asyncio.sleep(0.02)
            assert await until(lambda: a.peers.is_suspected("b")) < 0.7

    asyncio.run(run())


def test_a_new_peer_is_alive_after_its_first_answer() -> None:
    """Until then it is suspected, but a request may be tried: it waits for the proof."""

    async def run() -> None:
        async with cluster("a", "b") as (a, _b):
            assert a.peers.is_suspected("b")
            assert (await a.peers.forward("b", PUT, soon())).status == 200
            assert not a.peers.is_suspected("b")
            assert a.peers.is_suspected("nobody")

    asyncio.run(run())


def test_views_spread_by_pings() -> None:
    """A node that knows a newer one hands it on; an older one is not offered."""

    async def run() -> None:
        async with cluster("a", "b") as (a, b):
            await all_alive(a, "b")
            await all_alive(b, "a")
            newer = view_of(a.info, b.info, epoch=7)
            b.set_view(newer)
            await until(lambda: a.offered)
            assert a.offered[0] == newer
            a.set_view(newer)
            assert b.offered == []

    asyncio.run(run())


def test_a_peer_that_stays_keeps_its_state_in_a_new_view() -> None:
    """Only who is new, or at another address, or started anew has to prove who he is; who left is known no more."""

    async def run() -> None:
        async with cluster("a", "b", "c") as (a, b, c):
            await all_alive(a, "b", "c")
            restarted = NodeInfo("c", "2", c.info.address)
            a.set_view(view_of(a.info, b.info, restarted, epoch=2))
            assert not a.peers.is_suspected("b")
            assert a.peers.is_suspected("c")
            a.set_view(view_of(a.info, epoch=3))
            assert a.peers.is_suspected("b")

    asyncio.run(run())


def test_a_peer_that_leaves_the_view_is_not_waited_for() -> None:
    """Its callers are told that its answer is lost."""

    async def run() -> None:
        async with cluster("a", "b") as (a, b):
            b.server.delay_s = 30
            waiting = asyncio.create_task(a.peers.forward("b", GET, soon(20)))
            await until(lambda: b.server.requests)
            a.set_view(view_of(a.info, epoch=2))
            with pytest.raises(PeerLost):
                await asyncio.wait_for(waiting, 1)

    asyncio.run(run())


def test_a_pause_of_our_own_makes_nobody_suspect() -> None:
    """After it all timers are late at once; that says nothing about a peer that takes a moment to answer."""

    async def run() -> None:
        async with cluster("a", "b", settings=ORDINARY) as (a, b):
            await all_alive(a, "b")
            b.server.ping_delay_s = 0.1
            suspected: list[float] = []
            for _ in range(3):
                time.sleep(0.9)  # the whole process stands still
                started = CLOCK.monotonic()
                while CLOCK.monotonic() - started < 0.3:
                    if a.peers.is_suspected("b"):
                        suspected.append(CLOCK.monotonic())
                    await asyncio.sleep(0.005)
            assert not suspected

    asyncio.run(run())
