"""One run of a cluster under load and faults: clients on all nodes, probes that watch chosen partitions, the verdict.

The faults themselves are the tests'. A run that shows too little is void, which is a failure: too few acknowledged
operations, before or after the fault.
"""

import asyncio
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count, pairwise
from types import TracebackType
from typing import Any, Self

from streams.cluster import ClusterView
from tests.support.cluster import PARTITIONS, Nodes
from tests.support.history import Kind, Operation, Outcome
from tests.support.load import Caller, Load
from tests.support.stalls import Stalls
from tests.support.verdict import Verdict, judge

WARM_OPERATIONS = 60
PROGRESS_TIMEOUT_S = 60.0
_PROBE_CLIENT = 1000  # probes are clients from this number on
_READ_PAUSE_S = 0.02
_WRITE_PAUSE_S = 0.05
_NS_PER_S = 1_000_000_000


def seed_of_run() -> int:
    """`CHAOS_SEED`, or a random one."""
    return int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1_000_000))


class Run:
    """`async with Run(nodes) as run:` loads all *nodes*; `finish` stops, judges and raises."""

    def __init__(self, nodes: Nodes, *, clients: int = 12, **options: Any) -> None:
        """*options* are those of Load. Prints the seed."""
        self.nodes = nodes
        self.seed = seed_of_run()
        print(f"CHAOS_SEED={self.seed}", flush=True)
        self.random = random.Random(self.seed)
        options = {"with_replicas": True, "pause_s": 0.01, **options}
        self.load = Load(nodes.addresses, seed=self.seed, clients=clients, **options)
        self._probes: list[Probes] = []
        self._marks = count(1)
        self._stalls = Stalls()

    async def __aenter__(self) -> Self:
        self._stalls.__enter__()
        self.load.start()
        await self.progress()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                with suppress(Exception):  # What went wrong first is told.
                    await self.stop()
        finally:
            self._stalls.__exit__(kind, error, trace)

    async def progress(self, operations: int = WARM_OPERATIONS, *, timeout_s: float = PROGRESS_TIMEOUT_S) -> None:
        """Return when so many more writes and reads were acknowledged. Raises AssertionError."""
        before = {is_write: self.load.count(Outcome.OK, is_write=is_write) for is_write in (True, False)}
        end = time.monotonic() + timeout_s
        while any(self.load.count(Outcome.OK, is_write=one) < was + operations for one, was in before.items()):
            assert time.monotonic() < end, (
                f"no {operations} writes and reads in {timeout_s} s; {self.load.summary()}\n{self.nodes.tails(15)}"
            )
            await asyncio.sleep(0.05)

    def allowed_s(self, limit_s: float, since_ns: int) -> float:
        """Return *limit_s* and what the machine itself stood still since then, which is printed: a limit in seconds
        is a promise of the nodes, not of a machine that runs nobody."""
        if stalled_s := self._stalls.seconds_since(since_ns):
            print(f"the machine stood still for {stalled_s:.2f} s", flush=True)
        return limit_s + stalled_s

    async def settled(self) -> ClusterView:
        """Return the view when the nodes have settled."""
        return await asyncio.to_thread(self.nodes.wait_until_settled)

    async def choose_owner(self, *, is_greatest: bool = False) -> tuple[str, frozenset[int], list[str]]:
        """Wait until the nodes have settled; return a member that owns partitions (or the one that owns most), those,
        and the other members."""
        view = await self.settled()
        owner = self.random.choice([name for name in self.nodes.members if view.owned_by(name)])
        if is_greatest:
            owner = max(self.nodes.members, key=lambda name: len(view.owned_by(name)))
        return owner, view.owned_by(owner), [name for name in self.nodes.members if name != owner]

    async def pause(self, longest_s: float) -> None:
        """Let some time pass, so that a fault hits at any moment of whatever goes on."""
        await asyncio.sleep(self.random.uniform(0, longest_s))

    async def stop(self) -> None:
        """Let every client end its request."""
        for probes in self._probes:
            await probes.stop()
        await asyncio.wait_for(self.load.stop(), PROGRESS_TIMEOUT_S)

    async def finish(self, *, least: int = 2 * WARM_OPERATIONS) -> None:
        """Stop, judge all nodes that run, and assert that no promise was broken."""
        (await self.verdict(least=least)).assert_clean(f"CHAOS_SEED={self.seed}; {self.load.summary()}")

    async def verdict(self, *, least: int = 2 * WARM_OPERATIONS) -> Verdict:
        """Stop and judge all nodes that run."""
        await self.stop()
        print(self.load.summary(), flush=True)
        first, *others = self.nodes.running.values()
        return await judge(first, self.load, least_acknowledged=least, others=others, partitions=PARTITIONS)

    async def watch(self, partitions: Iterable[int], *, through: Sequence[str]) -> "Probes":
        """Make a profile in each of *partitions*, and read and write them without a pause *through* these nodes from
        now on. Returns when each was read and written."""
        probes = Probes(self.load, [self.nodes[name].address for name in through])
        for partition in partitions:
            await probes.add(partition, self._emails(partition))
        self._probes.append(probes)
        probes.start()
        for is_write in (True, False):
            await probes.until_answered(time.monotonic_ns(), is_write=is_write, timeout_s=PROGRESS_TIMEOUT_S)
        return probes

    def _emails(self, partition: int) -> Iterator[str]:
        """Yield new e-mails of *partition*."""
        for number in self._marks:
            email = f"probe{number}@mail.example.com"
            if self.nodes.partition_of(email) == partition:
                yield email


class Probes:
    """A reader and a writer for one profile in each of some partitions. What they see is part of the history."""

    def __init__(self, load: Load, addresses: Sequence[tuple[str, int]]) -> None:
        self._load = load
        self._addresses = addresses
        self._uids: dict[int, str] = {}
        self._answers: dict[tuple[int, bool], list[Operation]] = {}
        self._is_stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def add(self, partition: int, emails: Iterator[str]) -> None:
        """Make the profile of *partition*."""
        caller = Caller(self._addresses, partition)
        while partition not in self._uids:
            email = next(emails)
            # Without an Idempotency-Key the profile lies where its e-mail does.
            made = Operation(_PROBE_CLIENT + partition, Kind.CREATE, 0, email=email, mark=f"made for {email}")
            await self._load.perform(caller, made)
            if made.outcome is Outcome.OK:
                self._uids[partition] = made.uid
                self._load.reserved.add(made.uid)  # Else somebody deletes it.
                self._load.known.pop(made.uid, None)
        caller.close()

    def start(self) -> None:
        for partition in self._uids:
            self._tasks.append(asyncio.create_task(self._repeat(partition, is_write=False)))
            self._tasks.append(asyncio.create_task(self._repeat(partition, is_write=True)))

    async def stop(self) -> None:
        """Let each request end. Raises what a probe met that it did not expect."""
        self._is_stopping = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), PROGRESS_TIMEOUT_S)

    async def _repeat(self, partition: int, *, is_write: bool) -> None:
        caller = Caller(self._addresses, partition)
        answers = self._answers.setdefault((partition, is_write), [])
        uid, client = self._uids[partition], _PROBE_CLIENT + partition
        for number in count(1):
            if self._is_stopping:
                break
            kind = Kind.PATCH if is_write else Kind.GET
            operation = Operation(client, kind, 0, uid=uid, mark=f"probe {uid} {number}" if is_write else None)
            await self._load.perform(caller, operation)
            if operation.outcome is Outcome.OK:
                answers.append(operation)
            await asyncio.sleep(_WRITE_PAUSE_S if is_write else _READ_PAUSE_S)
        caller.close()

    def answered_after(self, since_ns: int, *, is_write: bool) -> dict[int, float] | None:
        """Return, for each partition, how many seconds after *since_ns* the first request that was begun then was
        answered rightly; None as long as one is missing."""
        found = {}
        for partition in self._uids:
            later = (op for op in self._answers.get((partition, is_write), ()) if op.called_ns >= since_ns)
            if (first := min((op.returned_ns for op in later), default=None)) is None:
                return None
            found[partition] = (first - since_ns) / _NS_PER_S
        return found

    async def until_answered(self, since_ns: int, *, is_write: bool, timeout_s: float) -> float:
        """Return how many seconds after *since_ns* requests that were begun then were answered in every partition.
        Raises AssertionError after *timeout_s*."""
        end = time.monotonic() + timeout_s
        while (answered := self.answered_after(since_ns, is_write=is_write)) is None:
            assert time.monotonic() < end, f"not answered in {timeout_s} s; {self._load.summary()}"
            await asyncio.sleep(0.01)
        return max(answered.values())

    def uid_of(self, partition: int) -> str:
        """Return the profile that is watched in *partition*."""
        return self._uids[partition]

    def longest_gap_s(self, since_ns: int, *, is_write: bool = False) -> float:
        """Return the longest time without an answer in any partition, from *since_ns* until now."""
        gaps = []
        for partition in self._uids:
            times = [op.returned_ns for op in self._answers[partition, is_write] if op.returned_ns >= since_ns]
            moments = [since_ns, *times, time.monotonic_ns()]
            gaps += [(after - before) / _NS_PER_S for before, after in pairwise(moments)]
        return max(gaps)


def quantiles(values: Sequence[float]) -> Mapping[str, float]:
    """Return p50, p95 and the greatest of *values*, rounded to ms."""
    ordered = sorted(values)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)

    return {"p50": at(0.5), "p95": at(0.95), "max": round(ordered[-1], 3), "runs": len(ordered)}
