"""Restoring profiles out of an export: what is decided on each state, and over several owners with everything that may
go wrong. The model of the same rules is in `tests/simulation/test_claims.py`.
"""

import asyncio
import json
import os
import uuid
from typing import Any

import pytest

from app.profiles.results import EmailTaken, ProfileDiffers, ProfileGone, Written
from app.profiles.rows import body_of
from streams.records import header
from tests.app.profiles.fakes import NAMES, World
from tests.app.profiles.owners import Cluster
from tests.app.profiles.test_settlement import History, check, delete, new, patch, run

SEEDS = int(os.environ.get("SETTLEMENT_SEEDS", "100"))
TIME = "2026-01-01T09:00:00.000Z"
DAY_MS = 86_400_000


def exported(uid: str, email: str, *, version: int = 7, username: str = "ann") -> dict[str, Any]:
    times = {"created_at": TIME, "updated_at": "2026-01-02T09:00:00.000Z"}
    return {"uid": uid, "username": username, "email": email, "version": version, **times}


def restore_at(world: World, document: dict[str, Any], *, source: str | None = None) -> Written:
    service = world.service
    return asyncio.run(service.restore(document["uid"], document, source=source, deadline=world.deadline))


def delete_at(world: World, uid: str) -> None:
    asyncio.run(world.service.delete(uid, if_match=None, deadline=world.deadline))


@pytest.fixture
def world() -> World:
    return World()


def test_restored_profile_is_the_exported_one_to_the_byte(world: World) -> None:
    """uid, version and times are those of the line; claim and record carry the version, the claim comes first."""
    line = exported(str(uuid.uuid4()), "Ann@Mail.com")
    written = restore_at(world, line)
    row = world.state.profile(line["uid"])
    assert row is not None
    wanted = {**line, "email": "Ann@mail.com"}
    assert body_of(row) == json.dumps(wanted, separators=(",", ":")).encode()
    assert (written.is_created, written.profile) == (True, (line["uid"], 7, body_of(row)))
    assert [record.topic for record in world.state.log] == [NAMES.emails, NAMES.profiles]
    assert {header(record.headers, "profile-version") for record in world.state.log} == {b"7"}


def test_a_restored_profile_lives_on_like_any_other(world: World) -> None:
    """The next change has the next version; its old e-mail is free then."""
    line = exported(str(uuid.uuid4()), "ann@mail.com")
    restore_at(world, line)
    changed = asyncio.run(
        world.service.patch(line["uid"], {"email": "eve@mail.com"}, if_match=(7,), deadline=world.deadline)
    )
    assert changed.profile is not None
    assert changed.profile.version == 8
    assert restore_at(world, exported(str(uuid.uuid4()), "ann@mail.com")).is_created


def test_the_same_again_writes_nothing(world: World) -> None:
    """What is there is found to be the same, also under another lease of life of the importer."""
    line = exported(str(uuid.uuid4()), "ann@mail.com")
    restore_at(world, line)
    before = len(world.state.log)
    again = restore_at(world, line)
    assert (again.is_created, again.is_changed, len(world.state.log)) == (False, False, before)


def test_what_is_there_in_another_state_is_not_overwritten(world: World) -> None:
    """Another content, and even the same content in another version."""
    line = exported(str(uuid.uuid4()), "ann@mail.com")
    restore_at(world, line)
    before = len(world.state.log)
    for other in (exported(line["uid"], "eve@mail.com"), exported(line["uid"], "ann@mail.com", version=6)):
        with pytest.raises(ProfileDiffers) as caught:
            restore_at(world, other)
        assert caught.value.current_version == 7
    assert len(world.state.log) == before


def test_an_email_of_another_profile_is_taken(world: World) -> None:
    """The conflict names who has it."""
    first = exported(str(uuid.uuid4()), "ann@mail.com")
    restore_at(world, first)
    with pytest.raises(EmailTaken) as caught:
        restore_at(world, exported(str(uuid.uuid4()), "ANN@mail.com"))
    assert caught.value.existing_uid == first["uid"]


@pytest.mark.parametrize("is_restored", [True, False])
def test_a_deleted_uid_is_not_restored_while_the_deletion_is_remembered(world: World, is_restored: bool) -> None:
    """Whether it was made here or restored: versions never go back behind a tombstone. A day later nobody knows."""
    line = exported(str(uuid.uuid4()), "ann@mail.com", version=1)
    if is_restored:
        restore_at(world, line)
    else:
        document = {"username": "ann", "email": "ann@mail.com"}
        made = asyncio.run(world.service.create(document, idempotency_key=None, deadline=world.deadline))
        assert made.profile is not None
        line = json.loads(made.profile.body)
    delete_at(world, line["uid"])
    before = len(world.state.log)
    world.clock.now_ms += DAY_MS - 1
    for version in (1, 2, 3):
        with pytest.raises(ProfileGone):
            restore_at(world, {**line, "version": version})
    assert len(world.state.log) == before
    world.clock.now_ms += 1
    assert restore_at(world, line).is_created


def test_in_the_topic_of_the_export_what_is_not_there_was_deleted(world: World) -> None:
    """However long ago: the log loses nothing. An export of another topic says nothing of this one."""
    line = exported(str(uuid.uuid4()), "ann@mail.com")
    with pytest.raises(ProfileGone):
        restore_at(world, line, source=world.service.topic_id())
    assert restore_at(world, line, source="another").is_created
    assert not restore_at(world, line, source=world.service.topic_id()).is_created


def test_the_memory_of_a_deletion_holds_the_uid_and_nothing_personal(world: World) -> None:
    """It outlives the profile by a day."""
    line = exported(str(uuid.uuid4()), "ann@mail.com")
    restore_at(world, line)
    delete_at(world, line["uid"])
    (memory,) = [record for record in world.state.log if record.topic == NAMES.requests]
    assert memory.value is not None
    assert json.loads(memory.value) == {
        "fingerprint": "",
        "uid": line["uid"],
        "status": 410,
        "at": world.clock.time_ms(),
    }
    assert b"ann" not in memory.value + b"".join(value or b"" for _, value in memory.headers)


# Over several owners.


async def restore(cluster: Cluster, document: dict[str, Any], *, source: str | None = None) -> Written:
    node = cluster.owner_of(document["uid"].encode())
    return await node.writes.restore(document["uid"], document, source=source, deadline=cluster.deadline)


def uid_in(cluster: Cluster, partition: int) -> str:
    partition_of = cluster.nodes[0].ground.domain.partition_of
    return next(uid for uid in iter(lambda: str(uuid.uuid4()), "") if partition_of(uid.encode()) == partition)


def test_restore_goes_over_two_owners() -> None:
    """The e-mail is claimed at its owner, for the version of the export; then the profile is written."""

    async def body(cluster: Cluster) -> None:
        there = cluster.email(cluster.other_partition([0]), "eve")
        line = exported(uid_in(cluster, 0), there)
        assert (await restore(cluster, line)).is_created
        assert cluster.calls == ["claim"]
        claim = cluster.state.claim(there.encode())
        assert claim is not None
        assert (claim.uid.decode(), claim.version) == (line["uid"], 7)
        assert not (await restore(cluster, line)).is_changed
        assert cluster.calls == ["claim"]

    run(body)


def test_refused_restore_claims_nothing() -> None:
    """409 for what differs and 410 for what was deleted are told without asking another owner."""

    async def body(cluster: Cluster) -> None:
        here, there = cluster.email(0), cluster.email(cluster.other_partition([0]), "eve")
        uid = await new(cluster, here)
        calls, written = list(cluster.calls), len(cluster.state.log)
        with pytest.raises(ProfileDiffers):
            await restore(cluster, exported(uid, there))
        await delete(cluster, uid)
        with pytest.raises(ProfileGone):
            await restore(cluster, exported(uid, there))
        assert cluster.calls == calls
        assert len(cluster.state.log) == written + 3

    run(body)


def test_email_of_a_profile_elsewhere_is_taken_for_a_restore() -> None:
    """Settled by asking the owner of the profile that has it."""

    async def body(cluster: Cluster) -> None:
        there = cluster.email(cluster.other_partition([0]), "eve")
        other = await new(cluster, there)
        with pytest.raises(EmailTaken) as caught:
            await restore(cluster, exported(uid_in(cluster, 0), there))
        assert caught.value.existing_uid == other
        await patch(cluster, other, cluster.email(0))
        await cluster.rest()
        assert (await restore(cluster, exported(uid_in(cluster, 0), there))).is_created

    run(body)


class RestoringHistory(History):
    """The random history of changes, with restores of profiles that are there, were there, or come from elsewhere."""

    async def one(self) -> None:
        draw = self.random
        if draw.random() > 0.3:
            await super().one()
            return
        is_known = bool(self.uids) and draw.random() < 0.6
        uid = draw.choice(self.uids[-3:]) if is_known else str(uuid.UUID(int=draw.getrandbits(128), version=4))
        await restore(self.cluster, exported(uid, draw.choice(self.emails), version=draw.choice([1, 2, 5])))
        if uid not in self.uids:
            self.uids.append(uid)


@pytest.mark.parametrize("block", range(5))
def test_random_histories_with_restores_keep_every_email_unique(block: int) -> None:
    """With moves, lost and doubled messages and unknown outcomes; no uid lives twice."""
    acknowledged = 0
    for seed in range(block * SEEDS // 5, (block + 1) * SEEDS // 5):
        history = RestoringHistory(seed)
        ended: set[bytes] = set()
        apply = history.cluster.state.apply

        def watched(records: Any, apply: Any = apply, ended: set[bytes] = ended) -> Any:
            for record in records:
                if record.topic == NAMES.profiles:
                    assert record.key not in ended, "a uid is used again after its deletion"
                    if record.value is None:
                        ended.add(record.key)
            return apply(records)

        history.cluster.state.apply = watched  # type: ignore[method-assign]
        try:
            asyncio.run(history.run())
            check(history.cluster)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        acknowledged += history.acknowledged
    assert acknowledged > 5 * (SEEDS // 5), "too little was acknowledged to mean anything"
