"""Reads of profiles: by uid, by e-mail, and page by page, each answered only while its freshness is proven or said.

No HTTP here. Everything runs on the event loop; what blocks (scans) goes to a thread.
"""

import asyncio
from collections.abc import Sequence

from app.profiles.email import InvalidEmail, normalise
from app.profiles.freshness import BARRIER, Proof, prove
from app.profiles.ground import Ground
from app.profiles.ports import Reader
from app.profiles.requests import ReadOptions
from app.profiles.results import (
    BadCursor,
    Page,
    ProfileNotFound,
    Read,
    ServedBy,
    Stored,
    ValidationFailed,
)
from app.profiles.rows import body_of, claim_of, claimed_uid, email_key_of, version_of
from app.profiles.schema import email_error
from app.profiles.tokens import CURSOR_PARAMETER, Cursor
from app.profiles.topics import PROFILE_STORE, SEARCH_STORE
from streams.clock import Clock, Deadline
from streams.errors import LeaseExpired, StoreError, Unavailable
from streams.partitioner import partition_for

MAX_PAGE = 500

_SETTLE_S = 0.001  # between two looks of a search at stores that are being written


class Reads:
    """The reading half of the profile API without HTTP. One instance for each process; the event loop only."""

    def __init__(self, ground: Ground, clock: Clock) -> None:
        self._ground = ground
        self._node = ground.node
        self._topics = ground.topics
        self._settings = ground.settings
        self._clock = clock
        self._served_by_values: dict[int, tuple[int, bytes]] = {}

    def get_now(self, uid: bytes) -> tuple[bytes, bytes, bytes] | None:
        """Return (body, ETag, Profile-Served-By) of a profile whose owner is this node, or None if there is none.

        The hot path: no await, no JSON. *uid*: 36 lower-case ASCII bytes. Raises Unavailable, StoreError.
        """
        node = self._node
        partition = partition_for(uid, node.partitions)
        reader = node.reader(PROFILE_STORE, partition)
        row = reader.get(uid)
        reader.check_lease()
        if row is None:
            return None
        return body_of(row), b'"%d"' % version_of(row), self._served_by_owner(partition, reader)

    def search_now(self, email: str) -> tuple[bytes, bytes, bytes, bytes] | None:
        """Return (body, ETag, Profile-Served-By, uid) of the profile that carries the e-mail, or None: nothing is
        proven then, and `search` has to look.

        The hot path of `search`, as `get_now` is of `get`. Raises InvalidEmail, Unavailable, StoreError.
        """
        email_key = normalise(email, self._settings.email_policy).key
        node = self._node
        partitions = node.partitions
        claim = node.reader(SEARCH_STORE, partition_for(email_key, partitions)).get(email_key)
        if claim is None:
            return None
        uid = claimed_uid(claim)
        partition = partition_for(uid, partitions)
        reader = node.reader(PROFILE_STORE, partition)
        row = reader.get(uid)
        if row is None or email_key_of(row) != email_key:
            return None
        reader.check_lease()
        return body_of(row), b'"%d"' % version_of(row), self._served_by_owner(partition, reader), uid

    def _served_by_owner(self, partition: int, reader: Reader) -> bytes:
        """Return the value of Profile-Served-By for a read under the lease; made once for each position."""
        position = reader.positions[self._topics.profiles]
        known = self._served_by_values.get(partition)
        if known is None or known[0] != position:
            node = self._node
            text = f"{node.node_id}; role={node.role}; position={position}; staleness-ms=0; hops=0"
            known = self._served_by_values[partition] = (position, text.encode())
        return known[1]

    async def get(self, uid: str, options: ReadOptions, deadline: Deadline) -> Read:
        """Return the profile *uid*. Raises ProfileNotFound, BadCursor, Unavailable."""
        key = uid.encode()
        partition = self._ground.domain.partition_of(key)
        proof = await self._prove(options, (partition,), deadline)
        try:
            return self._get(uid, partition, proof)
        except LeaseExpired:
            # A barrier proves as much as a lease, so reads go on while the coordinator cannot be reached.
            await self._node.barrier((partition,), deadline)
            return self._get(uid, partition, BARRIER)

    def _get(self, uid: str, partition: int, proof: Proof) -> Read:
        row, reader = self._ground.row(PROFILE_STORE, partition, uid.encode())
        served_by = self._served_by(reader, proof)
        if row is None:
            raise ProfileNotFound(uid, served_by)
        return Read(Stored(uid, version_of(row), body_of(row)), served_by)

    async def search(self, email: str, options: ReadOptions, deadline: Deadline) -> Read:
        """Return the profile that carries the e-mail. Raises ValidationFailed (not an address), ProfileNotFound,
        BadCursor, Unavailable."""
        try:
            email_key = normalise(email, self._settings.email_policy).key
        except InvalidEmail:
            raise ValidationFailed([email_error()]) from None
        everywhere = range(self._node.partitions)  # the e-mail's partition tells the profile's only later
        proof = await self._prove(options, everywhere, deadline)
        try:
            return await self._search(email_key, proof, deadline)
        except LeaseExpired:
            await self._node.barrier(everywhere, deadline)
            return await self._search(email_key, BARRIER, deadline)

    async def _search(self, email_key: bytes, proof: Proof, deadline: Deadline) -> Read:
        """Read the claim, then the profile, and answer only if the profile carries the e-mail.

        A change of e-mail moves rows of two tasks. A search that met it half way would find the profile under neither
        address, so a miss counts only when nothing was being applied from before the first read to after the last.
        """
        domain = self._ground.domain
        partition = domain.partition_of(email_key)
        while True:
            sequence = self._node.sequence
            row, reader = self._ground.row(SEARCH_STORE, partition, email_key)
            if row is not None:
                uid = claim_of(row).uid
                row, reader = self._ground.row(PROFILE_STORE, domain.partition_of(uid), uid)
                if row is not None and email_key_of(row) == email_key:
                    served_by = self._served_by(reader, proof)
                    return Read(Stored(uid.decode(), version_of(row), body_of(row)), served_by)
            if sequence % 2 == 0 and sequence == self._node.sequence:
                raise ProfileNotFound(None, self._served_by(reader, proof))
            if deadline.has_passed(self._clock):
                raise Unavailable("the index did not come to rest in time", partition=partition)
            await asyncio.sleep(_SETTLE_S)

    async def page(self, *, limit: int, cursor: str | None, options: ReadOptions, deadline: Deadline) -> Page:
        """Return up to *limit* (1..500) profiles after *cursor*, partition by partition, by uid in each. Not a
        snapshot: a profile that is there all the time is in exactly one page. Raises BadCursor, Unavailable."""
        assert 1 <= limit <= MAX_PAGE
        partitions = self._node.partitions
        start = Cursor(0, b"") if cursor is None else self._ground.tokens.cursor(cursor)
        if start.partition >= partitions:
            raise BadCursor(CURSOR_PARAMETER)
        rest = range(start.partition, partitions)
        proof = await self._prove(options, rest, deadline)
        try:
            return await asyncio.to_thread(self._page, start, limit, proof)
        except LeaseExpired:
            await self._node.barrier(rest, deadline)
            return await asyncio.to_thread(self._page, start, limit, BARRIER)

    def _page(self, start: Cursor, limit: int, proof: Proof) -> Page:
        """Scan; on any thread. One row more than the page has tells whether there is a next one."""
        bodies: list[bytes] = []
        last = after = start
        served_by: ServedBy | None = None
        for partition in range(start.partition, self._node.partitions):
            reader = self._node.reader(PROFILE_STORE, partition)
            first = after.uid + b"\x00" if after.uid and partition == start.partition else b""
            try:
                rows = reader.scan(start=first, stop=None, limit=limit + 1 - len(bodies))
            except StoreError as error:
                raise self._ground.store_failure(error, partition, reader) from error
            served_by = self._served_by(reader, proof)
            for uid, row in rows:
                if len(bodies) == limit:
                    return Page(bodies, self._ground.tokens.of_cursor(last), served_by)
                bodies.append(body_of(row))
                last = Cursor(partition, uid)
        assert served_by is not None, "there is at least one partition"
        return Page(bodies, None, served_by)

    async def _prove(self, options: ReadOptions, partitions: Sequence[int], deadline: Deadline) -> Proof:
        positions = self._ground.tokens.positions(options.position) if options.position is not None else None
        return await prove(self._node, options, positions, partitions, deadline)

    def _served_by(self, reader: Reader, proof: Proof) -> ServedBy:
        """Return where an answer comes from. Raises LeaseExpired when it may not be given."""
        staleness_ms = proof.staleness_ms(reader)
        position = reader.positions[self._topics.profiles]
        return ServedBy(self._node.node_id, self._node.role, position, staleness_ms, hops=0)
