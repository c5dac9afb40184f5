"""Creates, checks and describes topics, and the few other questions for which Kafka has an administrator's client.

Invariant: a topic that would lose data, or whose keys would go to other partitions than before, is refused by name.
"""

import contextlib
import math
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from kafka import KafkaAdminClient
from kafka import TopicPartition as KafkaTopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, MemberToRemove
from kafka.errors import (
    GroupIdNotFoundError,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    KafkaError,
    PolicyViolationError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)
from kafka.protocol.admin import DescribeGroupsRequest

from streams.clock import Clock, Deadline
from streams.errors import LogUnavailable, TopicMismatch
from streams.log.base import COMPACT, TopicInfo, TopicSpec
from streams.log.kafka.clients import bounded, open_client
from streams.log.kafka.leaders import ends_of, leaders_of
from streams.log.kafka.settings import KafkaSettings, admin_config
from streams.records import TopicPartition

T = TypeVar("T")

#: With three replicas an acknowledged record survives the loss of one broker (design promise: acks=all and this).
_REPLICATION = 3
_MIN_IN_SYNC = 2
_LOOK_AGAIN_S = 0.05
_ANSWER_S = 1.0  # how long the brokers may take to say how far partitions go, before they count as silent
_REFUSALS = (TopicAlreadyExistsError, InvalidPartitionsError, InvalidReplicationFactorError, PolicyViolationError)


class Ends(NamedTuple):
    """How far partitions go. `writable`: those that have as many replicas in sync as a write needs."""

    ends: Mapping[TopicPartition, int]
    writable: frozenset[TopicPartition]


class Topics:
    """Any thread may call it; each call is bounded by its deadline."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        """Connects with the first call."""
        self._settings = settings
        self._clock = clock
        self._pause = threading.Event()
        self._lock = threading.Lock()
        self._client: KafkaAdminClient | None = None
        self._min_in_sync: Mapping[str, int] = {}  # by topic, as last described; replaced whole

    def ensure(self, specs: Sequence[TopicSpec], deadline: Deadline) -> dict[str, TopicInfo]:
        """See `Log.ensure_topics`. What was made here has leaders when it returns; of what was there before, partitions
        that have lost theirs do not keep the others waiting."""
        wanted = {spec.name: spec for spec in specs}
        made = self._create_missing(wanted, deadline)
        while True:
            found = self.describe(list(wanted), deadline, with_leaders=made)
            if len(found) == len(wanted):
                for name, info in found.items():
                    _check(wanted[name], info)
                return found
            self._wait(deadline, f"the topics {sorted(set(wanted) - set(found))} to be ready")

    def describe(
        self, names: Sequence[str], deadline: Deadline, *, with_leaders: Collection[str] = ()
    ) -> dict[str, TopicInfo]:
        """See `Log.describe_topics`. Of *with_leaders* a topic whose leaders are not all elected counts as missing."""
        described = self._ask(lambda admin: admin.describe_topics(list(names)), deadline, "describe topics")
        ready = [topic for topic in described if _is_ready(topic, needs_leaders=topic["name"] in with_leaders)]
        if not ready:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic["name"]) for topic in ready]
        answer = self._ask(
            lambda admin: admin.describe_configs(resources, config_filter="all"), deadline, "describe topic settings"
        )
        settings = {str(kind).lower(): values for kind, values in answer.items()}.get("topic", {})
        infos = {
            topic["name"]: TopicInfo(
                name=topic["name"],
                topic_id=str(uuid.UUID(str(topic["topic_id"]))),
                partitions=len(topic["partitions"]),
                config={name: str(entry["value"]) for name, entry in settings.get(topic["name"], {}).items()},
            )
            for topic in ready
        }
        self._min_in_sync = {
            **self._min_in_sync,
            **{name: int(info.config.get("min.insync.replicas", 1)) for name, info in infos.items()},
        }
        return infos

    def high_watermarks(
        self, partitions: Collection[TopicPartition], deadline: Deadline
    ) -> Mapping[TopicPartition, int]:
        """Return the offset after the last record of each partition, committed or not. Raises LogUnavailable."""
        return self.ends(partitions, deadline, is_committed=False).ends

    def ends(
        self,
        partitions: Collection[TopicPartition],
        deadline: Deadline,
        *,
        is_committed: bool,
        patience_s: float = math.inf,
        may_be_none: bool = False,
    ) -> Ends:
        """Return how far *partitions* go, as far as their leaders tell; see `leaders.py` for what that is worth.

        With *is_committed* the offset after the last committed record, else after the last one at all. What is missing
        is asked for again for *patience_s*, and after that as long as nothing is known at all, unless *may_be_none*.
        Raises LogUnavailable at the deadline.
        """
        wanted = frozenset(partitions)
        topics = {place.topic for place in wanted}
        patience = Deadline.after(patience_s, self._clock)

        async def question(admin: Any, timeout_s: float) -> Ends:
            leaders = await leaders_of(admin, topics, self._min_in_sync, timeout_s)
            leaders = {place: leader for place, leader in leaders.items() if place in wanted}
            ends = await ends_of(admin, leaders, is_committed=is_committed, timeout_s=timeout_s)
            ready = {place for place in ends if leaders[place].in_sync >= self._min_in_sync.get(place.topic, 1)}
            return Ends(ends, frozenset(ready))

        known: dict[TopicPartition, int] = {}
        writable: frozenset[TopicPartition] = frozenset()
        while wanted:
            timeout_s = min(_ANSWER_S, deadline.remaining_s(self._clock) / 3)
            found = self._ask(
                lambda admin: admin._manager.run(question, admin, timeout_s),  # noqa: B023  # it is called at once
                deadline,
                "ask for end offsets",
            )
            known.update(found.ends)
            writable |= found.writable
            if known.keys() >= wanted or ((known or may_be_none) and patience.has_passed(self._clock)):
                break
            self._wait(deadline, "leaders to tell their end offsets")
        return Ends(known, writable)

    def open_transactions(self, partitions: Collection[TopicPartition], deadline: Deadline) -> list[str]:
        """Return the transactional ids of the undecided transactions that write to any of *partitions*, whoever began
        them. Raises LogUnavailable."""
        wanted = {KafkaTopicPartition(*partition) for partition in partitions}

        def touching(admin: KafkaAdminClient) -> list[str]:
            listings = admin.list_transactions(state_filters=["Ongoing"])
            ids = [one.transactional_id for found in listings.values() for one in found]
            described = admin.describe_transactions(ids) if ids else {}
            return [name for name, one in described.items() if not wanted.isdisjoint(one.topic_partitions)]

        return self._ask(touching, deadline, "list open transactions")

    def delete_before(self, offsets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        """See `Log.delete_before`."""
        wanted = {KafkaTopicPartition(*place): offset for place, offset in offsets.items()}
        timeout_ms = max(1, round(deadline.remaining_s(self._clock) * 1000))
        self._ask(lambda admin: admin.delete_records(wanted, timeout_ms=timeout_ms), deadline, "delete records")

    def assignments(self, group: str, deadline: Deadline) -> list[bytes] | None:
        """Return the encoded assignment of each member of *group*; None while the group is not stable, empty when it
        has no members. Raises LogUnavailable."""
        found = self._ask(
            lambda admin: admin._manager.run(describe_group, admin, group), deadline, "describe the group"
        )
        if found.group_state not in ("Stable", "Empty", "Dead"):
            return None
        return [member.member_assignment for member in found.members]

    def remove_member(self, group: str, member_id: str) -> None:
        """Take *member_id* out of *group*; nothing happens when it is not in there. Raises KafkaError or
        LogUnavailable, after some seconds at the latest."""
        deadline = Deadline.after(5.0, self._clock)
        members = [MemberToRemove(member_id=member_id, reason="it was killed")]
        self._ask(lambda admin: admin.remove_group_members(group, members), deadline, "remove a dead member")

    def close(self) -> None:
        """Disconnect. Idempotent."""
        self._drop()

    def _create_missing(self, wanted: Mapping[str, TopicSpec], deadline: Deadline) -> set[str]:
        """Return the topics that were missing."""
        made: set[str] = set()
        while True:
            described = self._ask(lambda admin: admin.describe_topics(list(wanted)), deadline, "describe topics")
            missing = [wanted[topic["name"]] for topic in described if topic["error_code"] == _UNKNOWN_TOPIC]
            if not missing:
                return made
            made.update(spec.name for spec in missing)
            cluster = self._ask(lambda admin: admin.describe_cluster(), deadline, "describe the cluster")
            brokers = len(cluster["brokers"])
            requests = {spec.name: _new_topic(spec, brokers) for spec in missing}
            try:
                self._ask(partial(_create, requests), deadline, "create topics", expected=_REFUSALS)
            except TopicAlreadyExistsError:
                pass  # Another node was faster; what it made is checked like any other.
            except _REFUSALS as error:
                raise TopicMismatch(f"Kafka refuses to create {sorted(requests)}: {error}") from error
            self._wait(deadline, f"the topics {sorted(requests)} to exist")

    def _ask(
        self,
        question: Callable[[KafkaAdminClient], T],
        deadline: Deadline,
        what: str,
        *,
        expected: tuple[type[KafkaError], ...] = (),
    ) -> T:
        """Return the answer of a connected client, trying again after errors that pass. Raises LogUnavailable, or an
        *expected* error."""
        while True:
            try:
                return bounded(lambda: question(self._connected()), deadline, self._clock, what=what)
            except expected:
                raise
            except KafkaError as error:
                if not error.retriable:
                    raise LogUnavailable(f"Kafka refuses to {what}: {error}") from error
                self._drop()
                self._wait(deadline, f"Kafka ({type(error).__name__}) to {what}")

    def _connected(self) -> KafkaAdminClient:
        with self._lock:
            if self._client is None:
                self._client = open_client(KafkaAdminClient, admin_config(self._settings))
            return self._client

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):  # It is thrown away: nothing depends on it any more.
                client.close()

    def _wait(self, deadline: Deadline, what: str) -> None:
        left_s = deadline.remaining_s(self._clock)
        if left_s <= 0:
            raise LogUnavailable(f"gave up waiting for {what}")
        self._pause.wait(min(_LOOK_AGAIN_S, left_s))


_UNKNOWN_TOPIC = UnknownTopicOrPartitionError.errno


def _is_ready(topic: Mapping[str, Any], *, needs_leaders: bool) -> bool:
    partitions = topic["partitions"]
    if topic["error_code"] != 0 or not partitions:
        return False
    return not needs_leaders or all(one["leader_id"] >= 0 for one in partitions)


def _create(requests: Mapping[str, Any], admin: KafkaAdminClient) -> Any:
    return admin.create_topics(dict(requests))


async def describe_group(admin: Any, group: str) -> Any:
    """Ask for the description of *group*. `KafkaAdminClient.describe_groups` turns bytes into text that cannot be
    turned back."""
    coordinators = await admin._find_coordinator_ids([group])
    response = await admin._manager.send(DescribeGroupsRequest(groups=[group]), node_id=coordinators[group])
    found = response.groups[0]
    if found.error_code not in (0, GroupIdNotFoundError.errno):
        raise for_code(found.error_code)(found.error_message)
    return found


def _new_topic(spec: TopicSpec, brokers: int) -> dict[str, Any]:
    replication = spec.replication_factor or min(_REPLICATION, brokers)
    configs = dict(spec.config)
    if replication >= _REPLICATION:
        configs.setdefault("min.insync.replicas", str(_MIN_IN_SYNC))
    return {
        "num_partitions": spec.partitions or spec.default_partitions,
        "replication_factor": replication,
        "configs": configs,
    }


def _check(spec: TopicSpec, info: TopicInfo) -> None:
    if spec.partitions is not None and info.partitions != spec.partitions:
        raise TopicMismatch(
            f"topic {info.name} has {info.partitions} partitions, and the settings demand {spec.partitions}: "
            f"with another count keys would move; drop the setting, or copy the data into a new topic"
        )
    wanted, policy = spec.config.get("cleanup.policy", COMPACT), info.config.get("cleanup.policy", "")
    # A topic that is not compacted is cut off by age; so is one that is compacted *and* deleted.
    if (COMPACT in _words(wanted) and COMPACT not in _words(policy)) or _words(policy) - _words(wanted) - {COMPACT}:
        raise TopicMismatch(
            f"topic {info.name} has cleanup.policy={policy}, under which Kafka deletes data that is still needed; run: "
            f"kafka-configs.sh --alter --entity-type topics --entity-name {info.name} "
            f"--add-config cleanup.policy=[{wanted}]"
        )


def _words(policy: str) -> set[str]:
    return set(policy.replace(" ", "").split(","))
