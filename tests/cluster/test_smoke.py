"""A cluster without faults behaves like one node: whatever is sent to whichever node."""

import asyncio
import json
import re

import pytest

from tests.cluster.conftest import Figures, NewNodes
from tests.cluster.run import Run
from tests.e2e.test_curl import CHANGE, CREATE, DELETE, GET, SEARCH, SEARCH_AGAIN, curl, needs_curl
from tests.support.cluster import PARTITIONS, Nodes
from tests.support.history import Outcome
from tests.support.service import Response

pytestmark = pytest.mark.cluster


def send(nodes: Nodes, name: str, method: str, target: str, document: object = None, **headers: str) -> Response:
    body = None if document is None else json.dumps(document).encode()
    given = {key.replace("_", "-"): value for key, value in headers.items()}
    return nodes[name].request(method, target, body, given)


def test_every_node_answers_for_every_key(new_nodes: NewNodes) -> None:
    """Create, read, search, change and delete, each through another node, for keys of every partition and for two
    members and an observer as the first to be asked; the replies say who answered."""
    nodes = new_nodes().start("a", "b", "c", observers=("o",))
    names = list(nodes.services)
    hops, roles = set(), set()
    for number in range(3 * PARTITIONS):
        entry, other, third = (names[(number + shift) % len(names)] for shift in range(3))
        email, changed = f"smoke{number}@mail.com", f"changed{number}@mail.com"
        made = send(nodes, entry, "POST", "/api/profile", {"username": "u", "email": email})
        assert made.status == 201, made
        assert re.fullmatch(r"/api/profile/[0-9a-f-]{36}", made.headers["location"]), made
        target, token = made.headers["location"], made.headers["profile-position"]
        for name in names:
            for query in (target, f"/api/search?email={email}"):
                reply = send(nodes, name, "GET", query)
                assert (reply.status, reply.body, reply.headers["etag"]) == (200, made.body, '"1"'), (name, reply)
                served = reply.headers["profile-served-by"]
                hops |= set(re.findall(r"hops=(\d)", served))
                roles |= set(re.findall(r"role=(\w+)", served))
                assert "staleness-ms=0" in served, (name, query, served)
            assert send(nodes, name, "GET", target, Profile_Position=token).body == made.body
            assert send(nodes, name, "GET", target + "?consistency=strict").body == made.body
        wrong = send(nodes, other, "PUT", target, {"username": "v", "email": changed}, If_Match='"7"')
        assert (wrong.status, json.loads(wrong.body).get("current_version")) == (412, 1), wrong
        put = send(nodes, other, "PUT", target, {"username": "v", "email": changed}, If_Match='"1"')
        assert (put.status, put.headers["etag"]) == (200, '"2"'), (other, put)
        assert send(nodes, entry, "GET", f"/api/search?email={changed}").body == put.body
        assert send(nodes, third, "GET", f"/api/search?email={email}").status == 404
        taken = send(nodes, third, "POST", "/api/profile", {"username": "w", "email": changed})
        assert (taken.status, json.loads(taken.body)["type"]) == (409, "/problems/email-taken"), taken
        deleted = send(nodes, third, "DELETE", target)
        assert deleted.status == 204, deleted
        assert {send(nodes, name, "GET", target).status for name in names} == {404}
        assert {send(nodes, name, "GET", f"/api/search?email={changed}").status for name in names} == {404}
    assert {"0", "1"} <= hops, hops
    assert {"owner", "observer"} <= roles, roles


@needs_curl
def test_the_five_steps_each_on_another_node(new_nodes: NewNodes) -> None:
    """The five curl steps that the project began with, sent to three nodes in turn, give the documented answers."""
    nodes = new_nodes().start("a", "b", "c")
    a, b, c = nodes.services.values()
    created = curl(a, CREATE)
    match = re.search(r'^\{"uid":"([0-9a-f-]{36})","username":"bob","email":"bob1@mail\.com","version":1,', created)
    assert match, created
    uid = match[1]
    assert curl(b, GET, uid) == created
    assert curl(c, SEARCH) == created
    changed = curl(a, CHANGE, uid)
    assert f'"uid":"{uid}","username":"bob","email":"bob2@mail.com","version":2,' in changed
    assert curl(b, SEARCH_AGAIN) == changed
    assert "profile-not-found" in curl(c, SEARCH)
    assert curl(b, DELETE, uid) == ""
    assert "profile-not-found" in curl(c, GET, uid)
    assert "profile-not-found" in curl(a, SEARCH_AGAIN)


def test_load_on_all_nodes_without_faults(new_nodes: NewNodes, figures: Figures) -> None:
    """Clients on four nodes: no violation, no answer but 2xx, 404, 409 and 412, and each way of reading was used."""
    nodes = new_nodes().start("a", "b", "c", observers=("o",))

    async def scenario() -> None:
        async with Run(nodes, clients=24, emails=20, pause_s=0.002) as run:
            await run.progress(500)
            await run.finish(least=500)
        load = run.load
        assert not load.failed, [(op.kind, op.outcome, op.detail) for op in load.failed]
        assert load.count(Outcome.MISMATCH) > 10
        assert load.count(Outcome.CONFLICT) > 10
        served = [op.served_by for op in load.operations if not op.is_write and op.outcome is Outcome.OK]
        for word in ("role=owner", "role=observer", "hops=0", "hops=1"):
            assert sum(word in one for one in served) > 20, word
        figures("load without faults", operations=len(load.operations), slowest_s=round(load.slowest_s, 3))

    asyncio.run(scenario())
