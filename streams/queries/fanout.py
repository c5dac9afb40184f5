"""One question to all partitions, over whatever nodes have them: each node is asked once for all that it is to tell.

Invariant: the question is about the partitions from 0 to the last (or about those that the caller names), whoever
happens to be in the map; of each there is one answer, or its number is returned as missing. What is asked, and how
answers become one, is the caller's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence, Set
from contextlib import suppress
from typing import NamedTuple, Protocol, TypeVar

from streams.clock import Clock, Deadline
from streams.cluster import OBSERVER, ClusterView, NodeInfo
from streams.errors import Unavailable
from streams.queries.peers import Peers
from streams.queries.routing import Forward, Here, Local, Need, decide

_PAUSE_S = 0.05


class Standing(Protocol):
    """What this node is to a partition (`streams.runtime.node.StreamsNode`)."""

    @property
    def info(self) -> NodeInfo: ...

    def owns(self, partition: int) -> bool: ...

    def follows(self, partition: int) -> bool: ...


class FanOutNode(Standing, Protocol):
    """This node among the others. Event loop."""

    @property
    def partitions(self) -> int: ...

    @property
    def view(self) -> ClusterView: ...

    async def wait_view(self, after_epoch: int, deadline: Deadline) -> ClusterView: ...


class Target(NamedTuple):
    """Who is asked: as a follower when `is_replica`, who takes the barrier first when `is_strict`."""

    node_id: str
    is_replica: bool
    is_strict: bool


class PartAnswer(Protocol):
    """What one node tells. `partitions`: of which of those that it was asked for."""

    @property
    def partitions(self) -> Sequence[int]: ...


A = TypeVar("A", bound=PartAnswer)
Question = Callable[[Target, Sequence[int]], Awaitable[A | None]]


def local_of(node: Standing, partition: int) -> Local:
    """Return what *node* is to *partition*."""
    return Local(node.info.node_id, node.owns(partition), node.follows(partition), node.info.role == OBSERVER)


class FanOut:
    """Event loop only."""

    def __init__(self, *, node: FanOutNode, peers: Peers, clock: Clock) -> None:
        self._node = node
        self._peers = peers
        self._clock = clock

    async def ask(
        self,
        need: Need,
        question: Question[A],
        deadline: Deadline,
        *,
        is_partial: bool,
        only: Collection[int] | None = None,
    ) -> tuple[list[A], list[int]]:
        """Return the answers and the partitions of which there is none, in order. *only*: the partitions that it is
        about, None: all.

        *question* is put to each target with the partitions that are meant; it returns None when the target cannot
        say, and never raises Unavailable. Who fails is left out until the map changes or a moment has passed; that goes
        on until nothing is missing, until the deadline, or, with *is_partial*, until nobody is left to ask and there is
        an answer at all. Raises Unavailable while nothing is known of the partitions.
        """
        missing = set(range(self._node.partitions) if only is None else only)
        excluded: set[str] = set()
        answers: list[A] = []
        while missing:
            plan = self._plan(missing, need, excluded)
            found = await asyncio.gather(*(question(target, partitions) for target, partitions in plan))
            for (target, _), answer in zip(plan, found, strict=True):
                if answer is None or not missing.intersection(answer.partitions):
                    excluded.add(target.node_id)
                else:
                    answers.append(answer)
                    missing.difference_update(answer.partitions)
            if missing and not plan:
                if (is_partial and answers) or deadline.has_passed(self._clock):
                    break
                until = Deadline(min(deadline.at, self._clock.monotonic() + _PAUSE_S))
                with suppress(Unavailable):
                    await self._node.wait_view(self._node.view.epoch, until)
                excluded.clear()
        return answers, sorted(missing)

    def _plan(self, missing: Set[int], need: Need, excluded: Set[str]) -> list[tuple[Target, Sequence[int]]]:
        """Return whom to ask for which partitions; those that nobody can be asked for now are in none."""
        plan: dict[Target, list[int]] = {}
        for partition in sorted(missing):
            step = decide(
                self._node.view,
                partition,
                need,
                local_of(self._node, partition),
                is_suspected=self._peers.is_suspected,
                excluded=excluded,
            )
            if isinstance(step, Here):
                target = Target(self._node.info.node_id, step.is_replica, step.is_strict)
            elif isinstance(step, Forward):
                target = Target(step.node_id, step.is_replica, step.is_replica)
            else:
                continue
            plan.setdefault(target, []).append(partition)
        return list(plan.items())
