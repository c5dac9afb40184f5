"""The routes of `/stores` and `/metadata`: statuses, headers, parameters, and values as JSON."""

import asyncio
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import falcon.asgi
import falcon.testing
import pytest

from streams.errors import Draining, LeaseExpired, NotOwner, Restoring
from streams.http.metadata import mount_metadata
from streams.http.stores import mount_stores
from streams.queries.asking import BadParameter
from streams.queries.cursors import Cursors
from streams.queries.peers import PeerRequest
from streams.queries.reads import StoreReads
from streams.queries.text import json_entry, key_of, python_entry
from streams.serdes import BYTES, DOUBLE, INTEGER, LONG, STRING, FunctionSerde, JsonSerde, Serde, Windowed, of
from streams.topology.stores import StoreKind, StoreSpec
from tests.streams.http.applications import run_asgi
from tests.streams.queries.rig import CLOCK, Cluster, cluster

LINES = {"Accept": "application/x-ndjson"}
KEYS = [f"k{n:02}" for n in range(25)]


class Own:
    """A route of the application that the stores are mounted in."""

    async def on_get(self, _req: Any, resp: Any) -> None:
        resp.text = "own"


@pytest.fixture(scope="module")
def client() -> Iterator[falcon.testing.TestClient]:
    """One node with some words."""
    with cluster("n1") as found:
        found.feed("words", *((key, n, n * 1000) for n, key in enumerate(KEYS)))
        yield client_of(found)


def client_of(found: Cluster) -> falcon.testing.TestClient:
    app = falcon.asgi.App()
    app.add_route("/stores/own", Own())
    reads = found.reads("n1", is_alone=True)
    mount_stores(app, reads)
    mount_stores(app, reads, path="/deep/er/stores")
    mount_metadata(app, reads)
    return falcon.testing.TestClient(app)


@pytest.mark.parametrize(
    ("path", "status", "slug"),
    [
        ("/stores/nix/all", 404, "/problems/unknown-store"),
        ("/stores/nix/get/a", 404, "/problems/unknown-store"),
        ("/stores/nix/approximate-num-entries", 404, "/problems/unknown-store"),
        ("/stores/nix", 404, "/problems/unknown-store"),
        ("/stores/last", 404, "about:blank"),
        ("/stores/last/", 404, "about:blank"),
        ("/stores/last/nix", 404, "about:blank"),
        ("/stores/last/all/", 404, "about:blank"),
        ("/stores/last/range/a", 404, "about:blank"),
        ("/stores/last/get/nobody", 404, "/problems/key-not-found"),
        ("/stores/last/get/", 404, "/problems/key-not-found"),
        ("/stores/last/get", 400, "/problems/invalid-parameter"),
        ("/stores/last/get/%ff", 400, "/problems/invalid-parameter"),
        ("/stores/last/get/a?key=b&scope=x", 400, "/problems/invalid-parameter"),
        ("/stores/last/window/a", 400, "/problems/wrong-query"),
        ("/stores/last/session/a", 400, "/problems/wrong-query"),
        ("/stores/minutes/get/a", 400, "/problems/wrong-query"),
        ("/stores/minutes/range", 400, "/problems/wrong-query"),
        ("/stores/sessions/prefix/a", 400, "/problems/wrong-query"),
        ("/stores/minutes/window/a?from=x", 400, "/problems/invalid-parameter"),
        ("/stores/minutes/window/a?from=1.5", 400, "/problems/invalid-parameter"),
        ("/stores/minutes/window/a?from=1&from=2", 400, "/problems/invalid-parameter"),
        ("/stores/last/all?limit=0", 400, "/problems/invalid-parameter"),
        ("/stores/last/all?limit=-1", 400, "/problems/invalid-parameter"),
        ("/stores/last/all?limit=1001", 400, "/problems/invalid-parameter"),
        ("/stores/last/all?limit=", 400, "/problems/invalid-parameter"),
        ("/stores/last/all?limit=%D9%A3", 400, "/problems/invalid-parameter"),
        ("/stores/last/all?scope=global", 400, "/problems/invalid-parameter"),
        ("/stores/last/all?scope=local&scope=local", 400, "/problems/invalid-parameter"),
        ("/stores/last/all?partial=maybe", 400, "/problems/invalid-parameter"),
        ("/stores/last/all?consistency=none", 400, "/problems/invalid-parameter"),
        ("/stores/last/all?cursor=x", 400, "/problems/bad-cursor"),
        ("/stores/last/all?cursor=", 400, "/problems/bad-cursor"),
        ("/stores/last/get/a?encoding=hex", 400, "/problems/invalid-parameter"),
        ("/stores/last/get/***?encoding=base64", 400, "/problems/invalid-parameter"),
        ("/stores/last/range?from=%ff", 400, "/problems/invalid-parameter"),
        ("/metadata/nix", 404, "about:blank"),
        ("/metadata/stores", 404, "about:blank"),
        ("/metadata/stores/nix", 404, "/problems/unknown-store"),
        ("/metadata/stores/nix/key/a", 404, "/problems/unknown-store"),
        ("/metadata/stores/last/key", 404, "about:blank"),
        ("/metadata/stores/last/nix/a", 404, "about:blank"),
    ],
)
def test_what_cannot_be_answered_is_a_problem(
    client: falcon.testing.TestClient, path: str, status: int, slug: str
) -> None:
    """With the same status for GET and HEAD, and nobody else's page."""
    reply = client.simulate_get(path)
    assert (reply.status_code, reply.json["type"], reply.json["status"]) == (status, slug, status)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json["instance"] == path.partition("?")[0]
    head = client.simulate_head(path)
    assert (head.status_code, head.content) == (status, b"")


def test_only_reading_is_allowed(client: falcon.testing.TestClient) -> None:
    """405 and OPTIONS name the methods."""
    for path in ("/stores/last/all", "/stores/last/get/k00", "/metadata"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            reply = client.simulate_request(method, path)
            assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        reply = client.simulate_options(path)
        assert (reply.status_code, reply.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
        reply = client.simulate_head(path)
        assert (reply.status_code, reply.content) == (200, b"")
        assert reply.headers["cache-control"] == "no-store"


def test_other_routes_of_the_application_stay(client: falcon.testing.TestClient) -> None:
    """What is mounted takes neither its own routes nor names that begin alike; it can be mounted anywhere."""
    assert client.simulate_get("/stores/own").text == "own"
    assert client.simulate_get("/storeshed").status_code == 404
    assert client.simulate_get("/storeshed").headers["content-type"] != "application/problem+json"
    for path in ("/last/get/k01", "/last/all", "/last/prefix/k0", ""):
        assert client.simulate_get(f"/deep/er/stores{path}").json == client.simulate_get(f"/stores{path}").json


def test_pages_follow_each_other_by_cursor_and_by_link(client: falcon.testing.TestClient) -> None:
    """The link keeps the other parameters."""
    path, found = "/stores/last/range?from=k03&limit=4&to=k20", []
    while True:
        reply = client.simulate_get(path)
        found += [item["key"] for item in reply.json["items"]]
        if reply.json["next"] is None:
            assert "link" not in reply.headers
            break
        link = reply.headers["link"]
        assert link.endswith('>; rel="next"')
        path = "/stores/last/range" + link[1:].partition(">")[0]
        assert f"cursor={reply.json['next']}" in path
    assert found == KEYS[3:21]


def test_a_link_keeps_bounds_that_were_sent_as_they_are() -> None:
    """Their bytes are encoded, and not once more what they mean in another alphabet."""
    with cluster("n1") as found:
        found.feed("words", *((key, 1, 1) for key in ("a", "\u00fc", "\u00fcb", "\u65e5")))
        client = client_of(found)
        request = PeerRequest(b"GET", "/stores/last/range?from=\u00fc&limit=1".encode(), [], b"")
        reply = asyncio.run(run_asgi(client.app, request, "127.0.0.1"))
        path = dict(reply.headers)[b"link"].decode().split(">")[0].removeprefix("<")
        assert "from=%C3%BC&" in path
        rest = client.simulate_get("/stores/last/range" + path)
    assert [item["key"] for item in rest.json["items"]] == ["\u00fcb"]


@pytest.mark.parametrize("limit", [None, 0, 1, 10, 25, 26, 10_000])
def test_lines_end_with_a_line_that_says_so(client: falcon.testing.TestClient, limit: int | None) -> None:
    """A limit is of all lines, may be larger than a page, and leaves a cursor."""
    path = "/stores/last/all" if limit is None else f"/stores/last/all?limit={limit}"
    reply = client.simulate_get(path, headers=LINES)
    if limit == 0:
        assert reply.status_code == 400
        return
    assert reply.headers["content-type"] == "application/x-ndjson"
    *lines, end = [json.loads(line) for line in reply.text.splitlines()]
    expected = KEYS if limit is None else KEYS[:limit]
    assert [line["key"] for line in lines] == expected
    assert end["end"]["count"] == len(expected)
    assert (end["end"]["next"] is None) == (len(expected) == len(KEYS))
    if end["end"]["next"] is not None:
        rest = client.simulate_get(f"/stores/last/all?cursor={end['end']['next']}").json["items"]
        assert [item["key"] for item in rest] == KEYS[len(expected) :]


def test_a_key_of_several_partitions_ends_a_list_of_lines() -> None:
    """Its rows stay together, also when that is one more than was asked for."""
    with cluster("n1") as found:
        found.feed_global("names", ("a", "Anna", 1, 0), ("a", "Ada", 1, 1), ("b", "Bea", 1, 3))
        reply = client_of(found).simulate_get("/stores/names/all?limit=1", headers=LINES)
    *lines, end = [json.loads(line) for line in reply.text.splitlines()]
    assert sorted(line["value"] for line in lines) == ["Ada", "Anna"]
    assert end["end"]["count"] == 2
    assert end["end"]["next"] is not None


def test_bounds_are_decoded_once(client: falcon.testing.TestClient) -> None:
    """An empty bound is the empty key, an absent one none; base64 names bytes."""

    def keys(query: str) -> list[str]:
        return [item["key"] for item in client.simulate_get("/stores/last/range", query_string=query).json["items"]]

    assert keys("") == keys("from=") == keys("from=&unknown=1") == KEYS
    assert keys("to=") == []
    assert keys("to=k%30%31") == KEYS[:2]
    assert keys("from=k24&to=k00") == []
    assert keys("from=azAz&to=azA0&encoding=base64") == ["k03", "k04"]
    assert (
        client.simulate_get("/stores/last/prefix/").json["items"]
        == client.simulate_get("/stores/last/all").json["items"]
    )


@pytest.mark.parametrize(
    ("error", "slug"),
    [
        (Restoring("r", partition=1, lag_records=7), "restoring"),
        (NotOwner("n", partition=1), "ownership-unsettled"),
        (LeaseExpired("l", partition=1), "ownership-unsettled"),
        (Draining("d", partition=1), "draining"),
    ],
)
def test_what_cannot_be_told_now_is_503_with_a_time_to_retry(
    monkeypatch: pytest.MonkeyPatch, error: Exception, slug: str
) -> None:
    """For keys, lists and lines alike: no answer begins before it is known that there is one."""
    with cluster("n1") as found:
        client = client_of(found)

        def refusing(store: str, partition: int) -> Any:
            raise error

        async def no_barrier(partitions: Any, deadline: Any) -> None:
            raise error

        monkeypatch.setattr(found.nodes["n1"], "reader", refusing)
        monkeypatch.setattr(found.nodes["n1"], "barrier", no_barrier)
        for path, headers in (("get/a", {}), ("all", {}), ("all", LINES), ("range", {}), ("prefix/a", {})):
            for scope in ("local", "cluster"):
                reply = client.simulate_get(f"/stores/last/{path}?scope={scope}", headers=headers)
                assert (reply.status_code, reply.json["type"]) == (503, f"/problems/{slug}")
                assert int(reply.headers["retry-after"]) >= 1
                if slug == "restoring":
                    assert reply.json["lag"] == 7


def test_before_the_application_has_started_nothing_is_denied() -> None:
    """503, not 404."""
    app = falcon.asgi.App()
    reads = StoreReads(None, cursors=Cursors(b"", application_id="x"), clock=CLOCK)
    mount_stores(app, reads)
    mount_metadata(app, reads)
    client = falcon.testing.TestClient(app)
    for path in ("/stores", "/stores/last/get/a", "/metadata/stores/last"):
        assert client.simulate_get(path).status_code == 503


@dataclass(frozen=True)
class Price:
    amount: Decimal
    note: str | None


@pytest.mark.parametrize(
    ("serde", "value", "expected"),
    [
        (of(str), 'ü"\n', '"ü\\"\\n"'),
        (of(int), -3, "-3"),
        (of(float), 1.5, "1.5"),
        (of(float), float("nan"), '{"base64":"f/gAAAAAAAA="}'),
        (of(bool), True, "true"),
        (of(bytes), b"\xff", '{"base64":"/w=="}'),
        (of(UUID), UUID(int=5), '"00000000-0000-0000-0000-000000000005"'),
        (of(dict), {"price": Decimal("13.40"), "n": [1, None]}, '{"price":13.40,"n":[1,null]}'),
        (of(Price), Price(Decimal("0.10"), None), '{"amount":0.10,"note":null}'),
        (
            FunctionSerde("point", dump=lambda p: struct.pack(">hh", *p), load=lambda b: struct.unpack(">hh", b)),
            (1, 2),
            "[1,2]",
        ),
        (FunctionSerde("set", dump=lambda _: b"x", load=lambda _: object()), 1, '{"base64":"eA=="}'),
    ],
)
def test_values_are_said_in_json_without_loss(serde: Serde[Any], value: Any, expected: str) -> None:
    """Decimals with their digits; what JSON has no word for in base64."""
    spec = StoreSpec(name="s", key=STRING, value=serde)
    row = struct.pack(">q", 1234) + serde.serialize(value)
    assert json_entry(spec, b"k", row).decode() == f'{{"key":"k","value":{expected},"timestamp_ms":1234}}'
    if expected != '{"base64":"eA=="}' and value == value:
        assert python_entry(spec, b"k", row) == ("k", value, 1234)


def test_a_line_of_json_has_no_break_in_it() -> None:
    """Whatever whitespace the producer of a source topic has put into his JSON."""
    spec = StoreSpec(name="s", key=of(dict), value=of(dict))
    entry = json_entry(spec, b'{ "a":\n 1.50}', bytes(8) + b'{\r\n"b" : "\\n" }')
    assert entry == b'{"key":{"a":1.50},"value":{"b":"\\n"},"timestamp_ms":0}'
    assert json_entry(spec, b"not json\n", bytes(8) + b"\xff").count(b"base64") == 2


@pytest.mark.parametrize(
    ("serde", "text", "key"),
    [
        (STRING, b"", b""),
        (STRING, "ü".encode(), "ü".encode()),
        (LONG, b"-2", struct.pack(">q", -2)),
        (INTEGER, b"7", struct.pack(">i", 7)),
        (DOUBLE, b"1.5", struct.pack(">d", 1.5)),
        (of(bool), b"false", b"\0"),
        (BYTES, b"_w", b"\xff"),
        (BYTES, b"/w==", b"\xff"),
        (of(UUID), b"00000000-0000-0000-0000-000000000005", b"00000000-0000-0000-0000-000000000005"),
        (JsonSerde(), b'{ "a": 1.50 }', b'{"a":1.50}'),
    ],
)
def test_keys_are_written_as_their_type_is(serde: Serde[Any], text: bytes, key: bytes) -> None:
    """The bytes are those that the serde makes, so that the key is found."""
    assert key_of(serde, text, encoding=None, parameter="key") == key


@pytest.mark.parametrize(
    ("serde", "text"),
    [
        (LONG, b"x"),
        (LONG, b""),
        (LONG, b"1" * 30),
        (of(bool), b"yes"),
        (of(UUID), b"5"),
        (JsonSerde(), b"{"),
        (BYTES, b"*"),
    ],
)
def test_text_that_is_no_key_is_refused(serde: Serde[Any], text: bytes) -> None:
    """By name of the parameter."""
    with pytest.raises(BadParameter) as caught:
        key_of(serde, text, encoding=None, parameter="from")
    assert caught.value.parameter == "from"


def test_a_serde_of_ones_own_is_asked_for_in_base64() -> None:
    """Nobody can know how its keys are written."""
    serde: Serde[Any] = FunctionSerde("point", dump=lambda _: b"x", load=lambda _: 1)
    with pytest.raises(BadParameter):
        key_of(serde, b"1", encoding=None, parameter="key")
    assert key_of(serde, b"eA", encoding="base64", parameter="key") == b"x"


def test_windowed_keys_say_their_window() -> None:
    """Start and end, of windows and of sessions."""
    minutes = StoreSpec(name="m", kind=StoreKind.WINDOW, key=STRING, value=LONG, retention_ms=10**6, window_size_ms=60)
    row = struct.pack(">qq", 5, 3)
    place = minutes.row_key(b"k" + struct.pack(">qi", 120, 0))
    assert json_entry(minutes, place, row) == (
        b'{"key":{"key":"k","window":{"start":120,"end":180}},"value":3,"timestamp_ms":5}'
    )
    assert python_entry(minutes, place, row) == (Windowed("k", 120, 180), 3, 5)
    sessions = StoreSpec(name="s", kind=StoreKind.SESSION, key=STRING, value=LONG, retention_ms=10**6)
    place = sessions.row_key(b"k" + struct.pack(">qq", 9, 7))
    assert python_entry(sessions, place, row) == (Windowed("k", 7, 9), 3, 5)


def test_a_membership_store_says_perhaps_and_no(client: falcon.testing.TestClient) -> None:
    """Under the key that was asked for; it has no list."""
    assert client.simulate_get("/stores/seen/get/k03").json["value"] is True
    assert client.simulate_get("/stores/seen/get/k03").json["key"] == "k03"
    assert client.simulate_get("/stores/seen/get/nobody").status_code == 404
    assert client.simulate_get("/stores/seen/all").status_code == 400
