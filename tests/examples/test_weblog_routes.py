"""The tutorial's routes, over a port that has its numbers: what is asked for which path, and every refusal."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import falcon.asgi
import pytest
from falcon import testing

from examples.weblog import topology as t
from examples.weblog.routes import WeblogRoutes
from streams.errors import Restoring, Unavailable

NOW_MS = 1_517_518_300_000
HOSTS = {"204.249.225.59": 1, "ALL": 2, "a/b+c %": 3, "d24-1.cpe.Brisbane.aone.net.au": 1, "world.std.com": 15, "é": 4}


class FakeHosts:
    """Answers from a dict and remembers what it was asked. `fail` is raised instead, after so many entries."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.fail: tuple[int, Unavailable] | None = None

    def check(self, entries: int = 0) -> None:
        if self.fail is not None and entries >= self.fail[0]:
            raise self.fail[1]

    async def get(self, store: str, host: str) -> int | None:
        self.asked.append((store, host))
        self.check()
        return HOSTS.get(host)

    async def entries(self, store: str, from_host: str | None, to_host: str | None) -> AsyncIterator[tuple[str, int]]:
        self.asked.append((store, from_host, to_host))
        found = [each for each in HOSTS.items() if (from_host or "") <= each[0] <= (to_host or "\U0010ffff")]
        for number, entry in enumerate(found):
            self.check(number)
            yield entry

    async def count(self, store: str) -> int:
        self.asked.append(store)
        self.check()
        return len(HOSTS)

    async def windows(self, store: str, host: str, from_ms: int, to_ms: int) -> list[tuple[int, int]]:
        self.asked.append((store, host, from_ms, to_ms))
        self.check()
        return [(1_517_518_200_000, 6), (1_517_518_260_000, 3)] if host == "world.std.com" else []

    async def contains(self, store: str, host: str) -> bool:
        self.asked.append((store, host))
        self.check()
        return host in HOSTS


@pytest.fixture
def hosts() -> FakeHosts:
    return FakeHosts()


@pytest.fixture
def client(hosts: FakeHosts) -> testing.TestClient:
    app: falcon.asgi.App[Any, Any] = falcon.asgi.App()
    WeblogRoutes(hosts, now_ms=lambda: NOW_MS).mount(app)
    return testing.TestClient(app)


@pytest.mark.parametrize(
    ("path", "asked", "answer"),
    [
        ("access/world.std.com", (t.ACCESS_COUNT, "world.std.com"), "15"),
        ("bytes/world.std.com", (t.BYTES_SUM, "world.std.com"), "15"),
        ("access?host=ALL", (t.ACCESS_COUNT, "ALL"), "2"),
        ("access/COUNT", t.ACCESS_COUNT, "6"),
        ("bytes/COUNT", t.BYTES_SUM, "6"),
        ("access/a%2Fb+c%20%25", (t.ACCESS_COUNT, "a/b+c %"), "3"),
        ("access?host=a%2Fb%2Bc+%25", (t.ACCESS_COUNT, "a/b+c %"), "3"),
        ("access/%C3%A9", (t.ACCESS_COUNT, "é"), "4"),
        ("access/range/a.com/z.org", (t.ACCESS_COUNT, "a.com", "z.org"), None),
        ("access/range/x/y", (t.ACCESS_COUNT, "x", "y"), "[]"),
        (
            "access/win/world.std.com",
            (t.WINDOWED_ACCESS_COUNT, "world.std.com", 0, NOW_MS),
            "[[1517518200000,6],[1517518260000,3]]",
        ),
        ("bytes/win/nobody/5/7", (t.WINDOWED_BYTES_SUM, "nobody", 5, 7), "[]"),
        ("access/check/world.std.com", (t.SEEN_HOSTS, "world.std.com"), "true"),
        ("access/check/world.stx.co", (t.SEEN_HOSTS, "world.stx.co"), "false"),
    ],
)
def test_each_route_asks_its_store(
    client: testing.TestClient, hosts: FakeHosts, path: str, asked: Any, answer: str | None
) -> None:
    """And answers bare JSON, as the tutorial's clients expect it."""
    found = client.simulate_get(f"/weblog/{path}")
    assert found.status_code == 200
    assert hosts.asked == [asked]
    assert found.headers["content-type"] == "application/json"
    assert answer is None or found.text == answer


def test_all_are_told_in_the_order_of_their_bytes(client: testing.TestClient) -> None:
    """One array, whatever the hosts are called."""
    assert client.simulate_get("/weblog/access/ALL").json == [[host, number] for host, number in HOSTS.items()]
    names = [host for host, _ in client.simulate_get("/weblog/bytes/range/a.com/z.org").json]
    assert names == ["a/b+c %", "d24-1.cpe.Brisbane.aone.net.au", "world.std.com"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("access/nobody", 404),
        ("clicks/world.std.com", 404),
        ("access/check", 404),
        ("bytes/check/world.std.com", 404),
        ("access/range/a", 404),
        ("access/a/b", 404),
        ("access", 400),
        ("access?host=a&host=b", 400),
        ("access/win/world.std.com/0/now", 400),
        ("access/win/world.std.com/-1/5", 400),
        ("access/win/world.std.com/0/9999999999999999999", 400),
        ("access/%FF", 400),
    ],
)
def test_what_makes_no_sense_or_is_not_there_is_said(client: testing.TestClient, path: str, status: int) -> None:
    """Where the original answered 500, or 0."""
    found = client.simulate_get(f"/weblog/{path}")
    assert found.status_code == status
    assert found.headers["content-type"] == "application/problem+json"
    assert found.json["status"] == status


@pytest.mark.parametrize("path", ["access/x", "access/ALL", "access/COUNT", "access/win/x", "access/check/x"])
def test_what_nobody_can_tell_now_is_503(client: testing.TestClient, hosts: FakeHosts, path: str) -> None:
    """With the time after which it is worth asking again."""
    hosts.fail = 0, Restoring("catching up", partition=1, lag_records=5)
    found = client.simulate_get(f"/weblog/{path}")
    assert found.status_code == 503
    assert int(found.headers["retry-after"]) >= 1


def test_a_list_that_breaks_off_is_not_taken_for_a_whole_one(hosts: FakeHosts) -> None:
    """What was sent of it is no JSON, and the connection ends with an error."""
    app: falcon.asgi.App[Any, Any] = falcon.asgi.App()
    WeblogRoutes(hosts, now_ms=lambda: NOW_MS).mount(app)
    hosts.fail = 3, Restoring("catching up", partition=1, lag_records=5)
    sent: list[Any] = []

    async def ask() -> None:
        scope = testing.create_scope(path="/weblog/access/ALL")

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(event: Any) -> None:
            sent.append(event)

        await app(scope, receive, send)

    with pytest.raises(Unavailable):
        asyncio.run(ask())
    bodies = [event for event in sent if event["type"] == "http.response.body"]
    assert b"".join(event["body"] for event in bodies).startswith(b'[["204')
    assert all(event["more_body"] for event in bodies)


def test_other_methods_are_refused(client: testing.TestClient) -> None:
    """With those that are there."""
    found = client.simulate_post("/weblog/access/ALL")
    assert (found.status_code, found.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    asked = client.simulate_options("/weblog/access/ALL")
    assert (asked.status_code, asked.headers["allow"], asked.text) == (204, "GET, HEAD, OPTIONS", "")
