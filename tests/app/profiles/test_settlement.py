"""Changes of e-mail over several owners, on the protocol's own commands and messages, with everything that may go
wrong between them. The model of the same rules, with zombies, is in `tests/simulation/test_claims.py`."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from app.profiles.idempotency import request_key
from app.profiles.results import (
    EmailTaken,
    IdempotencyInProgress,
    ProfileNotFound,
    Rejection,
    ValidationFailed,
    VersionMismatch,
    WriteOutcomeUnknown,
    Written,
)
from app.profiles.settlement import SettlementUnavailable
from app.profiles.topics import PROFILE_STORE
from streams.errors import Unavailable
from streams.queries.peers import Caller, PeerLost
from tests.app.profiles.fakes import NAMES
from tests.app.profiles.owners import Cluster, Member

SEEDS = int(os.environ.get("SETTLEMENT_SEEDS", "100"))


def run(test: Callable[[Cluster], Coroutine[Any, Any, None]], cluster: Cluster | None = None) -> Cluster:
    """Run *test* on a cluster; afterwards nothing is left under way."""
    cluster = cluster or Cluster()

    async def body() -> None:
        await test(cluster)
        await cluster.rest()
        check(cluster)

    asyncio.run(body())
    return cluster


def check(cluster: Cluster) -> None:
    """Every live profile has its e-mail alone, and its claim."""
    live = cluster.state.live()
    keys = [key for _, key in live.values()]
    assert len(keys) == len(set(keys)), "two live profiles with one e-mail"
    for uid, (_, key) in live.items():
        claim = cluster.state.claim(key)
        assert claim is not None, "a live profile without a claim"
        assert claim.uid.decode() == uid, "the claim names another profile"
    assert not any(node.settlement._marks for node in cluster.nodes), "a mark is left behind"


async def create(cluster: Cluster, email: str, *, key: str | None = None, node: Member | None = None) -> Written:
    node = node or cluster.owner_of(email.encode())
    return await node.writes.create({"username": "bob", "email": email}, idempotency_key=key, deadline=cluster.deadline)


async def new(cluster: Cluster, email: str) -> str:
    profile = (await create(cluster, email)).profile
    assert profile is not None
    return profile.uid


async def patch(cluster: Cluster, uid: str, email: str, *, if_match: Any = None) -> Written:
    node = cluster.owner_of(uid.encode())
    return await node.writes.patch(uid, {"email": email}, if_match=if_match, deadline=cluster.deadline)


async def delete(cluster: Cluster, uid: str) -> Written:
    return await cluster.owner_of(uid.encode()).writes.delete(uid, if_match=None, deadline=cluster.deadline)


def emails(cluster: Cluster) -> tuple[str, str]:
    """Return two addresses whose claims lie at two nodes."""
    return cluster.email(0), cluster.email(cluster.other_partition([0]), "eve")


def test_change_goes_over_two_owners() -> None:
    """The new e-mail is claimed, the profile written, the old claim released; the old e-mail is free then."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        written = await patch(cluster, uid, there)
        assert [place.topic for place in written.positions] == [NAMES.profiles, NAMES.emails]
        await patch(cluster, uid, here)
        await cluster.rest()
        assert cluster.state.claim(there.encode()) is None
        assert cluster.calls == ["claim", "release"]
        await new(cluster, there)

    run(body)


def test_what_one_node_owns_is_one_transaction() -> None:
    """Nobody else is asked, and there is one group."""
    cluster = Cluster(nodes=1)

    async def body(cluster: Cluster) -> None:
        uid = await new(cluster, cluster.email(0))
        await patch(cluster, uid, cluster.email(1))
        assert len(cluster.state.groups) == 2
        assert cluster.calls == []

    run(body, cluster)


def test_email_of_a_profile_elsewhere_is_taken() -> None:
    """The conflict names the profile, and nothing is written."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid, other = await new(cluster, here), await new(cluster, there)
        written = len(cluster.state.log)
        with pytest.raises(EmailTaken) as caught:
            await patch(cluster, uid, there)
        assert caught.value.existing_uid == other
        assert len(cluster.state.log) == written

    run(body)


def test_other_checks_come_before_the_claim() -> None:
    """404, 412 and 422 are told without asking another owner."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        with pytest.raises(VersionMismatch):
            await patch(cluster, uid, there, if_match=(7,))
        with pytest.raises(ValidationFailed):
            await cluster.owner_of(uid.encode()).writes.replace(
                uid, {"email": there, "username": ""}, if_match=None, deadline=cluster.deadline
            )
        await delete(cluster, uid)
        with pytest.raises(ProfileNotFound):
            await patch(cluster, uid, there)
        assert cluster.calls == []

    run(body)


def test_claim_that_holds_nothing_is_settled_by_asking() -> None:
    """A claim left behind names a live profile of another owner, who says no behind a barrier: a record of its own."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        cluster.state.put_claim(there.encode(), uid)
        await new(cluster, there)
        assert cluster.calls == ["held"]
        barrier = cluster.state.groups[-2]
        assert [(record.topic, record.value) for record in barrier] == [(NAMES.requests, None)]
        assert barrier[0].partition == cluster.nodes[0].ground.domain.partition_of(uid.encode())

    run(body)


def test_claim_that_was_written_anew_is_asked_about_again() -> None:
    """The answer was about another op: between question and answer the profile came to carry the e-mail."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        cluster.state.put_claim(there.encode(), uid)
        owner = cluster.owner_of(uid.encode())
        held = owner.operations["held"]

        async def slow(request: bytes, caller: Caller) -> bytes:
            answer = await held(request, caller)
            owner.operations = {**owner.operations, "held": held}
            await patch(cluster, uid, there)
            return answer

        owner.operations = {**owner.operations, "held": slow}
        with pytest.raises(EmailTaken):
            await new(cluster, there)

    run(body)


def test_swap_gives_a_conflict_and_no_deadlock() -> None:
    """Two profiles that want each other's e-mail are both refused."""

    async def body(cluster: Cluster) -> None:
        cluster.weather.delay_turns = 3
        here, there = emails(cluster)
        one, other = await new(cluster, here), await new(cluster, there)
        results = await asyncio.gather(patch(cluster, one, there), patch(cluster, other, here), return_exceptions=True)
        assert [type(result) for result in results] == [EmailTaken, EmailTaken]

    run(body)


def test_lost_claim_call_writes_nothing_and_harms_nobody() -> None:
    """The caller gets 503; whether the claim was written does not matter to the next claimant."""
    for share in (1.0, 0.5):

        async def body(cluster: Cluster, share: float = share) -> None:
            here, there = emails(cluster)
            uid = await new(cluster, here)
            cluster.weather.lost = share
            for _ in range(6):
                before = cluster.state.live()[uid]
                try:
                    await patch(cluster, uid, there)
                    await patch(cluster, uid, here)
                except SettlementUnavailable:
                    assert cluster.state.live()[uid] == before or share < 1
            cluster.weather.lost = 0.0
            await patch(cluster, uid, here)
            await cluster.rest()
            await new(cluster, there)

        run(body, Cluster(seed=5))


def test_claim_whose_outcome_is_unknown_is_not_answered_as_a_refusal() -> None:
    """Who asked would take that for "certainly nothing was done"; it may be in the log, now or later."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        owner = cluster.owner_of(there.encode())
        asked: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: owner.settlement.claim(there.encode(), uid.encode(), 2, cluster.deadline),
            lambda: owner.settlement.release(there.encode(), uid.encode(), 3, cluster.deadline),
        )
        for ask in asked:
            owner.table.is_next_unknown = True
            with pytest.raises(PeerLost):
                await ask()
            owner.table.land_late()

    run(body)


def test_delete_releases_at_the_other_owner() -> None:
    """The e-mail does not outlive its profile."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        await patch(cluster, uid, there)
        await delete(cluster, uid)
        await cluster.rest()
        assert cluster.state.claim(there.encode()) is None
        assert cluster.calls == ["claim", "release"]

    run(body)


def test_idempotent_create_with_an_email_elsewhere() -> None:
    """The key's owner writes record and profile together; a repetition meets the record and claims nothing."""

    async def body(cluster: Cluster) -> None:
        keys = [f"k{number}" for number in range(12)]
        for number, key in enumerate(keys):
            email = f"bob{number}@mail.com"
            for node in cluster.nodes:
                with suppress(Unavailable):
                    first = await create(cluster, email, key=key, node=node)
                    calls = len(cluster.calls)
                    again = await create(cluster, email, key=key, node=node)
                    assert (again.profile, again.is_changed) == (first.profile, False)
                    assert len(cluster.calls) == calls
        assert len(cluster.state.live()) == len(keys)
        assert "claim" in cluster.calls

    run(body)


def test_refused_idempotent_create_leaves_no_record() -> None:
    """The e-mail is taken at its owner: once it is free, the same key makes the profile."""

    async def body(cluster: Cluster) -> None:
        uid = await new(cluster, "bob1@mail.com")
        for number in range(40):
            for node in cluster.nodes:
                with suppress(Unavailable), pytest.raises(EmailTaken):
                    await create(cluster, "bob1@mail.com", key=f"k{number}", node=node)
        assert not any(record.topic == NAMES.requests and record.value for record in cluster.state.log)
        await delete(cluster, uid)

    run(body)


def test_mark_stays_while_the_outcome_is_unknown() -> None:
    """Until it is known what became of the command its e-mail counts as held, also behind the caller's deadline."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        owner = cluster.owner_of(uid.encode())
        claim = cluster.owner_of(there.encode()).operations["claim"]

        async def claim_and_strike(request: bytes, caller: Caller) -> bytes:
            answer = await claim(request, caller)
            owner.table.is_next_unknown = True
            return answer

        target = cluster.owner_of(there.encode())
        target.operations = {**target.operations, "claim": claim_and_strike}
        with pytest.raises(WriteOutcomeUnknown):
            await patch(cluster, uid, there)
        assert (uid.encode(), there.encode()) in owner.settlement._marks
        owner.table.land_late()
        await cluster.rest()
        assert cluster.state.live()[uid][1] == there.encode()
        with pytest.raises(EmailTaken):
            await new(cluster, there)

    run(body)


def test_repetition_of_a_create_in_doubt_is_told_that_it_is_in_progress() -> None:
    """It must not find its own e-mail taken; once the outcome is known it gets that."""

    async def body(cluster: Cluster) -> None:
        email = "bob@mail.com"
        target = cluster.owner_of(email.encode())
        key, driver = next(
            (key, driver)
            for key in map(str, range(100))
            if (driver := cluster.owner_of(request_key("", key))) is not target
        )
        claim = target.operations["claim"]

        async def claim_and_strike(request: bytes, caller: Caller) -> bytes:
            answer = await claim(request, caller)
            driver.table.is_next_unknown = True
            return answer

        target.operations = {**target.operations, "claim": claim_and_strike}
        with pytest.raises(WriteOutcomeUnknown):
            await create(cluster, email, key=key, node=driver)
        with pytest.raises(IdempotencyInProgress):
            await create(cluster, email, key=key, node=driver)
        driver.table.land_late()
        await cluster.rest()
        assert not (await create(cluster, email, key=key, node=driver)).is_changed
        assert len(cluster.state.live()) == 1

    run(body)


@pytest.mark.parametrize("is_moved", [False, True])
def test_command_under_way_holds_its_email(is_moved: bool) -> None:
    """Between claim and commit another profile is refused: by the answer of the profile's owner, or by his own marks
    when the e-mail's partition came to him meanwhile."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        target = cluster.owner_of(there.encode())
        claim = target.operations["claim"]

        async def claim_and_compete(request: bytes, caller: Caller) -> bytes:
            answer = await claim(request, caller)
            if is_moved:
                cluster.move(cluster.nodes[0].ground.domain.partition_of(there.encode()), int(caller.node_id[1:]))
            with pytest.raises(EmailTaken):
                await new(cluster, there)
            return answer

        target.operations = {**target.operations, "claim": claim_and_compete}
        await patch(cluster, uid, there)

    run(body)


def test_late_copies_of_messages_harm_no_newer_claim() -> None:
    """An older claim does not replace a newer one of the same profile, an older release does not remove it; a copy of
    the newest is written anew, with another op."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        await patch(cluster, uid, there)
        target, caller = cluster.owner_of(there.encode()), Caller("n0", cluster.deadline, 1)
        before = cluster.state.claim(there.encode())
        assert before is not None
        with pytest.raises(Unavailable):
            await target.operations["claim"](f'["{there}","{uid}",1]'.encode(), caller)
        await target.operations["release"](f'["{there}","{uid}",2]'.encode(), caller)
        await target.operations["release"](f'["{there}","{uid}",null]'.encode(), caller)
        assert cluster.state.claim(there.encode()) == before
        await target.operations["claim"](f'["{there}","{uid}",2]'.encode(), caller)
        after = cluster.state.claim(there.encode())
        assert after is not None
        assert (after.uid, after.version) == (before.uid, before.version)
        assert after.op != before.op

    run(body)


def test_grant_ends_with_the_tenure() -> None:
    """The profile's partition was lost and won again while the claim was made: another owner may have said "not held"
    meanwhile, so the e-mail is claimed again."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        partition = cluster.nodes[0].ground.domain.partition_of(uid.encode())
        home = cluster.owners[partition]
        target = cluster.owner_of(there.encode())
        claim = target.operations["claim"]

        async def claim_and_move(request: bytes, caller: Caller) -> bytes:
            answer = await claim(request, caller)
            target.operations = {**target.operations, "claim": claim}
            cluster.move(partition, (home + 1) % 3)
            # The other owner is asked and says no, so the e-mail goes to a new profile.
            await new(cluster, there)
            cluster.move(partition, home)
            return answer

        target.operations = {**target.operations, "claim": claim_and_move}
        with pytest.raises(EmailTaken):
            await patch(cluster, uid, there)

    run(body)


def test_grant_serves_one_version() -> None:
    """Another change came between claim and commit: the claim is made anew for the version that the profile gets."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        target = cluster.owner_of(there.encode())
        claim = target.operations["claim"]

        async def claim_and_change(request: bytes, caller: Caller) -> bytes:
            answer = await claim(request, caller)
            target.operations = {**target.operations, "claim": claim}
            node = cluster.owner_of(uid.encode())
            await node.writes.patch(uid, {"username": "new"}, if_match=None, deadline=cluster.deadline)
            return answer

        target.operations = {**target.operations, "claim": claim_and_change}
        written = await patch(cluster, uid, there)
        assert written.profile is not None
        assert written.profile.version == 3
        found = cluster.state.claim(there.encode())
        assert found is not None
        assert found.version == 3

    run(body)


def test_refusal_without_a_lease_is_proven_by_a_write() -> None:
    """A node that may be no owner any more does not say 404, 412 or 409 from what it knows."""

    async def body(cluster: Cluster) -> None:
        uid = await new(cluster, cluster.email(0))
        node = cluster.owner_of(uid.encode())
        node.lapsed_ms = 1
        groups = len(cluster.state.groups)
        with pytest.raises(VersionMismatch):
            await patch(cluster, uid, cluster.email(0), if_match=(7,))
        assert [record.topic for group in cluster.state.groups[groups:] for record in group] == [NAMES.requests]
        written = await patch(cluster, uid, cluster.email(0))
        assert (written.is_changed, written.positions) == (False, {})

    run(body)


def test_partition_that_moved_is_asked_for_at_its_new_owner() -> None:
    """A node that does not own the e-mail any more refuses; the caller waits for a newer view inside the deadline."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        partition = cluster.nodes[0].ground.domain.partition_of(there.encode())
        target = cluster.owner_of(there.encode())

        async def moved(request: bytes, caller: Caller) -> bytes:
            cluster.move(partition, 3 - target.number - cluster.owner_of(uid.encode()).number)
            raise Unavailable("not mine")

        target.operations = {**target.operations, "claim": moved}
        await patch(cluster, uid, there)

    run(body)


def test_partition_that_arrives_is_waited_for() -> None:
    """The view gives the e-mail's partition to this node, which may not serve it yet: that is no reason to fail."""
    cluster = Cluster(nodes=1)

    async def body(cluster: Cluster) -> None:
        uid = await new(cluster, cluster.email(0))
        cluster.nodes[0].table.arriving = {1: 5}
        assert (await patch(cluster, uid, cluster.email(1))).is_changed
        cluster.nodes[0].table.arriving = {2: 10**9}
        with pytest.raises(SettlementUnavailable):
            await patch(cluster, uid, cluster.email(2))

    run(body, cluster)


def test_partition_that_comes_here_meanwhile_is_claimed_here() -> None:
    """The other owner refused, because this node has become the owner."""

    async def body(cluster: Cluster) -> None:
        here, there = emails(cluster)
        uid = await new(cluster, here)
        target = cluster.owner_of(there.encode())

        async def moved(request: bytes, caller: Caller) -> bytes:
            cluster.move(cluster.nodes[0].ground.domain.partition_of(there.encode()), int(caller.node_id[1:]))
            raise Unavailable("not mine")

        target.operations = {**target.operations, "claim": moved}
        assert (await patch(cluster, uid, there)).is_changed

    run(body)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'["a@b.c","short",1]', b'["a",1,2]', b"[1,2,3]"])
@pytest.mark.parametrize("operation", ["claim", "held", "release"])
def test_nonsense_of_a_peer_is_refused(operation: str, body: bytes) -> None:
    """Nothing is done and nothing breaks."""

    async def test(cluster: Cluster) -> None:
        with pytest.raises(Unavailable):
            await cluster.nodes[0].operations[operation](body, Caller("n1", cluster.deadline, 1))
        assert cluster.state.log == []

    run(test)


class History:
    """Clients, moves and a bad network from one seed; the judge looks at every record that is written."""

    def __init__(self, seed: int) -> None:
        self.cluster = Cluster(seed=seed)
        self.random = random.Random(seed)
        self.emails = [self.cluster.email(partition) for partition in self.random.sample(range(4), 3)]
        self.uids: list[str] = []
        self.acknowledged = 0
        apply = self.cluster.state.apply

        def watched(records: Any) -> Any:
            written = apply(records)
            keys = [key for _, key in self.cluster.state.live().values()]
            assert len(keys) == len(set(keys)), "two live profiles with one e-mail"
            return written

        self.cluster.state.apply = watched  # type: ignore[method-assign]

    async def run(self) -> None:
        weather, draw = self.cluster.weather, self.random
        weather.lost, weather.doubled = draw.choice([0, 0.1, 0.3]), draw.choice([0, 0.3])
        weather.unknown, weather.delay_turns = draw.choice([0, 0.1]), draw.choice([0, 2, 6])
        for email in self.emails[:2]:
            with suppress(Rejection):
                self.uids.append(await new(self.cluster, email))
        clients = [asyncio.create_task(self.client()) for _ in range(4)]
        while not all(client.done() for client in clients):
            await asyncio.sleep(0)
            if draw.random() < 0.02:
                self.cluster.move(draw.randrange(4), draw.randrange(3))
        for client in clients:
            client.result()
        weather.lost = weather.doubled = weather.unknown = 0.0
        await self.cluster.rest()
        for node in self.cluster.nodes:
            node.table.settle(lambda _: True)
        await self.judge()

    async def client(self) -> None:
        for _ in range(8):
            await self.cluster.weather.delay()
            with suppress(Rejection, Unavailable):
                await self.one()
                self.acknowledged += 1

    async def one(self) -> None:
        kind, email = self.random.random(), self.random.choice(self.emails)
        call: Awaitable[Written]
        if kind < 0.15 or not self.uids:
            call = create(self.cluster, email)
        elif kind < 0.3:
            call = create(
                self.cluster, email, key=self.random.choice("kl"), node=self.random.choice(self.cluster.nodes)
            )
        elif kind < 0.85:
            call = patch(self.cluster, self.random.choice(self.uids[-3:]), email)
        else:
            call = delete(self.cluster, self.random.choice(self.uids[-3:]))
        written = await call
        if written.profile is not None and written.profile.uid not in self.uids:
            self.uids.append(written.profile.uid)

    async def judge(self) -> None:
        check(self.cluster)
        carried = {key for _, key in self.cluster.state.live().values()}
        for email in self.emails:
            if email.encode() not in carried:
                await new(self.cluster, email)
        check(self.cluster)


@pytest.mark.parametrize("block", range(5))
def test_random_histories_keep_every_email_unique(block: int) -> None:
    """With moves, lost and doubled messages and unknown outcomes: never two profiles, always a claim, nothing stuck."""
    acknowledged = 0
    for seed in range(block * SEEDS // 5, (block + 1) * SEEDS // 5):
        history = History(seed)
        try:
            asyncio.run(history.run())
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        acknowledged += history.acknowledged
    assert acknowledged > SEEDS // 5 * 8, "too little was done to mean anything"


def test_profile_rows_are_where_their_uid_is() -> None:
    """The uid of an idempotent create lies in the partition of its key, not of its e-mail."""

    async def body(cluster: Cluster) -> None:
        for node in cluster.nodes:
            with suppress(Unavailable):
                await create(cluster, "ann@mail.com", key="k", node=node)
        (uid,) = cluster.state.live()
        partition = cluster.nodes[0].ground.domain.partition_of(uid.encode())
        assert uid.encode() in cluster.state.store(PROFILE_STORE, partition)

    run(body)
