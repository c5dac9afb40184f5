"""`/api/import`: one line of answer for each line, whoever owns it, and nothing that one line does to another."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from app.http.imports import MAX_IMPORT_BYTES, MAX_LINES, MAX_OPEN
from streams.errors import Overloaded
from streams.partitioner import partition_for
from tests.app.http.cluster import PARTITIONS, Nodes
from tests.app.http.fakes import Answer, Edge

LINES = {"Content-Type": "application/x-ndjson"}
UID = "6a1f8a2e-64bb-4a80-9a55-0d1b5e5f7a92"
TIME = "2026-01-01T09:00:00.000Z"


def exported(uid: str = UID, email: str = "ann@mail.com", **members: Any) -> dict[str, Any]:
    profile = {"uid": uid, "username": "ann", "email": email, "version": 7, "created_at": TIME, "updated_at": TIME}
    return {**profile, **members}


def send(edge: Edge, lines: Sequence[object], target: str = "/api/import") -> Answer:
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return edge.request("POST", target, LINES, b"\n".join(texts))


def answers(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200
    assert answer["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.body.splitlines()]


def test_each_line_has_its_answer_in_order(edge: Edge) -> None:
    """Created, restored, refused for each kind of reason; blank lines count for nothing."""
    taken = edge.service.add(email="bob@mail.com")
    found = answers(
        send(
            edge,
            [
                {"username": "eve", "email": "eve@mail.com"},
                b"",
                exported(),
                b"{",
                {"username": "x", "email": "BOB@mail.com"},
                b"   \r",
                {"username": "", "email": "nobody"},
                exported(email="other@mail.com"),
                [1],
                exported(uid="no"),
                exported(),
            ],
        )
    )
    assert [one["status"] for one in found] == [201, 201, 400, 409, 422, 409, 422, 422, 200]
    assert (found[1]["uid"], found[1]["version"]) == (UID, 7)
    assert found[3] == {
        "type": "/problems/email-taken",
        "detail": "another profile has this e-mail",
        "pointer": "#/email",
        "existing_uid": taken,
        "status": 409,
    }
    assert [fault["code"] for fault in found[4]["errors"]] == ["too_short", "invalid_email"]
    assert (found[5]["type"], found[5]["current_version"]) == ("/problems/profile-differs", 7)
    assert [fault["code"] for fault in found[7]["errors"]] == ["invalid_uid"]
    assert edge.request("GET", f"/api/profile/{UID}").json == exported()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 0}, "out_of_range"),
        ({"version": 2**53}, "out_of_range"),
        ({"version": True}, "invalid_type"),
        ({"version": "7"}, "invalid_type"),
        ({"created_at": "2026-01-01T09:00:00Z"}, "invalid_time"),
        ({"created_at": "2026-02-30T09:00:00.000Z"}, "invalid_time"),
        ({"updated_at": None}, "null"),
        ({"color": "blue"}, "unknown_member"),
        ({"email": "nobody"}, "invalid_email"),
    ],
)
def test_a_restored_profile_is_checked_in_full(edge: Edge, change: dict[str, Any], code: str) -> None:
    """What the service would never have written is not restored."""
    (found,) = answers(send(edge, [exported(**change)]))
    assert (found["status"], [fault["code"] for fault in found["errors"]]) == (422, [code])
    assert edge.request("GET", f"/api/profile/{UID}").status == 404


def test_a_uid_without_the_rest_is_refused(edge: Edge) -> None:
    """Half an export is neither a create nor a restore."""
    (found,) = answers(send(edge, [{"uid": UID, "username": "ann", "email": "ann@mail.com"}]))
    assert {fault["pointer"] for fault in found["errors"]} == {"#/version", "#/created_at", "#/updated_at"}


def test_the_answer_names_the_topic_and_the_source_is_passed_on(edge: Edge) -> None:
    """So that who imports knows where to; no lines at all are a question for it."""
    answer = send(edge, [])
    assert (answer.status, answer.body, answer["Profile-Topic-Id"]) == (200, b"", "id-1")
    send(edge, [exported()], "/api/import?source=id-9")
    assert edge.service.seen["source"] == "id-9"


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "application/json"}, b"{}", 415),
        (LINES, b" " * (MAX_IMPORT_BYTES + 1), 413),
        (LINES, b"{}\n" * (MAX_LINES + 1), 400),
        ({**LINES, "Content-Encoding": "gzip"}, b"{}", 415),
    ],
)
def test_a_request_that_is_too_large_or_of_another_type_is_refused_whole(
    edge: Edge, headers: dict[str, str], body: bytes, status: int
) -> None:
    """Before a line of it is looked at."""
    assert edge.request("POST", "/api/import", headers, body).status == status


def test_lines_of_a_node_that_cannot_write_say_so_one_by_one(edge: Edge) -> None:
    """Whoever sent them sends these lines again."""
    edge.service.failure = Overloaded("full")
    (found,) = answers(send(edge, [{"username": "eve", "email": "eve@mail.com"}]))
    assert (found["status"], found["type"]) == (503, "/problems/overloaded")


def test_bodies_in_memory_are_bounded(edge: Edge) -> None:
    """While many are being sent the next is refused unread, and its connection closed; later there is room again."""
    body = b'{"username":"eve","email":"eve@mail.com"}'

    async def scenario() -> None:
        is_sent = asyncio.Event()
        statuses: list[int] = []

        async def ask() -> None:
            async def receive() -> dict[str, Any]:
                await is_sent.wait()
                return {"type": "http.request", "body": body, "more_body": False}

            async def send(message: dict[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])
                    closes.append((b"connection", b"close") in message["headers"])

            headers = [(b"content-type", b"application/x-ndjson"), (b"host", b"a")]
            scope = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": "/api/import"}
            more = {"asgi": {"version": "3.0"}, "query_string": b"", "headers": headers, "root_path": ""}
            await edge.api({**scope, **more, "server": ("a", 1), "client": ("b", 1)}, receive, send)

        closes: list[bool] = []
        slow = [asyncio.create_task(ask()) for _ in range(MAX_OPEN)]
        for _ in range(10):
            await asyncio.sleep(0)
        await ask()
        assert (statuses, closes) == ([503], [True])
        is_sent.set()
        await asyncio.gather(*slow)
        await ask()
        assert statuses == [503] + [200] * (MAX_OPEN + 1)

    asyncio.run(scenario())


# Over several nodes.


def emails(count: int) -> list[str]:
    return [f"bob{number}@mail.com" for number in range(count)]


def test_lines_go_to_their_owners_by_partition_and_come_back_in_order() -> None:
    """One request for each partition of another node, none for the own; every profile is there once."""
    nodes = Nodes()
    texts = emails(60)
    first = answers(send(nodes["a"], [{"username": "bob", "email": email} for email in texts]))
    assert [one["status"] for one in first] == [201] * 60
    assert sorted((name, request.target) for name, request in nodes["a"].sent) == [
        (name, b"/api/import") for name in "bbcc"
    ]
    for email, one in zip(texts, first, strict=True):
        assert nodes["b"].request("GET", f"/api/search?email={email}").json["uid"] == one["uid"]
    again = answers(send(nodes["c"], [{"username": "bob", "email": email} for email in reversed(texts)]))
    assert [one["existing_uid"] for one in reversed(again)] == [one["uid"] for one in first]


def test_a_peer_that_does_not_own_the_lines_passes_nothing_on() -> None:
    """It answers with its map, and the node of the client asks the owner: one hop."""
    nodes = Nodes()
    nodes.place(["a", "c", "b"] * 2, ["b", "a", "c"] * 2, epoch=2, knows="bc")
    found = answers(send(nodes["a"], [{"username": "bob", "email": email} for email in emails(20)]))
    assert [one["status"] for one in found] == [201] * 20
    assert all(not member.sent for name, member in nodes.members.items() if name != "a")


def test_lines_whose_peer_was_lost_are_of_unknown_outcome_and_can_be_sent_again() -> None:
    """504 for these lines alone; the second time they are found to be there."""
    nodes = Nodes()
    nodes["a"].losing.add("b")
    lines = [{"username": "bob", "email": email} for email in emails(20)]
    found = answers(send(nodes["a"], lines))
    partitions = [partition_for(line["email"].encode(), PARTITIONS) for line in lines]
    assert [one["status"] for one in found] == [504 if partition % 3 == 1 else 201 for partition in partitions]
    nodes["a"].losing.clear()
    assert {one["status"] for one in answers(send(nodes["a"], lines))} == {409}
    assert len(nodes.state.live()) == 20


def test_a_peer_that_cannot_be_reached_costs_its_own_lines_only() -> None:
    """503 for these, within the request's time."""
    nodes = Nodes()
    nodes["a"].unreachable.add("c")
    lines = [{"username": "bob", "email": email} for email in emails(20)]
    found = answers(send(nodes["a"], lines))
    assert {one["status"] for one in found} == {201, 503}
    assert {one["type"] for one in found if one["status"] == 503} == {"/problems/owner-unreachable"}
