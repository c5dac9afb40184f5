"""Decides whether a recorded history keeps the promises: linearizable profiles, unique e-mails, honest outcomes.

Each effective write of a profile has a version, so the versions are the only possible order of its states, and a sort
and one sweep decide linearizability (O(n log n)): operations are given a rank in that order, and no operation may have
a lower rank than one that had returned before it was called. Unknown outcomes are resolved from the log first. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tests.support.history import NEVER, Kind, LogEntry, Operation, Outcome, ProfileLog, Violation

_NOBODY_SAW = "?"  # the mark of a state that was compacted away before any client saw it
_BEFORE_CREATION = 1  # the rank of a read that found nothing because nothing was there yet
_NO_EFFECT = frozenset({Outcome.NOT_WRITTEN, Outcome.NOT_FOUND, Outcome.CONFLICT, Outcome.MISMATCH})


class State(NamedTuple):
    """A profile as a reader sees it."""

    version: int
    mark: str
    email: str


class _Ranked(NamedTuple):
    """An operation in the order of versions: 2v for the write of version v, 2v + 1 for a read of it. What had returned
    before `called_ns` comes before it; of a read that may be stale that is so much earlier than its call."""

    rank: int
    called_ns: int
    returned_ns: int
    operation: Operation


class _Holding(NamedTuple):
    """*uid* carried *email* for certain in [sure_from, sure_until], and at most in [from_, until]. Nanoseconds."""

    uid: str
    email: str
    from_: int
    sure_from: int
    sure_until: int
    until: int


def check(operations: Sequence[Operation], log: ProfileLog, *, is_compacted: bool = False) -> list[Violation]:
    """Return every broken promise that *operations* and the final *log* show; an empty list is a pass.

    *log* must hold all states of all profiles that the operations touched. With *is_compacted* only the last one of
    each has to be there: the others are taken from what clients were told of them, if anything, so that a lost write
    shows only where two answers contradict each other.
    """
    found: list[Violation] = []
    if is_compacted:
        log, found = _completed(operations, log)
    found += [*_check_log(log), *_check_answers(operations)]
    writers, more = _writers(operations, log)
    found += more
    by_uid: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.uid:
            by_uid[operation.uid].append(operation)
    for uid in by_uid.keys() | log.keys():
        found += _check_profile(uid, by_uid.get(uid, ()), log.get(uid, ()), writers)
    found += _check_emails(operations, log, writers)
    return found


def check_final(states: Mapping[str, State], log: ProfileLog) -> list[Violation]:
    """Compare what is served in the end, for every uid of the log, with the fold of *log*."""
    expected = fold(log)
    found = [Violation("final", f"{uid} is served, but not in the log") for uid in states.keys() - expected.keys()]
    for uid, state in expected.items():
        if states.get(uid) != state:
            found.append(Violation("final", f"{uid} is {states.get(uid)}, but {state} in the log"))
    holders: dict[str, str] = {}
    for uid, state in states.items():
        other = holders.setdefault(state.email, uid)
        if other != uid:
            found.append(Violation("unique-email", f"{uid} and {other} both have {state.email} in the end"))
    return found


def fold(log: ProfileLog) -> dict[str, State]:
    """Return the profiles that are alive at the end of *log*."""
    states = {}
    for uid, entries in log.items():
        version, mark, email = entries[-1]
        if mark is not None and email is not None:
            states[uid] = State(version, mark, email)
    return states


def _completed(operations: Sequence[Operation], log: ProfileLog) -> tuple[ProfileLog, list[Violation]]:
    """Put states that were compacted away back where answers tell of them; tell where two answers contradict."""
    found: list[Violation] = []
    told: dict[tuple[str, int], dict[str, str | None]] = defaultdict(dict)
    for op in operations:
        if op.outcome is Outcome.OK and op.version is not None and op.mark is not None:
            marks = told[op.uid, op.version]
            marks[op.mark] = marks.get(op.mark) or op.email
    completed: dict[str, list[LogEntry]] = {}
    for uid, entries in log.items():
        there = {entry.version: entry for entry in entries}
        email: str | None = None
        completed[uid] = []
        for version in range(1, entries[-1].version + 1):
            entry = there.get(version)
            if entry is None:
                marks = told.get((uid, version), {_NOBODY_SAW: None})
                if len(marks) > 1:
                    found.append(Violation("lost", f"version {version} of {uid} is told to be each of {marks}"))
                mark, told_email = next(iter(marks.items()))
                entry = LogEntry(version, mark, told_email or email)  # a change that names no e-mail keeps it
            email = entry.email
            completed[uid].append(entry)
        if [entry.version for entry in entries] != sorted(there):
            found.append(Violation("log-order", f"the versions of {uid} do not grow: {entries}"))
    return completed, found


def _check_log(log: ProfileLog) -> Iterable[Violation]:
    """Versions grow by one, nothing follows a tombstone, and no write was applied twice."""
    places: dict[str, tuple[str, int]] = {}
    for uid, entries in log.items():
        for index, entry in enumerate(entries):
            if entry.version != index + 1:
                yield Violation("log-order", f"{uid} has version {entry.version} where {index + 1} is due")
            if entry.mark == _NOBODY_SAW:
                continue
            if entry.mark is None:
                if index != len(entries) - 1:
                    yield Violation("log-order", f"{uid} was written after its tombstone")
                continue
            other = places.setdefault(entry.mark, (uid, entry.version))
            if other != (uid, entry.version):
                yield Violation("applied-twice", f"{entry.mark} is {other} and {(uid, entry.version)}")


def _check_answers(operations: Sequence[Operation]) -> Iterable[Violation]:
    for operation in operations:
        if operation.outcome is Outcome.UNEXPECTED:
            yield Violation("answer", f"status {operation.status} to {operation}: {operation.detail}")
        if operation.outcome is Outcome.MISMATCH and operation.if_match == operation.version:
            yield Violation("condition", f"412 although the version was the one demanded: {operation}")


def _writers(
    operations: Sequence[Operation], log: ProfileLog
) -> tuple[dict[tuple[str, int], Operation], list[Violation]]:
    """Find the write behind each state of the log, by its mark; and tell what is lost, or there against its answer."""
    found: list[Violation] = []
    by_mark = {op.mark: op for op in operations if op.is_write and op.mark is not None and op.kind is not Kind.DELETE}
    writers: dict[tuple[str, int], Operation] = {}
    for uid, entries in log.items():
        for entry in entries:
            writer = by_mark.get(entry.mark) if entry.mark is not None else _deleter(operations, uid, entry)
            if writer is None and entry.mark == _NOBODY_SAW:
                continue
            if writer is None:
                found.append(Violation("from-nowhere", f"nobody wrote {entry} of {uid}"))
            elif writer.outcome in _NO_EFFECT:
                found.append(Violation("not-written-visible", f"{entry} of {uid} is in the log, but: {writer}"))
            else:
                writers[(uid, entry.version)] = writer
    for operation in operations:
        if not operation.is_write or operation.outcome is not Outcome.OK:
            continue
        entries = log.get(operation.uid, ())
        if operation.kind is Kind.DELETE:
            if not entries or writers.get((operation.uid, entries[-1].version)) is not operation:
                found.append(Violation("lost", f"acknowledged, but not in the log: {operation}"))
        elif writers.get((operation.uid, operation.version or 0)) is not operation:
            found.append(Violation("lost", f"acknowledged, but not in the log: {operation}"))
    return writers, found


def _deleter(operations: Sequence[Operation], uid: str, entry: LogEntry) -> Operation | None:
    """The delete behind a tombstone: the acknowledged one, else the earliest that could be it, which is the weakest
    claim (it may take effect at any time after its call)."""
    deletes = [op for op in operations if op.kind is Kind.DELETE and op.uid == uid]
    for outcome in (Outcome.OK, Outcome.UNKNOWN):
        fitting = [
            op for op in deletes if op.outcome is outcome and (op.if_match is None or op.if_match == entry.version - 1)
        ]
        if fitting:
            return min(fitting, key=lambda op: op.called_ns)
    return min(deletes, key=lambda op: op.called_ns, default=None)


def _check_profile(
    uid: str,
    operations: Sequence[Operation],
    entries: Sequence[LogEntry],
    writers: Mapping[tuple[str, int], Operation],
) -> Iterable[Violation]:
    """The sweep over one profile."""
    states = {entry.version: entry for entry in entries}
    ranked = []
    for entry in entries:
        writer = writers.get((uid, entry.version))
        if writer is not None:
            returned_ns = writer.returned_ns if writer.outcome is Outcome.OK else NEVER
            ranked.append(_Ranked(2 * entry.version, writer.called_ns, returned_ns, writer))
            if writer.if_match is not None and writer.if_match != entry.version - 1:
                yield Violation("condition", f"version {entry.version} was written by {writer}")
    last = entries[-1] if entries else None
    nothing: list[Operation] = []
    for op in operations:
        if op.outcome is Outcome.NOT_FOUND and op.kind is not Kind.SEARCH:
            nothing.append(op)
        elif op.outcome is Outcome.MISMATCH and op.version is not None:
            ranked.append(_Ranked(2 * op.version + 1, op.called_ns, op.returned_ns, op))
            if op.version not in states or states[op.version].mark is None:
                yield Violation("read", f"no such version: {op}")
        elif op.outcome is Outcome.OK and not op.is_write and op.version is not None:
            ranked.append(_Ranked(2 * op.version + 1, op.fresh_ns, op.returned_ns, op))
            if op.version < op.least_version:
                yield Violation("token", f"older than the position that it brought: {op}")
            if states.get(op.version) != LogEntry(op.version, op.mark, op.email):
                yield Violation("read", f"the log has {states.get(op.version)}, but: {op}")
    # Who found nothing came before the creation if that is still possible, else after the deletion.
    floors = _floors([*ranked, *(_Ranked(0, op.fresh_ns, op.returned_ns, op) for op in nothing)])
    for op in nothing:
        if floors[id(op)][0] <= _BEFORE_CREATION and op.least_version == 0:
            ranked.append(_Ranked(_BEFORE_CREATION, op.fresh_ns, op.returned_ns, op))
        elif last is not None and last.mark is None:
            ranked.append(_Ranked(2 * last.version + 1, op.fresh_ns, op.returned_ns, op))
        else:
            yield Violation("read", f"nothing found of a profile that was never deleted: {op}")
    floors = _floors(ranked)
    for rank, _, _, op in ranked:
        floor, witness = floors[id(op)]
        if rank < floor:
            yield Violation("order", f"{op} is older than what was proven before it by {witness}")


def _floors(ranked: Sequence[_Ranked]) -> dict[int, tuple[int, Operation | None]]:
    """For each operation (by identity): the highest rank that had returned before it was called, and whose."""
    calls = sorted(ranked, key=lambda item: item.called_ns)
    returns = sorted(ranked, key=lambda item: item.returned_ns)
    floors: dict[int, tuple[int, Operation | None]] = {}
    floor, witness, index = 0, None, 0
    for item in calls:
        while returns[index].returned_ns < item.called_ns:
            if returns[index].rank > floor:
                floor, witness = returns[index].rank, returns[index].operation
            index += 1
        floors[id(item.operation)] = (floor, witness)
    return floors


def _check_emails(
    operations: Sequence[Operation], log: ProfileLog, writers: Mapping[tuple[str, int], Operation]
) -> Iterable[Violation]:
    holdings: dict[str, list[_Holding]] = defaultdict(list)
    for holding in _holdings(log, writers):
        holdings[holding.email].append(holding)
    for email, held in holdings.items():
        yield from _overlaps(email, held)
    claims: dict[str, list[Operation]] = defaultdict(list)
    for op in operations:
        if op.is_write and op.email is not None:
            claims[op.email].append(op)
    for op in operations:
        if op.email is None:
            continue
        if op.kind is Kind.SEARCH and op.outcome is Outcome.NOT_FOUND:
            for holding in holdings.get(op.email, ()):
                if holding.sure_from < op.fresh_ns and op.returned_ns < holding.sure_until:
                    yield Violation("search", f"nothing found although {holding}: {op}")
        elif op.outcome is Outcome.CONFLICT and not _is_contended(op, holdings.get(op.email, ()), claims[op.email]):
            yield Violation("conflict", f"409 for an e-mail that nobody else had or wanted: {op}")


def _holdings(log: ProfileLog, writers: Mapping[tuple[str, int], Operation]) -> Iterable[_Holding]:
    """The times in which each profile had each e-mail: sure between a write's return and the next one's call."""
    for uid, entries in log.items():
        begun: tuple[str, int, int] | None = None  # e-mail, call and return of the write that set it
        for entry in entries:
            writer = writers.get((uid, entry.version))
            if writer is None:
                begun = None  # Told elsewhere as from nowhere.
                continue
            returned_ns = writer.returned_ns if writer.outcome is Outcome.OK else NEVER
            if begun is not None and entry.email != begun[0]:
                yield _Holding(uid, begun[0], begun[1], begun[2], writer.called_ns, returned_ns)
                begun = None
            if begun is None and entry.email is not None:
                begun = (entry.email, writer.called_ns, returned_ns)
            elif begun is not None:  # A later write proves at its return that the earlier one took effect.
                begun = (begun[0], begun[1], min(begun[2], returned_ns))
        if begun is not None:
            yield _Holding(uid, *begun, NEVER, NEVER)


def _overlaps(email: str, held: Sequence[_Holding]) -> Iterable[Violation]:
    """Two profiles that had one e-mail at one moment for certain."""
    latest: _Holding | None = None
    for holding in sorted((h for h in held if h.sure_from < h.sure_until), key=lambda h: h.sure_from):
        if latest is not None and latest.uid != holding.uid and holding.sure_from < latest.sure_until:
            yield Violation("unique-email", f"{latest.uid} and {holding.uid} had {email} together: {latest}, {holding}")
        if latest is None or holding.sure_until > latest.sure_until:
            latest = holding


def _is_contended(op: Operation, held: Sequence[_Holding], claims: Sequence[Operation]) -> bool:
    """Whether another profile may have had the e-mail, or another write wanted it, at some time during *op*."""
    if any(h.uid != op.uid and h.from_ < op.returned_ns and op.called_ns < h.until for h in held):
        return True
    return any(
        other is not op and other.called_ns < op.returned_ns and op.called_ns < other.returned_ns for other in claims
    )
