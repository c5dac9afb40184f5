"""Reads of profiles: by uid, by e-mail, and page by page, each answered only while its freshness is proven or said.

No HTTP here. Everything runs on the event loop; what blocks (scans) goes to a thread.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from heapq import merge
from itertools import islice

from app.profiles.email import normalise
from app.profiles.freshness import BARRIER, Proof, prove
from app.profiles.ground import Ground
from app.profiles.ports import Reader
from app.profiles.requests import ReadOptions
from app.profiles.results import ClaimElsewhere, Page, ProfileNotFound, Read, Scan, ServedBy, Stored
from app.profiles.rows import body_of, claim_of, claimed_uid, email_key_of, version_of
from app.profiles.topics import PROFILE_STORE, SEARCH_STORE
from streams.clock import Clock, Deadline
from streams.errors import LeaseExpired, NotOwner, Restoring, StoreError, Unavailable
from streams.partitioner import partition_for
from streams.records import TopicPartition

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
        reader.check_settled(uid)
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
        reader.check_settled(uid)
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
            text = f"{self._node.node_id}; role=owner; position={position}; staleness-ms=0; hops=0"
            known = self._served_by_values[partition] = (position, text.encode())
        return known[1]

    async def get(self, uid: str, options: ReadOptions, deadline: Deadline) -> Read:
        """Return the profile *uid*. Raises ProfileNotFound, BadCursor, Unavailable."""
        return await self._get(uid, None, options, deadline)

    async def get_claimed(self, uid: str, email: str, options: ReadOptions, deadline: Deadline) -> Read:
        """Return the profile *uid* if it carries the e-mail: the second half of a search. Raises as `search` does."""
        return await self._get(uid, self._ground.email_key(email), options, deadline)

    async def _get(self, uid: str, email_key: bytes | None, options: ReadOptions, deadline: Deadline) -> Read:
        partition = self._ground.domain.partition_of(uid.encode())
        proof = await self._prove(options, (partition,), deadline)
        try:
            return self._read(uid, email_key, partition, proof)
        except LeaseExpired:
            # A barrier proves as much as a lease, so reads go on while the coordinator cannot be reached.
            barrier = await self._take_barrier(options, (partition,), deadline)
            return self._read(uid, email_key, partition, barrier)

    def _read(self, uid: str, email_key: bytes | None, partition: int, proof: Proof) -> Read:
        row, reader = self._row(PROFILE_STORE, partition, uid.encode(), proof)
        served_by = self._served_by(partition, reader, proof)
        if row is None or (email_key is not None and email_key_of(row) != email_key):
            raise ProfileNotFound(uid if email_key is None else None, served_by)
        return Read(Stored(uid, version_of(row), body_of(row)), served_by)

    async def search(self, email: str, options: ReadOptions, deadline: Deadline) -> Read:
        """Return the profile that carries the e-mail. Raises ValidationFailed (not an address), ProfileNotFound,
        ClaimElsewhere, BadCursor, Unavailable."""
        email_key = self._ground.email_key(email)
        # The e-mail's partition tells the profile's only later, so all that are here are proven.
        here = self._here(range(self._node.partitions), options)
        proof = await self._prove(options, here, deadline)
        try:
            return await self._search(email_key, proof, deadline)
        except LeaseExpired:
            return await self._search(email_key, await self._take_barrier(options, here, deadline), deadline)

    async def _search(self, email_key: bytes, proof: Proof, deadline: Deadline) -> Read:
        """Read the claim, then the profile, and answer only if the profile carries the e-mail.

        A change of e-mail moves rows of two tasks. A search that met it half way would find the profile under neither
        address, so a miss counts only when nothing was being applied from before the first read to after the last.
        """
        domain = self._ground.domain
        partition = domain.partition_of(email_key)
        while True:
            sequence = self._node.sequence
            row, reader = self._row(SEARCH_STORE, partition, email_key, proof)
            found_by = self._served_by(partition, reader, proof)  # a claim of the past could name the wrong profile
            if row is not None:
                uid = claim_of(row).uid
                its = domain.partition_of(uid)
                try:
                    row, reader = self._row(PROFILE_STORE, its, uid, proof)
                except (NotOwner, Restoring) as error:
                    raise ClaimElsewhere(uid.decode(), its, error) from error
                found_by = self._served_by(its, reader, proof)
                if row is not None and email_key_of(row) == email_key:
                    return Read(Stored(uid.decode(), version_of(row), body_of(row)), found_by)
            if sequence % 2 == 0 and sequence == self._node.sequence:
                raise ProfileNotFound(None, found_by)
            if deadline.has_passed(self._clock):
                raise Unavailable("the index did not come to rest in time", partition=partition)
            await asyncio.sleep(_SETTLE_S)

    def _row(self, store: str, partition: int, key: bytes, proof: Proof) -> tuple[bytes | None, Reader]:
        if not (proof.is_strict or proof.is_replica):
            self._ground.reader(store, partition, is_replica=False).check_settled(key)
        return self._ground.row(store, partition, key, is_replica=proof.is_replica)

    async def page(self, *, limit: int, cursor: str | None, options: ReadOptions, deadline: Deadline) -> Page:
        """Return up to *limit* (1..500) profiles after *cursor*, by uid, when this node has them all. Not a snapshot: a
        profile that is there all the time is in exactly one page. Raises BadCursor, Unavailable."""
        everywhere = range(self._node.partitions)
        scan = await self.scan(everywhere, self.start_of(cursor), limit + 1, options, deadline)
        for partition in everywhere:
            if partition not in scan.partitions:
                self._ground.reader(PROFILE_STORE, partition, is_replica=options.is_replica)  # says why
                raise Unavailable("the partition has just moved", partition=partition)
        return self.page_of([scan], limit)

    def start_of(self, cursor: str | None) -> bytes:
        """Return the least uid that may come after *cursor*. Raises BadCursor, Unavailable."""
        return b"" if cursor is None else self._ground.tokens.cursor(cursor) + b"\x00"

    def page_of(self, scans: Sequence[Scan], limit: int, missing: Sequence[int] = ()) -> Page:
        """Return the page that *scans*, each of *limit* + 1 rows at most, make together."""
        assert 1 <= limit <= MAX_PAGE
        rows = list(islice(merge(*(scan.rows for scan in scans)), limit + 1))
        following = self._ground.tokens.of_cursor(rows[limit - 1][0]) if len(rows) > limit else None
        served_by = oldest([scan.served_by for scan in scans if scan.served_by is not None])
        assert served_by is not None, "somebody looked at something"
        return Page([body for _, body in rows[:limit]], following, served_by, missing)

    async def scan(
        self, partitions: Sequence[int], start: bytes, limit: int, options: ReadOptions, deadline: Deadline
    ) -> Scan:
        """Return the first *limit* profiles from the uid *start* on, of those of *partitions* that are here. Raises
        BadCursor (of the position), Unavailable."""
        here = self._here(partitions, options)
        proof = await self._prove(options, here, deadline)
        try:
            return await asyncio.to_thread(self._scan, here, start, limit, proof)
        except LeaseExpired:
            barrier = await self._take_barrier(options, here, deadline)
            return await asyncio.to_thread(self._scan, here, start, limit, barrier)

    def _scan(self, partitions: Sequence[int], start: bytes, limit: int, proof: Proof) -> Scan:
        """Scan; on any thread."""
        runs, served_by = [], []
        for partition in partitions:
            reader = self._ground.reader(PROFILE_STORE, partition, is_replica=proof.is_replica)
            try:
                rows = reader.scan(start=start, stop=None, limit=limit)
            except StoreError as error:
                raise self._ground.store_failure(error, partition, reader) from error
            served_by.append(self._served_by(partition, reader, proof))
            runs.append([(uid, body_of(row)) for uid, row in rows])
        return Scan(list(islice(merge(*runs), limit)), partitions, oldest(served_by))

    def _here(self, partitions: Sequence[int], options: ReadOptions) -> list[int]:
        """Return those of *partitions* that can be read on this node."""
        here = []
        for partition in partitions:
            with suppress(Unavailable):
                self._ground.reader(PROFILE_STORE, partition, is_replica=options.is_replica)
                here.append(partition)
        return here

    async def _prove(self, options: ReadOptions, partitions: Sequence[int], deadline: Deadline) -> Proof:
        return await prove(self._node, options, self.positions_of(options), partitions, deadline)

    async def _take_barrier(self, options: ReadOptions, partitions: Sequence[int], deadline: Deadline) -> Proof:
        """Return the proof that serves instead of the one that did not hold. Raises LeaseExpired where the owner would
        be asked first: a copy is too old for a caller who has said how old it may be."""
        if options.is_replica and options.position is None:
            raise LeaseExpired("the copy is staler than the caller allows")
        await self._node.barrier(partitions, deadline)
        return BARRIER._replace(is_replica=options.is_replica)

    def positions_of(self, options: ReadOptions) -> Mapping[TopicPartition, int] | None:
        """Return what the caller's position token names, None without one. Raises BadCursor, Unavailable."""
        return self._ground.tokens.positions(options.position) if options.position is not None else None

    def _served_by(self, partition: int, reader: Reader, proof: Proof) -> ServedBy:
        """Return where an answer comes from. Raises LeaseExpired when it may not be given."""
        staleness_ms = proof.staleness_ms(reader)
        position = reader.positions[self._topics.profiles]
        return ServedBy(self._node.node_id, self._node.role_of(partition), position, staleness_ms, hops=0)


def oldest(origins: Sequence[ServedBy]) -> ServedBy | None:
    """Return one origin for an answer that has several: the stalest, and among those the one farthest away."""
    return max(origins, key=lambda origin: (origin.staleness_ms, origin.role, origin.hops), default=None)
