"""purchases with two instances, as processes, on a real Kafka: every purchase leaves once, with its name, whichever of
them it came to, and whatever befalls one of them."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from examples.purchases.topology import PURCHASES
from streams.clock import Deadline, SystemClock
from streams.log.kafka import KafkaLog
from tests.support.service import Service

pytestmark = pytest.mark.kafka

DATA = Path(__file__).parents[2] / "examples" / "purchases" / "data"
PATIENCE_S = 30.0
CLOCK = SystemClock()


@pytest.fixture
def instances(kafka_broker: str, prefix: str, tmp_path: Path) -> Iterator[list[Service]]:
    with ExitStack() as stack:
        found = []
        for name in ("a", "b"):
            environment = {
                "STREAMS_BOOTSTRAP_SERVERS": kafka_broker,
                "STREAMS_APPLICATION_ID": prefix + "purchases",
                "STREAMS_SESSION_TIMEOUT_MS": "3000",
                "STREAMS_DATA_DIR": str(tmp_path / name / "state"),
                "PURCHASES_WAIT_MS": "500",
            }
            service = Service(tmp_path / name, environment=environment, module="examples.purchases", arguments=())
            found.append(stack.enter_context(service))
        yield found


def data(topic: str) -> bytes:
    return (DATA / f"{topic}.txt").read_bytes()


def send(instance: Service, topic: str, body: bytes) -> None:
    found = instance.request("POST", f"/topics/{topic}", body)
    assert found.status == 200, found.body


def read(instance: Service, topic: str) -> Counter[bytes]:
    found = instance.request("GET", f"/topics/{topic}")
    assert found.status == 200, found.body
    return Counter(found.body.splitlines())


def becomes(instance: Service, topic: str, wanted: Counter[bytes]) -> None:
    """Return when *topic* has these values, and no others."""
    give_up_at = time.monotonic() + PATIENCE_S
    while (found := read(instance, topic)) != wanted:
        assert time.monotonic() < give_up_at, (topic, wanted - found, found - wanted, instance.tail())
        time.sleep(0.3)  # each look reads the whole topic


def test_two_instances_let_every_purchase_out_once(
    instances: list[Service],
    open_log: Callable[..., KafkaLog],
    kafka_broker: str,
    prefix: str,
) -> None:
    """The tutorial's data and poison to one, more to the other while the first is killed; both tell the same."""
    a, b = instances
    for instance in instances:
        instance.start(is_waited_for=False)
    for instance in instances:
        instance.wait_until_ready()
    send(a, "referentiel", data("referentiel"))
    send(b, "achats", b"no purchase\n" + data("achats") + b'{"price": 1.00}')
    wanted = Counter(data("achats-enrichis").splitlines())
    for instance in instances:
        becomes(instance, "achats-enrichis", wanted)
        becomes(instance, f"{prefix}purchases-quarantine", Counter([b"no purchase", b'{"price": 1.00}']))
        for number in (1, 2, 3):
            found = instance.request("GET", f"/stores/referentiel/get/{number}")
            assert json.loads(found.body)["value"] == {"id": number, "name": f"produit{number}"}
        assert instance.request("GET", "/stores/referentiel/get/30").status == 404

    topics = open_log(kafka_broker).describe_topics([PURCHASES.table], Deadline.after(5, CLOCK))
    assert topics[PURCHASES.table].config["cleanup.policy"] == "compact"
    assert topics[PURCHASES.table].partitions == 8

    more = [(number % 4 + 1, f"{number}.{number % 100:02}") for number in range(300)]
    for begin in range(0, len(more), 100):
        body = b"\n".join(b'{"id": %d, "price": %s}' % (number, price.encode()) for number, price in more[begin:][:100])
        send(b, "achats", body)
        if begin == 100:
            a.kill()
    names = {1: b"produit1", 2: b"produit2", 3: b"produit3", 4: b"REF INCONNUE"}
    wanted += Counter(b'{"id":%d,"name":"%s","price":%s}' % (n, names[n], price.encode()) for n, price in more)
    becomes(b, "achats-enrichis", wanted)
    a.start()
    becomes(a, "achats-enrichis", wanted)
    assert [instance.stop() for instance in instances] == [0, 0]
