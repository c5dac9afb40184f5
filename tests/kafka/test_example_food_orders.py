"""food_orders with two instances, as processes on a real Kafka: either answers for all keys, and says who has which."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from examples.food_orders.service import TOPICS
from examples.food_orders.topology import CUSTOMER_TOPIC
from streams.clock import Deadline, SystemClock
from streams.log.kafka import KafkaLog
from streams.partitioner import partition_for
from tests.support.service import Service

pytestmark = pytest.mark.kafka

DATA = Path(__file__).parents[2] / "examples" / "food_orders" / "data"
NAMES = ["john", "adam", "daniel", "james", "jack", "mathew", "will"]
CUSTOMERS = [{"key": str(number), "value": name} for number, name in enumerate(NAMES, 1)]
KEYS = ["", "1", "2", "3", "4", "a/b", "all", "a+b", "100%", "Zoë"]
PATIENCE_S = 30.0


@pytest.fixture
def instances(kafka_broker: str, prefix: str, tmp_path: Path) -> Iterator[list[Service]]:
    with ExitStack() as stack:
        found = []
        for name in ("a", "b"):
            environment = {
                "STREAMS_BOOTSTRAP_SERVERS": kafka_broker,
                "STREAMS_APPLICATION_ID": prefix + "food",
                "STREAMS_SESSION_TIMEOUT_MS": "3000",
                "STREAMS_DATA_DIR": str(tmp_path / name / "state"),
            }
            service = Service(tmp_path / name, environment=environment, module="examples.food_orders", arguments=())
            found.append(stack.enter_context(service))
        yield found


def get(instance: Service, target: str) -> Any:
    reply = instance.request("GET", target)
    assert reply.status == 200, (target, reply, instance.tail())
    return json.loads(reply.body)


def becomes(instance: Service, target: str, wanted: Callable[[Any], bool]) -> Any:
    """Return the answer once it is as *wanted*."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        reply = instance.request("GET", target)
        if reply.status == 200 and wanted(json.loads(reply.body)):
            return json.loads(reply.body)
        assert time.monotonic() < give_up_at, (target, reply, instance.tail())
        time.sleep(0.05)


def send(instance: Service, topic: str, body: bytes) -> None:
    reply = instance.request("POST", f"/topics/{topic}", body)
    assert reply.status == 200, reply.body


def port_of(instance: Service, store: str, key: str) -> int | None:
    """Return the port of who has *key*; None while its partition moves (503)."""
    reply = instance.request("GET", f"/metadata/stores/{store}/key/{quote(key, safe='')}")
    assert reply.status in (200, 503), (reply, instance.tail())
    return json.loads(reply.body)["result"]["port"] if reply.status == 200 else None


def agree(a: Service, b: Service) -> None:
    """Return when both say the same of who has which key, and each has some."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        found = {(port_of(a, "order-count", key), port_of(b, "order-count", key)) for key in KEYS}
        if found == {(a.port, a.port), (b.port, b.port)}:
            return
        assert time.monotonic() < give_up_at, (found, a.port, b.port)
        time.sleep(0.05)


def test_two_instances_answer_for_all_keys(
    instances: list[Service], open_log: Callable[..., KafkaLog], kafka_broker: str
) -> None:
    """The tutorial's data to one, orders under strange keys to the other; then one of them is killed."""
    a, b = instances
    for instance in instances:
        instance.start(is_waited_for=False)
    for instance in instances:
        instance.wait_until_ready()
    found = becomes(a, "/metadata", lambda document: len(document["result"]) == 2)["result"]
    assert {one["port"] for one in found} == {a.port, b.port}
    assert all(one["state-store-names"] == ["customer-v1-changelog", "order-count"] for one in found)

    send(a, "customer", (DATA / "customers.txt").read_bytes())
    send(b, "order", (DATA / "orders.txt").read_bytes())
    send(b, "order", "\n".join(f"{key}--soup" for key in KEYS).encode())
    counts = {key: 2 if key in ("", "1", "2") else 1 for key in KEYS}
    wanted = [{"key": key, "value": counts[key]} for key in sorted(KEYS, key=str.encode)]
    agree(a, b)
    for instance in instances:
        becomes(instance, "/stores/order-count/all", lambda document: document == {"result": wanted})
        for key in KEYS:
            assert get(instance, f"/stores/order-count/get/{quote(key, safe='')}") == {"response": counts[key]}
        assert get(instance, "/stores/customer-v1-changelog/all") == {"result": CUSTOMERS}
        assert get(instance, "/stores/customer-v1-changelog/range?from=2&to=4") == {"result": CUSTOMERS[1:4]}
        assert get(instance, "/stores/customer-v1-changelog/approximate-num-entries") == {"result": len(CUSTOMERS)}
        assert instance.request("GET", "/stores/order-count/get/7").status == 404

    # What each has itself are whole partitions, and together they are everything.
    parts = [get(instance, "/stores/customer-v1-changelog/all?scope=local")["result"] for instance in instances]
    assert sorted((*parts[0], *parts[1]), key=lambda entry: entry["key"]) == CUSTOMERS
    partitions = [{partition_for(entry["key"].encode(), 3) for entry in part} for part in parts]
    assert not partitions[0] & partitions[1]
    assert partitions[0] | partitions[1] == {0, 1, 2}

    topic = open_log(kafka_broker).describe_topics([CUSTOMER_TOPIC], Deadline.after(5, SystemClock()))[CUSTOMER_TOPIC]
    assert (topic.config["cleanup.policy"], topic.partitions) == ("compact", TOPICS[CUSTOMER_TOPIC])

    a.kill()
    becomes(b, "/stores/order-count/all", lambda document: document == {"result": wanted})
    becomes(b, "/metadata", lambda document: [one["port"] for one in document["result"]] == [b.port])
    assert b.stop() == 0
