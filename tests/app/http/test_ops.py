"""What operators and orchestrators read."""

import pytest

from tests.app.http.fakes import Edge, FakeHealth, FakeQuarantined, FakeTask


def test_a_live_node_is_left_alone_whatever_it_does(edge: Edge) -> None:
    """A restoring or draining node is live; only a failed one asks for a restart."""
    edge.node.state = FakeHealth(is_ready=False, is_draining=True)
    assert (edge.request("GET", "/livez").status, edge.request("GET", "/livez").json) == (200, {"status": "live"})
    edge.node.state = FakeHealth(is_live=False)
    answer = edge.request("GET", "/livez")
    assert (answer.status, answer.json["status"], answer["Cache-Control"]) == (503, "failed", "no-store")


def test_a_node_is_not_ready_before_it_has_caught_up(edge: Edge) -> None:
    """503 with Retry-After and how far each partition is."""
    edge.node.state = FakeHealth(
        is_ready=False,
        tasks=[FakeTask(), FakeTask(1, "restoring", position=250, end=1000, lag_records=750, percent=25.04)],
    )
    answer = edge.request("GET", "/readyz")
    assert (answer.status, answer["Retry-After"], answer.json["status"]) == (503, "1", "restoring")
    assert answer.json["tasks"][1] == {
        "partition": 1, "state": "restoring", "position": 250, "end": 1000, "lag": 750, "percent": 25.0
    }  # fmt: skip


def test_a_stopping_node_is_not_ready(edge: Edge) -> None:
    """503 at drain, though every task is active."""
    edge.node.state = FakeHealth(is_draining=True)
    answer = edge.request("GET", "/readyz")
    assert (answer.status, answer.json["status"]) == (503, "draining")


def test_a_ready_node_shows_its_tasks_when_asked(edge: Edge) -> None:
    """`verbose` may have a value or none."""
    assert edge.request("GET", "/readyz").json == {"status": "ready"}
    for target in ("/readyz?verbose", "/readyz?verbose=1"):
        assert edge.request("GET", target).json["tasks"][0]["state"] == "active"


def test_metrics_are_text(edge: Edge) -> None:
    """Prometheus' own media type, never cached."""
    answer = edge.request("GET", "/metrics")
    assert (answer.status, answer.body) == (200, b"profiles_up 1\n")
    assert answer["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_requests_are_counted_by_route_and_never_by_path(edge: Edge) -> None:
    """No label of a client's making: templates, known methods, and one word for all else."""
    uid = edge.service.add()
    edge.request("GET", f"/api/profile/{uid}", {"If-None-Match": '"1"'})
    edge.request("DELETE", f"/api/profile/{uid}")
    edge.request("GET", "/bob@mail.com")
    edge.request("BREW", "/api/profile")
    edge.request("OPTIONS", "/api/profile")
    edge.request("GET", "/livez", {"Host": "a b"})
    assert edge.metrics.requests == [
        ("GET", "/api/profile/{uid}", 304),
        ("DELETE", "/api/profile/{uid}", 204),
        ("GET", "none", 404),
        ("other", "/api/profile", 405),
        ("OPTIONS", "/api/profile", 200),
        ("other", "none", 400),
    ]


def test_the_quarantine_holds_no_values(edge: Edge) -> None:
    """Place, reason and time of each record, up to the limit."""
    edge.node.quarantined = [FakeQuarantined(offset=offset) for offset in range(5)]
    answer = edge.request("GET", "/quarantine?limit=2")
    assert answer.json["items"] == [
        {"topic": "profiles", "partition": 1, "offset": offset, "reason": "not-json", "at_ms": 1000}
        for offset in range(2)
    ]
    assert edge.request("GET", "/quarantine?limit=0").slug == "invalid-parameter"


@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [
        (("127.0.0.1", 1), {}, 200),
        (("127.8.8.8", 1), {}, 200),
        (("::1", 1), {}, 200),
        (("::ffff:127.0.0.1", 1), {}, 200),
        (("10.0.0.1", 1), {}, 403),
        (("", 0), {}, 403),
        (None, {}, 403),
        (("127.0.0.1", 1), {"X-Forwarded-For": "10.0.0.1"}, 403),
        (("127.0.0.1", 1), {"Forwarded": "for=10.0.0.1"}, 403),
        (("127.0.0.1", 1), {"Via": "1.1 proxy"}, 403),
    ],
)
def test_only_this_machine_sees_the_quarantine(
    edge: Edge, client: object, headers: dict[str, str], status: int
) -> None:
    """Loopback, and no proxy in between."""
    assert edge.request("GET", "/quarantine", headers, client=client).status == status
