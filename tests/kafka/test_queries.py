"""Two instances of an application on real Kafka, as processes: each answers for both, also when one is killed."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from streams.errors import Unavailable
from streams.queries.asking import LOCAL
from streams.queries.remote import RemoteQueries
from streams.queries.stores import Entry, Options
from tests.streams.http.test_interactive import KEYS
from tests.support.broker import free_ports
from tests.support.serving import ServedInstance
from tests.support.streaming import CLOCK, Client

pytestmark = pytest.mark.kafka

PARTITIONS = 4
MANY = [f"many-{n:03}" for n in range(90)]
SECRET = "a secret of the tests"
QUICK = Options(timeout_s=2.0)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


async def list_of(stores: RemoteQueries) -> list[Entry]:
    return list((await stores.all("last", limit=1000, options=QUICK)).entries)


async def until_whole(stores: RemoteQueries, expected: list[Entry], within_s: float) -> float:
    """Wait until the list is *expected*; until then it is an error, or has not all that is being processed yet."""
    begun_at = time.monotonic()
    while True:
        try:
            found = await list_of(stores)
        except Unavailable:
            found = []
        if found == expected:
            return time.monotonic() - begun_at
        assert time.monotonic() - begun_at < within_s, f"{len(found)} of {len(expected)}"
        await asyncio.sleep(0.1)


async def check_all(stores: RemoteQueries, expected: list[Entry]) -> None:
    """Every key, by itself and in a list."""
    for entry in expected:
        assert await stores.get("last", entry.key) == entry
        windows = (await stores.window("minutes", entry.key)).entries
        assert [(window.key.key, window.value) for window in windows] == [(entry.key, 1)]
    assert [entry async for entry in stores.scan("last")] == expected
    assert await stores.approximate_num_entries("last") == len(expected)
    assert await stores.get("last", "nobody") is None
    assert await stores.get("seen", expected[0].key) is not None
    assert (await stores.get("names", "home")) == Entry("home", "Heim", 5)


@pytest.mark.timeout(180)
def test_each_instance_answers_for_both_and_for_a_dead_one(
    stack: ExitStack, kafka_broker: str, prefix: str, tmp_path: Path
) -> None:
    """A list is whole or an error, at every moment; a standby takes over with every row."""
    client = Client(kafka_broker, f"{prefix}client")
    stack.callback(client.close)
    module = tmp_path / f"{prefix.strip('-')}_queries.py"
    module.write_text(f"from tests.streams.queries.rig import everything\n\ntopology = everything({prefix!r})\n")
    environment = {
        "STREAMS_BOOTSTRAP_SERVERS": kafka_broker,
        "STREAMS_SESSION_TIMEOUT_MS": "3000",
        "STREAMS_NUM_STANDBY_REPLICAS": "1",
        "STREAMS_HTTP_SECRET": SECRET,
        "PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path}",
    }
    topics = [f"--create-topic={prefix}{topic}={count}" for topic, count in (("words", PARTITIONS), ("names", 2))]
    instances = [
        ServedInstance(f"{module.stem}:topology", tmp_path / name, port, environment, topics)
        for name, port in zip(("a", "b"), free_ports(2), strict=True)
    ]
    for instance in instances:
        stack.callback(instance.kill)
        instance.start()
    for instance in instances:
        instance.wait_ready()
    now_ms = CLOCK.time_ms() // 60_000 * 60_000
    keys = [*KEYS, *MANY]
    client.feed(f"{prefix}names", 2, [(b"home", b"Heim", 5)])
    client.feed(
        f"{prefix}words", PARTITIONS, [(key.encode(), n.to_bytes(8, "big"), now_ms + n) for n, key in enumerate(keys)]
    )
    expected = sorted((Entry(key, n, now_ms + n) for n, key in enumerate(keys)), key=lambda entry: entry.key.encode())
    remotes = [RemoteQueries(instance.url) for instance in instances]

    async def whole() -> None:
        for stores in remotes:
            await until_whole(stores, expected, 60.0)
        while not all(one["active"]["last"] for one in (await remotes[0].metadata())["instances"]):
            await asyncio.sleep(0.1)
        for stores in remotes:
            await check_all(stores, expected)
        parts = [len((await one.all("last", limit=1000, options=Options(scope=LOCAL))).entries) for one in remotes]
        assert sum(parts) == len(expected)
        assert all(parts), "both own something, or nothing above was asked of another"

    async def with_one_dead(stores: RemoteQueries) -> None:
        """The other's rows are there within a moment, and no list is ever short."""
        begun_at, failures = time.monotonic(), 0
        while True:
            try:
                assert await list_of(stores) == expected
                break
            except Unavailable:
                failures += 1
                assert time.monotonic() - begun_at < 30.0
        print(f"whole after {time.monotonic() - begun_at:.1f} s and {failures} errors")
        until = time.monotonic() + 5.0  # the group takes the dead one's partitions away meanwhile
        while time.monotonic() < until:
            try:
                assert await list_of(stores) == expected
            except Unavailable:
                failures += 1
        await check_all(stores, expected)

    asyncio.run(whole())
    instances[0].kill()
    asyncio.run(with_one_dead(remotes[1]))
    instances[0].start().wait_ready()
    asyncio.run(whole())
    for instance in instances:
        assert instance.stop() == 0, instance.output()[-4000:]
