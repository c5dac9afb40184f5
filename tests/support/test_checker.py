"""The checker itself: it passes what is right, names each kind of wrong, and agrees with a search over all orders."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.support.checker import State, check, check_final
from tests.support.history import NEVER, Kind, LogEntry, Operation, Outcome, ProfileLog

SEED = 20261121
RANDOM_HISTORIES = 4000


def op(kind: Kind, called: int, returned: int, version: int | None = None, **facts: object) -> Operation:
    """An operation on profile u, by default one that succeeded, whose mark is its version's."""
    chosen = {"uid": "u", "outcome": Outcome.OK, "mark": f"m{version}" if version else None, **facts}
    if chosen["outcome"] is Outcome.OK and kind is not Kind.DELETE:
        chosen.setdefault("email", "e")
    return Operation(1, kind, called, returned_ns=returned, version=version, **chosen)  # type: ignore[arg-type]


def log_of(*marks: str | None, uid: str = "u", email: str = "e") -> ProfileLog:
    """The log of one profile; None is the tombstone."""
    return {uid: [LogEntry(i, mark, email if mark else None) for i, mark in enumerate(marks, start=1)]}


def rules(operations: Sequence[Operation], log: ProfileLog) -> set[str]:
    """The rules that are broken."""
    return {violation.rule for violation in check(operations, log)}


CREATED = op(Kind.CREATE, 0, 10, 1)


def test_a_sound_history_passes() -> None:
    """Writes, reads in between and at the same time, a refused condition and a deletion, all in order."""
    history = [
        CREATED,
        op(Kind.GET, 11, 12, 1),
        op(Kind.PUT, 20, 30, 2, if_match=1),
        op(Kind.GET, 21, 29, 1),
        op(Kind.GET, 22, 29, 2),
        op(Kind.PUT, 31, 32, 2, if_match=1, outcome=Outcome.MISMATCH, mark="refused"),
        op(Kind.DELETE, 40, 50),
        op(Kind.GET, 51, 52, outcome=Outcome.NOT_FOUND),
    ]
    assert check(history, log_of("m1", "m2", None)) == []


def test_a_read_that_may_be_stale_is_judged_by_its_own_promise() -> None:
    """What it said that it may lack it may lack, and no more: not what was done before that, nor before its token."""
    history = [CREATED, op(Kind.PUT, 20, 30, 2)]
    log = log_of("m1", "m2")
    late = op(Kind.GET, 40, 50, 1)
    assert rules([*history, late], log) == {"order"}
    assert rules([*history, replace(late, staleness_ns=10)], log) == set()
    assert rules([*history, replace(late, staleness_ns=9)], log) == {"order"}
    assert rules([*history, replace(late, staleness_ns=10, least_version=1)], log) == set()
    assert rules([*history, replace(late, staleness_ns=10, least_version=2)], log) == {"token"}
    missed = op(Kind.GET, 40, 50, outcome=Outcome.NOT_FOUND, mark=None)
    assert rules([*history, missed], log) == {"read"}
    assert rules([*history, replace(missed, staleness_ns=30)], log) == set()
    assert rules([*history, replace(missed, staleness_ns=29)], log) == {"read"}
    assert rules([*history, replace(missed, staleness_ns=30, least_version=1)], log) == {"read"}


def test_what_a_stale_read_has_seen_is_there_for_all_who_come_later() -> None:
    """A stale read proves nothing old, but it does prove that what it saw had happened."""
    stale = op(Kind.GET, 40, 50, 2, staleness_ns=40)
    history = [CREATED, op(Kind.PUT, 20, NEVER, 2, outcome=Outcome.UNKNOWN, email="e", mark="m2"), stale]
    assert rules([*history, op(Kind.GET, 51, 52, 1)], log_of("m1", "m2")) == {"order"}


@pytest.mark.parametrize(
    ("rule", "extra", "log"),
    [
        pytest.param("order", [op(Kind.PUT, 20, 30, 2), op(Kind.GET, 31, 32, 1)], log_of("m1", "m2"), id="stale read"),
        pytest.param(
            "order",
            [op(Kind.PUT, 20, 30, 2), op(Kind.GET, 21, 22, 2), op(Kind.GET, 23, 24, 1)],
            log_of("m1", "m2"),
            id="read goes back",
        ),
        pytest.param("read", [op(Kind.GET, 20, 30, 1, mark="other")], log_of("m1"), id="value of nobody"),
        pytest.param("order", [op(Kind.PUT, 20, 30, 2), op(Kind.GET, 11, 12, 2)], log_of("m1", "m2"), id="early read"),
        pytest.param("lost", [op(Kind.PUT, 20, 30, 2)], log_of("m1"), id="acknowledged write is gone"),
        pytest.param("lost", [op(Kind.DELETE, 20, 30)], log_of("m1"), id="acknowledged delete is gone"),
        pytest.param(
            "lost",
            [op(Kind.PUT, 20, 30, 2, mark="a"), op(Kind.PUT, 20, 30, 2, mark="b")],
            log_of("m1", "b"),
            id="one version acknowledged twice",
        ),
        pytest.param("condition", [op(Kind.PUT, 20, 30, 2, if_match=7)], log_of("m1", "m2"), id="If-Match ignored"),
        pytest.param(
            "condition",
            [op(Kind.PUT, 20, 30, 1, if_match=1, outcome=Outcome.MISMATCH, mark="x")],
            log_of("m1"),
            id="412 for the right version",
        ),
        pytest.param(
            "order",
            [op(Kind.PUT, 20, 30, 2), op(Kind.PUT, 31, 32, 1, if_match=2, outcome=Outcome.MISMATCH, mark="x")],
            log_of("m1", "m2"),
            id="412 from an old state",
        ),
        pytest.param(
            "not-written-visible",
            [op(Kind.PUT, 20, 30, mark="m2", outcome=Outcome.NOT_WRITTEN)],
            log_of("m1", "m2"),
            id="not written, but in the log",
        ),
        pytest.param("applied-twice", [op(Kind.PUT, 20, 30, 2)], log_of("m1", "m2", "m2"), id="applied twice"),
        pytest.param("from-nowhere", [], log_of("m1", "ghost"), id="a write of nobody"),
        pytest.param("from-nowhere", [], log_of("m1", None), id="a deletion of nobody"),
        pytest.param(
            "log-order", [op(Kind.PUT, 20, 30, 3)], {"u": [LogEntry(1, "m1", "e"), LogEntry(3, "m3", "e")]}, id="gap"
        ),
        pytest.param(
            "read", [op(Kind.GET, 20, 30, outcome=Outcome.NOT_FOUND)], log_of("m1"), id="404 of a live profile"
        ),
        pytest.param(
            "order",
            [op(Kind.DELETE, 20, 30), op(Kind.GET, 31, 32, 1)],
            log_of("m1", None),
            id="read after deletion",
        ),
        pytest.param(
            "order",
            [op(Kind.DELETE, 40, 50), op(Kind.GET, 20, 30, outcome=Outcome.NOT_FOUND)],
            log_of("m1", None),
            id="404 before deletion",
        ),
        pytest.param(
            "search",
            [op(Kind.SEARCH, 20, 30, uid="", email="e", outcome=Outcome.NOT_FOUND)],
            log_of("m1"),
            id="search misses",
        ),
        pytest.param(
            "order", [op(Kind.PUT, 20, 30, 2), op(Kind.SEARCH, 31, 32, 1)], log_of("m1", "m2"), id="stale search"
        ),
        pytest.param(
            "conflict",
            [op(Kind.CREATE, 20, 30, uid="", email="free", mark="x", outcome=Outcome.CONFLICT)],
            log_of("m1"),
            id="409 for a free e-mail",
        ),
        pytest.param(
            "unique-email",
            [op(Kind.CREATE, 20, 30, 1, uid="w", mark="w1")],
            {**log_of("m1"), **log_of("w1", uid="w")},
            id="two holders",
        ),
        pytest.param(
            "answer", [op(Kind.GET, 20, 30, outcome=Outcome.UNEXPECTED, status=500)], log_of("m1"), id="status 500"
        ),
    ],
)
def test_a_bad_history_is_found(rule: str, extra: list[Operation], log: ProfileLog) -> None:
    """Each broken promise is told under its own rule, and the history without it passes."""
    assert rules([CREATED], log_of("m1")) == set()
    assert rule in rules([CREATED, *extra], log)


def test_an_unknown_write_may_take_effect_late_or_never() -> None:
    """Reads of the old state after its call are right as long as no read has shown the new one."""
    unknown = op(Kind.PUT, 20, NEVER, mark="m2", outcome=Outcome.UNKNOWN, email="e")
    before = op(Kind.GET, 1000, 1001, 1)
    after = op(Kind.GET, 1002, 1003, 2)
    assert check([CREATED, unknown, before, after], log_of("m1", "m2")) == []
    assert check([CREATED, unknown, before], log_of("m1")) == []
    assert rules([CREATED, unknown, after, op(Kind.GET, 1004, 1005, 1)], log_of("m1", "m2")) == {"order"}


def test_an_email_may_pass_from_one_profile_to_another() -> None:
    """The second holder comes after the first gave it up; a search that finds nothing in between is right."""
    released = replace(op(Kind.PUT, 20, 30, 2), email="f")
    taken = op(Kind.CREATE, 21, 40, 1, uid="w", mark="w1")
    missed = op(Kind.SEARCH, 20, 45, uid="", email="e", outcome=Outcome.NOT_FOUND)
    log = {"u": [LogEntry(1, "m1", "e"), LogEntry(2, "m2", "f")], **log_of("w1", uid="w")}
    assert check([CREATED, released, taken, missed], log) == []
    early = replace(taken, called_ns=11, returned_ns=15)
    assert "unique-email" in rules([CREATED, released, early], log)


def test_a_compacted_log_is_completed_from_the_answers() -> None:
    """States that are gone are known from writes and reads, or from nobody; contradicting answers are told."""
    second, third = op(Kind.PUT, 20, 30, 2), op(Kind.GET, 31, 40, 3)
    log = {"u": [LogEntry(5, "m5", "e")]}
    unknown = [op(Kind.PUT, 20, NEVER, mark=f"m{v}", outcome=Outcome.UNKNOWN, email="e") for v in (3, 5)]
    history = [CREATED, second, third, *unknown]
    assert check(history, log, is_compacted=True) == []
    assert "log-order" in rules(history, log)
    stale = op(Kind.GET, 41, 42, 2)
    assert {v.rule for v in check([*history, stale], log, is_compacted=True)} == {"order"}
    other = op(Kind.PUT, 20, 30, 2, mark="other")
    assert "lost" in {v.rule for v in check([*history, other], log, is_compacted=True)}
    denied = op(Kind.PUT, 20, 30, mark="m3", outcome=Outcome.NOT_WRITTEN)
    found = check([CREATED, second, third, unknown[1], denied], log, is_compacted=True)
    assert "not-written-visible" in {v.rule for v in found}


def test_the_final_states_are_the_fold_of_the_log() -> None:
    """What is served in the end is compared row by row, and no two may share an e-mail."""
    log = {**log_of("m1", "m2"), **log_of("d1", None, uid="d")}
    assert check_final({"u": State(2, "m2", "e")}, log) == []
    assert check_final({"u": State(1, "m1", "e")}, log)
    assert check_final({}, log)
    assert check_final({"u": State(2, "m2", "e"), "d": State(1, "d1", "e")}, log)
    shared = {**log_of("m1"), **log_of("w1", uid="w")}
    assert check_final({"u": State(1, "m1", "e"), "w": State(1, "w1", "e")}, shared)


def test_agrees_with_a_search_over_all_orders() -> None:
    """On thousands of small random histories, right and wrong ones, the sweep and the search give the same verdict."""
    rng = random.Random(SEED)
    bad = 0
    for number in range(RANDOM_HISTORIES):
        operations, log = random_history(rng)
        is_fine = not check(operations, log)
        assert is_fine == is_linearizable(operations, log), f"seed {SEED}, history {number}: {operations} {log}"
        bad += not is_fine
    assert RANDOM_HISTORIES * 0.1 < bad < RANDOM_HISTORIES * 0.9, f"{bad} bad ones are no fair sample"


def random_history(rng: random.Random) -> tuple[list[Operation], ProfileLog]:
    """A run of a correct register with overlapping calls, which is then spoilt a little, or not."""
    state, is_deleted = 1, False
    marks: list[str | None] = ["m1"]
    operations = [op(Kind.CREATE, -20, rng.randint(-15, -1), 1)]
    for moment in range(0, 10 * rng.randint(2, 7), 10):  # one takes effect at each of these moments
        called, returned = moment - rng.randint(1, 15), moment + rng.randint(1, 15)
        kind = rng.choice([Kind.GET, Kind.GET, Kind.PUT, Kind.PUT, Kind.PUT, Kind.DELETE])
        if_match = state if rng.random() < 0.4 else None
        if is_deleted:
            facts = {"mark": f"x{moment}"} if kind is Kind.PUT else {}
            operations.append(op(kind, called, returned, outcome=Outcome.NOT_FOUND, **facts))
        elif kind is Kind.GET:
            operations.append(op(kind, called, returned, state))
        elif rng.random() < 0.2:
            operations.append(
                op(Kind.PUT, called, returned, state, if_match=state + 5, outcome=Outcome.MISMATCH, mark=f"x{moment}")
            )
        else:
            state += 1
            is_deleted = kind is Kind.DELETE
            marks.append(None if is_deleted else f"m{state}")
            wanted = None if is_deleted else f"m{state}"
            version = None if is_deleted else state
            operations.append(op(kind, called, returned, version, mark=wanted, if_match=if_match))
            if rng.random() < 0.2:
                operations[-1].outcome, operations[-1].returned_ns = Outcome.UNKNOWN, NEVER
                operations[-1].version = None
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        spoil(rng, rng.choice(operations))
    return operations, log_of(*marks)


def spoil(rng: random.Random, operation: Operation) -> None:
    """Change the times or the version of an operation so that it may be wrong."""
    if rng.random() < 0.5 and operation.version is not None and not operation.is_write:
        operation.version = max(1, operation.version + rng.choice([-1, 1]))
        operation.mark = f"m{operation.version}"
        return
    shift = rng.randint(-40, 40)
    operation.called_ns += shift
    if operation.returned_ns != NEVER:
        operation.returned_ns += shift


def is_linearizable(operations: Sequence[Operation], log: ProfileLog) -> bool:
    """Search for an order that explains everything (Wing and Gong, with Lowe's memo), for one profile.

    Unknown writes are resolved from the log like in the checker: those that are not in it had no effect.
    """
    entries = log["u"]
    steps: list[tuple[int, int, Operation, int | None]] = []  # call, return, operation, version it must write
    versions = {entry.mark: entry.version for entry in entries if entry.mark is not None}
    tombstone = entries[-1].version if entries[-1].mark is None else None
    deletes = [o for o in operations if o.kind is Kind.DELETE and o.outcome in (Outcome.OK, Outcome.UNKNOWN)]
    deletes.sort(key=lambda o: (o.outcome is not Outcome.OK, o.called_ns))
    for o in operations:
        written = versions.get(o.mark or "") if o.is_write else None
        if o.kind is Kind.DELETE:
            written = tombstone if deletes and o is deletes[0] else None
        if o.outcome is Outcome.UNKNOWN and written is None:
            continue
        steps.append((o.called_ns, o.returned_ns, o, written))
    seen: set[tuple[frozenset[int], int]] = set()

    def explain(left: frozenset[int], state: int) -> bool:
        if not left:
            return True
        if (left, state) in seen:
            return False
        seen.add((left, state))
        earliest_return = min(steps[i][1] for i in left)
        return any(
            steps[i][0] <= earliest_return
            and (after := apply(steps[i][2], steps[i][3], state, tombstone)) is not None
            and explain(left - {i}, after)
            for i in left
        )

    return explain(frozenset(range(len(steps))), 0)


def apply(o: Operation, written: int | None, state: int, tombstone: int | None) -> int | None:
    """The version after *o* in *state* (0: not there), None if *o* cannot have happened there."""
    is_absent = state in (0, tombstone)
    if written is not None and o.outcome in (Outcome.OK, Outcome.UNKNOWN):
        is_right = written == state + 1 and state != tombstone and (o.if_match is None or o.if_match == state)
        return written if is_right else None
    if o.outcome is Outcome.NOT_FOUND:
        return state if is_absent else None
    if o.outcome is Outcome.MISMATCH:
        return state if not is_absent and o.version == state and o.if_match != state else None
    if o.outcome is Outcome.OK and not o.is_write:
        return state if not is_absent and o.version == state and o.mark == f"m{state}" else None
    return None
