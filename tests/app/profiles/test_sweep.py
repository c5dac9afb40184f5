"""The round of an owner over its claims."""

import asyncio

from app.profiles.sweep import Sweep
from tests.app.profiles.owners import Cluster
from tests.app.profiles.test_settlement import emails, new, patch, run


def sweeps(cluster: Cluster) -> list[Sweep]:
    return [Sweep(node.ground, node.settlement, cluster.clock) for node in cluster.nodes]


async def go_round(cluster: Cluster, sweep: Sweep, limit: int = 2) -> None:
    for _ in range(3 * cluster.state.partitions):
        await sweep.look(limit)


def test_claims_that_nobody_holds_are_removed() -> None:
    """Also those that name a profile of another owner, or one that never was; those that hold stay."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        await patch(cluster, uid, there)
        for partition in range(4):
            cluster.state.put_claim(cluster.email(partition, "left").encode(), uid)
            cluster.state.put_claim(cluster.email(partition, "none").encode(), "0" * 36)
        for sweep in sweeps(cluster):
            await go_round(cluster, sweep)
        left = [
            cluster.state.claim(cluster.email(partition, name).encode())
            for partition in range(4)
            for name in ("left", "none")
        ]
        assert left == [None] * 8
        assert cluster.state.claim(there.encode()) is not None

    run(body)


def test_unreachable_owner_keeps_the_claim() -> None:
    """Who cannot be asked may have a command under way; the round goes on, and comes again."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        cluster.state.put_claim(there.encode(), uid)
        cluster.weather.lost = 1.0
        sweep = sweeps(cluster)[cluster.owner_of(there.encode()).number]
        await go_round(cluster, sweep)
        assert cluster.state.claim(there.encode()) is not None
        assert sweep.asked > 0
        cluster.weather.lost = 0.0
        await go_round(cluster, sweep)
        assert cluster.state.claim(there.encode()) is None

    run(body)


def test_a_round_is_bounded() -> None:
    """It looks at no more claims than it was told, whatever there is."""

    async def body(cluster: Cluster) -> None:
        for number in range(40):
            await new(cluster, f"bob{number}@mail.com")
        sweep = sweeps(cluster)[0]
        await sweep.look(3)
        assert sweep.looked_at == 3
        for _ in range(40):
            await sweep.look(3)
        assert sweep.asked == 0

    run(body)


def test_it_goes_on_while_nothing_can_be_read() -> None:
    """A node that owns nothing goes round for nothing, and does not end."""

    async def body(cluster: Cluster) -> None:
        for partition in range(4):
            cluster.move(partition, 1)
        await go_round(cluster, sweeps(cluster)[0])
        assert sweeps(cluster)[0].looked_at == 0

    asyncio.run(body(Cluster()))


def test_it_runs_by_itself_until_it_is_stopped() -> None:
    """Beginning on the loop, it removes what nobody holds; stopping it twice does no harm."""

    async def body(cluster: Cluster) -> None:
        uid = await new(cluster, cluster.email(0))
        left = cluster.email(0, "left").encode()
        cluster.state.put_claim(left, uid)
        sweep = cluster.nodes[0].writes.sweep
        sweep.start()
        while cluster.state.claim(left) is not None:
            await asyncio.sleep(0.05)
        await sweep.stop()
        await sweep.stop()

    run(body)
