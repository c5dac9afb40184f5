"""Lines in and lines out: what becomes of a body, and what is refused."""

from collections.abc import Sequence
from typing import Any

import falcon.asgi
import pytest
from falcon import testing

from examples.answering import MAX_BODY_BYTES
from examples.purchases.routes import Pair, TopicRoutes
from examples.purchases.topology import PURCHASES
from streams.errors import LogUnavailable, OutcomeUnknown, Overloaded

QUARANTINE = "quarantine"


class FakeTopics:
    """Remembers what was sent, and has two lines to read."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Pair]] = []
        self.error: Exception | None = None

    async def send(self, topic: str, pairs: Sequence[Pair]) -> None:
        if self.error is not None:
            raise self.error
        self.sent += [(topic, pair) for pair in pairs]

    async def read(self, topic: str) -> Sequence[bytes]:
        return [topic.encode(), b"\xff"]


@pytest.fixture
def topics() -> FakeTopics:
    return FakeTopics()


@pytest.fixture
def client(topics: FakeTopics) -> testing.TestClient:
    app: falcon.asgi.App[Any, Any] = falcon.asgi.App()
    TopicRoutes(PURCHASES, quarantine=QUARANTINE, send=topics.send, read=topics.read).mount(app)
    return testing.TestClient(app)


@pytest.mark.parametrize(
    ("topic", "body", "sent"),
    [
        ("achats", b'{"id": 1, "price": 3.45}\n\xff\n', [Pair(None, b'{"id": 1, "price": 3.45}'), Pair(None, b"\xff")]),
        ("achats", b"a,b", [Pair(None, b"a,b")]),
        ("achats", b"\n\n", [Pair(None, b""), Pair(None, b"")]),
        ("achats", b"", []),
        (
            "referentiel",
            b'1,{"id":1, "name":"a"}\n2,\n,x',
            [Pair(b"1", b'{"id":1, "name":"a"}'), Pair(b"2", None), Pair(b"", b"x")],
        ),
    ],
)
def test_each_line_is_a_record(
    client: testing.TestClient, topics: FakeTopics, topic: str, body: bytes, sent: list[Pair]
) -> None:
    """As a console producer reads it; a key without value deletes."""
    found = client.simulate_post(f"/topics/{topic}", body=body)
    assert (found.status_code, found.json) == (200, {"records": len(sent)})
    assert topics.sent == [(topic, pair) for pair in sent]


def test_an_output_topic_is_read_as_it_is(client: testing.TestClient) -> None:
    """Bytes and all; and so is the one of what was set aside."""
    assert client.simulate_get("/topics/achats-enrichis").content == b"achats-enrichis\n\xff\n"
    assert client.simulate_get(f"/topics/{QUARANTINE}").content == b"quarantine\n\xff\n"


@pytest.mark.parametrize(
    ("method", "topic", "body", "status"),
    [
        ("POST", "referentiel", b"1,a\n2", 400),
        ("POST", "achats-enrichis", b"x", 404),
        ("GET", "achats", b"", 404),
        ("GET", "demandes", b"", 404),
        ("PUT", "achats", b"x", 405),
        ("POST", "achats", b"x" * (MAX_BODY_BYTES + 1), 413),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_sent(
    client: testing.TestClient, topics: FakeTopics, method: str, topic: str, body: bytes, status: int
) -> None:
    """With a problem that says so."""
    found = client.simulate_request(method, f"/topics/{topic}", body=body)
    assert found.status_code == found.json["status"] == status
    assert topics.sent == []


def test_a_log_that_does_not_answer_is_503(client: testing.TestClient, topics: FakeTopics) -> None:
    """And the client may come again."""
    topics.error = Overloaded("too much")
    found = client.simulate_post("/topics/achats", body=b"x")
    assert (found.status_code, "retry-after" in found.headers) == (503, True)
    topics.error = LogUnavailable("nobody is there")
    assert client.simulate_post("/topics/achats", body=b"x").status_code == 503
    topics.error = OutcomeUnknown("the answer was lost")
    assert client.simulate_post("/topics/achats", body=b"x").status_code == 504
