"""What one node has shown, no other node takes back: a copy may have applied a record before its owner has."""

import asyncio

import pytest

from tests.cluster.conftest import NewNodes
from tests.support.client import Client

ROUNDS = 40

pytestmark = pytest.mark.cluster


def test_the_owner_does_not_answer_with_less_than_an_observer_has_shown(new_nodes: NewNodes) -> None:
    """A plain read at the owner, begun after an observer has answered with a new version, has that version, though its
    writer was not told yet: both are strong reads. The owner here is slow to apply what it reads back."""
    nodes = new_nodes(standbys=0)
    nodes.add("a", module="tests.support.buggy_service", arguments=("slow_apply",))
    nodes.add("o", is_observer=True)
    nodes.wait_until_settled()

    async def scenario() -> list[tuple[int, int]]:
        writer, at_owner, at_observer = (Client(nodes[name].address) for name in ("a", "a", "o"))
        made = await writer.request("POST", "/api/profile", {"username": "0", "email": "order@mail.com"})
        target = made.headers["location"]
        taken_back = []
        for version in range(2, ROUNDS):
            writing = asyncio.create_task(writer.request("PATCH", target, {"username": str(version)}))
            shown = 0
            while shown < version:
                shown = (await at_observer.request("GET", target)).json()["version"]
            answered = (await at_owner.request("GET", target)).json()["version"]
            if answered < shown:
                taken_back.append((shown, answered))
            assert (await writing).status == 200
        return taken_back

    taken_back = asyncio.run(scenario())
    assert not taken_back, f"the observer showed, the owner then answered: {taken_back}"
