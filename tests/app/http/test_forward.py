"""A request to any of several nodes gets the one right answer: forwarded whole, answered as it came back, sent again
only when nothing can have happened.
"""

import json
from collections.abc import Iterable, Iterator

import pytest

from streams.clock import Deadline
from streams.cluster import ClusterView
from streams.errors import NotOwner
from streams.partitioner import partition_for
from tests.app.http.cluster import PARTITIONS, Member, Nodes
from tests.app.http.fakes import Answer

BOB = {"username": "bob", "email": "bob1@mail.com"}


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


def emails() -> Iterator[str]:
    return (f"bob{number}@mail.com" for number in range(1000))


def email_of(owner: str) -> str:
    """Return an e-mail of which *owner* (a, b or c) owns the partition."""
    return next(email for email in emails() if "abcabc"[partition_for(email.encode(), PARTITIONS)] == owner)


def create(member: Member, email: str, **headers: str) -> Answer:
    return member.request("POST", "/api/profile", headers, json={"username": "bob", "email": email})


def made(nodes: Nodes, owner: str) -> str:
    """Return the path of a profile that *owner* owns."""
    return create(nodes[owner], email_of(owner))["Location"]


def origin(answer: Answer) -> tuple[str, str, str]:
    """Return node, role and hops of Profile-Served-By."""
    node, *pairs = answer["Profile-Served-By"].split("; ")
    found = dict(pair.split("=") for pair in pairs)
    return node, found["role"], found["hops"]


def test_the_five_steps_each_at_another_node(nodes: Nodes) -> None:
    """Create, read, search, replace, delete: sent to nodes that own nothing of it, they answer as documented."""
    email = email_of("a")
    created = create(nodes["b"], email)
    path = created["Location"]
    assert (created.status, created["ETag"], created["Via"]) == (201, '"1"', "1.1 b")
    assert created["Profile-Position"]
    read = nodes["c"].request("GET", path)
    assert (read.status, read.json["email"], read["ETag"]) == (200, email, '"1"')
    found = nodes["b"].request("GET", f"/api/search?email={email}")
    assert (found.status, found.body, found["Content-Location"]) == (200, read.body, path)
    changed = nodes["c"].request("PUT", path, json={"username": "rob", "email": email})
    assert (changed.status, changed.json["version"], changed["ETag"]) == (200, 2, '"2"')
    assert nodes["b"].request("DELETE", path).status == 204
    gone = nodes["c"].request("GET", path)
    assert (gone.status, gone.slug) == (404, "profile-not-found")
    assert nodes["c"].request("GET", f"/api/search?email={email}").slug == "profile-not-found"


@pytest.mark.parametrize("headers", [{}, {"Request-Timeout": "1"}, {"Prefer": "max-staleness=0"}])
def test_forwarded_read_is_the_owners_answer_with_one_hop(nodes: Nodes, headers: dict[str, str]) -> None:
    """On the batched path and on the ordinary one: body, ETag and origin are the owner's, and the hop is said."""
    path = made(nodes, "a")
    here, there = nodes["a"].request("GET", path, headers), nodes["c"].request("GET", path, headers)
    assert (there.status, there.body, there["ETag"]) == (200, here.body, here["ETag"])
    assert there["Content-Type"] == here["Content-Type"]
    assert there["Cache-Control"] == here["Cache-Control"]
    assert origin(here) == ("a", "owner", "0")
    assert origin(there) == ("a", "owner", "1")
    assert there["Via"] == "1.1 c"
    assert "Via" not in here


def test_conditions_and_problems_pass_through(nodes: Nodes) -> None:
    """What the owner says of a condition or a fault reaches the client unchanged, under the client's request id."""
    path = made(nodes, "a")
    other = nodes["b"]
    assert other.request("GET", path, {"If-None-Match": '"1"'}).status == 304
    stale = other.request("PATCH", path, {"If-Match": '"9"', "X-Request-Id": "mine"}, json={"username": "rob"})
    assert (stale.status, stale.slug, stale.json["current_version"]) == (412, "version-mismatch", 1)
    assert (stale["X-Request-Id"], stale.json["request_id"]) == ("mine", "mine")
    taken = create(nodes["c"], email_of("a"))
    assert (taken.status, taken.slug, taken.json["existing_uid"]) == (409, "email-taken", path.rpartition("/")[2])
    invalid = other.request("PUT", path, json={"username": ""})
    assert (invalid.status, invalid.slug) == (422, "validation-failed")
    kept = other.request("PATCH", path, {"If-Match": '"1"', "Prefer": "return=minimal"}, json={"username": "rob"})
    assert (kept.status, kept["ETag"], kept["Preference-Applied"]) == (204, '"2"', "return=minimal")
    head, get = (other.request(method, path, {"Request-Timeout": "1"}) for method in ("HEAD", "GET"))
    assert head["Content-Length"] == str(len(get.body))


def test_what_is_wrong_with_a_request_is_said_where_it_came_in(nodes: Nodes) -> None:
    """Syntax is checked before anything travels."""
    path = made(nodes, "a")
    other = nodes["b"]
    other.sent.clear()
    assert other.request("PUT", path, body=b"{").status == 400
    assert other.request("PUT", path, {"Content-Type": "text/plain"}, body=b"{}").status == 415
    assert other.request("GET", path, {"Request-Timeout": "no"}).status == 400
    assert create(other, "no address").status == 422
    assert other.sent == []


def test_no_credentials_travel(nodes: Nodes) -> None:
    """Nor cookies, nor what proxies say of the client, nor a client's forgery of our own marks."""
    path = made(nodes, "a")
    secrets = {"Authorization": "Bearer x", "Cookie": "a=b", "Proxy-Authorization": "x", "Forwarded": "for=1.2.3.4",
               "X-Forwarded-For": "1.2.3.4", "X-Api-Key": "x", "Profile-Claim": "x"}  # fmt: skip
    answer = nodes["b"].request("PATCH", path, {**secrets, "If-Match": '"1"'}, json={"username": "rob"})
    assert answer.status == 200
    (_, request), = nodes["b"].sent  # fmt: skip
    assert {name for name, _ in request.headers} == {b"content-type", b"if-match", b"x-request-id"}


def test_a_clients_own_peer_header_opens_nothing(nodes: Nodes) -> None:
    """The gate refuses what no node has signed."""
    assert nodes["b"].request("GET", made(nodes, "a"), {"Profile-Peer": "forged"}).status == 401


def test_a_wrong_map_costs_one_refusal_and_is_learnt(nodes: Nodes) -> None:
    """The node that is asked in vain answers 421 with its newer view, and the request goes to the right one."""
    path = made(nodes, "a")
    nodes.place(["b", "b", "c"] * 2, ["c", "c", "a"] * 2, knows="ab", epoch=2)
    answer = nodes["c"].request("PATCH", path, json={"username": "rob"})
    assert (answer.status, answer["Via"]) == (200, "1.1 c")
    assert [node for node, _ in nodes["c"].sent] == ["a", "b"]
    assert nodes["c"].cluster_node.view.epoch == 2


def test_nodes_that_point_at_each_other_do_not_loop(nodes: Nodes) -> None:
    """a says b, b says a: each is asked a few times by the first node alone, until the deadline, then 503."""
    path = made(nodes, "a")
    a, b, c = (nodes[name].cluster_node for name in "abc")
    a.owned, b.owned = set(), set()
    a.followed = b.followed = c.followed = set()
    a.view, b.view = ClusterView(5, b.view.nodes, b.view.placements), a.view
    answer = nodes["c"].request("PATCH", path, json={"username": "rob"})
    assert (answer.status, answer.slug) == (503, "owner-unreachable")
    assert answer["Retry-After"] == "1"
    assert nodes["a"].sent == nodes["b"].sent == []
    assert 2 <= len(nodes["c"].sent) < 30


def test_lost_write_is_unknown_and_is_not_sent_again(nodes: Nodes) -> None:
    """504 with the uid and the event id that the first node drew; the owner has used them."""
    nodes["b"].losing.add("a")
    answer = create(nodes["b"], email_of("a"))
    assert (answer.status, answer.slug) == (504, "outcome-unknown")
    command = nodes["a"].table.commands[-1]
    assert answer.json["event_id"].replace("-", "") == command.event_id.hex()
    assert nodes.state.profile(answer.json["uid"]) is not None
    assert len(nodes["b"].sent) == 1
    path = f"/api/profile/{answer.json['uid']}"
    lost = nodes["b"].request("DELETE", path)
    assert (lost.status, lost.json["uid"]) == (504, answer.json["uid"])


def test_unreachable_owner_is_tried_again_until_the_deadline(nodes: Nodes) -> None:
    """A write that was certainly not begun is sent again; when nobody comes back, 503 and nothing written."""
    path = made(nodes, "a")
    nodes["b"].unreachable.add("a")
    answer = nodes["b"].request("PATCH", path, json={"username": "rob"})
    assert (answer.status, answer.slug) == (503, "owner-unreachable")
    assert len(nodes["b"].sent) >= 2
    assert len({request.extra["event"] for _, request in nodes["b"].sent}) == 1


def test_write_waits_for_the_partition_to_arrive(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody owns it the request stays, and goes on with the next view: to another node, or here."""
    path = made(nodes, "a")
    node = nodes["b"].cluster_node
    for owners in (["c", "b", "c"] * 2, ["b", "b", "c"] * 2):
        nodes.place([None, "b", "c"] * 2, ["b", "c", "a"] * 2, epoch=node.view.epoch + 1)

        async def arrive(after_epoch: int, _deadline: object, owners: list[str | None] = owners) -> ClusterView:
            nodes.place(owners, ["a", "c", "a"] * 2, epoch=after_epoch + 1)
            return node.view

        monkeypatch.setattr(node, "wait_view", arrive)
        assert nodes["b"].request("PATCH", path, json={"username": owners[0]}).status == 200


@pytest.mark.parametrize("kind", ["suspected", "unreachable", "losing"])
def test_reads_fail_over_to_a_follower(nodes: Nodes, kind: str) -> None:
    """When the owner is not to be had, the standby answers behind its barrier: here, or one hop away."""
    path = made(nodes, "a")
    for name in "bc":
        getattr(nodes[name], kind).add("a")
    for target in (path, f"/api/search?email={email_of('a')}"):
        here, there = nodes["b"].request("GET", target), nodes["c"].request("GET", target)
        assert (here.status, origin(here)) == (200, ("b", "standby", "0"))
        assert (there.status, origin(there)) == (200, ("b", "standby", "1"))
        assert nodes["c"].sent[-1][1].hop == "replica"
    assert len(nodes["b"].cluster_node.barriers) == 4


def test_missing_profile_is_missing_behind_a_barrier_only(nodes: Nodes) -> None:
    """A 404 obeys the bound of a 200: a follower that cannot reach the log says 503."""
    nodes["b"].suspected.add("a")
    path = next(
        path
        for number in range(100)
        if partition_for((path := f"00000000-0000-4000-8000-{number:012d}").encode(), PARTITIONS) in (0, 3)
    )
    assert nodes["b"].request("GET", f"/api/profile/{path}").status == 404
    nodes["b"].cluster_node.is_log_away = True
    assert nodes["b"].request("GET", f"/api/profile/{path}").status == 503


def test_strict_read_is_answered_by_a_follower_at_once(nodes: Nodes) -> None:
    """No hop: the barrier proves as much as the owner."""
    path = made(nodes, "a")
    answer = nodes["b"].request("GET", path + "?consistency=strict")
    assert (answer.status, origin(answer)) == (200, ("b", "standby", "0"))
    assert nodes["b"].sent == []
    assert origin(nodes["c"].request("GET", path + "?consistency=strict")) == ("a", "owner", "1")


def test_copy_serves_who_allows_its_staleness(nodes: Nodes) -> None:
    """A follower answers within the bound, and leaves the rest to the owner."""
    path = made(nodes, "a")
    nodes["b"].cluster_node.behind_ms = 3_000
    fresh = nodes["b"].request("GET", path, {"Prefer": "max-staleness=2"})
    stale = nodes["b"].request("GET", path, {"Prefer": "max-staleness=5"})
    assert origin(fresh) == ("a", "owner", "1")
    assert origin(stale) == ("b", "standby", "0")
    assert "staleness-ms=3000" in stale["Profile-Served-By"]


def test_position_is_waited_for_at_the_copy_then_asked_of_the_owner(nodes: Nodes) -> None:
    """Read your own writes with the token: at the follower when it has them, else at the owner."""
    created = create(nodes["a"], email_of("a"))
    headers = {"Profile-Position": created["Profile-Position"]}
    assert origin(nodes["b"].request("GET", created["Location"], headers)) == ("b", "standby", "0")
    nodes["b"].cluster_node.behind_ms = 10
    assert origin(nodes["b"].request("GET", created["Location"], headers)) == ("a", "owner", "1")


def test_observer_reads_at_home_and_forwards_writes(nodes: Nodes) -> None:
    """Zero hops for every read, also when all members are gone."""
    path = made(nodes, "a")
    observer = nodes.observer()
    assert observer.request("PATCH", path, json={"username": "rob"})["Via"] == "1.1 o"
    observer.suspected.update("abc")
    answers = [
        observer.request("GET", target) for target in (path, f"/api/search?email={email_of('a')}", "/api/profile")
    ]
    assert [(answer.status, origin(answer)) for answer in answers] == [(200, ("o", "observer", "0"))] * 3
    assert len(observer.sent) == 1
    assert observer.called == []


def two_owner_profile(nodes: Nodes) -> tuple[str, str]:
    """Return path and e-mail of a profile of b whose e-mail is a's."""
    path = made(nodes, "b")
    uid = path.rpartition("/")[2]
    email = email_of("a")
    node = nodes["b"].cluster_node
    node.owned |= {0, 3}  # one transaction may still write both
    assert nodes["b"].request("PATCH", path, json={"email": email}).status == 200
    node.owned -= {0, 3}
    claim = nodes.state.claim(email.encode())
    assert claim is not None
    assert claim.uid == uid.encode()
    return path, email


def test_search_over_two_owners_takes_two_hops_at_most(nodes: Nodes) -> None:
    """The e-mail's owner knows the claim, the profile's owner whether it holds; the first node asks both."""
    path, email = two_owner_profile(nodes)
    hops = {name: nodes[name].request("GET", f"/api/search?email={email}") for name in "abc"}
    assert {name: (answer.status, origin(answer)) for name, answer in hops.items()} == {
        "a": (200, ("b", "owner", "1")),
        "b": (200, ("b", "owner", "0")),
        "c": (200, ("b", "owner", "2")),
    }
    assert {answer["Content-Location"] for answer in hops.values()} == {path}
    assert {node for node, _ in nodes["a"].sent} == {"b"}
    query = nodes["c"].request("QUERY", "/api/search", json={"email": email})
    assert query.body == hops["c"].body


def test_search_by_a_claim_that_does_not_hold_finds_nobody(nodes: Nodes) -> None:
    """The owner of the uid answers 404 unless the profile carries the e-mail."""
    path, email = two_owner_profile(nodes)
    nodes.state.put_claim(b"old" + email.encode(), path.rpartition("/")[2])
    for name in "abc":
        answer = nodes[name].request("GET", f"/api/search?email=old{email}")
        assert (answer.status, answer.slug) == (404, "profile-not-found")


def test_claim_without_a_lease_needs_a_barrier_before_its_owner_is_asked(nodes: Nodes) -> None:
    """A claim of the past could name the wrong profile, whose owner would rightly say 404."""
    _, email = two_owner_profile(nodes)
    nodes["a"].cluster_node.lapsed_ms = 5_000
    assert nodes["c"].request("GET", f"/api/search?email={email}").status == 200
    assert nodes["a"].cluster_node.barriers == [[0, 3]]
    nodes["a"].cluster_node.is_log_away = True
    assert nodes["c"].request("GET", f"/api/search?email={email}").status == 503


def test_search_in_the_middle_of_a_failure_of_the_second_owner(nodes: Nodes) -> None:
    """The claim's owner answers, the profile's is away: its follower finishes the search."""
    path, email = two_owner_profile(nodes)
    nodes["a"].suspected.add("b")
    answer = nodes["a"].request("GET", f"/api/search?email={email}")
    assert (answer.status, origin(answer)) == (200, ("c", "standby", "1"))
    assert json.loads(answer.body)["uid"] in path


def profile_beside_its_claim(nodes: Nodes) -> str:
    """Return the e-mail, in partition 3, of a profile in partition 0; both are a's."""
    first, second = (
        next(email for email in emails() if partition_for(email.encode(), PARTITIONS) == partition)
        for partition in (0, 3)
    )
    path = create(nodes["a"], first)["Location"]
    assert nodes["a"].request("PATCH", path, json={"email": second}).status == 200
    return second


@pytest.mark.parametrize("asked", ["a", "b", "c"])
def test_search_whose_profile_is_being_restored_is_finished_by_a_follower(nodes: Nodes, asked: str) -> None:
    """The claim is served here and the profile not yet: its follower answers behind a barrier."""
    email = profile_beside_its_claim(nodes)
    nodes["a"].cluster_node.restoring = {0}
    answer = nodes[asked].request("GET", f"/api/search?email={email}")
    assert (answer.status, origin(answer)[:2]) == (200, ("b", "standby"))


@pytest.mark.parametrize("asked", ["a", "c"])
def test_search_waits_for_the_profile_that_is_being_restored(nodes: Nodes, asked: str) -> None:
    """Nobody follows it: tried again inside the deadline, not given up."""
    email = profile_beside_its_claim(nodes)
    nodes.place(["a", "b", "c"] * 2, [None] * PARTITIONS, epoch=2)
    nodes["a"].cluster_node.restoring = {0}
    if asked == "c":
        nodes["c"].cluster_node.restoring = nodes["a"].cluster_node.restoring  # it is c that waits
    answer = nodes[asked].request("GET", f"/api/search?email={email}")
    assert (answer.status, origin(answer)[:2]) == (200, ("a", "owner"))
    assert nodes[asked].cluster_node.waited == 1


@pytest.mark.parametrize("asked", ["a", "c"])
def test_read_that_met_the_move_of_another_partition_is_tried_again(
    nodes: Nodes, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search proves all that is here; when one of those leaves meanwhile, the answer is a moment away."""
    email = email_of("a")
    create(nodes["a"], email)
    nodes.place(["a", "b", "c"] * 2, [None] * PARTITIONS, epoch=2)
    node = nodes["a"].cluster_node
    barrier, moving = node.barrier, [1]

    async def barrier_after_a_move(partitions: Iterable[int], deadline: Deadline) -> None:
        if moving:
            raise NotOwner("it has left", partition=moving.pop())
        await barrier(partitions, deadline)

    monkeypatch.setattr(node, "barrier", barrier_after_a_move)
    answer = nodes[asked].request("GET", f"/api/search?email={email}&consistency=strict")
    assert (answer.status, origin(answer)[:2]) == (200, ("a", "owner"))


def test_idempotent_create_meets_its_record_wherever_it_is_sent(nodes: Nodes) -> None:
    """The key decides the owner, so a retry at another node gets the first outcome."""
    headers = {"Idempotency-Key": '"k1"'}
    for node in nodes:
        node.cluster_node.owned = set()
    nodes.place(["a"] * PARTITIONS, ["b"] * PARTITIONS, epoch=2)
    answers = [create(nodes[name], "eve@mail.com", **headers) for name in "bcab"]
    assert {answer.status for answer in answers} == {201}
    assert len({answer["Location"] for answer in answers}) == 1


def test_explained_read_tells_its_way(nodes: Nodes) -> None:
    """Who was asked, what he said, what was waited for, and which proof the answer rests on."""
    path = made(nodes, "a")
    assert nodes["a"].request("GET", path + "?explain=1")["Profile-Explain"].startswith("here=owner; proof=lease; ms=")
    nodes["b"].unreachable.add("a")
    told = nodes["b"].request("GET", path + "?explain=1")["Profile-Explain"].split(", ")
    assert [step.rpartition(";")[0] for step in told] == ["owner=a; unreachable", "here=copy; proof=barrier"]
    assert "Profile-Explain" not in nodes["b"].request("GET", path + "?explain=0")
    assert nodes["b"].request("GET", path + "?explain=yes").status == 400
