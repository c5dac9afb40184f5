"""How several owners keep an e-mail unique: the protocol as a model. This file is the specification, the code in
`app/profiles` (claims, commands, settlement, sweep) follows it rule by rule; `test_claims.py` runs it.

Nothing of the service is imported here. What the model takes for granted of the world is in `claims_world.py`, and is
less than the real log gives: appends of one node that touch other keys land in any order, a question does not wait for
them, messages come late, twice or never. The rules (a word of `Bug` names what happens without each):

R1 A claim {uid, version, op} holds exactly while profile *uid* carries the e-mail, or while the owner of *uid* has a
   command for it in flight. It is settled by asking that owner, never by a timer.            SETTLED_WITHOUT_QUESTION
R2 Who drives a command marks (uid, e-mail) before he claims, and until he knows the outcome.  NO_MARK, MARK_DROPPED
R3 "Not held" is said after a fenced write that was made after the question.                                NO_BARRIER
R4 A settled claim is replaced only if its op is still the one that was asked about.            NO_COMPARE_AND_SET
R5 Each writing of a claim has an op of its own, drawn by the writer: also where the claim names the same profile
   already, and where the request is a late copy.                                  CLAIM_NOT_RENEWED, OP_OF_THE_SENDER
R6 A claim never replaces one of the same profile with a greater version: it is a late copy.     OLDER_CLAIM_REPLACES
R7 A granted claim serves one version of the profile. If the version is another one when the command is decided, the
   e-mail is claimed again.                                                                     GRANT_OF_OTHER_VERSION
R8 It serves one tenure: if the partition of *uid* was lost in between, and be it won again, the e-mail is claimed again
   (another owner may have said "not held" meanwhile).                                          GRANT_OF_OTHER_TENURE
R9 The profile is the commit point; the old e-mail is released behind it.                      RELEASE_BEFORE_COMMIT
R10 A release names the profile's version and leaves newer claims of it alone.                     RELEASE_UNCHECKED
R11 A claim that came to nothing is vacated by a question like any other: the next attempt may have the same version.
                                                                                             VACATED_WITHOUT_QUESTION
R12 Who has both partitions looks at the row and at the marks of his own commands, in one step.    OWN_MARKS_IGNORED
R13 A delete leaves a memory of the uid in its partition, and a restore, which brings a version of its own, is refused
   where it finds one: a late release of the earlier life could name a greater version.            DELETION_FORGOTTEN
"""

from collections.abc import Callable, Generator
from enum import Enum, auto
from typing import Any, NamedTuple

from tests.simulation.claims_world import REFUSED, UNKNOWN, Append, Call, Key, Node, Resolved, View, part_of

Steps = Generator[Any, Any, Any]

MAX_ROUNDS = 4  # times that one command may find out that it has to ask or to claim again


class Bug(Enum):
    """What happens without one of the rules."""

    SETTLED_WITHOUT_QUESTION = auto()
    NO_MARK = auto()
    MARK_DROPPED = auto()
    NO_BARRIER = auto()
    NO_COMPARE_AND_SET = auto()
    CLAIM_NOT_RENEWED = auto()
    OP_OF_THE_SENDER = auto()
    OLDER_CLAIM_REPLACES = auto()
    GRANT_OF_OTHER_VERSION = auto()
    GRANT_OF_OTHER_TENURE = auto()
    RELEASE_BEFORE_COMMIT = auto()
    RELEASE_UNCHECKED = auto()
    VACATED_WITHOUT_QUESTION = auto()
    OWN_MARKS_IGNORED = auto()
    DELETION_FORGOTTEN = auto()


class Claim(NamedTuple):
    uid: Key
    version: int
    op: int


class Row(NamedTuple):
    """A live profile. `event`: the command that made this version."""

    version: int
    email: Key
    event: int


class Ask(NamedTuple):
    """A decision needs to know of another owner whether this claim holds."""

    uid: Key
    op: int


class Done(NamedTuple):
    """The command is in the log as *version*. `old`: the e-mail whose claim is still to be released elsewhere."""

    version: int
    old: Key | None = None


class Grant(NamedTuple):
    """A claim at another owner, good for one version and one tenure of the profile's partition."""

    version: int
    tenure: int


def memory_of(uid: Key) -> Key:
    """Return the key, in the uid's own partition, of what is remembered of its deletion."""
    return part_of(uid), f"deleted {uid[1]}"


TAKEN, AGAIN, GONE, HELD, FREE, GRANTED, STALE = "taken", "again", "gone", "held", "free", "granted", "stale"


class Protocol:
    """What nodes do for commands (`create`, `change`, `delete`, `create_once`, `restore`, `sweep`), and when another
    node asks (`claim`, `held`, `release`, `vacate`). Each is a generator: between two yields anything may happen."""

    def __init__(self, fresh: Callable[[], int], spawn: Callable[[Node, Steps], None], bugs: frozenset[Bug]) -> None:
        self._fresh = fresh
        self._spawn = spawn
        self._bugs = bugs

    def create(self, node: Node, event: int, uid: Key, email: Key) -> Steps:
        """A new profile; its uid lies in the e-mail's partition, so one owner writes both."""
        return (yield from self._settle(node, email, lambda settled: self._create(node, event, uid, email, settled)))

    def _create(self, node: Node, event: int, uid: Key, email: Key, settled: int | None) -> Append:
        def decide(view: View) -> tuple[dict[Key, Any], Any]:
            if (row := view.get(uid)) is not None:
                return {}, Done(row.version)
            obstacle = self._obstacle(node, view, email, uid, settled)
            if obstacle is not None:
                return {}, obstacle
            return {email: Claim(uid, 1, self._fresh()), uid: Row(1, email, event)}, Done(1)

        return Append({part_of(uid)}, decide)

    def _settle(self, node: Node, email: Key, append: Callable[[int | None], Append]) -> Steps:
        """Decide, and where a claim names a profile of another owner ask him and decide again."""
        settled = None
        for _ in range(MAX_ROUNDS):
            result = yield append(settled)
            if not isinstance(result, Ask):
                return result
            answer = yield from self._question(result.uid, email)
            if answer == HELD:
                return TAKEN
            if answer != FREE:
                return REFUSED
            settled = -1 if Bug.NO_COMPARE_AND_SET in self._bugs else result.op
        return REFUSED

    def _question(self, uid: Key, email: Key) -> Steps:
        if Bug.SETTLED_WITHOUT_QUESTION in self._bugs:
            return FREE
        return (yield Call(part_of(uid), "held", (uid, email)))

    def _obstacle(self, node: Node, view: View, email: Key, uid: Key, settled: int | None) -> Any:
        """Return what keeps *uid* from claiming *email*: None, TAKEN or Ask."""
        claim = view.get(email)
        if claim is None or claim.uid == uid or settled in (claim.op, -1):
            return None
        if not node.owns(part_of(claim.uid)):
            return Ask(claim.uid, claim.op)
        row = view.get(claim.uid)
        is_marked = (claim.uid, email) in node.marks and Bug.OWN_MARKS_IGNORED not in self._bugs  # R12
        return TAKEN if is_marked or (row is not None and row.email == email) else None

    def change(self, node: Node, event: int, uid: Key, email: Key) -> Steps:
        """Another e-mail for a profile."""
        for _ in range(MAX_ROUNDS):
            row = node.peek(uid)
            if row is None:
                return GONE
            if row.event == event or row.email == email:
                return Done(row.version)
            if node.owns(part_of(email)):
                result = yield from self._settle(
                    node, email, lambda settled: self._change(node, event, uid, email, settled, None)
                )
            else:
                result = yield from self._with_grant(
                    node,
                    uid,
                    email,
                    row.version + 1,
                    lambda grant: self._change(node, event, uid, email, None, grant),
                    row.email,
                )
            if result != AGAIN:
                return self._release_behind(node, uid, result)
        return REFUSED

    def _change(self, node: Node, event: int, uid: Key, email: Key, settled: int | None, grant: Grant | None) -> Append:
        both = {part_of(uid)} if grant is not None else {part_of(uid), part_of(email)}

        def decide(view: View) -> tuple[dict[Key, Any], Any]:
            row = view.get(uid)
            if row is None:
                return {}, GONE
            if row.event == event or row.email == email:
                return {}, Done(row.version)
            version = row.version + 1
            writes: dict[Key, Any] = {}
            if grant is None:
                obstacle = self._obstacle(node, view, email, uid, settled)
                if obstacle is not None:
                    return {}, obstacle
                writes[email] = Claim(uid, version, self._fresh())
            elif not self._is_good(node, uid, grant, version):
                return {}, AGAIN
            writes[uid] = Row(version, email, event)
            return self._with_release(node, view, uid, row.email, version, writes)

        return Append(both, decide)

    def _is_good(self, node: Node, uid: Key, grant: Grant, version: int) -> bool:
        is_version = grant.version == version or Bug.GRANT_OF_OTHER_VERSION in self._bugs  # R7
        is_tenure = grant.tenure == node.tenure(part_of(uid)) or Bug.GRANT_OF_OTHER_TENURE in self._bugs  # R8
        return is_version and is_tenure

    def _with_release(
        self, node: Node, view: View, uid: Key, old: Key, version: int, writes: dict[Key, Any]
    ) -> tuple[dict[Key, Any], Any]:
        """Add the release of *old* to *writes* where its claim is this node's, else leave it for later."""
        if not node.owns(part_of(old)):
            return writes, Done(version, old)
        claim = view.get(old)
        if claim is not None and claim.uid == uid and claim.version < version:
            writes[old] = None
        return writes, Done(version)

    def delete(self, node: Node, event: int, uid: Key) -> Steps:
        """The end of a profile: a tombstone with the next version."""

        def decide(view: View) -> tuple[dict[Key, Any], Any]:
            row = view.get(uid)
            if row is None:
                return {}, GONE
            memory = {} if Bug.DELETION_FORGOTTEN in self._bugs else {memory_of(uid): row.version + 1}  # R13
            return self._with_release(node, view, uid, row.email, row.version + 1, {uid: None, **memory})

        result = yield Append({part_of(uid)}, decide)
        return self._release_behind(node, uid, result)

    def create_once(self, node: Node, event: int, key: Key, uid: Key, email: Key) -> Steps:
        """An idempotent create: *key* and *uid* lie in one partition, the e-mail perhaps in another."""

        def append(settled: int | None, grant: Grant | None) -> Append:
            def decide(view: View) -> tuple[dict[Key, Any], Any]:
                if view.get(key) is not None:
                    return {}, Done(1)
                writes: dict[Key, Any] = {}
                if grant is None:
                    obstacle = self._obstacle(node, view, email, uid, settled)
                    if obstacle is not None:
                        return {}, obstacle
                    writes[email] = Claim(uid, 1, self._fresh())
                elif not self._is_good(node, uid, grant, 1):
                    return {}, AGAIN
                return {**writes, key: uid, uid: Row(1, email, event)}, Done(1)

            return Append({part_of(key)} if grant is not None else {part_of(key), part_of(email)}, decide)

        for _ in range(MAX_ROUNDS):
            if node.peek(key) is not None:
                return Done(1)
            if node.owns(part_of(email)):
                result = yield from self._settle(node, email, lambda settled: append(settled, None))
            else:
                result = yield from self._with_grant(node, uid, email, 1, lambda grant: append(None, grant), None)
            if result != AGAIN:
                return result
        return REFUSED

    def restore(self, node: Node, event: int, uid: Key, email: Key, version: int) -> Steps:
        """A profile as it once was, here or elsewhere: a change of e-mail from none."""

        def append(settled: int | None, grant: Grant | None) -> Append:
            def decide(view: View) -> tuple[dict[Key, Any], Any]:
                row = view.get(uid)
                if row is not None:
                    is_same = row.event == event or (row.version, row.email) == (version, email)
                    return {}, Done(row.version) if is_same else TAKEN
                if view.get(memory_of(uid)) is not None:  # R13
                    return {}, GONE
                writes: dict[Key, Any] = {}
                if grant is None:
                    obstacle = self._obstacle(node, view, email, uid, settled)
                    if obstacle is not None:
                        return {}, obstacle
                    writes[email] = Claim(uid, version, self._fresh())
                elif not self._is_good(node, uid, grant, version):
                    return {}, AGAIN
                return {**writes, uid: Row(version, email, event)}, Done(version)

            return Append({part_of(uid)} if grant is not None else {part_of(uid), part_of(email)}, decide)

        for _ in range(MAX_ROUNDS):
            if node.owns(part_of(email)):
                result = yield from self._settle(node, email, lambda settled: append(settled, None))
            elif node.peek(uid) is not None or node.peek(memory_of(uid)) is not None:
                result = yield append(None, Grant(0, -1))  # it will be refused, and needs no claim for that
            else:
                result = yield from self._with_grant(node, uid, email, version, lambda grant: append(None, grant), None)
            if result != AGAIN:
                return result
        return REFUSED

    def _with_grant(
        self,
        node: Node,
        uid: Key,
        email: Key,
        version: int,
        append: Callable[[Grant], Append],
        old: Key | None,
    ) -> Steps:
        """Claim *email* at its owner, then decide. The claim is left to `vacate` when nothing came of it."""
        tenure = node.tenure(part_of(uid))
        self._mark(node, uid, email)
        if Bug.RELEASE_BEFORE_COMMIT in self._bugs and old is not None:
            yield Call(part_of(old), "release", (old, uid, version))
        answer = yield Call(part_of(email), "claim", (email, uid, version, self._fresh()))
        if answer != GRANTED:
            self._unmark(node, uid, email)
            if answer != TAKEN:
                self._spawn(node, self._vacate_later(email, uid, version))
            return answer if answer in (TAKEN, AGAIN) else REFUSED
        command = append(Grant(version, tenure))
        result = yield command
        if result == UNKNOWN and Bug.MARK_DROPPED not in self._bugs:
            self._spawn(node, self._unmark_later(node, command, uid, email, version))
            return UNKNOWN
        self._unmark(node, uid, email)
        if not isinstance(result, Done):
            self._spawn(node, self._vacate_later(email, uid, version))
        return result

    def _mark(self, node: Node, uid: Key, email: Key) -> None:
        if Bug.NO_MARK not in self._bugs:
            node.mark(uid, email)

    def _unmark(self, node: Node, uid: Key, email: Key) -> None:
        if Bug.NO_MARK not in self._bugs:
            node.unmark(uid, email)

    def _unmark_later(self, node: Node, command: Append, uid: Key, email: Key, version: int) -> Steps:
        """R2: the mark of an unknown outcome stays until a fence has shown what became of it."""
        yield Resolved(command)
        self._unmark(node, uid, email)
        yield from self._vacate_later(email, uid, version)

    def _vacate_later(self, email: Key, uid: Key, version: int) -> Steps:
        yield Call(part_of(email), "vacate", (email, uid, version))

    def _release_behind(self, node: Node, uid: Key, result: Any) -> Any:
        """The command is answered first; its release may be lost."""
        if isinstance(result, Done) and result.old is not None:
            self._spawn(node, self._release_later(result.old, uid, result.version))
        return result

    def _release_later(self, email: Key, uid: Key, version: int) -> Steps:
        for _ in range(2):
            if (yield Call(part_of(email), "release", (email, uid, version))) == FREE:
                return

    # What other nodes may ask.

    def claim(self, node: Node, email: Key, uid: Key, version: int, sent: int) -> Steps:
        """At the owner of *email*: write the claim of a profile that another node owns. *sent* is the same in a
        copy of the request; it matters to one of the bugs alone."""

        def append(settled: int | None) -> Append:
            def decide(view: View) -> tuple[dict[Key, Any], Any]:
                claim = view.get(email)
                if claim is not None and claim.uid == uid:
                    if claim.version > version and Bug.OLDER_CLAIM_REPLACES not in self._bugs:  # R6
                        return {}, STALE
                    if Bug.CLAIM_NOT_RENEWED in self._bugs:
                        return {}, GRANTED
                obstacle = self._obstacle(node, view, email, uid, settled)
                if obstacle is not None:
                    return {}, obstacle
                drawn = sent if Bug.OP_OF_THE_SENDER in self._bugs else self._fresh()
                return {email: Claim(uid, version, drawn)}, GRANTED

            return Append({part_of(email)}, decide)

        result = yield from self._settle(node, email, append)
        return AGAIN if result == STALE else result

    def held(self, node: Node, uid: Key, email: Key) -> Steps:
        """At the owner of *uid*: does it carry *email*, or will a command of this node perhaps make it?"""

        def decide(view: View) -> tuple[dict[Key, Any], Any]:
            row = view.peek(uid)
            is_held = (uid, email) in node.marks or (row is not None and row.email == email)
            if is_held or Bug.NO_BARRIER in self._bugs:
                return {}, HELD if is_held else FREE
            return {(part_of(uid), "barrier"): None}, FREE

        return (yield Append({part_of(uid)}, decide))

    def release(self, node: Node, email: Key, uid: Key, version: int) -> Steps:
        """At the owner of *email*: profile *uid* does not carry it since its *version*."""

        def decide(view: View) -> tuple[dict[Key, Any], Any]:
            claim = view.get(email)
            is_older = claim is not None and (claim.version < version or Bug.RELEASE_UNCHECKED in self._bugs)  # R10
            return ({email: None} if claim is not None and claim.uid == uid and is_older else {}), FREE

        return (yield Append({part_of(email)}, decide))

    def vacate(self, node: Node, email: Key, uid: Key, version: int) -> Steps:
        """At the owner of *email*: the claim of *uid* may have come to nothing."""

        def append(settled: int | None) -> Append:
            def decide(view: View) -> tuple[dict[Key, Any], Any]:
                claim = view.get(email)
                if claim is None or claim.uid != uid:
                    return {}, FREE
                if Bug.VACATED_WITHOUT_QUESTION in self._bugs:
                    return ({email: None} if claim.version == version else {}), FREE
                obstacle = self._obstacle(node, view, email, (-1, ""), settled)
                return ({}, obstacle) if obstacle is not None else ({email: None}, FREE)

            return Append({part_of(email)}, decide)

        return (yield from self._settle(node, email, append))

    def sweep(self, node: Node, email: Key) -> Steps:
        """The owner of *email* looks after its claim, once in a while."""
        claim = node.peek(email)
        return (yield from self.vacate(node, email, claim.uid, claim.version)) if claim is not None else FREE
