"""One partition that takes nothing, on real brokers: its writes fail, and those of the others go on."""

from collections.abc import Callable, Sequence

import pytest
from kafka import KafkaAdminClient

from streams.errors import Fenced, LogUnavailable, OutcomeUnknown, PartitionsUnavailable
from streams.log.base import Look
from streams.log.kafka import KafkaLog
from streams.records import ProducerRecord, TopicPartition
from tests.kafka.node import CLOCK, WAIT_S, Node, all_values, within
from tests.support.broker import Cluster

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]

OpenLog = Callable[..., KafkaLog]
StartCluster = Callable[..., Cluster]

LOST = 3  # the broker that is killed
TIMEOUT_S = 10.0


def make_topic(cluster: Cluster, name: str, replicas: Sequence[Sequence[int]], in_sync: int) -> None:
    """Make a topic whose partitions have these replicas."""
    with KafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
        admin.create_topics(
            {
                name: {
                    "assignments": dict(enumerate(replicas)),
                    "configs": {"cleanup.policy": "compact", "min.insync.replicas": str(in_sync)},
                }
            }
        )


def append_to(node: Node, *partitions: int, value: bytes) -> None:
    group = [ProducerRecord(node.topics[0], partition, b"k", value) for partition in partitions]
    node.writer.append(
        group, ownership=node.ownership, positions=dict.fromkeys(partitions, 1), deadline=within(TIMEOUT_S)
    ).result(TIMEOUT_S + 2)


def look_at(node: Node, partition: int) -> Look:
    return node.writer.look(frozenset({partition}), within(TIMEOUT_S)).result(TIMEOUT_S + 2)


def until(condition: Callable[[], bool]) -> None:
    """Return when *condition* holds. What passes counts as not yet: coordinators move, and the group with them."""
    give_up_at = CLOCK.monotonic() + 3 * WAIT_S
    while True:
        try:
            if condition():
                return
        except (LogUnavailable, Fenced, OutcomeUnknown) as error:
            print(f"{type(error).__name__}: {error}")
        assert CLOCK.monotonic() < give_up_at


@pytest.mark.parametrize(
    ("replicas", "in_sync"), [([[LOST], [1], [2]], 1), ([[LOST, 2], [1, 2], [2, 1]], 2)], ids=["leader", "in-sync"]
)
def test_a_partition_that_takes_nothing_costs_only_its_own_writes(
    own_cluster: StartCluster, open_log: OpenLog, prefix: str, replicas: list[list[int]], in_sync: int
) -> None:
    """Its only replica is gone, or one too many, in the middle of groups that write to it: the group fails and names
    it, a fence leaves it out or not, the other partitions take appends although the last transaction cannot be ended
    in that one; and it takes them again when the broker is back."""
    cluster = own_cluster(brokers=3)
    make_topic(cluster, prefix + "t", replicas, in_sync)
    node = Node(open_log(cluster.bootstrap_servers, session_timeout_ms=15_000), [prefix + "t"], partitions=3).join()
    node.wait_until_owned()

    def everywhere(value: bytes) -> bool:
        node.fence(timeout_s=TIMEOUT_S)
        append_to(node, 0, 1, value=value)
        return True

    until(lambda: everywhere(b"before"))
    cluster.kill(LOST)

    # A coordinator may have been there, too: then nothing is known of whose fault it is before there is another.
    with pytest.raises((LogUnavailable, OutcomeUnknown)):
        append_to(node, 0, 1, 2, value=b"never")

    def is_blamed() -> bool:
        try:
            node.fence(timeout_s=TIMEOUT_S)
            append_to(node, 0, 1, 2, value=b"never")
        except PartitionsUnavailable as error:
            return 0 in error.partitions
        return False

    def beside(value: bytes) -> bool:
        barrier = node.fence(timeout_s=TIMEOUT_S)
        assert {TopicPartition(prefix + "t", 1), TopicPartition(prefix + "t", 2)} <= barrier.keys()
        append_to(node, 1, 2, value=value)
        return True

    until(lambda: beside(b"beside"))
    for number in range(5):
        append_to(node, 1, 2, value=b"%d" % number)
    until(is_blamed)
    until(lambda: 0 not in look_at(node, 0).writable)
    until(lambda: beside(b"still"))

    cluster.restart(LOST)
    until(lambda: 0 in look_at(node, 0).writable)
    until(lambda: everywhere(b"all"))
    barrier = node.fence()
    assert len(barrier) == 3
    values = all_values(node.log, {TopicPartition(prefix + "t", 0): barrier[TopicPartition(prefix + "t", 0)]})
    assert list(dict.fromkeys(values)) == [b"before", b"all"]
    others = [value for value in all_values(node.log, barrier) if value not in (b"before", b"all")]
    assert b"never" not in others
    assert others.count(b"4") == 2
    assert others.count(b"still") >= 2
