"""The service over fakes: freshness of reads, the index, pages, outcomes of writes, idempotent creates."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from app.profiles import results
from app.profiles.requests import PLAIN, TRACEPARENT, ReadOptions
from app.profiles.results import Written
from app.profiles.settlement import SettlementUnavailable
from app.profiles.topics import PROFILE_STORE
from streams.errors import LeaseExpired, NotOwner, NotWritten, StoreClosed, StoreDamaged, Unavailable
from streams.partitioner import partition_for
from streams.records import TopicPartition, header
from streams.runtime.commands import Refused, Unknown
from tests.app.profiles.fakes import NAMES, CountingRandom, FakeReader, World

T = TypeVar("T")
STRICT = ReadOptions(consistency="strict")


def run(call: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(call)


def document(email: str, username: str = "bob") -> dict[str, str]:
    return {"username": username, "email": email}


def create(world: World, email: str, *, key: str | None = None, username: str = "bob") -> Written:
    return run(world.service.create(document(email, username), idempotency_key=key, deadline=world.deadline))


def uid_of(written: Written) -> str:
    assert written.profile is not None
    return written.profile.uid


@pytest.fixture
def world() -> World:
    return World()


def test_created_profile_is_read_everywhere(world: World) -> None:
    """By uid on both paths, by e-mail in any spelling, and in the list: the same bytes, ETag and origin."""
    written = create(world, "Bob1@mail.com")
    uid = uid_of(written)
    read = run(world.service.get(uid, PLAIN, world.deadline))
    found = run(world.service.search("BOB1@MAIL.COM", PLAIN, world.deadline))
    page = run(world.service.page(limit=10, cursor=None, options=PLAIN, deadline=world.deadline, is_partial=False))
    now = world.service.get_now(uid.encode())
    assert written.is_created
    assert read.profile == found.profile == written.profile
    assert page.bodies == [read.profile.body]
    assert page.next_cursor is None
    assert now == (read.profile.body, b'"1"', b"node-1; role=owner; position=1; staleness-ms=0; hops=0")
    assert world.service.search_now("BOB1@mail.com") == (*now, uid.encode())
    assert (read.served_by.position, read.served_by.staleness_ms) == (1, 0)


def test_missing_profile_is_not_found_and_says_where(world: World) -> None:
    """A 404 obeys the bound of a 200, so it has an origin, too."""
    uid = "74292b21-0fbb-4f1d-a18f-fa80f947fa5d"
    assert world.service.get_now(uid.encode()) is None
    assert world.service.search_now("bob1@mail.com") is None
    with pytest.raises(results.ProfileNotFound) as by_uid:
        run(world.service.get(uid, PLAIN, world.deadline))
    with pytest.raises(results.ProfileNotFound) as by_email:
        run(world.service.search("bob1@mail.com", PLAIN, world.deadline))
    assert (by_uid.value.uid, by_email.value.uid) == (uid, None)
    assert by_uid.value.served_by is not None
    assert by_email.value.served_by is not None


def test_served_by_follows_the_position(world: World) -> None:
    """The cached header value is made anew when the partition moves on."""
    uid = uid_of(create(world, "bob1@mail.com"))
    for position in (1, 2, 3):
        found = world.service.get_now(uid.encode())
        assert found is not None
        assert b"position=%d;" % position in found[2]
        run(world.service.patch(uid, {"username": f"b{position}"}, if_match=None, deadline=world.deadline))


def test_search_answers_only_when_the_profile_carries_the_email(world: World) -> None:
    """A claim that was left behind finds nobody."""
    uid = uid_of(create(world, "bob1@mail.com"))
    world.state.put_claim(b"old@mail.com", uid)
    assert world.service.search_now("old@mail.com") is None
    with pytest.raises(results.ProfileNotFound):
        run(world.service.search("old@mail.com", PLAIN, world.deadline))


def test_search_looks_again_while_rows_are_being_moved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A miss that fell into the application of a change of e-mail does not count."""
    uid = uid_of(create(world, "bob1@mail.com"))
    world.state.drop_claim(b"bob1@mail.com")
    world.node.sequence = 7  # odd: half applied

    async def rest(_: float) -> None:
        world.state.put_claim(b"bob1@mail.com", uid)
        world.node.sequence = 8

    monkeypatch.setattr("app.profiles.reads.asyncio.sleep", rest)
    assert run(world.service.search("bob1@mail.com", PLAIN, world.deadline)).profile.uid == uid


def test_search_never_says_not_found_of_a_moving_index(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the deadline it is unavailable, not missing."""
    world.node.sequence = 7

    async def rest(_: float) -> None:
        world.clock.now_ms += 6_000

    monkeypatch.setattr("app.profiles.reads.asyncio.sleep", rest)
    with pytest.raises(Unavailable):
        run(world.service.search("bob1@mail.com", PLAIN, world.deadline))


def test_search_of_no_address_is_a_content_fault(world: World) -> None:
    """As the blank that an unescaped plus sign becomes."""
    with pytest.raises(results.ValidationFailed) as caught:
        run(world.service.search("bob 1@mail.com", PLAIN, world.deadline))
    assert [(error.pointer, error.code) for error in caught.value.errors] == [("#/email", "invalid_email")]


def test_strict_read_takes_the_barrier_first(world: World) -> None:
    """Of the profile's partition; a search and a page of all that they may touch."""
    uid = uid_of(create(world, "bob1@mail.com"))
    run(world.service.get(uid, STRICT, world.deadline))
    run(world.service.search("bob1@mail.com", STRICT, world.deadline))
    run(world.service.page(limit=1, cursor=None, options=STRICT, deadline=world.deadline, is_partial=False))
    assert world.node.barriers == [[partition_for(uid.encode(), 4)], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_without_a_lease_the_hot_path_refuses_and_the_others_take_a_barrier(world: World) -> None:
    """Nobody answers from a past that he cannot rule out; the barrier rules it out."""
    uid = uid_of(create(world, "bob1@mail.com"))
    world.node.lapsed_ms = 3_000
    with pytest.raises(LeaseExpired):
        world.service.get_now(uid.encode())
    with pytest.raises(LeaseExpired):
        world.service.search_now("bob1@mail.com")
    read = run(world.service.get(uid, PLAIN, world.deadline))
    found = run(world.service.search("bob1@mail.com", PLAIN, world.deadline))
    page = run(world.service.page(limit=1, cursor=None, options=PLAIN, deadline=world.deadline, is_partial=False))
    assert len(world.node.barriers) == 3
    assert {answer.served_by.staleness_ms for answer in (read, found, page)} == {0}


def test_what_is_being_written_is_read_behind_a_barrier(world: World) -> None:
    """A copy may have shown it already; neither the old state nor "not found" is taken for the truth."""
    uid = uid_of(create(world, "bob1@mail.com"))
    world.node.unsettled = {uid.encode(), b"bob2@mail.com"}
    with pytest.raises(LeaseExpired):
        world.service.get_now(uid.encode())
    with pytest.raises(LeaseExpired):
        world.service.search_now("bob1@mail.com")
    run(world.service.get(uid, PLAIN, world.deadline))
    with pytest.raises(results.ProfileNotFound):
        run(world.service.search("bob2@mail.com", PLAIN, world.deadline))
    assert len(world.node.barriers) == 2


def test_staleness_within_the_callers_bound_is_served_and_said(world: World) -> None:
    """A caller who allows five seconds gets three, without a barrier; one who allows two gets the barrier."""
    uid = uid_of(create(world, "bob1@mail.com"))
    world.node.lapsed_ms = 3_000
    read = run(world.service.get(uid, ReadOptions(max_staleness_s=5), world.deadline))
    assert (read.served_by.staleness_ms, world.node.barriers) == (3_000, [])
    read = run(world.service.get(uid, ReadOptions(max_staleness_s=2), world.deadline))
    assert (read.served_by.staleness_ms, len(world.node.barriers)) == (0, 1)


def test_position_is_waited_for_in_the_partition_that_is_read(world: World) -> None:
    """The token of a write makes a read wait for that write, and only for it."""
    written = create(world, "bob1@mail.com")
    uid = uid_of(written)
    partition = partition_for(uid.encode(), 4)
    elsewhere = {TopicPartition(NAMES.profiles, (partition + 1) % 4): 99}
    token = world.service.position_token({**written.positions, **elsewhere})
    run(world.service.get(uid, ReadOptions(position=token), world.deadline))
    assert world.node.waits == [written.positions]


@pytest.mark.parametrize("position", ["", "nonsense", "AAAA"])
def test_made_up_position_is_refused(world: World, position: str) -> None:
    """Before anything is waited for."""
    with pytest.raises(results.BadCursor):
        run(world.service.get("74292b21-0fbb-4f1d-a18f-fa80f947fa5d", ReadOptions(position=position), world.deadline))


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 500])
@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_pages_hold_every_profile_once(limit: int, count: int) -> None:
    """Walking the cursors gives each profile exactly once, in pages of the limit but for the last."""
    world = World()
    made = {uid_of(create(world, f"bob{number}@mail.com")) for number in range(count)}
    seen: list[str] = []
    cursor = None
    while True:
        page = run(
            world.service.page(limit=limit, cursor=cursor, options=PLAIN, deadline=world.deadline, is_partial=False)
        )
        seen += [json.loads(body)["uid"] for body in page.bodies]
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page.bodies) == limit
    assert len(seen) == count
    assert set(seen) == made


def test_unknown_outcome_names_uid_and_event(world: World) -> None:
    """So that the client can look, or repeat."""
    world.table.script = [Unknown(bytes(16))]
    with pytest.raises(results.WriteOutcomeUnknown) as caught:
        create(world, "bob1@mail.com")
    command = world.table.commands[0]
    assert caught.value.event_id.replace("-", "") == command.event_id.hex()
    assert len(caught.value.uid) == 36


def test_refused_command_raises_its_reason(world: World) -> None:
    """As the table gave it."""
    world.table.script = [Refused(NotWritten("the log is away"))]
    with pytest.raises(NotWritten):
        create(world, "bob1@mail.com")


def test_partition_of_another_owner_is_said_by_name(world: World) -> None:
    """A change over two owners is not possible yet; a partition that simply moved is the usual refusal."""
    uid = uid_of(create(world, "bob1@mail.com"))
    own = partition_for(uid.encode(), 4)
    world.table.script = [Refused(NotOwner("", partition=(own + 1) % 4)), Refused(NotOwner("", partition=own))]
    kinds = []
    for _ in range(2):
        with pytest.raises(NotOwner) as caught:
            run(world.service.patch(uid, {"email": "x@mail.com"}, if_match=None, deadline=world.deadline))
        kinds.append(type(caught.value))
    assert kinds == [SettlementUnavailable, NotOwner]


def test_email_that_changes_meanwhile_is_tried_again(world: World) -> None:
    """The partitions were those of the old e-mail; the command asks for the new one's and then succeeds."""
    uid = uid_of(create(world, "bob1@mail.com"))
    own = partition_for(uid.encode(), 4)
    there = next(
        address
        for address in (f"eve{number}@mail.com" for number in range(100))
        if partition_for(address.encode(), 4) != own
    )

    def interfere() -> None:
        asyncio.get_running_loop()
        coroutine = world.service.patch(uid, {"email": there}, if_match=None, deadline=world.deadline)
        with pytest.raises(StopIteration):
            coroutine.send(None)

    world.table.before = interfere
    written = run(world.service.delete(uid, if_match=None, deadline=world.deadline))
    assert written.profile is None
    assert world.state.live() == {}
    assert world.state.claim(there.encode()) is None


def test_undisturbed_change_needs_one_round(world: World) -> None:
    """The old e-mail's partition is foreseen, so that no command has to be decided twice."""
    uids = [uid_of(create(world, f"bob{number}@mail.com")) for number in range(8)]
    world.table.commands.clear()
    for number, uid in enumerate(uids):
        run(world.service.patch(uid, {"email": f"eve{number}@mail.com"}, if_match=None, deadline=world.deadline))
        run(world.service.delete(uid, if_match=None, deadline=world.deadline))
    assert len(world.table.commands) == 2 * len(uids)


def test_trace_context_travels_with_the_event(world: World) -> None:
    """The request's traceparent is a header of each of its records."""
    token = TRACEPARENT.set(b"00-abc-01")
    try:
        create(world, "bob1@mail.com")
    finally:
        TRACEPARENT.reset(token)
    assert {header(record.headers, "traceparent") for record in world.state.log} == {b"00-abc-01"}


def test_if_match_can_be_demanded() -> None:
    """With the setting, a write without a condition is refused, but for a create."""
    world = World(is_if_match_required=True)
    uid = uid_of(create(world, "bob1@mail.com"))
    for call in (
        world.service.patch(uid, {}, if_match=None, deadline=world.deadline),
        world.service.replace(uid, {}, if_match=None, deadline=world.deadline),
        world.service.delete(uid, if_match=None, deadline=world.deadline),
    ):
        with pytest.raises(results.PreconditionRequired):
            run(call)


@pytest.mark.parametrize(("error", "damaged"), [(StoreDamaged("bits"), True), (StoreClosed("moved"), False)])
def test_failing_store_is_unavailable_and_damage_is_reported(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, damaged: bool
) -> None:
    """Never an answer from it, and the node learns of damage."""
    uid = uid_of(create(world, "bob1@mail.com"))

    def fail(*_: object, **__: object) -> None:
        raise error

    class Failing(FakeReader):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.get = fail
            self.scan = fail

    monkeypatch.setattr(world.node, "reader", lambda store, partition: Failing(world.node, store, partition))
    for call in (
        world.service.get(uid, PLAIN, world.deadline),
        world.service.page(limit=5, cursor=None, options=PLAIN, deadline=world.deadline, is_partial=False),
    ):
        with pytest.raises(Unavailable):
            run(call)
    assert bool(world.node.damaged) is damaged


class TestIdempotentCreate:
    """With an Idempotency-Key."""

    def test_repetition_gets_the_first_outcome_and_the_present_state(self, world: World) -> None:
        """Same uid, 201 again, nothing written; the representation is the one of now."""
        first = create(world, "bob1@mail.com", key="k")
        uid = uid_of(first)
        run(world.service.patch(uid, {"username": "eve"}, if_match=None, deadline=world.deadline))
        written = len(world.state.log)
        again = create(world, "Bob1@mail.com".lower(), key="k")
        assert len(world.state.log) == written
        assert again.profile is not None
        assert (again.profile.uid, again.profile.version) == (uid, 2)
        assert (again.is_created, again.is_changed, again.positions) == (True, False, {})

    def test_claim_record_and_profile_are_one_group(self, world: World) -> None:
        """All or nothing; the record and the profile have one owner."""
        create(world, "bob1@mail.com", key="k")
        (group,) = world.state.groups
        assert [record.topic for record in group] == [NAMES.emails, NAMES.requests, NAMES.profiles]
        assert group[1].partition == group[2].partition

    def test_order_of_members_makes_no_other_payload(self, world: World) -> None:
        """The fingerprint is of what the payload means."""
        create(world, "bob1@mail.com", key="k")
        turned = {"version": 9, "email": "bob1@MAIL.com", "username": "bob"}
        again = run(world.service.create(turned, idempotency_key="k", deadline=world.deadline))
        assert again.is_created
        assert not again.is_changed

    def test_other_payload_is_refused(self, world: World) -> None:
        """Whatever differs, also while the first one's e-mail is taken."""
        create(world, "bob1@mail.com", key="k")
        for other in (document("bob1@mail.com", "eve"), document("bob2@mail.com")):
            with pytest.raises(results.IdempotencyKeyReused):
                run(world.service.create(other, idempotency_key="k", deadline=world.deadline))

    def test_deleted_profile_is_gone(self, world: World) -> None:
        """The key does not make it again."""
        uid = uid_of(create(world, "bob1@mail.com", key="k"))
        run(world.service.delete(uid, if_match=None, deadline=world.deadline))
        with pytest.raises(results.ProfileGone):
            create(world, "bob1@mail.com", key="k")

    def test_refused_claim_leaves_no_record(self, world: World) -> None:
        """After 409 the same key may be used with an e-mail that is free."""
        create(world, "bob1@mail.com")
        with pytest.raises(results.EmailTaken):
            create(world, "bob1@mail.com", key="k")
        assert create(world, "bob2@mail.com", key="k").is_changed

    def test_key_is_forgotten_after_its_time(self, world: World) -> None:
        """One ms before, it is remembered; then it may be used anew."""
        create(world, "bob1@mail.com", key="k")
        world.clock.now_ms += 86_400_000 - 1
        assert not create(world, "bob1@mail.com", key="k").is_changed
        world.clock.now_ms += 1
        assert create(world, "bob2@mail.com", key="k").is_changed

    def test_same_key_under_way_is_told_to_wait(self, world: World) -> None:
        """The second request does not wait for the first, and after it the key is free again."""
        outcomes: list[Exception] = []

        def interfere() -> None:
            coroutine = world.service.create(document("bob1@mail.com"), idempotency_key="k", deadline=world.deadline)
            try:
                coroutine.send(None)
            except results.IdempotencyInProgress as error:
                outcomes.append(error)

        world.table.before = interfere
        assert create(world, "bob1@mail.com", key="k").is_changed
        assert len(outcomes) == 1
        assert create(world, "bob1@mail.com", key="k").is_created

    def test_keys_and_creates_without_one_do_not_meet(self, world: World) -> None:
        """Two keys are two requests."""
        one = create(world, "bob1@mail.com", key="k")
        two = create(world, "bob2@mail.com", key="K")
        three = create(world, "bob3@mail.com")
        assert len({uid_of(one), uid_of(two), uid_of(three)}) == 3


def test_uid_of_a_plain_create_lies_with_its_email() -> None:
    """So one owner can write both."""
    world = World(partitions=31, random=CountingRandom())
    for number in range(40):
        uid = uid_of(create(world, f"bob{number}@mail.com"))
        partition = partition_for(f"bob{number}@mail.com".encode(), 31)
        assert uid.encode() in world.state.store(PROFILE_STORE, partition)
