"""What is the same in all examples that take records: what a client hears when they could not be written."""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import falcon.asgi
import pytest
from falcon import testing

from examples.answering import MAX_BODY_BYTES, array, mount_errors
from examples.food_orders.routes import FoodRoutes
from examples.purchases.routes import TopicRoutes
from examples.purchases.topology import PURCHASES
from examples.weblog.routes import WeblogRoutes
from examples.word_count.routes import ProducerRoutes, StateRoutes
from streams.errors import Draining, LogUnavailable, OutcomeUnknown, RecordTooLarge
from tests.streams.http.applications import knock

Mount = Callable[[falcon.asgi.App, Any], object]


def food_orders(app: falcon.asgi.App, send: Any) -> None:
    FoodRoutes(None, send=send).mount(app)  # type: ignore[arg-type]  # nothing is asked


def purchases(app: falcon.asgi.App, send: Any) -> None:
    async def read(_topic: str) -> Sequence[bytes]:
        raise AssertionError("nothing is read")

    TopicRoutes(PURCHASES, quarantine="q", send=send, read=read).mount(app)


def word_count(app: falcon.asgi.App, send: Any) -> None:
    ProducerRoutes(send, random=Random(1), now_ms=lambda: 0).mount(app)
    mount_errors(app)


@pytest.mark.parametrize(
    ("mount", "path"),
    [
        (food_orders, "/topics/order"),
        (purchases, "/topics/achats"),
        (word_count, "/lines"),
        (word_count, "/chuck-says"),
    ],
)
@pytest.mark.parametrize(
    ("error", "status", "may_come_again"),
    [
        (LogUnavailable("nobody is there"), 503, True),
        (Draining("it stops"), 503, True),
        (OutcomeUnknown("the answer was lost"), 504, False),
        (RecordTooLarge("a megabyte"), 413, False),
    ],
)
def test_a_log_that_takes_nothing_is_no_fault_of_the_program(
    mount: Mount, path: str, error: Exception, status: int, may_come_again: bool
) -> None:
    """It is never 500: nothing was written, or perhaps something was, or it cannot be, and the status says which."""

    async def send(*_: Any) -> None:
        raise error

    app = falcon.asgi.App()
    mount(app, send)
    found = testing.TestClient(app).simulate_post(path, body=b"1--soup")
    assert (found.status_code, found.json["status"]) == (status, status)
    assert ("retry-after" in found.headers) == may_come_again


@pytest.mark.parametrize(("mount", "path"), [(food_orders, "/topics/order"), (word_count, "/lines")])
@pytest.mark.parametrize(("body", "status"), [(b"1--" + b"x" * MAX_BODY_BYTES, 413), (b"1--\xff", 400)])
def test_a_body_that_cannot_be_meant_is_not_sent(mount: Mount, path: str, body: bytes, status: int) -> None:
    """Nor a part of it."""

    async def send(*_: Any) -> None:
        raise AssertionError("it was sent")

    app = falcon.asgi.App()
    mount(app, send)
    assert testing.TestClient(app).simulate_post(path, body=body).status_code == status


@pytest.mark.filterwarnings("error:Please define the sink")
@pytest.mark.parametrize("path", ["/stores/order-count/all", "/state/instances", "/weblog/access/ALL"])
def test_a_websocket_is_refused_without_a_word(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody asks the stores for it, and it leaves no trace in the log."""
    nobody: Any = None
    app = falcon.asgi.App()
    food_orders(app, nobody)
    StateRoutes(nobody, address="http://here:1").mount(app)
    WeblogRoutes(nobody, now_ms=lambda: 0).mount(app)
    assert asyncio.run(knock(app, path)) == ["websocket.close"]
    assert not caplog.records


def test_an_array_comes_in_pieces() -> None:
    """Also an empty one."""

    async def joined(*entries: Any) -> bytes:
        async def each() -> Any:
            for entry in entries:
                yield entry

        return b"".join([piece async for piece in await array(each(), before=b"<", after=b">")])

    assert asyncio.run(joined()) == b"<>"
    assert asyncio.run(joined(1)) == b"<1>"
    assert asyncio.run(joined({"a": 1}, [2], "x")) == b'<{"a":1},[2],"x">'
