"""Writes of profiles: a command is made of what was asked for, carried out by the table, and its outcome told.

No HTTP here, and nothing is decided here: commands decide. Invariant: a write is answered only with an outcome that is
known, or as unknown. The event loop only.
"""

from collections.abc import Callable, Mapping, Sequence

from app.profiles.commands import Create, Delete, Update
from app.profiles.events import Event
from app.profiles.ground import Ground
from app.profiles.idempotency import IdempotentCreate, fingerprint_of, request_key
from app.profiles.model import Change, timestamp
from app.profiles.ports import Owners, Table
from app.profiles.remote_claims import ALONE
from app.profiles.requests import ORIGIN, TRACEPARENT, IfMatch
from app.profiles.restoring import Restore
from app.profiles.results import IdempotencyInProgress, ValidationFailed, Written
from app.profiles.rows import email_key_of
from app.profiles.schema import Validator
from app.profiles.settlement import Settlement
from app.profiles.sweep import Sweep
from app.profiles.topics import PROFILE_STORE
from app.profiles.uids import RandomBytes, draw_uid, random_id
from streams.clock import Clock, Deadline
from streams.errors import Unavailable
from streams.records import TopicPartition


class Writes:
    """The writing half of the profile API without HTTP. One instance for each process; the event loop only."""

    def __init__(
        self, ground: Ground, *, table: Table, clock: Clock, random: RandomBytes, owners: Owners = ALONE
    ) -> None:
        self._ground = ground
        #: What other owners ask goes straight there.
        self.settlement = Settlement(ground, table=table, owners=owners, clock=clock, random=random)
        self.sweep = Sweep(ground, self.settlement, clock)
        self._clock = clock
        self._random = random
        self._settings = ground.settings
        self._validator = Validator(ground.settings.email_policy)
        self._creating: set[bytes] = set()  # request keys of idempotent creates under way

    async def create(self, document: object, *, idempotency_key: str | None, deadline: Deadline) -> Written:
        """Make a profile of *document*. With *idempotency_key*, a repetition gets the first outcome again.

        Raises ValidationFailed, EmailTaken, IdempotencyInProgress, IdempotencyKeyReused, ProfileGone,
        WriteOutcomeUnknown, Unavailable.
        """
        content = self._validator.new(document)
        domain, event = self._ground.domain, self._event()
        email_partition = domain.partition_of(content.address.key)
        if idempotency_key is None:
            # The uid is drawn for the e-mail's partition, so that one owner writes claim and profile.
            uid = self._uid(email_partition)
            return await self.settlement.run(Create(domain, event, (email_partition,), uid, content), deadline)
        key = request_key("", idempotency_key)
        if key in self._creating:
            raise IdempotencyInProgress("a request with this key is still running")
        partition = domain.partition_of(key)
        command = IdempotentCreate(
            domain,
            event,
            (partition, email_partition),
            self._uid(partition),
            content,
            key,
            fingerprint_of(content),
            now_ms=self._clock.time_ms(),
            ttl_ms=self._settings.idempotency_ttl_ms,
        )
        # Until it is known what became of it: a repetition that overtook it would find its own e-mail taken.
        self._creating.add(key)
        return await self.settlement.run(command, deadline, lambda: self._creating.discard(key))

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
        return await self.settlement.run(
            Delete(
                self._ground.domain,
                self._event(),
                partitions,
                uid,
                if_match,
                is_required,
                now_ms=self._clock.time_ms(),
            ),
            deadline,
        )

    async def restore(self, uid: str, document: object, *, source: str | None, deadline: Deadline) -> Written:
        """Write the profile *uid* as an export has it in *document*, unless there is anything of that uid. *source*:
        the id of the topic that was exported, where it is known. A repetition finds the profile and changes nothing.

        Raises ValidationFailed, ProfileDiffers, ProfileGone, EmailTaken, WriteOutcomeUnknown, Unavailable.
        """
        profile = self._validator.exported(document, uid)
        domain = self._ground.domain
        own = domain.partition_of(uid.encode())
        partitions = tuple(dict.fromkeys((own, domain.partition_of(profile.address.key))))
        command = Restore(
            domain,
            self._event(),
            partitions,
            profile,
            is_own_export=source == self._ground.topic_id,
            now_ms=self._clock.time_ms(),
            ttl_ms=self._settings.idempotency_ttl_ms,
        )
        return await self.settlement.run(command, deadline)

    def position_token(self, positions: Mapping[TopicPartition, int]) -> str:
        """Return the signed `Profile-Position` of a write. Raises Unavailable while the log was never reached."""
        return self._ground.tokens.of_positions(positions)

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
        return await self.settlement.run(
            Update(self._ground.domain, self._event(), partitions, uid, content, if_match, is_required), deadline
        )

    def _partitions_of(self, uid: bytes, new_email_key: bytes | None) -> Sequence[int]:
        """Return the partitions that a change of *uid* will probably need, its own first.

        The old e-mail is read outside the write section and may have changed when the command is decided; it then
        answers Moved. A node that cannot read now leaves it to the table to say so.
        """
        partition_of = self._ground.domain.partition_of
        own = partition_of(uid)
        keys = [] if new_email_key is None else [new_email_key]
        try:
            row, _ = self._ground.row(PROFILE_STORE, own, uid)
        except Unavailable:
            row = None
        if row is not None:
            keys.append(email_key_of(row))
        return tuple(dict.fromkeys((own, *map(partition_of, keys))))

    def _event(self) -> Event:
        origin = ORIGIN.get()
        event_id = random_id(self._random) if origin is None else origin.event_id
        return Event.of(event_id, timestamp(self._clock.time_ms()), TRACEPARENT.get())

    def _uid(self, partition: int) -> str:
        origin = ORIGIN.get()
        if origin is not None and origin.uid is not None:
            return origin.uid
        return draw_uid(self._random, partition=partition, partitions=self._ground.domain.partitions)
