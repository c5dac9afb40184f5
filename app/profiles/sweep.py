"""The slow round of an owner over its claims: what holds no profile is removed, so that no e-mail outlives its profile.

Releases are best effort, so a claim may be left behind; it harms nobody and is settled when somebody wants the e-mail,
but it is personal data. Invariant: a claim goes only by the answer of its profile's owner, and by its op (R1, R4).
"""

import asyncio
import logging

from app.profiles.ground import Ground
from app.profiles.rows import claimed_uid, email_key_of
from app.profiles.settlement import Settlement
from app.profiles.topics import PROFILE_STORE, SEARCH_STORE
from streams.clock import Clock, Deadline
from streams.errors import StoreError, Unavailable

logger = logging.getLogger(__name__)

CLAIMS_PER_ROUND = 50
_ROUND_S = 1.0  # between two rounds, so that a million claims take some hours
_ANSWER_S = 5.0  # for one question


class Sweep:
    """Event loop only."""

    def __init__(self, ground: Ground, settlement: Settlement, clock: Clock) -> None:
        self._ground = ground
        self._settlement = settlement
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._partition = 0
        self._after = b""
        #: For operators: claims that were looked at, and those that were asked about since they might not hold.
        self.looked_at = 0
        self.asked = 0

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End, wherever it is. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_ROUND_S)
            try:
                await self.look(CLAIMS_PER_ROUND)
            except Unavailable as error:  # nothing is known yet, the partition moves, or its store is rebuilt
                logger.debug("sweep waits", extra={"reason": str(error)})

    async def look(self, limit: int) -> None:
        """Look after the next *limit* claims of one partition that this node owns. Raises Unavailable."""
        partition = self._partition
        try:
            reader = self._ground.node.reader(SEARCH_STORE, partition)
            rows = await asyncio.to_thread(reader.scan, start=self._after, stop=None, limit=limit)
        except StoreError as error:
            raise self._ground.store_failure(error, partition, reader) from error
        except Unavailable:
            rows = []  # another node's
        is_last = len(rows) < limit
        self._after = b"" if is_last else rows[-1][0] + b"\0"
        if is_last:
            self._partition = (partition + 1) % self._ground.node.partitions
        for email_key, row in rows:
            await self._look_after(email_key, claimed_uid(row))

    async def _look_after(self, email_key: bytes, uid: bytes) -> None:
        self.looked_at += 1
        partition = self._ground.domain.partition_of(uid)
        try:
            profile, _ = self._ground.row(PROFILE_STORE, partition, uid)
        except Unavailable:
            profile = None  # not here: its owner knows
        if profile is not None and email_key_of(profile) == email_key:
            return
        self.asked += 1
        try:
            await self._settlement.release(email_key, uid, None, Deadline.after(_ANSWER_S, self._clock))
        except Unavailable as error:
            logger.debug("claim not settled", extra={"task": partition, "reason": str(error)})
