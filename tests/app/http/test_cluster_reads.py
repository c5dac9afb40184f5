"""Reads that many nodes answer together: batches of plain reads, the list over all nodes, and the map."""

import asyncio
import json
from dataclasses import replace

import pytest

from app.cli.cluster import render
from app.cluster.batches import MAX_BATCH
from app.cluster.wire import decode_keys
from app.profiles.topics import PROFILE_STORE, SEARCH_STORE
from streams.partitioner import partition_for
from streams.queries.peers import PeerRequest
from tests.app.http.cluster import PARTITIONS, Member, Nodes, ask
from tests.app.http.fakes import UNKNOWN_UID, Answer


@pytest.fixture
def nodes() -> Nodes:
    return Nodes()


def fill(nodes: Nodes, count: int) -> list[str]:
    """Create profiles through all nodes in turn and return their uids in order."""
    uids = []
    for number in range(count):
        answer = nodes["abc"[number % 3]].request(
            "POST", "/api/profile", json={"username": "bob", "email": f"bob{number}@mail.com"}
        )
        uids.append(answer.json["uid"])
    return sorted(uids)


def get_together(member: Member, targets: list[str]) -> list[int]:
    """Send plain GETs within one turn of the loop; return their statuses."""

    async def everything() -> list[int]:
        requests = (PeerRequest(b"GET", target.encode(), (), b"") for target in targets)
        return [reply.status for reply in await asyncio.gather(*(ask(member.api, request) for request in requests))]

    return asyncio.run(everything())


def owned_by(owner: str, uids: list[str]) -> list[str]:
    return [uid for uid in uids if "abcabc"[partition_for(uid.encode(), PARTITIONS)] == owner]


def test_reads_that_come_together_travel_together(nodes: Nodes) -> None:
    """Hundreds of plain GETs for one owner need a few calls, none larger than the bound; searches go along."""
    uids = owned_by("a", fill(nodes, 60))
    member = nodes["b"]
    member.called.clear()
    targets = [f"/api/profile/{uid}" for uid in uids] * (600 // len(uids))
    assert set(get_together(member, targets)) == {200}
    sizes = [len(decode_keys(body)) for _, _, body in member.called]
    assert sum(sizes) == len(targets)
    assert max(sizes) <= MAX_BATCH
    assert len(sizes) <= 4
    member.called.clear()
    emails = [f"bob{number}@mail.com" for number in range(60)]
    its = [email for email in emails if partition_for(email.encode(), PARTITIONS) in (0, 3)]
    assert set(get_together(member, [f"/api/search?email={email}" for email in its])) == {200}
    assert len(member.called) == 1


def test_what_is_not_found_in_a_batch_takes_the_long_way(nodes: Nodes) -> None:
    """A missing profile is asked for again by the ordinary path, which proves that it is missing."""
    uids = fill(nodes, 12)
    owner = "abcabc"[partition_for(UNKNOWN_UID.encode(), PARTITIONS)]
    member = nodes["b" if owner == "a" else "a"]
    member.sent.clear()
    there = [f"/api/profile/{uid}" for uid in owned_by(owner, uids)]
    statuses = get_together(member, [*there, f"/api/profile/{UNKNOWN_UID}"])
    assert statuses == [200] * len(there) + [404]
    assert len(member.sent) == 1


def test_batch_that_makes_no_sense_is_refused(nodes: Nodes) -> None:
    """Too many keys, or bytes that are none: the caller learns that nothing was done."""
    operation = nodes["a"].operations["read"]
    for body in (b"\x00", b"\x00\x01x" * (MAX_BATCH + 1)):
        with pytest.raises(Exception, match=r"no sense|too many"):
            asyncio.run(operation(body, None))  # type: ignore[arg-type]


def walk(member: Member, limit: int, query: str = "") -> tuple[list[str], list[Answer]]:
    """Return all uids of the list in their order, and the pages."""
    uids: list[str] = []
    pages = []
    cursor = ""
    while True:
        page = member.request("GET", f"/api/profile?limit={limit}{query}" + (f"&cursor={cursor}" if cursor else ""))
        assert page.status == 200
        pages.append(page)
        uids += [item["uid"] for item in page.json["items"]]
        cursor = page.json["next"]
        if cursor is None:
            return uids, pages


@pytest.mark.parametrize("limit", [1, 4, 7, 100])
def test_list_holds_every_profile_once_in_order(nodes: Nodes, limit: int) -> None:
    """Whichever node is asked, by uid over all partitions, in full pages but for the last."""
    uids = fill(nodes, 20)
    for name in "abc":
        found, pages = walk(nodes[name], limit)
        assert found == uids
        assert all(len(page.json["items"]) == limit for page in pages[:-1])
    assert {operation for _, operation, _ in nodes["a"].called} <= {"scan", "read"}
    assert sum(operation == "scan" for _, operation, _ in nodes["a"].called) == 2 * -(-20 // limit)


def test_cursor_survives_a_rebalance_and_another_node(nodes: Nodes) -> None:
    """A walk goes on over another map, at another node, without losing or repeating anything."""
    uids = fill(nodes, 20)
    first = nodes["a"].request("GET", "/api/profile?limit=7")
    nodes.place(["b", "c", "a"] * 2, ["c", "a", "b"] * 2, epoch=2)
    rest = nodes["c"].request("GET", f"/api/profile?limit=100&cursor={first.json['next']}")
    assert [item["uid"] for page in (first, rest) for item in page.json["items"]] == uids


def test_list_fails_over_to_followers(nodes: Nodes) -> None:
    """A node that is away is replaced by who follows its partitions, behind a barrier."""
    uids = fill(nodes, 20)
    nodes["a"].unreachable.add("b")
    assert walk(nodes["a"], 100)[0] == uids
    nodes["a"].suspected.add("b")
    assert walk(nodes["a"], 100)[0] == uids
    assert nodes["c"].cluster_node.barriers


def test_missing_partition_is_an_error_or_is_named(nodes: Nodes) -> None:
    """Never a page that looks whole: 503, or with partial=true the partitions that are not on it."""
    uids = fill(nodes, 20)
    nodes.place(["a", "b", "c"] * 2, ["b", None, "a"] * 2, epoch=2)
    nodes["a"].unreachable.add("b")
    whole = nodes["a"].request("GET", "/api/profile")
    assert (whole.status, whole.slug) == (503, "owner-unreachable")
    found, pages = walk(nodes["a"], 5, "&partial=true")
    assert found == [uid for uid in uids if partition_for(uid.encode(), PARTITIONS) not in (1, 4)]
    assert {tuple(page.json["missing"]) for page in pages} == {(1, 4)}
    assert "partial=true" in pages[0]["Link"]
    assert nodes["c"].request("GET", "/api/profile?partial=true").json["missing"] == []
    assert nodes["c"].request("GET", "/api/profile?partial=maybe").status == 400


@pytest.mark.parametrize("headers", [{"Profile-Position": "made up"}, {}])
def test_what_nobody_gave_out_is_refused_before_anybody_is_asked(nodes: Nodes, headers: dict[str, str]) -> None:
    """A forged cursor or position is the client's fault and no other node's trouble."""
    query = "" if headers else "?cursor=AAAA"
    answer = nodes["a"].request("GET", "/api/profile" + query, headers)
    assert (answer.status, answer.slug) == (400, "bad-cursor")
    assert nodes["a"].called == []


def test_the_map_tells_who_has_what(nodes: Nodes) -> None:
    """Nodes, and for each partition its owner and followers, how far each is, who is suspected, and who was refused."""
    nodes["b"].suspected.add("c")
    node = nodes["b"].cluster_node
    node.view = replace(node.view, refused={"d/1": "another topic prefix"})
    document = nodes["b"].request("GET", "/metadata").json
    assert (document["epoch"], document["refused"]) == (1, {"d/1": "another topic prefix"})
    assert "refused: d/1: another topic prefix" in render(document).splitlines()
    assert [(node["node_id"], node["suspected"]) for node in document["nodes"]] == [
        ("a", False), ("b", False), ("c", True),
    ]  # fmt: skip
    assert [partition["owner"] for partition in document["partitions"]] == ["a", "b", "c"] * 2
    first = document["partitions"][0]["instances"]
    assert [(one["node_id"], one["role"], one["position"], one["lag"]) for one in first] == [
        ("a", "owner", 7, 0), ("b", "standby", None, None),
    ]  # fmt: skip
    store = nodes["b"].request("GET", f"/metadata/stores/{PROFILE_STORE}").json
    assert store["partitions"] == document["partitions"]


def test_the_map_finds_the_place_of_a_key(nodes: Nodes) -> None:
    """By uid, and by e-mail in any spelling, without repeating it; 404 for a store that does not exist."""
    for store, key, name in (
        (PROFILE_STORE, UNKNOWN_UID, UNKNOWN_UID.encode()),
        (SEARCH_STORE, "BOB1@mail.com", b"bob1@mail.com"),
    ):
        answer = nodes["a"].request("GET", f"/metadata/stores/{store}/key/{key}")
        document = answer.json
        assert document["partition"] == partition_for(name, PARTITIONS)
        assert document["instances"][0]["node_id"] == "abc"[document["partition"] % 3]
        assert key not in json.dumps(document)
    assert nodes["a"].request("GET", "/metadata/stores/nothing").status == 404
    assert nodes["a"].request("GET", "/metadata/stores/nothing/key/x").status == 404


def count(member: Member, query: str = "") -> Answer:
    return member.request("GET", f"/stores/{PROFILE_STORE}/approximate-num-entries{query}")


def test_a_count_asks_every_node_once(nodes: Nodes) -> None:
    """Every partition is in it once, counted by its owner, with one call for each other node; a member's own count is
    of what it owns, so that the members' make the whole."""
    uids = fill(nodes, 20)
    answer = count(nodes["a"])
    assert (answer.status, answer.json["approximate_num_entries"], answer.json["is_exact"]) == (200, 20, True)
    assert [(one["partition"], one["node_id"]) for one in answer.json["partitions"]] == list(enumerate("abcabc"))
    assert sorted((to, operation) for to, operation, _ in nodes["a"].called) == [("b", "count"), ("c", "count")]
    locals_ = [count(member, "?scope=local").json["approximate_num_entries"] for member in nodes]
    assert locals_ == [len(owned_by(name, uids)) for name in "abc"]


def test_a_count_goes_on_over_followers_and_names_what_is_missing(nodes: Nodes) -> None:
    """Whom nobody can ask is 503, or named; a follower counts for an owner that is away, and says what it is."""
    fill(nodes, 20)
    nodes["a"].unreachable = {"b"}
    answer = count(nodes["a"])
    assert [(one["node_id"], one["role"]) for one in answer.json["partitions"]][1] == ("c", "standby")
    nodes["a"].unreachable = {"b", "c"}
    refused = count(nodes["a"])
    assert (refused.status, refused.slug, refused.json["partition"]) == (503, "owner-unreachable", 1)
    answer = count(nodes["a"], "?partial=true")
    assert (answer.status, answer.json["missing"], answer.json["is_exact"]) == (200, [1, 4], False)


def test_an_observer_counts_alone(nodes: Nodes) -> None:
    """It follows everything, and asks nobody."""
    fill(nodes, 12)
    observer = nodes.observer()
    for query in ("", "?scope=local"):
        assert count(observer, query).json["approximate_num_entries"] == 12
    assert observer.called == []


def test_a_count_is_of_a_store_and_a_scope_that_exist(nodes: Nodes) -> None:
    """404, 400."""
    assert nodes["a"].request("GET", "/stores/nothing/approximate-num-entries").status == 404
    assert count(nodes["a"], "?scope=all").slug == "invalid-parameter"
    assert count(nodes["a"], "?partial=1").slug == "invalid-parameter"
