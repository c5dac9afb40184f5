"""The group on a real broker: snapshots, revocations, leaving, and coming back after a kill."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.structs import MemberState

from streams.cluster import LoneMember
from streams.log.kafka import KafkaLog
from tests.kafka.node import CLOCK, Node, within

pytestmark = pytest.mark.kafka

OpenLog = Callable[..., KafkaLog]

_CHILD = """
import sys, threading
from pathlib import Path
from streams.log.kafka import KafkaLog, KafkaSettings
from tests.kafka.node import Node
address, application_id, topic, state_dir, session_timeout_ms = sys.argv[1:]
settings = KafkaSettings(address, application_id, "a", session_timeout_ms=int(session_timeout_ms))
node = Node(KafkaLog(settings, state_dir=Path(state_dir)), [topic]).join()
node.wait_until_owned()
print("owned", flush=True)
threading.Event().wait()
"""


def test_a_new_generation_is_reported_though_nothing_moved(kafka_broker: str, open_log: OpenLog, prefix: str) -> None:
    """A second member joins a group with one partition: the owner keeps it, and gets a snapshot that can commit."""
    first = Node(open_log(kafka_broker), [prefix + "t"], partitions=1).owner()
    before = first.ownership
    second = Node(open_log(kafka_broker, node_id="b"), [prefix + "t"], partitions=1).join()
    second.wait_until_owned(partitions=0)
    after = first.wait_until_owned(after_generation=before.generation)
    assert after.member_id == before.member_id
    assert all(kind == "assigned" for kind, _ in first.reports)
    first.append(b"x", ownership=after)


def test_what_moves_is_revoked_first_and_leaving_gives_all_to_the_rest(
    kafka_broker: str, open_log: OpenLog, prefix: str
) -> None:
    """Two nodes share the partitions; the moved one was revoked; when one leaves, the other owns all at once."""
    first = Node(open_log(kafka_broker, session_timeout_ms=30_000), [prefix + "t"]).owner()
    second = Node(open_log(kafka_broker, node_id="b", session_timeout_ms=30_000), [prefix + "t"]).join()
    half = second.wait_until_owned(partitions=1)
    kept = first.wait_until_owned(partitions=1)
    assert kept.partitions | half.partitions == {0, 1}
    assert ("revoked", half.partitions) in first.reports
    began = CLOCK.monotonic()
    second.membership.leave(within(5))
    second.membership.leave(within(5))
    first.wait_until_owned(partitions=2)
    assert CLOCK.monotonic() - began < 10.0, "without waiting for the session"
    assert second.reports[-1] == ("revoked", half.partitions)
    assert second.membership.lease_until == 0.0


def test_a_member_that_was_removed_loses_everything_and_joins_again(
    kafka_broker: str, open_log: OpenLog, prefix: str
) -> None:
    """The coordinator forgets the member: no lease, `on_lost` and not `on_revoked`, never a snapshot of generation -1,
    and then a new snapshot."""
    node = Node(open_log(kafka_broker), [prefix + "t"]).owner()
    old = node.ownership
    node.log._topics.remove_member(prefix + "app", old.member_id)
    with node._changed:
        assert node._changed.wait_for(lambda: node.ownership.member_id != old.member_id, 20), node.reports
    assert [kind for kind, _ in node.reports] == ["assigned", "lost", "assigned"]
    assert all(report.generation >= 0 and report.member_id for kind, report in node.reports if kind == "assigned")
    assert node.membership.lease_until > CLOCK.monotonic()
    node.fence()
    node.append(b"x")


def test_a_member_that_was_removed_in_the_middle_of_a_join_loses_what_it_had(
    kafka_broker: str, open_log: OpenLog, prefix: str
) -> None:
    """It is put out while its own request to join waits, and joins anew within the same attempt: others may have owned
    its partitions in between, so it must be told that it has lost them, also those that it gets back."""
    node = Node(open_log(kafka_broker), [prefix + "t"]).owner()
    other = Node(open_log(kafka_broker, node_id="b"), [prefix + "t"]).join()
    last = other.wait_until_owned(partitions=1)
    old = node.wait_until_owned(partitions=1, after_generation=last.generation - 1)
    stalled = threading.Event()
    other.membership._poll = lambda _consumer: not stalled.wait(20)  # keeps the group waiting for it
    try:
        node.membership.rebalance()
        while node.membership._consumer.group_metadata().state != MemberState.REBALANCING:
            assert node.ownership == old, "nobody joins but this node"
        for member_id in (old.member_id, other.ownership.member_id):
            node.log._topics.remove_member(prefix + "app", member_id)
        with node._changed:
            assert node._changed.wait_for(lambda: node.ownership.member_id != old.member_id, 20), node.reports
    finally:
        stalled.set()
    assert ("lost", old.partitions) in node.reports, node.reports


def test_a_join_that_takes_longer_than_a_poll_is_not_forgotten(
    kafka_broker: str, open_log: OpenLog, prefix: str
) -> None:
    """Changed metadata makes a member rejoin in the middle of its quiet life: it gets to the end of that join, and
    goes on heartbeating."""
    node = Node(open_log(kafka_broker), [prefix + "t"]).owner()
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker)
    admin.create_partitions({prefix + "t": 3})
    admin.close()
    node.wait_until_owned(partitions=3)
    assert node.membership.lease_until > CLOCK.monotonic()


def test_a_killed_node_owns_again_long_before_its_session_ends(
    kafka_broker: str, open_log: OpenLog, prefix: str, tmp_path: Path
) -> None:
    """kill -9 and a start on the same state directory: the dead member is taken out of the group by name."""
    topic, state_dir = prefix + "t", tmp_path / "node-a"
    arguments = [kafka_broker, prefix + "app", topic, str(state_dir), "30000"]
    root = Path(__file__).parents[2]
    child = subprocess.Popen([sys.executable, "-c", _CHILD, *arguments], stdout=subprocess.PIPE, cwd=root)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"owned\n"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    began = CLOCK.monotonic()
    Node(open_log(kafka_broker, state_dir=state_dir, session_timeout_ms=30_000), [topic]).owner()
    taken_s = CLOCK.monotonic() - began
    print(f"owned and fenced {taken_s:.2f} s after kill -9")
    assert taken_s < 15.0


def test_a_copy_of_a_state_directory_puts_nobody_out(
    kafka_broker: str, open_log: OpenLog, prefix: str, tmp_path: Path
) -> None:
    """Whoever copies the directory of a live node copies its node id, too: the second is refused, the first goes on."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    first = Node(open_log(kafka_broker, state_dir=original), [prefix + "t"]).owner()
    member_id = first.ownership.member_id
    shutil.copytree(original, copy)
    twin = LoneMember(replace(LoneMember.named("a").info, incarnation="2"))
    second = Node(open_log(kafka_broker, state_dir=copy), [prefix + "t"], member=twin).join()
    second.wait_until_owned(partitions=0)
    assert second.view.refusal_of(twin.info) is not None
    assert first.ownership.member_id == member_id
    assert [kind for kind, _ in first.reports if kind == "lost"] == []
