"""Reads for one owner travel together: those that are on their way through the server when the first could go, and
those that come while a call is under way.
"""

import asyncio
from dataclasses import dataclass, field

from app.cluster.batches import MAX_BATCH, Batches
from app.cluster.wire import Found, decode_keys, encode_found
from streams.clock import Deadline, SystemClock
from streams.cluster import ClusterView
from streams.errors import Unavailable
from streams.queries.peers import PeerReply, PeerRequest, PeerUnreachable

DEADLINE = Deadline.after(60, SystemClock())


@dataclass
class SlowPeers:
    """Peers that answer a call when `gate` is open: each key is found as itself."""

    gate: asyncio.Event
    calls: list[list[bytes]] = field(default_factory=list)
    is_away: bool = False

    async def call(self, node_id: str, operation: str, body: bytes, deadline: Deadline) -> bytes:
        keys = decode_keys(body)
        self.calls.append(keys)
        await self.gate.wait()
        if self.is_away:
            raise PeerUnreachable("away")
        return encode_found([(key, b"tag", b"served", b"") for key in keys])

    async def forward(self, node_id: str, request: PeerRequest, deadline: Deadline) -> PeerReply:
        raise NotImplementedError

    def is_suspected(self, node_id: str) -> bool:
        return False

    def set_view(self, view: ClusterView) -> None: ...


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def rig() -> tuple[SlowPeers, Batches]:
    peers = SlowPeers(asyncio.Event())
    return peers, Batches(peers, partitions=lambda: 1, owner_of=lambda _: "b")


async def find(batches: Batches, key: bytes) -> Found | None:
    coming = batches.find(key, key, DEADLINE)
    assert coming is not None
    return await coming


def test_what_is_a_few_turns_behind_comes_along() -> None:
    """A request takes some turns of the loop from its socket to here."""

    async def run() -> None:
        peers, batches = rig()
        reads = []
        for key in (b"1", b"2", b"3"):
            reads.append(asyncio.create_task(find(batches, key)))
            await turns(1)
        await turns(9)
        assert peers.calls == [[b"1", b"2", b"3"]]
        peers.gate.set()
        assert [found and found[0] for found in await asyncio.gather(*reads)] == [b"1", b"2", b"3"]

    asyncio.run(run())


def test_what_comes_during_a_call_shares_the_next_one() -> None:
    """However many there are, up to the limit of one call; nothing is left behind."""

    async def run() -> None:
        peers, batches = rig()
        reads = [asyncio.create_task(find(batches, b"first"))]
        await turns(9)
        reads += [asyncio.create_task(find(batches, b"%d" % number)) for number in range(10)]
        await turns(9)
        assert peers.calls == [[b"first"]]
        peers.gate.set()
        await asyncio.gather(*reads)
        assert [len(call) for call in peers.calls] == [1, 10]
        reads = [asyncio.create_task(find(batches, b"%d" % number)) for number in range(MAX_BATCH + 1)]
        assert None not in await asyncio.gather(*reads)
        assert [len(call) for call in peers.calls[2:]] == [MAX_BATCH, 1]

    asyncio.run(run())


def test_reads_of_a_peer_that_is_away_take_the_long_way() -> None:
    """None of them fails, and those that came meanwhile are not forgotten."""

    async def run() -> None:
        peers, batches = rig()
        peers.is_away = True
        first = asyncio.create_task(find(batches, b"1"))
        await turns(9)
        second = asyncio.create_task(find(batches, b"2"))
        await turns(9)
        peers.gate.set()
        assert await asyncio.wait_for(asyncio.gather(first, second), 5) == [None, None]

    asyncio.run(run())


def test_what_nobody_owns_has_no_batch() -> None:
    """Nor what this node owns itself."""

    def unknown(_: int) -> str | None:
        raise Unavailable("no view yet")

    async def run() -> None:
        peers = SlowPeers(asyncio.Event())
        for owner_of in (unknown, lambda _: None):
            assert Batches(peers, partitions=lambda: 1, owner_of=owner_of).find(b"1", b"1", DEADLINE) is None

    asyncio.run(run())
