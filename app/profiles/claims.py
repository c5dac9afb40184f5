"""The claims of e-mails as one command sees them: what it may look at here, and what it has learned of other owners.

Pure. The rules R1 to R12 that the comments name are those of the model, `tests/simulation/claims.py`, which is the
specification of how several owners keep an e-mail unique. Invariant: a claim proves nothing by itself; it holds exactly
while the profile that it names carries the e-mail, or while the owner of that profile has a command for it in flight.
"""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from app.profiles.events import Event, Records
from app.profiles.results import EmailTaken
from app.profiles.rows import ClaimRow, claim_of, email_key_of
from app.profiles.topics import PROFILE_STORE, SEARCH_STORE
from streams.partitioner import partition_for
from streams.records import ProducerRecord
from streams.runtime.commands import View


class Domain(NamedTuple):
    """What every command of one service shares: how records are built, and how many partitions there are."""

    records: Records
    partitions: int

    def partition_of(self, key: bytes) -> int:
        """Return the partition of a uid, an e-mail key or a request key."""
        return partition_for(key, self.partitions)


class Moved(NamedTuple):
    """The result of a command that could not be decided: it also needs these partitions. Nothing was written."""

    partitions: Sequence[int]


class Ask(NamedTuple):
    """The result of a command that met the claim *op* of profile *uid*, whose owner alone knows whether it holds.
    Nothing was written."""

    uid: bytes
    email_key: bytes
    op: bytes


class Unclaimed(NamedTuple):
    """The result of a command that needs a claim at another owner first, for *version* of the profile *uid*. All else
    was in order when it was decided. Nothing was written."""

    email_key: bytes
    uid: bytes
    version: int


class Release(NamedTuple):
    """A claim that another owner has to release: profile *uid* has not carried the e-mail since its *version*."""

    email_key: bytes
    uid: bytes
    version: int


class Grant(NamedTuple):
    """A claim that another owner has written. It serves one version of the profile (R7), and one tenure of the
    profile's partition (R8): `is_current` says whether that tenure, and its lease, still last. Any thread."""

    email_key: bytes
    version: int
    is_current: Callable[[], bool]


class Known(NamedTuple):
    """What a command knows besides the state.

    `marks`: (uid, e-mail key) of the commands of this node that have claimed elsewhere and whose outcome is open; the
    event loop changes it, the stream thread looks. `away`: partitions of other owners. `settled`: the op of each claim
    that does not hold, as the owner of its profile has said.
    """

    marks: Collection[tuple[bytes, bytes]] = frozenset()
    away: frozenset[int] = frozenset()
    settled: frozenset[bytes] = frozenset()
    grant: Grant | None = None


NOTHING_KNOWN = Known()


class Claims:
    """The claims of e-mails as one command sees them: it may only look into its own partitions."""

    def __init__(self, domain: Domain, view: View, partitions: Sequence[int], known: Known) -> None:
        self._domain = domain
        self._view = view
        self._partitions = partitions
        self._known = known

    def is_away(self, email_key: bytes) -> bool:
        """Say whether the claim of an e-mail is another owner's."""
        away = self._known.away
        return bool(away) and self._domain.partition_of(email_key) in away

    def is_granted(self, email_key: bytes, version: int) -> bool:
        """Say whether the other owner has written the claim that *version* of this command's profile needs."""
        grant = self._known.grant
        return grant is not None and (grant.email_key, grant.version) == (email_key, version) and grant.is_current()

    def find(self, email_key: bytes) -> ClaimRow | Moved | None:
        """Return the claim of an e-mail, whether or not it holds."""
        partition = self._domain.partition_of(email_key)
        if partition not in self._partitions:
            return Moved((*self._partitions, partition))
        row = self._view.get(SEARCH_STORE, partition, email_key)
        return None if row is None else claim_of(row)

    def obstacle(self, email_key: bytes, claimant: bytes | None) -> EmailTaken | Ask | Moved | None:
        """Return what keeps the profile *claimant* (None: nobody), which does not carry the e-mail, from claiming it,
        None if nothing does. The claim must be written anew then, whomever it names (R5)."""
        claim = self.find(email_key)
        if claim is None or isinstance(claim, Moved):
            return claim
        if claim.uid == claimant or claim.op in self._known.settled:  # R4
            return None
        partition = self._domain.partition_of(claim.uid)
        if partition in self._known.away:
            return Ask(claim.uid, email_key, claim.op)
        if partition not in self._partitions:
            return Moved((*self._partitions, partition))
        row = self._view.get(PROFILE_STORE, partition, claim.uid)
        is_carried = row is not None and email_key_of(row) == email_key
        # A mark is taken off behind the outcome, so whoever is not marked any more is to be seen in the row (R12).
        if is_carried or (claim.uid, email_key) in self._known.marks:
            return EmailTaken(claim.uid.decode())
        return None

    def release(
        self, event: Event, email_key: bytes, uid: bytes, version: int
    ) -> Sequence[ProducerRecord] | Release | Moved:
        """Return the tombstone of the claim that *uid* has, or nothing when the claim names another profile, or what
        another owner has to do.

        *version*: of the profile after the command; a claim that is not older was made for a later one (R10).
        """
        if self.is_away(email_key):
            return Release(email_key, uid, version)
        claim = self.find(email_key)
        if isinstance(claim, Moved):
            return claim
        if claim is None or claim.uid != uid or claim.version >= version:
            return ()
        partition = self._domain.partition_of(email_key)
        return (
            self._domain.records.release(event, partition=partition, email_key=email_key, uid=uid, version=version),
        )
