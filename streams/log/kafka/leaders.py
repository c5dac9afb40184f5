"""How far partitions go, asked so that a broker that was deposed cannot pass for their leader.

A broker that is cut off from the others goes on believing that it leads, and answers with an end that may be old. So
its word is not taken for it. An acknowledged write is known to `min.insync.replicas` of its partition's replicas, each
of which had heard of the leader's epoch by then. When so many replicas tell their epoch that at least one of those must
be among them, the highest that is told is that of the last acknowledged write, or a later one; and the end is asked of
the leader of exactly that epoch, which a broker of another epoch refuses (KIP-320). With `min.insync.replicas` 1 of
several replicas that would take all of them, and the majority has to do.

Everything here runs on the network thread of an admin client and never waits longer than it is told; what cannot be
learned is left out.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from kafka.errors import KafkaError
from kafka.future import Future
from kafka.protocol.consumer import IsolationLevel, ListOffsetsRequest
from kafka.protocol.metadata import MetadataRequest

from streams.records import TopicPartition

_LATEST = -1
_LEADER_EPOCHS = 4  # the first version of ListOffsets in which the leader's epoch is checked


class Leader(NamedTuple):
    """Who leads a partition, as most of its replicas know. `broker` -1: nobody. `in_sync`: how many replicas are."""

    broker: int
    epoch: int
    replicas: frozenset[int]
    in_sync: int


async def leaders_of(
    admin: Any, topics: Collection[str], min_in_sync: Mapping[str, int], timeout_s: float
) -> dict[TopicPartition, Leader]:
    """Return the leaders of the partitions of *topics* of which enough replicas have told."""
    told: dict[int, dict[TopicPartition, Leader]] = {}
    newest: dict[TopicPartition, Leader] = {}
    cluster = admin._manager.cluster
    brokers = {broker.node_id for broker in cluster.brokers()}

    def take(broker: int, response: Any) -> None:
        told[broker] = _leaders_in(response)
        for place, leader in told[broker].items():
            if place not in newest or leader.epoch > newest[place].epoch:
                newest[place] = leader

    def is_enough(place: TopicPartition) -> bool:
        replicas, least = newest[place].replicas, min_in_sync.get(place.topic, 1)
        needed = max(1, min(len(replicas) - least + 1, len(replicas) // 2 + 1))
        return sum(broker in told for broker in replicas) >= needed

    await _gather(
        admin,
        {broker: _metadata_request(topics) for broker in brokers},  # each keeps the version that its broker speaks
        take,
        lambda: bool(newest) and all(map(is_enough, newest)),
        timeout_s,
    )
    if any(not leader.replicas <= brokers for leader in newest.values()):
        cluster.request_update()  # one may have come back
    return {place: leader for place, leader in newest.items() if is_enough(place)}


async def ends_of(
    admin: Any, leaders: Mapping[TopicPartition, Leader], *, is_committed: bool, timeout_s: float
) -> dict[TopicPartition, int]:
    """Return the ends of the partitions whose leaders answer: with *is_committed* the offset after the last committed
    record (the last stable offset), else after the last one at all (the high watermark)."""
    by_broker: dict[int, dict[str, list[Any]]] = {}
    for place, leader in leaders.items():
        if leader.broker >= 0:
            asked = ListOffsetsRequest.ListOffsetsTopic.ListOffsetsPartition(
                partition_index=place.partition, current_leader_epoch=leader.epoch, timestamp=_LATEST
            )
            by_broker.setdefault(leader.broker, {}).setdefault(place.topic, []).append(asked)
    isolation = IsolationLevel.READ_COMMITTED if is_committed else IsolationLevel.READ_UNCOMMITTED
    requests = {
        broker: ListOffsetsRequest(
            isolation_level=isolation.value,
            topics=[ListOffsetsRequest.ListOffsetsTopic(name=name, partitions=parts) for name, parts in topics.items()],
            min_version=_LEADER_EPOCHS,
        )
        for broker, topics in by_broker.items()
    }
    ends: dict[TopicPartition, int] = {}

    def take(_broker: int, response: Any) -> None:
        for topic in response.topics:
            for one in topic.partitions:
                if one.error_code == 0 and one.offset >= 0:
                    ends[TopicPartition(topic.name, one.partition_index)] = int(one.offset)

    await _gather(admin, requests, take, lambda: False, timeout_s)
    return ends


def _metadata_request(topics: Collection[str]) -> Any:
    return MetadataRequest(
        topics=[MetadataRequest.MetadataRequestTopic(name=name) for name in topics],
        allow_auto_topic_creation=False,
        include_cluster_authorized_operations=False,
        include_topic_authorized_operations=False,
    )


def _leaders_in(response: Any) -> dict[TopicPartition, Leader]:
    found = {}
    for topic in response.topics:
        if topic.error_code != 0:
            continue
        for one in topic.partitions:
            found[TopicPartition(topic.name, one.partition_index)] = Leader(
                one.leader_id, one.leader_epoch, frozenset(one.replica_nodes), len(one.isr_nodes)
            )
    return found


async def _gather(
    admin: Any,
    requests: Mapping[int, Any],
    take: Callable[[int, Any], None],
    is_enough: Callable[[], bool],
    timeout_s: float,
) -> None:
    """Send *requests*, one to each broker, and *take* the responses until there are enough, or all, or *timeout_s* has
    passed. A broker that cannot be reached is as one that says nothing."""
    done, left = Future(), set(requests)

    def answered(broker: int, response: Any) -> None:
        if not done.is_done:
            take(broker, response)
            finished(broker)

    def finished(broker: int, _error: Any = None) -> None:
        left.discard(broker)
        if not done.is_done and (not left or is_enough()):
            done.success(None)

    for broker, request in requests.items():
        try:
            future = admin._manager.send(request, node_id=broker)
        except KafkaError:
            finished(broker)
            continue
        future.add_callback(answered, broker)
        future.add_errback(finished, broker)
    if requests:
        try:
            await admin._manager.wait_for(done, timeout_s * 1000)
        except KafkaError:
            if not done.is_done:
                done.success(None)  # What comes later is not taken any more.
