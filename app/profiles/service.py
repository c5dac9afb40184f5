"""Reads and writes of profiles on this node: the one room that joins the pure domain with the node's table and stores.

No HTTP here, and nothing is decided here: commands decide. Invariants: a read is answered only while its freshness is
proven (a lease, a barrier, an applied position) or said; a write is answered only with an outcome that is known, or as
unknown. Everything runs on the event loop; what blocks (scans) goes to a thread.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from app.profiles.commands import Create, Delete, Domain, Done, Moved, Update
from app.profiles.email import InvalidEmail, normalise
from app.profiles.events import Event, Records
from app.profiles.freshness import BARRIER, Proof, prove
from app.profiles.idempotency import IdempotentCreate, fingerprint_of, request_key
from app.profiles.model import Change, timestamp
from app.profiles.ports import Node, ProfileSettings, Reader, Table
from app.profiles.requests import TRACEPARENT, IfMatch, ReadOptions
from app.profiles.results import (
    BadCursor,
    IdempotencyInProgress,
    Page,
    ProfileNotFound,
    Read,
    ServedBy,
    Stored,
    ValidationFailed,
    WriteOutcomeUnknown,
    Written,
)
from app.profiles.rows import body_of, claim_of, claimed_uid, email_key_of, version_of
from app.profiles.schema import Validator, email_error
from app.profiles.tokens import CURSOR_PARAMETER, Cursor, Tokens
from app.profiles.topics import PROFILE_STORE, SEARCH_STORE, TopicNames
from app.profiles.uids import RandomBytes, draw_uid, random_id, text_of
from streams.clock import Clock, Deadline
from streams.errors import LeaseExpired, NotOwner, NotWritten, StoreClosed, StoreDamaged, StoreError, Unavailable
from streams.partitioner import partition_for
from streams.records import TopicPartition
from streams.runtime.commands import Command, Decided, Refused

MAX_PAGE = 500

_MAX_MOVES = 8  # times that a command may find out that it needs another partition
_SETTLE_S = 0.001  # between two looks of a search at stores that are being written


class SettlementUnavailable(NotOwner):
    """The command also needs a partition that another node owns, and settling between two owners does not exist yet."""


class ProfileService:
    """The profile API without HTTP. One instance for each process; the event loop only."""

    def __init__(
        self,
        *,
        node: Node,
        table: Table,
        topics: TopicNames,
        clock: Clock,
        random: RandomBytes,
        settings: ProfileSettings,
    ) -> None:
        self._node = node
        self._table = table
        self._topics = topics
        self._clock = clock
        self._random = random
        self._settings = settings
        self._validator = Validator(settings.email_policy)
        self._known_domain: Domain | None = None
        self._known_tokens: Tokens | None = None
        self._served_by_values: dict[int, tuple[int, bytes]] = {}
        self._creating: set[bytes] = set()  # request keys of idempotent creates under way

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
        partition = self._domain.partition_of(key)
        proof = await self._prove(options, (partition,), deadline)
        try:
            return self._get(uid, partition, proof)
        except LeaseExpired:
            # A barrier proves as much as a lease, so reads go on while the coordinator cannot be reached.
            await self._node.barrier((partition,), deadline)
            return self._get(uid, partition, BARRIER)

    def _get(self, uid: str, partition: int, proof: Proof) -> Read:
        row, reader = self._row(PROFILE_STORE, partition, uid.encode())
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
        domain = self._domain
        partition = domain.partition_of(email_key)
        while True:
            sequence = self._node.sequence
            row, reader = self._row(SEARCH_STORE, partition, email_key)
            if row is not None:
                uid = claim_of(row).uid
                row, reader = self._row(PROFILE_STORE, domain.partition_of(uid), uid)
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
        start = Cursor(0, b"") if cursor is None else self._tokens.cursor(cursor)
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
                raise self._store_failure(error, partition, reader) from error
            served_by = self._served_by(reader, proof)
            for uid, row in rows:
                if len(bodies) == limit:
                    return Page(bodies, self._tokens.of_cursor(last), served_by)
                bodies.append(body_of(row))
                last = Cursor(partition, uid)
        assert served_by is not None, "there is at least one partition"
        return Page(bodies, None, served_by)

    async def create(self, document: object, *, idempotency_key: str | None, deadline: Deadline) -> Written:
        """Make a profile of *document*. With *idempotency_key*, a repetition gets the first outcome again.

        Raises ValidationFailed, EmailTaken, IdempotencyInProgress, IdempotencyKeyReused, ProfileGone,
        WriteOutcomeUnknown, Unavailable.
        """
        content = self._validator.new(document)
        domain, event = self._domain, self._event()
        email_partition = domain.partition_of(content.address.key)
        if idempotency_key is None:
            # The uid is drawn for the e-mail's partition, so that one owner writes claim and profile.
            uid = draw_uid(self._random, partition=email_partition, partitions=domain.partitions)
            return await self._execute(Create(domain, event, (email_partition,), uid, content), deadline)
        key = request_key("", idempotency_key)
        if key in self._creating:
            raise IdempotencyInProgress("a request with this key is still running")
        partition = domain.partition_of(key)
        command = IdempotentCreate(
            domain,
            event,
            (partition, email_partition),
            draw_uid(self._random, partition=partition, partitions=domain.partitions),
            content,
            key,
            fingerprint_of(content),
            now_ms=self._clock.time_ms(),
            ttl_ms=self._settings.idempotency_ttl_ms,
        )
        self._creating.add(key)
        try:
            return await self._execute(command, deadline)
        finally:
            self._creating.discard(key)

    async def replace(self, uid: str, document: object, *, if_match: IfMatch, deadline: Deadline) -> Written:
        """Replace the whole content of the profile *uid*. Raises ProfileNotFound, VersionMismatch,
        PreconditionRequired, ValidationFailed, EmailTaken (in this order of precedence), WriteOutcomeUnknown,
        Unavailable."""
        return await self._update(uid, self._validator.replacement, document, if_match, deadline)

    async def patch(self, uid: str, document: object, *, if_match: IfMatch, deadline: Deadline) -> Written:
        """Apply a JSON Merge Patch (RFC 7396) to the profile *uid*. Raises as `replace` does."""
        return await self._update(uid, self._validator.patch, document, if_match, deadline)

    async def delete(self, uid: str, *, if_match: IfMatch, deadline: Deadline) -> Written:
        """End the profile *uid*. Raises ProfileNotFound, VersionMismatch, PreconditionRequired, WriteOutcomeUnknown,
        Unavailable."""
        partitions = self._partitions_of(uid.encode(), None)
        is_required = self._settings.is_if_match_required
        return await self._execute(
            Delete(self._domain, self._event(), partitions, uid, if_match, is_required), deadline
        )

    def position_token(self, positions: Mapping[TopicPartition, int]) -> str:
        """Return the signed `Profile-Position` of a write. Raises Unavailable while the log was never reached."""
        return self._tokens.of_positions(positions)

    async def _update(
        self,
        uid: str,
        validate: Callable[[object, str], Change],
        document: object,
        if_match: IfMatch,
        deadline: Deadline,
    ) -> Written:
        content: Change | ValidationFailed
        try:
            content = validate(document, uid)
        except ValidationFailed as error:
            content = error  # told by the owner, after 404, 412 and 428
        address = content.address if isinstance(content, Change) else None
        partitions = self._partitions_of(uid.encode(), address.key if address is not None else None)
        is_required = self._settings.is_if_match_required
        return await self._execute(
            Update(self._domain, self._event(), partitions, uid, content, if_match, is_required), deadline
        )

    async def _execute(self, command: Create | IdempotentCreate | Update | Delete, deadline: Deadline) -> Written:
        for _ in range(_MAX_MOVES):
            outcome = await self._table.execute(command, deadline)
            if isinstance(outcome, Refused):
                raise _refusal(outcome.error, command)
            if not isinstance(outcome, Decided):
                raise WriteOutcomeUnknown(command.uid, text_of(command.event_id))
            result = outcome.result
            if isinstance(result, Done):
                return Written(result.profile, result.is_created, result.is_changed, outcome.positions)
            if not isinstance(result, Moved):
                raise result
            if deadline.has_passed(self._clock):
                break
            command = replace(command, partitions=tuple(result.partitions))
        raise NotWritten("the e-mail changed while the command waited", partition=command.partitions[0])

    def _partitions_of(self, uid: bytes, new_email_key: bytes | None) -> Sequence[int]:
        """Return the partitions that a change of *uid* will probably need, its own first.

        The old e-mail is read outside the write section and may have changed when the command is decided; it then
        answers Moved. A node that cannot read now leaves it to the table to say so.
        """
        partition_of = self._domain.partition_of
        own = partition_of(uid)
        keys = [] if new_email_key is None else [new_email_key]
        try:
            row, _ = self._row(PROFILE_STORE, own, uid)
        except Unavailable:
            row = None
        if row is not None:
            keys.append(email_key_of(row))
        return tuple(dict.fromkeys((own, *map(partition_of, keys))))

    def _row(self, store: str, partition: int, key: bytes) -> tuple[bytes | None, Reader]:
        reader = self._node.reader(store, partition)
        try:
            return reader.get(key), reader
        except Exception as error:
            raise self._store_failure(reader.explain(error), partition, reader) from error

    def _store_failure(self, error: Exception, partition: int, reader: Reader) -> Exception:
        """Return what to raise for a store that failed: damage is rebuilt, a closed store has another owner. What is
        no failure of a store is returned as it is."""
        if isinstance(error, StoreDamaged):
            reader.report_damage(error)
            return Unavailable("the store of this partition is being rebuilt", partition=partition)
        if isinstance(error, StoreClosed):
            return NotOwner("the partition is moving", partition=partition)
        if not isinstance(error, StoreError | OSError):
            return error
        return Unavailable("the store of this partition cannot be read", partition=partition)

    async def _prove(self, options: ReadOptions, partitions: Sequence[int], deadline: Deadline) -> Proof:
        positions = self._tokens.positions(options.position) if options.position is not None else None
        return await prove(self._node, options, positions, partitions, deadline)

    def _served_by(self, reader: Reader, proof: Proof) -> ServedBy:
        """Return where an answer comes from. Raises LeaseExpired when it may not be given."""
        staleness_ms = proof.staleness_ms(reader)
        position = reader.positions[self._topics.profiles]
        return ServedBy(self._node.node_id, self._node.role, position, staleness_ms, hops=0)

    def _event(self) -> Event:
        return Event.of(random_id(self._random), timestamp(self._clock.time_ms()), TRACEPARENT.get())

    @property
    def _domain(self) -> Domain:
        """Known once the log was reached, since the partition count is the topic's. Raises Unavailable before."""
        if self._known_domain is None:
            self._known_domain = Domain(Records(self._topics), self._node.partitions)
        return self._known_domain

    @property
    def _tokens(self) -> Tokens:
        if self._known_tokens is None:
            self._known_tokens = Tokens(secret=self._settings.token_secret, topic_ids=self._node.topic_ids)
        return self._known_tokens


def _refusal(error: Exception, command: Command) -> Exception:
    if isinstance(error, NotOwner) and error.partition not in (None, command.partitions[0]):
        settlement = SettlementUnavailable(
            "the e-mail belongs to another node; changes over two owners are not possible yet",
            partition=error.partition,
        )
        settlement.__cause__ = error
        return settlement
    return error
