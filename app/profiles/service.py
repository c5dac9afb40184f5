"""The profile service as the edge sees it: one object in front of reads and writes. Nothing happens here."""

from collections.abc import Mapping

from app.profiles.ground import Ground
from app.profiles.ports import Node, Owners, ProfileSettings, Table
from app.profiles.reads import Reads
from app.profiles.remote_claims import ALONE
from app.profiles.requests import IfMatch, ReadOptions
from app.profiles.results import Page, Read, Written
from app.profiles.tokens import Tokens
from app.profiles.topics import TopicNames
from app.profiles.uids import RandomBytes
from app.profiles.writes import Writes
from streams.clock import Clock, Deadline
from streams.records import TopicPartition


class ProfileService:
    """The profile API without HTTP; see `Reads` and `Writes`. One instance for each process; the event loop only."""

    def __init__(
        self,
        *,
        node: Node,
        table: Table,
        topics: TopicNames,
        clock: Clock,
        random: RandomBytes,
        settings: ProfileSettings,
        owners: Owners = ALONE,
    ) -> None:
        ground = self._ground = Ground(node=node, topics=topics, settings=settings)
        self.reads = Reads(ground, clock)
        self.writes = Writes(ground, table=table, clock=clock, random=random, owners=owners)

    @property
    def tokens(self) -> Tokens:
        """See Ground.tokens."""
        return self._ground.tokens

    def get_now(self, uid: bytes) -> tuple[bytes, bytes, bytes] | None:
        """See Reads.get_now."""
        return self.reads.get_now(uid)

    def search_now(self, email: str) -> tuple[bytes, bytes, bytes, bytes] | None:
        """See Reads.search_now."""
        return self.reads.search_now(email)

    async def get(self, uid: str, options: ReadOptions, deadline: Deadline) -> Read:
        """See Reads.get."""
        return await self.reads.get(uid, options, deadline)

    async def search(self, email: str, options: ReadOptions, deadline: Deadline) -> Read:
        """See Reads.search."""
        return await self.reads.search(email, options, deadline)

    async def get_claimed(self, uid: str, email: str, options: ReadOptions, deadline: Deadline) -> Read:
        """See Reads.get_claimed."""
        return await self.reads.get_claimed(uid, email, options, deadline)

    def email_key(self, email: str) -> bytes:
        """See Ground.email_key."""
        return self._ground.email_key(email)

    def create_key(self, document: object, idempotency_key: str | None) -> bytes | None:
        """See Ground.create_key."""
        return self._ground.create_key(document, idempotency_key)

    async def page(
        self, *, limit: int, cursor: str | None, options: ReadOptions, deadline: Deadline, is_partial: bool
    ) -> Page:
        """See Reads.page. A node that is alone has no parts."""
        return await self.reads.page(limit=limit, cursor=cursor, options=options, deadline=deadline)

    async def create(self, document: object, *, idempotency_key: str | None, deadline: Deadline) -> Written:
        """See Writes.create."""
        return await self.writes.create(document, idempotency_key=idempotency_key, deadline=deadline)

    async def replace(self, uid: str, document: object, *, if_match: IfMatch, deadline: Deadline) -> Written:
        """See Writes.replace."""
        return await self.writes.replace(uid, document, if_match=if_match, deadline=deadline)

    async def patch(self, uid: str, document: object, *, if_match: IfMatch, deadline: Deadline) -> Written:
        """See Writes.patch."""
        return await self.writes.patch(uid, document, if_match=if_match, deadline=deadline)

    async def delete(self, uid: str, *, if_match: IfMatch, deadline: Deadline) -> Written:
        """See Writes.delete."""
        return await self.writes.delete(uid, if_match=if_match, deadline=deadline)

    async def restore(self, uid: str, document: object, *, source: str | None, deadline: Deadline) -> Written:
        """See Writes.restore."""
        return await self.writes.restore(uid, document, source=source, deadline=deadline)

    def topic_id(self) -> str:
        """See Ground.topic_id."""
        return self._ground.topic_id

    def position_token(self, positions: Mapping[TopicPartition, int]) -> str:
        """See Writes.position_token."""
        return self.writes.position_token(positions)
