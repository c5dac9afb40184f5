"""What a position token proves: no more than it names."""

import asyncio
from typing import Any

import pytest

from app.profiles.requests import ReadOptions
from app.profiles.results import ProfileNotFound
from app.profiles.topics import SEARCH_STORE
from streams.errors import LeaseExpired
from streams.partitioner import partition_for
from streams.records import TopicPartition
from streams.runtime.reader import NEVER_MS
from tests.app.profiles.fakes import NAMES, World


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def test_a_token_proves_only_the_partitions_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """An e-mail changes over two owners: the token of the write names the profile's partition alone. A follower that
    lacks the claim, in the other partition, must not answer that nobody has the new e-mail."""
    world = World()
    written = run(
        world.service.create(
            {"username": "bob", "email": "bob@mail.com"}, idempotency_key=None, deadline=world.deadline
        )
    )
    email_key = world.service.email_key("bob@mail.com")
    email_partition = partition_for(email_key, world.state.partitions)
    claims = world.state.store(SEARCH_STORE, email_partition)
    not_applied = claims.pop(email_key)
    elsewhere = next(one for one in range(world.state.partitions) if one != email_partition)
    token = world.service.position_token({TopicPartition(NAMES.profiles, elsewhere): 1})
    world.node.lapsed_ms = 50

    async def barrier(partitions: Any, deadline: Any) -> None:
        world.node.barriers.append(list(partitions))
        claims[email_key] = not_applied

    monkeypatch.setattr(world.node, "barrier", barrier)
    options = ReadOptions(position=token, is_replica=True)
    try:
        found = run(world.service.search("bob@mail.com", options, world.deadline))
    except ProfileNotFound:
        pytest.fail("a false 404")
    assert found.profile.uid == written.profile.uid


@pytest.mark.parametrize("consistency", ["strict", "owner"])
def test_a_copy_that_is_rebuilt_behind_the_barrier_answers_nothing(
    consistency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are gone until it has read the log again: not found would be a false 404."""
    world = World()
    content = {"username": "bob", "email": "bob@mail.com"}
    written = run(world.service.create(content, idempotency_key=None, deadline=world.deadline))
    token = world.service.position_token(written.positions) if consistency == "owner" else None

    async def rebuilt(*_: Any) -> None:
        for rows in world.state.rows.values():
            rows.clear()
        world.node.lapsed_ms = NEVER_MS

    monkeypatch.setattr(world.node, "barrier", rebuilt)
    monkeypatch.setattr(world.node, "wait_applied", rebuilt)
    options = ReadOptions(consistency=consistency, position=token, is_replica=True)
    with pytest.raises(LeaseExpired):
        run(world.service.get(written.profile.uid, options, world.deadline))
