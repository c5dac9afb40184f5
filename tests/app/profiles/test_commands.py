"""Decisions one by one: what each command writes, refuses and asks for, on states that are set up by hand."""

from collections.abc import Sequence
from typing import Any

import pytest

from app.profiles import results
from app.profiles.claims import Domain, Moved
from app.profiles.commands import Create, Delete, Done, Update
from app.profiles.email import normalise
from app.profiles.events import Event, Records
from app.profiles.model import Change, NewProfile
from app.profiles.requests import ANY, IfMatch
from app.profiles.results import FieldError, ValidationFailed
from app.profiles.uids import draw_uid
from streams.partitioner import partition_for
from streams.records import header
from tests.app.profiles.fakes import NAMES, CountingRandom, State, decide

PARTITIONS = 4
DOMAIN = Domain(Records(NAMES), PARTITIONS)
ALL = tuple(range(PARTITIONS))
RANDOM = CountingRandom()
NOW_MS = 1_795_260_755_123
INVALID = ValidationFailed([FieldError("#/email", "invalid_email", "")])


def event() -> Event:
    return Event.of(RANDOM(16), "2026-11-21T11:32:35.123Z", None)


def create(state: State, email: str, *, username: str = "bob") -> str:
    """Make a profile and return its uid."""
    address = normalise(email)
    partition = partition_for(address.key, PARTITIONS)
    uid = draw_uid(RANDOM, partition=partition, partitions=PARTITIONS)
    command = Create(DOMAIN, event(), (partition,), uid, NewProfile(username, address))
    assert decide(state, command).result.is_created
    return uid


def update(
    uid: str,
    content: Change | ValidationFailed,
    *,
    if_match: IfMatch = None,
    is_required: bool = False,
    partitions: Sequence[int] = ALL,
) -> Update:
    return Update(DOMAIN, event(), partitions, uid, content, if_match, is_required)


def new_email(email: str) -> Change:
    return Change(None, normalise(email))


def places(records: Sequence[Any]) -> list[tuple[str, bool]]:
    """Return topic and whether it is a tombstone, in the order of the log."""
    return [(record.topic, record.value is None) for record in records]


@pytest.fixture
def state() -> State:
    return State(PARTITIONS)


def test_create_writes_claim_then_profile_in_one_partition(state: State) -> None:
    """One owner writes both, the claim first, under one event id."""
    create(state, "bob1@mail.com")
    assert places(state.log) == [(NAMES.emails, False), (NAMES.profiles, False)]
    assert len({record.partition for record in state.log}) == 1
    assert len({header(record.headers, "ce_id") for record in state.log}) == 1


def test_repeated_create_is_done_already(state: State) -> None:
    """The same command once more, as after an unknown outcome, writes nothing and gives the same result."""
    uid = draw_uid(RANDOM, partition=0, partitions=PARTITIONS)
    command = Create(DOMAIN, event(), ALL, uid, NewProfile("bob", normalise("bob1@mail.com")))
    first = decide(state, command)
    second = decide(state, command)
    assert second.records == ()
    assert second.result == first.result


def test_taken_email_names_its_holder_and_writes_nothing(state: State) -> None:
    """A second profile with the same key, however it is spelt, is refused."""
    uid = create(state, "bob1@mail.com")
    command = Create(
        DOMAIN, event(), ALL, draw_uid(RANDOM, partition=0, partitions=4), NewProfile("x", normalise("BOB1@Mail.com"))
    )
    decision = decide(state, command)
    assert decision.records == ()
    assert isinstance(decision.result, results.EmailTaken)
    assert decision.result.existing_uid == uid


@pytest.mark.parametrize("is_alive", [True, False])
def test_stale_claim_is_overwritten(state: State, is_alive: bool) -> None:
    """A claim proves nothing by itself: its profile is gone, or carries another e-mail."""
    other = create(state, "other@mail.com") if is_alive else "74292b21-0fbb-4f1d-a18f-fa80f947fa5d"
    state.put_claim(b"bob1@mail.com", other)
    command = Create(
        DOMAIN, event(), ALL, draw_uid(RANDOM, partition=0, partitions=4), NewProfile("x", normalise("bob1@mail.com"))
    )
    assert decide(state, command).result.is_created
    claim = state.claim(b"bob1@mail.com")
    assert claim is not None
    assert claim.uid == command.uid.encode()


def test_claim_of_a_profile_elsewhere_is_asked_about_there(state: State) -> None:
    """The claim's profile lies in a partition that the command does not have: it says which, and decides nothing."""
    uid = create(state, "other@mail.com")
    email = next(
        address
        for address in (f"bob{number}@mail.com" for number in range(100))
        if partition_for(address.encode(), PARTITIONS) != partition_for(uid.encode(), PARTITIONS)
    )
    state.put_claim(email.encode(), uid)
    mine = partition_for(email.encode(), PARTITIONS)
    new_uid = draw_uid(RANDOM, partition=mine, partitions=PARTITIONS)
    decision = decide(state, Create(DOMAIN, event(), (mine,), new_uid, NewProfile("x", normalise(email))))
    assert decision == ((), Moved((mine, partition_for(uid.encode(), PARTITIONS))))


def test_change_of_email_claims_writes_and_releases_in_this_order(state: State) -> None:
    """The new claim comes before the profile (the commit point), the release after it, all with the new version."""
    uid = create(state, "bob1@mail.com")
    decision = decide(state, update(uid, new_email("bob2@mail.com")))
    assert places(decision.records) == [(NAMES.emails, False), (NAMES.profiles, False), (NAMES.emails, True)]
    assert [record.key for record in decision.records] == [b"bob2@mail.com", uid.encode(), b"bob1@mail.com"]
    assert {header(record.headers, "profile-version") for record in decision.records} == {b"2"}


def test_change_of_username_writes_the_profile_alone(state: State) -> None:
    """The claim is there already."""
    uid = create(state, "bob1@mail.com")
    assert places(decide(state, update(uid, Change("eve", None))).records) == [(NAMES.profiles, False)]


def test_other_spelling_of_the_email_writes_no_claim(state: State) -> None:
    """The key is the same, so is the claim."""
    uid = create(state, "bob1@mail.com")
    decision = decide(state, update(uid, new_email("Bob1@mail.com")))
    assert places(decision.records) == [(NAMES.profiles, False)]
    assert b'"email":"Bob1@mail.com"' in decision.result.profile.body


@pytest.mark.parametrize("claimant", [None, "74292b21-0fbb-4f1d-a18f-fa80f947fa5d"])
def test_lost_claim_is_written_again(state: State, claimant: str | None) -> None:
    """A profile whose claim is missing, or names one that does not hold it, gets it back with its next change."""
    uid = create(state, "bob1@mail.com")
    state.drop_claim(b"bob1@mail.com")
    if claimant is not None:
        state.put_claim(b"bob1@mail.com", claimant)
    decision = decide(state, update(uid, Change("eve", None)))
    assert places(decision.records) == [(NAMES.emails, False), (NAMES.profiles, False)]
    claim = state.claim(b"bob1@mail.com")
    assert claim is not None
    assert (claim.uid, claim.version) == (uid.encode(), 2)


def test_update_to_the_same_writes_nothing(state: State) -> None:
    """The version stays and the result says so."""
    uid = create(state, "bob1@mail.com")
    decision = decide(state, update(uid, Change("bob", normalise("bob1@mail.com"))))
    assert decision.records == ()
    assert (decision.result.profile.version, decision.result.is_changed) == (1, False)


def test_repeated_update_is_done_already_even_under_its_old_condition(state: State) -> None:
    """The row remembers the event that made it, so a repetition gets its own result, not 412."""
    uid = create(state, "bob1@mail.com")
    command = update(uid, new_email("bob2@mail.com"), if_match=(1,))
    first = decide(state, command)
    second = decide(state, command)
    assert second.records == ()
    assert second.result == first.result


def test_swap_of_two_emails_is_refused_for_both(state: State) -> None:
    """Each e-mail is held while the other asks for it."""
    one, two = create(state, "one@mail.com"), create(state, "two@mail.com")
    for uid, wanted in ((one, "two@mail.com"), (two, "one@mail.com")):
        assert isinstance(decide(state, update(uid, new_email(wanted))).result, results.EmailTaken)


def test_delete_buries_profile_and_claim_with_the_next_version(state: State) -> None:
    """The tombstone carries version + 1 in its headers, the deletion is remembered, and the e-mail is free at once."""
    uid = create(state, "bob1@mail.com")
    decision = decide(state, Delete(DOMAIN, event(), ALL, uid, None, False, NOW_MS))
    assert places(decision.records) == [(NAMES.profiles, True), (NAMES.requests, False), (NAMES.emails, True)]
    assert {header(record.headers, "profile-version") for record in decision.records} == {b"2"}
    assert decision.result == Done(None)
    assert create(state, "bob1@mail.com") != uid


@pytest.mark.parametrize("is_delete", [True, False])
def test_claim_of_another_profile_is_never_released(state: State, is_delete: bool) -> None:
    """A profile that lost its claim to another does not take the other's away."""
    uid = create(state, "bob1@mail.com")
    state.put_claim(b"bob1@mail.com", "74292b21-0fbb-4f1d-a18f-fa80f947fa5d")
    delete, change = Delete(DOMAIN, event(), ALL, uid, None, False, NOW_MS), update(uid, new_email("bob2@mail.com"))
    command = delete if is_delete else change
    decision = decide(state, command)
    assert (NAMES.emails, True) not in places(decision.records)
    assert state.claim(b"bob1@mail.com") is not None


def test_old_email_in_a_partition_that_was_not_foreseen_is_asked_for(state: State) -> None:
    """The e-mail changed since the partitions were computed: the command asks for the missing one."""
    uid = create(state, "bob1@mail.com")
    own = partition_for(uid.encode(), PARTITIONS)
    there = next(
        address
        for address in (f"eve{number}@mail.com" for number in range(100))
        if partition_for(address.encode(), PARTITIONS) != own
    )
    decide(state, update(uid, new_email(there)))
    wanted = (own, partition_for(there.encode(), PARTITIONS))
    for command in (
        update(uid, Change("eve", None), partitions=(own,)),
        update(uid, new_email("bob1@mail.com"), partitions=(own,)),
        Delete(DOMAIN, event(), (own,), uid, None, False, NOW_MS),
    ):
        assert decide(state, command) == ((), Moved(wanted))


MISSING = "74292b21-0fbb-4f1d-a18f-fa80f947fa5d"


@pytest.mark.parametrize(
    ("exists", "if_match", "is_required", "content", "expected"),
    [
        (False, (9,), True, INVALID, results.ProfileNotFound),
        (True, (9,), True, INVALID, results.VersionMismatch),
        (True, (), False, INVALID, results.VersionMismatch),
        (True, None, True, INVALID, results.PreconditionRequired),
        (True, (1,), True, INVALID, results.ValidationFailed),
        (True, ANY, True, INVALID, results.ValidationFailed),
        (True, None, False, INVALID, results.ValidationFailed),
        (True, (7, 1), False, new_email("taken@mail.com"), results.EmailTaken),
    ],
)
def test_refusals_come_in_the_fixed_order(
    state: State, exists: bool, if_match: IfMatch, is_required: bool, content: Any, expected: type
) -> None:
    """404, then 412 and 428, then 422, then 409."""
    create(state, "taken@mail.com")
    uid = create(state, "bob1@mail.com") if exists else MISSING
    decision = decide(state, update(uid, content, if_match=if_match, is_required=is_required))
    assert decision.records == ()
    assert type(decision.result) is expected


@pytest.mark.parametrize(
    ("exists", "if_match", "is_required", "expected"),
    [
        (False, (9,), True, results.ProfileNotFound),
        (True, (9,), True, results.VersionMismatch),
        (True, None, True, results.PreconditionRequired),
        (True, ANY, True, Done),
        (True, (1,), True, Done),
        (True, None, False, Done),
    ],
)
def test_delete_obeys_the_same_conditions(
    state: State, exists: bool, if_match: IfMatch, is_required: bool, expected: type
) -> None:
    """The order of an update, without content."""
    uid = create(state, "bob1@mail.com") if exists else MISSING
    decision = decide(state, Delete(DOMAIN, event(), ALL, uid, if_match, is_required, NOW_MS))
    assert type(decision.result) is expected


def test_version_mismatch_names_the_current_version(state: State) -> None:
    """So that a client can tell how far it is behind."""
    uid = create(state, "bob1@mail.com")
    decide(state, update(uid, Change("eve", None)))
    result = decide(state, update(uid, Change("ann", None), if_match=(1,))).result
    assert result.current_version == 2
