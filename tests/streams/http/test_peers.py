"""Requests between nodes over real sockets: what passes unchanged, what is never sent twice, and which failures say
that the other node cannot have acted.
"""

import asyncio

import pytest

from streams.errors import NotOwner
from streams.http.gate import Operation
from streams.http.peers import PeerSettings
from streams.queries.peers import REPLICA, Caller, PeerLost, PeerReply, PeerRequest, PeerUnreachable
from tests.streams.http.rig import (
    CLOCK,
    QUICK,
    SECRET,
    Node,
    cluster,
    get,
    soon,
    start_node,
    stop_node,
    until,
    view_of,
)
from tests.streams.http.test_signing import StandingClock

RARELY = PeerSettings(ping_interval_s=30.0)
PUT = PeerRequest(b"PUT", b"/api/profile/1", [(b"if-match", b'"3"')], b"{}")


async def echo(body: bytes, caller: Caller) -> bytes:
    return body


async def not_mine(body: bytes, caller: Caller) -> bytes:
    raise NotOwner("not mine", partition=1, retry_after_s=0.5)


OPERATIONS = {"echo": Operation(echo), "not": Operation(not_mine)}


async def alive(a: Node, name: str = "b") -> None:
    await until(lambda: not a.peers.is_suspected(name))


@pytest.mark.parametrize(
    "reply",
    [
        PeerReply(201, [(b"location", b"/api/profile/1"), (b"etag", b'"1"'), (b"content-length", b"2")], b"{}"),
        PeerReply(302, [(b"location", b"http://127.0.0.1:1/elsewhere"), (b"content-length", b"0")], b""),
        PeerReply(304, [(b"etag", b'"1"'), (b"content-length", b"0")], b""),
        PeerReply(412, [(b"content-type", b"application/problem+json"), (b"content-length", b"14")], b'{"status":412}'),
        PeerReply(503, [(b"retry-after", b"2"), (b"content-length", b"0")], b""),
        PeerReply(200, [(b"content-encoding", b"gzip"), (b"content-length", b"4")], b"\x1f\x8b\x08\x00"),
        PeerReply(200, [(b"set-cookie", b"a=b"), (b"content-length", b"0")], b""),
        PeerReply(200, [(b"content-length", b"300000")], bytes(300_000)),
    ],
)
def test_an_answer_passes_as_it_is(reply: PeerReply) -> None:
    """Status, fields and body are the peer's: nothing is followed, unpacked, remembered or retried here."""

    async def answer(request: PeerRequest, caller: Caller) -> PeerReply:
        return reply

    async def run() -> None:
        async with cluster("a", "b") as (a, b):
            b.handler = answer
            for _ in range(2):
                got = await a.peers.forward("b", PUT, soon())
                assert got == (reply.status, [*reply.headers, (b"via", b"1.1 a")], reply.body)
            assert len(b.server.requests) == 2
            assert all(b"cookie" not in dict(request.headers) for request in b.server.requests)

    asyncio.run(run())


def test_a_request_passes_as_it_is() -> None:
    """The peer's handler sees method, target, conditions, body, the mark and the extra values; nothing was added."""
    seen: list[tuple[PeerRequest, Caller]] = []

    async def answer(request: PeerRequest, caller: Caller) -> PeerReply:
        seen.append((request, caller))
        return PeerReply(204, [], b"")

    async def run() -> None:
        async with cluster("a", "b") as (a, b):
            b.handler = answer
            headers = [(b"if-match", b'"3"'), (b"x-request-id", b"r1"), (b"x-odd", b"\xe9"), (b"cookie", b"secret")]
            sent = PeerRequest(b"PATCH", b"/x/../y//%2F?e=a%40b&f=+#g", headers, b"{}", REPLICA, {"event": "e1"})
            deadline = soon(2)
            await a.peers.forward("b", sent, deadline)
            request, caller = seen[0]
            assert request[:2] == (b"PATCH", b"/x/../y//%2F?e=a%40b&f=+%23g")
            assert sorted(request.headers) == [(b"if-match", b'"3"'), (b"x-odd", b"\xe9"), (b"x-request-id", b"r1")]
            assert request.body == b"{}"
            assert (caller.node_id, caller.hop, caller.extra) == ("a", REPLICA, {"event": "e1"})
            assert abs(caller.deadline.at - deadline.at) < 0.1
            raw = dict(b.server.requests[0].headers)
            assert raw.keys() == {b"if-match", b"x-odd", b"x-request-id", b"host", b"content-length", b"profile-peer"}
            assert raw[b"host"] == b.info.address.removeprefix("http://").encode()

    asyncio.run(run())


def test_a_forwarded_request_goes_no_further() -> None:
    """A node that gets one is told that it is one: two nodes that each hold the other for the owner make no loop."""

    async def run() -> None:
        async with cluster("a", "b") as nodes:
            for node, other in zip(nodes, "ba", strict=True):

                async def answer(request: PeerRequest, caller: Caller, node: Node = node, to: str = other) -> PeerReply:
                    if caller.hop:
                        return PeerReply(421, [], b"")
                    return await node.peers.forward(to, request, caller.deadline)

                node.handler = answer
            assert (await nodes[0].peers.forward("b", get(), soon())).status == 421
            assert [len(node.server.requests) for node in nodes] == [0, 1]

    asyncio.run(run())


def test_operations_are_for_nodes_only() -> None:
    """A client's request for the path of an operation is not signed by us, whoever asks us to pass it on."""

    async def run() -> None:
        async with cluster("a", "b", operations=OPERATIONS) as (a, b):
            assert await a.peers.call("b", "echo", b"x", soon()) == b"x"
            for target in (b"/peers/echo", b"/peers/ping"):
                with pytest.raises(PeerUnreachable):
                    await a.peers.forward("b", PeerRequest(b"POST", target, (), b"x"), soon())
            assert len(b.server.requests) == 1

    asyncio.run(run())


@pytest.mark.parametrize("method", [b"PUT", b"POST", b"PATCH", b"DELETE"])
def test_a_write_is_never_sent_twice(method: bytes) -> None:
    """A kept-alive connection that closes without an answer: the peer may have read the request, so it is lost."""

    async def run() -> None:
        async with cluster("a", "b") as (a, b):
            write = PeerRequest(method, b"/x", (), b"{}")
            await a.peers.forward("b", write, soon())  # opens the connection that the next one uses again
            b.server.closes_unanswered = 1
            with pytest.raises(PeerLost):
                await a.peers.forward("b", write, soon())
            assert len(b.server.requests) == 2

    asyncio.run(run())


def test_a_read_survives_one_broken_connection() -> None:
    """It is sent once more, not for ever."""

    async def run() -> None:
        async with cluster("a", "b") as (a, b):
            await a.peers.forward("b", get(), soon())
            b.server.closes_unanswered = 1
            assert (await a.peers.forward("b", get(), soon())).body == b"hello a"
            assert len(b.server.requests) == 3
            b.server.closes_unanswered = 9
            with pytest.raises(PeerLost):
                await a.peers.forward("b", get(), soon())
            assert len(b.server.requests) == 5

    asyncio.run(run())


def test_a_node_that_does_not_run_is_unreachable() -> None:
    """Nothing can have been done: the write may go elsewhere. So it is with an unknown name."""

    async def run() -> None:
        async with cluster("a", "b", settings=RARELY) as (a, b):
            await alive(a)
            await b.server.stop()
            with pytest.raises(PeerUnreachable, match="reached"):
                await a.peers.forward("b", PUT, soon())
            with pytest.raises(PeerUnreachable, match="not known"):
                await a.peers.forward("z", PUT, soon())
            assert a.peers.outcomes["forward", "unreachable"] == 1

    asyncio.run(run())


def test_an_answer_that_does_not_come_in_time_is_lost() -> None:
    """The peer is alive and slow, the deadline passes: it may act yet."""

    async def run() -> None:
        async with cluster("a", "b") as (a, b):
            b.server.delay_s = 30
            with pytest.raises(PeerLost, match="in time"):
                await a.peers.forward("b", PUT, soon(0.2))
            assert not a.peers.is_suspected("b")

    asyncio.run(run())


def test_a_refused_operation_leaves_the_caller_free_to_ask_another() -> None:
    """The refusal carries the newer view of the node that refused."""

    async def run() -> None:
        async with cluster("a", "b", operations=OPERATIONS, settings=RARELY) as (a, b):
            await alive(a)
            b.view = view_of(a.info, b.info, epoch=9)
            with pytest.raises(PeerUnreachable, match="not mine") as caught:
                await a.peers.call("b", "not", b"", soon())
            assert caught.value.retry_after_s == 0.5
            assert a.offered == [b.view]
            with pytest.raises(PeerUnreachable, match="unknown-operation"):
                await a.peers.call("b", "nothing", b"", soon())

    asyncio.run(run())


def test_a_misdirected_request_brings_a_view() -> None:
    """When forward returns a 421, the view of the node that gave it was offered already."""

    async def misdirected(request: PeerRequest, caller: Caller) -> PeerReply:
        return PeerReply(421, [], b"")

    async def run() -> None:
        async with cluster("a", "b", settings=RARELY) as (a, b):
            await alive(a)
            b.handler = misdirected
            b.view = view_of(a.info, b.info, epoch=9)
            assert (await a.peers.forward("b", get(), soon())).status == 421
            assert a.offered == [b.view]

    asyncio.run(run())


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0, -20.0, 20.0])
def test_a_clock_that_jumped_is_learned_anew(step_s: float) -> None:
    """A machine that was suspended refuses once, and says what its clock shows; nobody notices."""

    class Shifted(StandingClock):
        def monotonic(self) -> float:
            return CLOCK.monotonic() + self.now

    async def run() -> None:
        clock = Shifted()
        async with cluster("a") as (a,):
            b = await start_node("b", clock=clock, operations=OPERATIONS)
            try:
                a.peers.set_view(view_of(a.info, b.info))
                await alive(a)
                clock.now += step_s
                assert (await a.peers.forward("b", PUT, soon())).status == 200
                assert await a.peers.call("b", "echo", b"x", soon()) == b"x"
                assert "replayed" not in b.gate.refusals
            finally:
                await stop_node(b)

    asyncio.run(run())


def test_a_node_that_was_started_anew_is_another_one() -> None:
    """What is meant for its earlier life is refused, until a view names the new one."""

    async def run() -> None:
        async with cluster("a", "b") as (a, b):
            await alive(a)
            await stop_node(b)
            again = await start_node("b", incarnation="2", port=b.server.port)
            try:
                with pytest.raises(PeerUnreachable):
                    await a.peers.forward("b", PUT, soon(0.5))
                await until(lambda: a.peers.is_suspected("b"))
                assert not again.server.requests or again.gate.refusals["another-node"]
                a.set_view(view_of(a.info, again.info, epoch=2))
                assert (await a.peers.forward("b", PUT, soon())).status == 200
            finally:
                await stop_node(again)

    asyncio.run(run())


def test_a_strangers_answer_is_nobodys() -> None:
    """Somebody else got hold of the address since the last ping: his 404 must not become ours."""

    async def run() -> None:
        async with cluster("a", "b", settings=RARELY, operations=OPERATIONS) as (a, b):
            await alive(a)

            async def stranger(request: PeerRequest, host: str) -> PeerReply:
                return PeerReply(404, [], b"there is no such profile")

            b.server.answer = stranger
            with pytest.raises(PeerLost, match="not signed"):
                await a.peers.forward("b", PUT, soon())
            with pytest.raises(PeerLost, match="not signed"):
                await a.peers.call("b", "echo", b"", soon())

    asyncio.run(run())


def test_too_many_requests_to_one_peer_are_refused_at_once() -> None:
    """A client's requests and our own are counted apart, so that neither waits for the other."""

    async def run() -> None:
        settings = PeerSettings(ping_interval_s=0.05, max_in_flight=3)
        async with cluster("a", "b", settings=settings, operations=OPERATIONS) as (a, b):
            await alive(a)
            b.server.delay_s = 0.3
            waiting = [asyncio.create_task(a.peers.forward("b", get(), soon())) for _ in range(3)]
            await until(lambda: len(b.server.requests) == 3)
            with pytest.raises(PeerUnreachable, match="too many"):
                await a.peers.forward("b", get(), soon())
            b.server.delay_s = 0.0
            assert await a.peers.call("b", "echo", b"x", soon()) == b"x"
            assert [reply.status for reply in await asyncio.gather(*waiting)] == [200] * 3
            assert (await a.peers.forward("b", get(), soon())).status == 200

    asyncio.run(run())


def test_an_answer_without_end_is_cut_off() -> None:
    """A peer cannot fill our memory."""

    async def endless(request: PeerRequest, caller: Caller) -> PeerReply:
        return PeerReply(200, [], bytes(100_000))

    async def run() -> None:
        settings = PeerSettings(ping_interval_s=0.05, max_reply_bytes=50_000)
        async with cluster("a", "b", settings=settings) as (a, b):
            b.handler = endless
            with pytest.raises(PeerLost):
                await a.peers.forward("b", get(), soon())

    asyncio.run(run())


def test_the_environment_does_not_choose_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests between nodes go straight."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def run() -> None:
        async with cluster("a", "b") as (a, _):
            assert (await a.peers.forward("b", get(), soon())).status == 200

    asyncio.run(run())


def test_positions_are_told_to_who_asks() -> None:
    """For maps of the cluster; ordinary pings do without."""

    async def run() -> None:
        async with cluster("a", "b", positions={0: 5, 3: 7}) as (a, _b):
            hello = await a.peers.describe("b", soon())
            assert (hello.node_id, hello.positions) == ("b", {0: 5, 3: 7})

    asyncio.run(run())


def test_without_a_secret_nodes_on_one_machine_work_together() -> None:
    """The application's id is their key."""

    async def run() -> None:
        async with cluster("a", "b", secret=b"") as (a, _):
            assert (await a.peers.forward("b", get(), soon())).status == 200

    asyncio.run(run())


def test_stopping_ends_what_waits() -> None:
    """Nobody hangs, and it can be done twice."""

    async def run() -> None:
        async with cluster("a", "b", secret=SECRET, settings=QUICK) as (a, b):
            b.server.delay_s = 30
            waiting = asyncio.create_task(a.peers.forward("b", PUT, soon(20)))
            await until(lambda: b.server.requests)
            await a.peers.stop()
            with pytest.raises(PeerLost):
                await asyncio.wait_for(waiting, 1)
            await a.peers.stop()

    asyncio.run(run())
