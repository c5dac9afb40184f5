"""A broker that freezes, or dies and comes back, under load: honest answers in time, and the service mends itself."""

import asyncio
import re
import time
from collections.abc import Callable

import pytest
from kafka import KafkaProducer
from kafka.errors import KafkaError

from tests.e2e.conftest import NewService, kafka_environment
from tests.e2e.test_kill import seed_of_run
from tests.support.broker import Cluster
from tests.support.client import Client, Reply
from tests.support.history import Operation, Outcome
from tests.support.load import Load
from tests.support.service import Service
from tests.support.verdict import judge

REQUEST_TIMEOUT_S = 2.0
GRACE_S = 1.0
SESSION_S = 3.0
RECOVERY_S = 10.0
WARM_WRITES = 60

pytestmark = pytest.mark.kafka


class Outage:
    """One run: load before, during and after *fault* and *repair*, and probes of reads meanwhile."""

    def __init__(self, service: Service, cluster: Cluster) -> None:
        self.service = service
        self.cluster = cluster
        self.seed = seed_of_run()
        self.load = Load([service.address], seed=self.seed, request_timeout_s=REQUEST_TIMEOUT_S)

    async def run(self, *, fault: Callable[[], None], repair: Callable[[], None], length_s: float) -> None:
        """The story. *repair* must return as soon as the broker runs, whether or not it serves."""
        workers = self.service.worker_pids()
        self.load.start()
        await self._writes(WARM_WRITES)
        uid = next(reversed(self.load.known))
        begun = time.monotonic()
        await asyncio.to_thread(fault)
        await self._reads_go_on_while_the_lease_lasts(uid)
        await asyncio.sleep(max(0.0, begun + SESSION_S - time.monotonic()))
        await self._reads_are_refused_or_stale(uid)
        await asyncio.sleep(max(0.0, begun + length_s - time.monotonic()))
        assert not [op for op in self._writes_since(begun + REQUEST_TIMEOUT_S) if op.outcome is Outcome.OK]
        await asyncio.to_thread(repair)
        accepted_at = await asyncio.to_thread(self._first_produce)
        await self._writes(1, since=time.monotonic())
        recovery_s = time.monotonic() - accepted_at
        await self._writes(WARM_WRITES)
        await self.load.stop()
        print(f"CHAOS_SEED={self.seed}; writes again {recovery_s:.2f} s after the broker; {self.load.summary()}")
        assert recovery_s < RECOVERY_S
        assert self.service.worker_pids() == workers, "the service was restarted"
        self._every_answer_came_in_time()
        verdict = await judge(self.service, self.load, least_acknowledged=2 * WARM_WRITES)
        verdict.assert_clean(f"CHAOS_SEED={self.seed}")

    async def _writes(self, count: int, *, since: float = 0.0) -> None:
        """Wait until so many more writes, called after *since*, were acknowledged."""
        wanted = len([op for op in self._writes_since(since) if op.outcome is Outcome.OK]) + count
        end = time.monotonic() + 60
        while len([op for op in self._writes_since(since) if op.outcome is Outcome.OK]) < wanted:
            assert time.monotonic() < end, f"no {count} writes in 60 s: {self.load.summary()}\n{self.service.tail()}"
            await asyncio.sleep(0.02)

    def _writes_since(self, since: float) -> list[Operation]:
        return [op for op in self.load.operations if op.is_write and op.called_ns >= since * 1e9]

    async def _get(self, uid: str, **headers: str) -> Reply:
        client = Client(self.service.address)
        given = {"Request-Timeout": "1", **headers}
        reply = await client.request("GET", f"/api/profile/{uid}", None, given, timeout_s=1 + GRACE_S)
        client.close()
        return reply

    async def _reads_go_on_while_the_lease_lasts(self, uid: str) -> None:
        reply = await self._get(uid)
        assert reply.status in (200, 404), reply

    async def _reads_are_refused_or_stale(self, uid: str) -> None:
        """The lease is over: a plain read gets 503, one that allows staleness an answer that says how stale it is."""
        plain = await self._get(uid)
        assert plain.status == 503, plain
        assert int(plain.headers["retry-after"]) >= 1
        stale = await self._get(uid, Prefer="max-staleness=60")
        assert stale.status in (200, 404), stale
        told = re.search(r"staleness-ms=(\d+)", stale.headers["profile-served-by"])
        assert told, stale
        assert 0 < int(told[1]) < 60_000
        too_fresh = await self._get(uid, Prefer="max-staleness=0")
        assert too_fresh.status == 503, too_fresh

    def _first_produce(self) -> float:
        """Return the time at which the broker took a record from a producer of our own."""
        end = time.monotonic() + 90
        topic = self.service.environment["PROFILES_TOPIC_PREFIX"] + "profile-requests"
        while time.monotonic() < end:
            try:
                producer = KafkaProducer(
                    bootstrap_servers=self.cluster.bootstrap_servers,
                    request_timeout_ms=1000,
                    delivery_timeout_ms=1500,
                    max_block_ms=1000,
                    bootstrap_timeout_ms=1000,
                )
            except KafkaError:
                continue
            try:
                # A record that the service must survive, too: it is no request that it knows.
                producer.send(topic, key=b"probe", value=b"probe").get(timeout=2)
                return time.monotonic()
            except KafkaError:
                continue
            finally:
                producer.close(timeout=0.1)
        raise AssertionError(f"the broker took nothing for 90 s:\n{self.cluster.logs()}")

    def _every_answer_came_in_time(self) -> None:
        late = [op for op in self.load.operations if op.status == 0]
        assert not late, f"{len(late)} operations got no answer: {late[:5]}"
        assert self.load.slowest_s < REQUEST_TIMEOUT_S + GRACE_S, self.load.summary()
        assert self.load.count(Outcome.NOT_WRITTEN, Outcome.UNKNOWN) >= 16, self.load.summary()


def start(new_service: NewService, cluster: Cluster) -> Service:
    """A node on *cluster*."""
    settings = kafka_environment(cluster.bootstrap_servers)
    settings["PROFILES_SESSION_TIMEOUT_MS"] = str(int(SESSION_S * 1000))
    return new_service(**settings).start()


@pytest.mark.parametrize("length_s", [6.0, pytest.param(20.0, marks=pytest.mark.slow)])
def test_a_frozen_broker(new_service: NewService, own_cluster: Callable[..., Cluster], length_s: float) -> None:
    """SIGSTOP: writes get 503 or 504 in time, reads go on, then say that they are stale; after SIGCONT all is well."""
    cluster = own_cluster()
    outage = Outage(start(new_service, cluster), cluster)
    asyncio.run(outage.run(fault=cluster.freeze, repair=cluster.thaw, length_s=length_s))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_broker(new_service: NewService, own_cluster: Callable[..., Cluster]) -> None:
    """kill -9 and restart: the same. (A single broker needs 20 s and more until it serves again.)"""
    cluster = own_cluster()
    outage = Outage(start(new_service, cluster), cluster)
    asyncio.run(
        outage.run(fault=cluster.kill, repair=lambda: cluster.restart(is_waited_for=False), length_s=SESSION_S + 1)
    )


def test_a_start_without_a_broker(new_service: NewService, own_cluster: Callable[..., Cluster]) -> None:
    """A node that starts before its broker says 503 and lives, and works once the broker is there."""
    cluster = own_cluster()
    cluster.stop()
    settings = kafka_environment(cluster.bootstrap_servers)
    service = new_service(**settings).start(is_waited_for=False)
    end = time.monotonic() + 20
    while service.status_of("/livez") != 200:
        assert service.is_running, service.tail()
        assert time.monotonic() < end, service.tail()
        time.sleep(0.05)
    assert service.status_of("/readyz") == 503
    begun = time.monotonic()
    body = b'{"username":"u","email":"u@mail.com"}'
    reply = service.request("POST", "/api/profile", body, {"Request-Timeout": "1"})
    assert reply.status == 503, reply
    assert time.monotonic() - begun < 1 + GRACE_S
    cluster.restart()
    service.wait_until_ready(30)
    assert service.request("POST", "/api/profile", body).status == 201
