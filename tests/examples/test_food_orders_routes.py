"""The food server's routes on the embedded log: the tutorial's envelopes, any key, and honest errors."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.food_orders.service import TOPICS, mount
from examples.food_orders.topology import food_orders
from tests.examples.running import Running, running

DATA = Path(__file__).parents[2] / "examples" / "food_orders" / "data"
STRANGE = {"all": 1, "a/b": 1, "a+b": 1, "100%": 1, "Zoë": 1, "?&#": 1, "%2F": 2}


@pytest.fixture(scope="module")
def food(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server with the tutorial's data, and some orders of customers with strange numbers."""
    with running(food_orders(), tmp_path_factory.mktemp("food"), TOPICS, mount) as server:
        for topic, file in (("customer", "customers.txt"), ("order", "orders.txt")):
            assert server.ask("POST", f"/topics/{topic}", (DATA / file).read_bytes()).status == 200
        lines = [f"{key}--soup" for key, count in STRANGE.items() for _ in range(count)]
        assert server.ask("POST", "/topics/order", "\n".join(lines).encode()).body == b'{"result":8}'
        server.becomes("/stores/order-count/get/%252F", {"response": 2})
        server.becomes("/stores/order-count/approximate-num-entries", {"result": 3 + len(STRANGE)})
        yield server


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("", 1),
        ("all", 1),
        ("a%2Fb", 1),
        ("a+b", 1),
        ("100%25", 1),
        ("Zo%C3%AB", 1),
        ("%3F%26%23", 1),
        ("%252F", 2),
    ],
)
def test_any_key_can_be_asked_for(food: Running, path: str, value: int) -> None:
    """Also the empty one, and those that are something else in a URL."""
    assert food.get(f"/stores/order-count/get/{path}") == (200, {"response": value})
    assert food.get(f"/metadata/stores/order-count/key/{path}")[0] == 200


def test_a_range_has_both_bounds_and_either_may_be_missing(food: Running) -> None:
    """The empty key is a bound like any other."""

    def keys(query: str) -> list[str]:
        status, document = food.get(f"/stores/order-count/range{query}")
        assert status == 200
        return [entry["key"] for entry in document["result"]]

    everything = sorted(["", "1", "2", *STRANGE], key=str.encode)
    assert keys("") == everything
    assert keys("?from=1&to=2") == ["1", "100%", "2"]
    assert keys("?from=a%2Bb") == ["a+b", "a/b", "all"]
    assert keys("?to=") == [""]
    assert keys("?from=&to=1") == ["", "%2F", "1"]
    assert keys("?from=2&to=1") == []


def test_all_is_of_all_partitions_in_order(food: Running) -> None:
    """Where the tutorial gave what one instance had."""
    names = ["john", "adam", "daniel", "james", "jack", "mathew", "will"]
    wanted = [{"key": str(number), "value": name} for number, name in enumerate(names, 1)]
    assert food.get("/stores/customer-v1-changelog/all") == (200, {"result": wanted})


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/stores/order-count/get/7", 404),
        ("GET", "/stores/order-count/get/%ff", 400),
        ("GET", "/stores/order-count/get", 404),
        ("GET", "/stores/nothing/get/1", 404),
        ("GET", "/stores/nothing/all", 404),
        ("GET", "/metadata/stores/nothing", 404),
        ("GET", "/metadata/stores/nothing/key/1", 404),
        ("GET", "/stores/order-count/range?from=1&from=2", 400),
        ("GET", "/stores/order-count/range?to=%ff", 400),
        ("GET", "/stores/order-count/all?scope=world", 400),
        ("GET", "/nowhere", 404),
        ("DELETE", "/stores/order-count/get/1", 405),
        ("GET", "/topics/order", 405),
        ("POST", "/topics/menu", 404),
    ],
)
def test_errors_are_problems_with_the_right_status(food: Running, method: str, target: str, status: int) -> None:
    """Where the tutorial answered 500, or 200 with nothing in it."""
    reply = food.ask(method, target)
    document = json.loads(reply.body)
    assert (reply.status, document["status"]) == (status, status)
    headers = dict(reply.headers)
    assert headers[b"content-type"] == b"application/problem+json"
    assert (b"allow" in headers) == (status == 405)


def test_lines_that_are_no_pairs_are_refused_whole(food: Running) -> None:
    """Nothing of a body is sent when one of its lines makes no sense."""
    before = food.get("/stores/order-count/all")
    for body, status in ((b"9--soup\n8-soup", 400), (b"9--\xff", 400), (b"9--x\n" * 300_000, 413)):
        assert food.ask("POST", "/topics/order", body).status == status
    assert food.ask("POST", "/topics/order", b"").body == b'{"result":0}'
    food.ask("POST", "/topics/order", b"last--soup")
    food.becomes("/stores/order-count/get/last", {"response": 1})
    assert food.get("/stores/order-count/get/9")[0] == food.get("/stores/order-count/get/8")[0] == 404
    assert [entry for entry in food.get("/stores/order-count/all")[1]["result"] if entry["key"] != "last"] == before[1][
        "result"
    ]
