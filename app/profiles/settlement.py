"""Commands that may concern several owners: claim, commit, release, one after the other; and what other owners may ask.

Follows the model in `tests/simulation/claims.py`, whose rules R1 to R12 the comments name. Nothing is decided here:
commands decide, in the write section of whoever owns what they look at. Invariants: the old e-mail is released behind
the commit (R9); the mark of a command stays until its outcome is known (R2).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from app.profiles.claiming import Barrier, Claim, Granted, Holds, Proven, Settled, Unclaim
from app.profiles.claims import Ask, Grant, Known, Moved, Release, Unclaimed
from app.profiles.commands import Create, Delete, Done, Update
from app.profiles.events import Event
from app.profiles.ground import Ground
from app.profiles.idempotency import IdempotentCreate
from app.profiles.model import timestamp
from app.profiles.ports import Owners, Reader, Table
from app.profiles.restoring import Restore
from app.profiles.results import EmailTaken, Rejection, WriteOutcomeUnknown, Written
from app.profiles.topics import PROFILE_STORE
from app.profiles.uids import RandomBytes, random_id, text_of
from streams.clock import Backoff, Clock, Deadline
from streams.errors import Draining, LeaseExpired, NotOwner, NotWritten, Unavailable
from streams.queries.peers import PeerLost
from streams.runtime.commands import Decided, Outcome, Refused, Unknown

logger = logging.getLogger(__name__)

ClientCommand = Create | IdempotentCreate | Restore | Update | Delete
AnyCommand = TypeVar("AnyCommand", bound=ClientCommand | Claim | Holds | Unclaim)

Answer = TypeVar("Answer")

_MAX_ROUNDS = 64  # times that a command may find out that it needs another partition, an answer, a claim, or patience
_MAX_ERRANDS = 1000  # releases under way; one more is left to the next claimant, or to the sweep
_ERRAND_TRIES = 3
_ERRAND_S = 5.0  # for one try
_DOUBT_S = 10.0  # for one try to find out what became of a command


def _nothing() -> None:
    """Nobody has to be told."""


class SettlementUnavailable(NotOwner):
    """The command also needs a partition that is moving, or whose owner could not be asked. Nothing was written."""


class Mark(NamedTuple):
    """A command of this node has claimed *email_key* elsewhere, and may yet make the profile *uid* carry it."""

    uid: bytes
    email_key: bytes


class Settlement:
    """Drives commands over owners. One instance for each process; the event loop only, but for the marks."""

    def __init__(self, ground: Ground, *, table: Table, owners: Owners, clock: Clock, random: RandomBytes) -> None:
        self._ground = ground
        self._table = table
        self._owners = owners
        self._clock = clock
        self._random = random
        self._marks: dict[tuple[bytes, bytes], int] = {}  # how many commands; the stream thread looks into it (R12)
        self._errands: set[asyncio.Task[None]] = set()
        #: What became of releases behind a commit, for operators.
        self.released = 0
        self.given_up = 0

    async def run(self, command: ClientCommand, deadline: Deadline, on_over: Callable[[], None] = _nothing) -> Written:
        """Carry out *command* of a client. Raises its refusal, WriteOutcomeUnknown, or Unavailable: nothing written.

        *on_over* is called when nothing of the command is under way any more, which can be after this has returned.
        """
        command = replace(command, known=command.known._replace(marks=self._marks))
        attempt = _Attempt()
        try:
            for _ in range(_MAX_ROUNDS):
                outcome = await self._attempt(command, attempt, deadline)
                if isinstance(outcome, Unknown):
                    raise WriteOutcomeUnknown(command.uid, text_of(command.event_id))
                if isinstance(outcome, Refused):
                    command = await self._without(command, outcome.error, deadline)
                    continue
                result = outcome.result
                if isinstance(result, Done):
                    attempt.is_committed = bool(outcome.positions)
                    if result.left is not None:
                        self._begin_errand(self._release(result.left))
                    return Written(result.profile, result.is_created, result.is_changed, outcome.positions)
                if isinstance(result, Unclaimed):
                    command = await self._claim(command, result, attempt, deadline)
                else:
                    command = await self._learn(command, result, deadline)
                if deadline.has_passed(self._clock):
                    break
            raise NotWritten("the e-mail changed while the command waited", partition=command.partitions[0])
        finally:
            self._end(attempt, on_over)

    async def _attempt(self, command: AnyCommand, attempt: "_Attempt", deadline: Deadline) -> Outcome:
        """Have *command* decided. What it says without writing is worth as much as a read: it needs a lease that lasts
        from before to after, or else the barrier that takes its place."""
        leases = self._leases(command.partitions)
        attempt.is_open = True
        try:
            outcome = await self._table.execute(command, deadline)
            if _needs_proof(outcome) and not (leases is not None and all(map(_is_current, leases))):
                outcome = _without_barrier(await self._table.execute(Proven(command), deadline))
        except Unavailable:
            attempt.is_open = False  # nothing was begun
            raise
        attempt.is_open = isinstance(outcome, Unknown)
        return outcome

    def _leases(self, partitions: Sequence[int]) -> list[Reader] | None:
        try:
            return [self._ground.node.reader(PROFILE_STORE, partition) for partition in partitions]
        except Unavailable:
            return None

    async def _without(self, command: AnyCommand, error: Exception, deadline: Deadline) -> AnyCommand:
        """Return *command* for when the partition that this node does not own is another's, or as it is when that
        partition is just moving here; else raise *error*."""
        partition = error.partition if isinstance(error, NotOwner) else None
        if partition is None or partition == command.partitions[0]:
            raise error
        if self._owners.is_mine(partition) or partition not in command.partitions:
            try:
                await self._owners.wait(deadline)
            except Unavailable:
                raise SettlementUnavailable("the partition of an e-mail is moving", partition=partition) from error
            return command
        return replace(
            command,
            partitions=tuple(one for one in command.partitions if one != partition),
            known=command.known._replace(away=command.known.away | {partition}),
        )

    async def _learn(self, command: AnyCommand, result: Any, deadline: Deadline) -> AnyCommand:
        """Return *command* with what it asked for in *result*; raises what was no question."""
        known = command.known
        if isinstance(result, Moved):
            needed = [one for one in result.partitions if one not in command.partitions]
            mine = tuple(one for one in needed if self._owners.is_mine(one))
            return replace(
                command,
                partitions=(*command.partitions, *mine),
                known=known._replace(away=known.away.union(needed) - set(mine)),
            )
        if isinstance(result, Ask):
            partition = self._ground.domain.partition_of(result.uid)
            is_held = await self._at_owner(
                partition,
                lambda: self.held(result.uid, result.email_key, deadline),
                lambda: self._owners.held(partition, result.uid, result.email_key, deadline),
                deadline,
            )
            if is_held:
                raise EmailTaken(result.uid.decode())
            return replace(command, known=known._replace(settled=known.settled | {result.op}))
        raise result

    async def _claim(
        self, command: ClientCommand, needed: Unclaimed, attempt: "_Attempt", deadline: Deadline
    ) -> ClientCommand:
        """Claim the e-mail at its owner; return *command* with the grant. Raises EmailTaken, Unavailable."""
        self._end(attempt)  # of a grant that serves no more, when there was one
        email_key, uid, version = needed
        # Before the claim, so that the grant is void when the partition was lost in between, and won again (R8).
        reader = self._ground.node.reader(PROFILE_STORE, command.partitions[0])
        attempt.mark = Mark(uid, email_key)
        self._marks[attempt.mark] = self._marks.get(attempt.mark, 0) + 1
        partition = self._ground.domain.partition_of(email_key)
        try:
            holder = await self._at_owner(
                partition,
                lambda: self.claim(email_key, uid, version, deadline),
                lambda: self._owners.claim(partition, email_key, uid, version, deadline),
                deadline,
            )
        except Unavailable as error:
            raise SettlementUnavailable("the owner of the e-mail did not answer", partition=partition) from error
        if holder is not None:
            raise EmailTaken(holder.decode())
        grant = Grant(email_key, version, lambda: _is_current(reader))
        return replace(command, known=command.known._replace(grant=grant))

    async def _at_owner(
        self,
        partition: int,
        here: Callable[[], Awaitable[Answer]],
        there: Callable[[], Awaitable[Answer]],
        deadline: Deadline,
    ) -> Answer:
        """Return what the owner of *partition* answers, be it this node or another; while it moves, ask again."""
        while True:
            try:
                return await (here() if self._owners.is_mine(partition) else there())
            except NotOwner:
                await self._owners.wait(deadline)

    def _end(self, attempt: "_Attempt", on_over: Callable[[], None] = _nothing) -> None:
        """The attempt is over: take its mark off, now or when its outcome is known."""
        mark, attempt.mark = attempt.mark, None
        if mark is not None and attempt.is_open:
            self._start(self._find_out(mark, on_over))
            return
        if mark is not None:
            self._unmark(mark)
            if not attempt.is_committed:
                self._begin_errand(self._release(Release(mark.email_key, mark.uid, 0), is_vacated=True))
        on_over()

    def _unmark(self, mark: Mark) -> None:
        left = self._marks.pop(mark) - 1
        if left:
            self._marks[mark] = left

    # What other owners ask. Each raises Unavailable when it could not be answered, or not proven.

    async def claim(self, email_key: bytes, uid: bytes, version: int, deadline: Deadline) -> bytes | None:
        """Claim an e-mail of this node for *version* of a profile. Return None when it is, or else who has it."""
        domain = self._ground.domain
        partitions = (domain.partition_of(email_key),)
        command = Claim(domain, self._event(), partitions, email_key, uid, version, Known(marks=self._marks))
        try:
            result = await self._answer(command, deadline)
        except EmailTaken as taken:
            return taken.existing_uid.encode()
        if not isinstance(result, Granted):
            raise Unavailable("the profile has a newer claim", partition=partitions[0])
        return None

    async def held(self, uid: bytes, email_key: bytes, deadline: Deadline) -> bool:
        """Say whether a profile of this node carries the e-mail, or a command of this node may make it so."""
        domain = self._ground.domain
        partitions = (domain.partition_of(uid),)
        command = Holds(domain, self._event(), partitions, uid, email_key, Known(marks=self._marks))
        result: Settled = await self._answer(command, deadline)
        return result.is_held

    async def release(self, email_key: bytes, uid: bytes, version: int | None, deadline: Deadline) -> None:
        """Remove the claim that *uid* has on an e-mail of this node: what is older than *version*; with None, if it
        does not hold."""
        domain = self._ground.domain
        partitions = (domain.partition_of(email_key),)
        command = Unclaim(domain, self._event(), partitions, email_key, uid, version, Known(marks=self._marks))
        try:
            await self._answer(command, deadline)
        except EmailTaken:
            return  # it holds

    async def _answer(self, command: AnyCommand, deadline: Deadline) -> Any:
        for _ in range(_MAX_ROUNDS):
            outcome = await self._attempt(command, _Attempt(), deadline)
            if isinstance(outcome, Unknown):
                raise PeerLost("it did not become known in time what was written")  # who asked must not think: nothing
            if isinstance(outcome, Refused):
                command = await self._without(command, outcome.error, deadline)
            elif isinstance(outcome.result, Moved | Ask | EmailTaken):
                command = await self._learn(command, outcome.result, deadline)
            else:
                return outcome.result
        raise Unavailable("the e-mail is claimed again and again")

    # What is done behind an answer.

    async def _find_out(self, mark: Mark, on_over: Callable[[], None]) -> None:
        """Take *mark* off when it is known what became of its command: nothing is decided before that (R2)."""
        partition = self._ground.domain.partition_of(mark.uid)
        backoff = Backoff(maximum_s=5.0)
        while True:
            command = Barrier(self._ground.domain, self._event(), (partition,))
            try:
                outcome = await self._table.execute(command, Deadline.after(_DOUBT_S, self._clock))
            except Draining:
                break
            except Unavailable:
                outcome = Unknown(command.event_id)
            # Who is not the owner is not asked. If he becomes it again, it is behind a fence that settles everything.
            is_lost = isinstance(outcome, Refused) and isinstance(outcome.error, NotOwner)
            if is_lost or isinstance(outcome, Decided):
                break
            await asyncio.sleep(backoff.next_s())
        self._unmark(mark)
        on_over()
        await self._release(Release(mark.email_key, mark.uid, 0), is_vacated=True)

    async def _release(self, claim: Release, *, is_vacated: bool = False) -> None:
        """Release a claim at its owner, or with *is_vacated* only if it does not hold. Best effort. A process that was
        stopped in the middle does not come back to it: a deletion may be forgotten one day (R13)."""
        email_key, uid = claim.email_key, claim.uid
        version = None if is_vacated else claim.version
        partition = self._ground.domain.partition_of(email_key)
        backoff = Backoff(initial_s=0.2)
        end = Deadline.after(2 * _ERRAND_TRIES * _ERRAND_S, self._clock)
        for _ in range(_ERRAND_TRIES):
            if end.has_passed(self._clock):
                break
            deadline = Deadline.after(_ERRAND_S, self._clock)
            try:
                await self._at_owner(
                    partition,
                    partial(self.release, email_key, uid, version, deadline),
                    partial(self._owners.release, partition, email_key, uid, version, deadline),
                    deadline,
                )
            except Unavailable:
                await asyncio.sleep(backoff.next_s())
            else:
                self.released += 1
                return
        self.given_up += 1
        logger.info("claim left to the sweep", extra={"task": partition})

    def _begin_errand(self, errand: Coroutine[Any, Any, None]) -> None:
        if len(self._errands) < _MAX_ERRANDS:
            self._start(errand)
        else:
            errand.close()
            self.given_up += 1

    def _start(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def _event(self) -> Event:
        return Event.of(random_id(self._random), timestamp(self._clock.time_ms()), None)


class _Attempt:
    """Where one command of a client is. `is_open`: it was submitted, and what became of it is not known."""

    def __init__(self) -> None:
        self.mark: Mark | None = None
        self.is_open = False
        self.is_committed = False


def _needs_proof(outcome: Outcome) -> bool:
    """Say whether the caller is to be told something that nothing was written for. A question is no answer yet."""
    if not isinstance(outcome, Decided) or outcome.positions:
        return False
    return not isinstance(outcome.result, Moved | Ask | Unclaimed)


def _is_current(reader: Reader) -> bool:
    try:
        reader.check_lease()
    except LeaseExpired:
        return False
    return True


def _without_barrier(outcome: Outcome) -> Outcome:
    """A barrier is nothing that the caller has written."""
    result = outcome.result if isinstance(outcome, Decided) else None
    is_bare = isinstance(result, Rejection) or (isinstance(result, Done) and not result.is_changed)
    return Decided(result, {}) if is_bare else outcome
