"""The change feed over every log: where it begins, what it tells, how it goes on elsewhere, and what ends it."""

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from app.feed import feed as feed_module
from app.feed import ring as ring_module
from app.feed import tail as tail_module
from app.feed.errors import FeedExpired, TooManyListeners
from app.feed.feed import Feed, Listener
from app.feed.position import Position
from app.profiles.tokens import Tokens
from streams.clock import SystemClock
from streams.errors import Draining, LogUnavailable
from streams.records import ProducerRecord
from streams.testing import MemoryLog
from tests.app.feed.model import Follower, State, profile, uid_of, version_header
from tests.contracts.conftest import KafkaHarness, LocalHarness, LogHarness, kafka_broker
from tests.contracts.test_log import Member

__all__ = ["kafka_broker"]

PARTITIONS = 3
WAIT_S = 20.0


class ShiftedClock(SystemClock):
    """The machine's clock, set forward: a place is looked at as if it were so much older."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def time_ms(self) -> int:
        return super().time_ms() + int(self.seconds * 1000)


class Known:
    """What the feed asks of a node."""

    def __init__(self, member: Member) -> None:
        self.partitions = PARTITIONS
        self.topic_ids: Mapping[str, str] = {name: info.topic_id for name, info in member.infos.items()}


class Rig:
    """A log, its writer, and feeds over it, each as of another node."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.random = Random(uuid.uuid4().int)
        self._versions: dict[str, int] = {}
        self.states: dict[bytes, State] = {}

    def write(self, count: int = 1) -> None:
        """Append changes of a few profiles, in transactions of their own."""
        for _ in range(count):
            uid = uid_of(self.random)
            version = self._versions[uid] = self._versions.get(uid, 0) + 1
            body = None if self.random.random() < 0.25 else profile(uid, version)
            self.member.put(uid.encode(), body, version_header(version), partition=int(uid[-1], 16) % PARTITIONS)
            if body is None:
                self.states.pop(uid.encode(), None)
            else:
                self.states[uid.encode()] = version, body

    def write_many(self, count: int) -> None:
        """Append so many new profiles in few transactions."""
        for start in range(0, count, 500):
            records = []
            for _ in range(start, min(count, start + 500)):
                uid = str(uuid.UUID(int=self.random.getrandbits(128), version=4))
                partition = int(uid[-1], 16) % PARTITIONS
                records.append(ProducerRecord(self.member.first, partition, uid.encode(), profile(uid, 1)))
                self.states[uid.encode()] = 1, records[-1].value
            self.member.append(*records)

    @asynccontextmanager
    async def feed(self, *, clock: SystemClock | None = None, max_listeners: int = 10) -> Any:
        """Open a feed, as a node of its own would have it."""
        known = Known(self.member)
        tokens = Tokens(secret=b"0123456789abcdef", topic_ids=known.topic_ids)
        feed = Feed(
            log=self.member.log,
            topic=self.member.first,
            node=known,
            signer=lambda: tokens,
            clock=clock or SystemClock(),
            max_listeners=max_listeners,
        )
        try:
            yield feed
        finally:
            await feed.stop()


@pytest.fixture(params=["local", pytest.param("kafka", marks=pytest.mark.kafka)])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """Yield a log that users have, with its writer."""
    if request.param == "local":
        harness: LogHarness = LocalHarness(tmp_path / "log")
    else:
        harness = KafkaHarness(request.getfixturevalue("kafka_broker"), tmp_path / "node")
    member = Member(harness, partitions=PARTITIONS).join()
    yield Rig(member)
    member.close()


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(100):
            await scenario()

    asyncio.run(bounded())


async def start(feed: Feed, since: str = "0", partition: int | None = None) -> Position:
    return await feed.position(since, partition, parameter="since")


async def read_all(feed: Feed, position: Position, *, limit: int = 3) -> Follower:
    """Read answer after answer until nothing is left."""
    follower = Follower(position)
    pending = 1
    while pending:
        answer, pending = await feed.read(follower.position, limit=limit)
        follower.take(answer)
        assert answer.results or not pending
    return follower


async def follow(listener: Listener, follower: Follower, states: Mapping[bytes, State], *, limit: int = 1000) -> None:
    """Listen until the follower knows *states*. Raises AssertionError when he does not get there."""
    deadline = time.monotonic() + WAIT_S
    while follower.live != states:
        assert time.monotonic() < deadline, (follower.live, states)
        answer = await listener.next(limit=limit, timeout_s=1.0)
        if answer is not None:
            follower.take(answer)


def test_reading_from_the_beginning_gives_the_fold(rig: Rig) -> None:
    """In answers of a few results, of all partitions and of each alone; then there is nothing, and the place says that
    it is whole."""

    async def scenario() -> None:
        await asyncio.to_thread(rig.write, 60)
        async with rig.feed() as feed:
            follower = await read_all(feed, await start(feed))
            assert follower.live == rig.states
            assert follower.position.is_whole
            nothing, pending = await feed.read(follower.position, limit=5)
            assert (list(nothing.results), pending) == ([], 0)
            parts: dict[bytes, State] = {}
            for partition in range(PARTITIONS):
                parts |= (await read_all(feed, await start(feed, partition=partition))).live
            assert parts == rig.states

    run(scenario)


def test_an_answer_has_what_was_acknowledged_before_the_question(rig: Rig) -> None:
    """Each write is in the very next answer, with the tail behind or not."""

    async def scenario() -> None:
        async with rig.feed() as feed:
            follower = Follower(await start(feed, "now"))
            listener = feed.listen(follower.position)
            for _ in range(20):
                await asyncio.to_thread(rig.write, 1)
                answer, _ = await feed.read(follower.position, limit=10)
                assert len(answer.results) == 1
                follower.take(answer)
            listener.close()

    run(scenario)


def test_listening_tells_every_last_state_and_any_node_goes_on(rig: Rig) -> None:
    """One listens on a node from the beginning while others write, is cut off after any result, and goes on at another
    node with the seq of that result: he ends with the fold, and nothing came after a later state."""

    async def scenario() -> None:
        await asyncio.to_thread(rig.write, 20)
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                rig.write(2)

        async with rig.feed() as one, rig.feed() as two:
            writing = asyncio.create_task(asyncio.to_thread(write))
            follower = Follower(await start(one))
            for number in range(12):
                feed = (one, two)[number % 2]
                # Through the text, as a client keeps it.
                follower.position = await start(feed, feed.seqs.text(follower.position))
                listener = feed.listen(follower.position)
                for _ in range(3):
                    answer = await listener.next(limit=rig.random.choice([2, 1000]), timeout_s=WAIT_S)
                    assert answer is not None
                    count = rig.random.randint(1, len(answer.results))
                    for result in answer.results[:count]:
                        follower.take_result(result)
                    follower.position = feed.seqs.position(answer.results[count - 1].seq, "since")
                    if count < len(answer.results):
                        break
                    follower.position = answer.position
                listener.close()
            stop.set()
            await writing
            listener = two.listen(follower.position)
            await follow(listener, follower, rig.states)
            listener.close()

    run(scenario)


def test_a_listener_waits_and_is_woken(rig: Rig) -> None:
    """From `now`, of all partitions and of one: nothing until something is written, and then that."""

    async def scenario() -> None:
        await asyncio.to_thread(rig.write, 5)
        async with rig.feed() as feed:
            every = feed.listen(await start(feed, "now"))
            assert await every.next(limit=10, timeout_s=0.3) is None
            one = feed.listen(await start(feed, "now", partition=1))
            waiting = asyncio.create_task(every.next(limit=10, timeout_s=WAIT_S))
            waiting_for_one = asyncio.create_task(one.next(limit=10, timeout_s=WAIT_S))
            await asyncio.sleep(0)
            uid = str(uuid.uuid4()).encode()
            for partition in (0, 1):
                await asyncio.to_thread(rig.member.put, uid, profile(uid.decode(), 1), (), partition)
            first, alone = await waiting, await waiting_for_one
            assert first is not None
            assert alone is not None
            assert first.results[0].event.partition in (0, 1)
            assert [result.event.partition for result in alone.results] == [1]
            every.close()
            one.close()
            assert feed.listeners == 0

    run(scenario)


def test_who_lags_reads_the_log_and_catches_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring holds little: a listener that rests meanwhile gets everything by bounded reads, then follows again."""
    monkeypatch.setattr(ring_module, "RING_BYTES", 20_000)
    monkeypatch.setattr(tail_module, "_CHUNK_BYTES", 5_000)

    async def scenario() -> None:
        async with rig.feed() as feed:
            follower = Follower(await start(feed, "now"))
            listener = feed.listen(follower.position)
            await listener.next(limit=10, timeout_s=0.5)
            reads = feed.catch_up_reads
            await asyncio.to_thread(rig.write_many, 2_000)
            await follow(listener, follower, rig.states, limit=100)
            assert feed.catch_up_reads > reads
            assert feed.ring_bytes <= 20_000
            await asyncio.to_thread(rig.write, 5)
            await follow(listener, follower, rig.states)
            listener.close()

    run(scenario)


def test_a_busy_partition_hides_no_other(rig: Rig) -> None:
    """Whoever asks for one change at a time hears of all partitions, although one of them always has more."""

    async def scenario() -> None:
        async with rig.feed() as feed:
            position = await start(feed)
            for partition in range(PARTITIONS):
                uid = str(uuid.uuid4()).encode()
                await asyncio.to_thread(rig.member.put, uid, profile(uid.decode(), 1), (), partition)
            heard = set()
            for _ in range(12):
                uid = str(uuid.uuid4()).encode()
                await asyncio.to_thread(rig.member.put, uid, profile(uid.decode(), 1), (), 0)
                answer, _ = await feed.read(position, limit=1)
                heard |= {result.event.partition for result in answer.results}
                position = answer.position
            assert heard == set(range(PARTITIONS))

    run(scenario)


def test_poison_stops_nobody(rig: Rig) -> None:
    """Records that are not ours lie between ours, also in the way of a listener."""

    async def scenario() -> None:
        async with rig.feed() as feed:
            follower = Follower(await start(feed, "now"))
            listener = feed.listen(follower.position)
            for _ in range(10):
                await asyncio.to_thread(rig.write, 1)
                await asyncio.to_thread(rig.member.put, b"strange", b"\xff\x00")
            await follow(listener, follower, rig.states)
            listener.close()
            assert (await read_all(feed, await start(feed))).live == rig.states

    run(scenario)


def test_idle_listeners_have_young_places(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing happens, yet the place of who is told so grows no older than what the tail knows."""

    async def scenario() -> None:
        async with rig.feed() as feed:
            listener = feed.listen(await start(feed, "now"))
            begun_s = listener.position.moment_s
            deadline = time.monotonic() + WAIT_S
            while listener.position.moment_s < begun_s + 2:
                assert time.monotonic() < deadline
                assert await listener.next(limit=10, timeout_s=0.3) is None
            assert not feed.is_stale(listener.position)
            assert feed.is_stale(listener.position._replace(moment_s=begun_s - 60))
            listener.close()

    run(scenario)


def test_a_place_expires(rig: Rig) -> None:
    """After three quarters of the tombstones' retention (Kafka's default of a day here), or a quarter for who never
    had everything; whole places get younger by going on."""
    clock = ShiftedClock()
    day_s = 24 * 3600

    async def scenario() -> None:
        await asyncio.to_thread(rig.write, 5)
        async with rig.feed(clock=clock) as feed:
            begun = feed.seqs.text(await start(feed))
            first, pending = await feed.read(await start(feed), limit=1)
            assert pending
            whole = (await read_all(feed, await start(feed))).position
            clock.seconds = day_s / 4 - 60
            await start(feed, begun)
            clock.seconds = day_s / 4 + 60
            for old in (begun, first.seq, first.results[0].seq):
                with pytest.raises(FeedExpired):
                    await start(feed, old)
            clock.seconds = 3 * day_s / 4 - 60
            again, _ = await feed.read(await start(feed, feed.seqs.text(whole)), limit=1)
            clock.seconds += 120
            with pytest.raises(FeedExpired):
                await start(feed, feed.seqs.text(whole))
            await start(feed, again.seq)

    run(scenario)


def test_a_place_beyond_the_end_has_expired(rig: Rig) -> None:
    """A log that has lost its end would otherwise hide what is written there anew: reading and listening alike."""

    async def scenario() -> None:
        await asyncio.to_thread(rig.write, 5)
        async with rig.feed() as feed:
            end = await start(feed, "now")
            beyond = end._replace(offsets=(end.offsets[0], end.offsets[1] + 1, end.offsets[2]))
            with pytest.raises(FeedExpired):
                await feed.read(beyond, limit=1)
            listener = feed.listen(beyond)
            with pytest.raises(FeedExpired):
                await listener.next(limit=1, timeout_s=WAIT_S)
            listener.close()

    run(scenario)


def test_there_is_room_for_so_many(rig: Rig) -> None:
    """One more is refused until another has gone; and none begins while the node stops."""

    async def scenario() -> None:
        async with rig.feed(max_listeners=2) as feed:
            here = await start(feed, "now")
            first, _second = feed.listen(here), feed.listen(here)
            with pytest.raises(TooManyListeners):
                feed.listen(here)
            first.close()
            first.close()
            third = feed.listen(here)
            waiting = asyncio.create_task(third.next(limit=1, timeout_s=WAIT_S))
            await asyncio.sleep(0.1)
            begun = time.monotonic()
            feed.drain()
            assert await waiting is None
            assert time.monotonic() - begun < WAIT_S / 2
            with pytest.raises(Draining):
                feed.check_room()

    run(scenario)


def test_the_tail_rests_and_begins_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens, nobody reads; who comes then finds a tail that begins anew and misses nothing."""
    monkeypatch.setattr(feed_module, "_TAIL_RESTS_AFTER_S", 0.05)

    async def scenario() -> None:
        async with rig.feed() as feed:
            follower = Follower(await start(feed))
            for _ in range(4):
                listener = feed.listen(follower.position)
                await asyncio.to_thread(rig.write, 3)
                await follow(listener, follower, rig.states)
                listener.close()
                await asyncio.to_thread(rig.write, 2)
                deadline = time.monotonic() + WAIT_S
                while feed.ring is not None and rig.random.random() < 0.9:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.02)

    run(scenario)


def test_a_log_that_is_away_is_no_end_and_no_error_of_the_client() -> None:
    """Reading says so; a listener is told so too, and goes on when the log is back."""
    log = MemoryLog(clock=SystemClock())

    class Harness:
        prefix = "t-"

        def open(self) -> MemoryLog:
            return log

        def close(self) -> None: ...

        def delete(self, topics: object) -> None: ...

    member = Member(Harness(), partitions=PARTITIONS).join()
    rig = Rig(member)

    async def scenario() -> None:
        async with rig.feed() as feed:
            follower = Follower(await start(feed))
            log.is_reachable = False
            with pytest.raises(LogUnavailable):
                await feed.read(follower.position, limit=1)
            listener = feed.listen(follower.position)
            with pytest.raises(LogUnavailable):
                await listener.next(limit=1, timeout_s=1.0)
            log.is_reachable = True
            await asyncio.to_thread(rig.write, 10)
            await follow(listener, follower, rig.states)
            listener.close()

    run(scenario)
    member.close()
