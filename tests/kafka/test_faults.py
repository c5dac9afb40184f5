"""What happens when the broker freezes, dies or comes back, each test with a broker of its own."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from streams.errors import LogUnavailable, OutcomeUnknown
from streams.log.kafka import KafkaLog
from tests.kafka.node import CLOCK, WAIT_S, Node, all_values, read_to
from tests.support.broker import Cluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

OpenLog = Callable[..., KafkaLog]
StartCluster = Callable[..., Cluster]


def test_a_frozen_broker_costs_nobody_more_than_the_deadline(
    own_cluster: StartCluster, open_log: OpenLog, prefix: str
) -> None:
    """Frozen before a group is sent: not appended, for ever. Frozen in the middle of a commit: unknown, until a fence
    tells. The lease runs out meanwhile and comes back; nothing is restarted."""
    cluster = own_cluster()
    node = Node(open_log(cluster.bootstrap_servers), [prefix + "t"]).owner()
    reader = node.log.open_reader()
    node.append(b"first")
    read_to(reader_from(reader, node), node.fence())
    assert node.membership.lease_until > CLOCK.monotonic()

    cluster.freeze()
    began = CLOCK.monotonic()
    with pytest.raises(LogUnavailable):
        node.append(b"never", timeout_s=1.0)
    with pytest.raises(LogUnavailable):
        node.fence(timeout_s=1.0)
    assert CLOCK.monotonic() - began < 3.0
    assert reader.poll(0.1) == []
    wait_until(lambda: node.membership.lease_until < CLOCK.monotonic())
    cluster.thaw()
    wait_until(lambda: node.membership.lease_until > CLOCK.monotonic())
    fence_as_current(node)
    node.append(b"second")
    assert all_values(node.log, node.fence()) == [b"first", b"second"]

    enter_commit = node.writer.enter_commit

    def freeze_then_commit(operation: Any) -> None:
        enter_commit(operation)
        cluster.freeze()

    node.writer.enter_commit = freeze_then_commit  # type: ignore[method-assign]
    began = CLOCK.monotonic()
    with pytest.raises(OutcomeUnknown):
        node.append(b"perhaps", timeout_s=1.0)
    assert CLOCK.monotonic() - began < 2.0
    node.writer.enter_commit = enter_commit  # type: ignore[method-assign]
    cluster.thaw()
    barrier = fence_as_current(node)
    at_fence = all_values(node.log, barrier)
    assert at_fence in ([b"first", b"second"], [b"first", b"second", b"perhaps"])
    node.append(b"third")
    assert all_values(node.log, node.fence()) == [*at_fence, b"third"], "what the fence told stays true"
    wait_until(lambda: node.writer.abandoned_threads == 0)


def test_a_broker_that_was_killed_is_found_again(own_cluster: StartCluster, open_log: OpenLog, prefix: str) -> None:
    """Two of three brokers die, one after the other: writes and reads go on, and nothing is lost or doubled."""
    cluster = own_cluster(brokers=3)
    node = Node(open_log(cluster.bootstrap_servers), [prefix + "t"]).owner()
    reader = reader_from(node.log.open_reader(), node)
    expected = []
    for broker in cluster.ids[:2]:
        cluster.kill(broker)
        value = b"without %d" % broker
        until_appended(node, value)
        expected.append(value)
        cluster.restart(broker)
    barrier = fence_as_current(node)
    assert [record.value for record in read_to(reader, barrier)] == expected
    assert all_values(node.log, barrier) == expected


def reader_from(reader: Any, node: Node) -> Any:
    reader.assign(dict.fromkeys(node.fence(), 0))
    return reader


def fence_as_current(node: Node) -> Any:
    """Fence with the newest snapshot until the log takes it: the group may have to find itself again."""
    give_up_at = CLOCK.monotonic() + WAIT_S
    while True:
        try:
            return node.fence(timeout_s=5.0)
        except Exception:
            if CLOCK.monotonic() > give_up_at:
                raise


def until_appended(node: Node, value: bytes) -> None:
    """Append *value* exactly once, however often it takes: what is unknown is looked up behind a fence."""
    give_up_at = CLOCK.monotonic() + WAIT_S
    while True:
        try:
            node.append(value, timeout_s=3.0)
        except OutcomeUnknown:
            if value in all_values(node.log, fence_as_current(node)):
                return
        except Exception:
            if CLOCK.monotonic() > give_up_at:
                raise
            fence_as_current(node)
        else:
            return


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when *condition* holds."""
    pause, give_up_at = threading.Event(), CLOCK.monotonic() + WAIT_S
    while not condition():
        assert CLOCK.monotonic() < give_up_at
        pause.wait(0.02)
