"""Which topics an application needs, and what is done about those that are missing. Checks and creates, reads nothing.

Before a topology runs, each of its stores gets a changelog of its own: also a table whose source topic could serve as
one (docs/decisions/0022). Only a store that was asked not to be logged has none.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

from streams.clock import Clock, Deadline
from streams.errors import LogUnavailable, SerdeUnavailable, TopologyError
from streams.log.base import Log, TopicSpec
from streams.processing import QUARANTINE, ErrorPolicy
from streams.runtime.processing import positions_topic
from streams.runtime.processing.positions import TOPIC_CONFIG
from streams.topology.subtopology import ProcessorTopology, SubTopology

_DESCRIBE_TIMEOUT_S = 3.0

#: A store that was last caught up half as long ago is made anew: it may have missed deletions.
TOMBSTONE_RETENTION_MS = 48 * 3600 * 1000

#: Nothing limits the times of records that an application makes for itself; a broker's default is an hour ahead.
_ANY_TIME = {"message.timestamp.after.max.ms": str(2**63 - 1)}


def runnable(topology: ProcessorTopology, application_id: str | None) -> ProcessorTopology:
    """Return *topology* as it runs, under *application_id* if there is one."""
    name = application_id or topology.application_id

    def prepared(each: SubTopology) -> SubTopology:
        stores = {
            store: spec if spec.is_global else replace(spec, source_topic=None, timestamp=None)
            for store, spec in each.stores.items()
        }
        return replace(each, application_id=name, stores=stores)

    whole = topology.global_subtopology
    return replace(
        topology,
        application_id=name,
        subtopologies=tuple(prepared(each) for each in topology.subtopologies),
        global_subtopology=None if whole is None else replace(whole, application_id=name),
    )


def table_topics(topology: ProcessorTopology) -> frozenset[str]:
    """Return the topics that are read as tables, of a topology as it was built: they keep the last record of a key."""
    return frozenset(spec.source_topic for spec in topology.stores.values() if spec.source_topic is not None)


class PartitionCounts:
    """How many partitions topics have. Any thread. Learns on demand of topics that a record names."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._known: dict[str, int] = {}

    def __call__(self, topic: str) -> int:
        """Return the number. Raises TopologyError for a topic that does not exist, SerdeUnavailable when the log does
        not say: the record is tried again."""
        count = self._known.get(topic)
        if count is None:
            try:
                self.learn((topic,), Deadline.after(_DESCRIBE_TIMEOUT_S, self._clock))
            except LogUnavailable as error:
                raise SerdeUnavailable(f"topic {topic} could not be asked for: {error}") from error
            count = self._known.get(topic)
            if count is None:
                raise TopologyError(f"topic {topic!r} does not exist, and a record is for it: create it first")
        return count

    def learn(self, topics: tuple[str, ...], deadline: Deadline) -> Mapping[str, int]:
        """Ask for *topics*, and return what is known of them. Raises LogUnavailable."""
        found = self._log.describe_topics(topics, deadline)
        self._known |= {name: info.partitions for name, info in found.items()}
        return {topic: self._known[topic] for topic in topics if topic in self._known}


def named_sinks(topology: ProcessorTopology) -> tuple[str, ...]:
    """Return the topics of users that *topology* writes and names."""
    sinks = (sink for each in topology.subtopologies for sink in each.sinks if not sink.is_internal)
    return tuple(dict.fromkeys(sink.topic for sink in sinks if isinstance(sink.topic, str)))


def prepare(
    topology: ProcessorTopology,
    log: Log,
    counts: PartitionCounts,
    *,
    create_topics: Mapping[str, int],
    compacted: Collection[str],
    policy: ErrorPolicy,
    replication_factor: int | None,
    deadline: Deadline,
) -> tuple[int, ...]:
    """Make what is missing; return how many tasks each sub-topology has. *compacted*: topics that are, if they are
    made here. Raises TopologyError for a user's topic that does not exist or does not fit, TopicMismatch,
    LogUnavailable."""
    theirs = tuple(dict.fromkeys((*topology.source_topics, *named_sinks(topology), *create_topics)))
    known = counts.learn(theirs, deadline)
    missing = {topic: number for topic, number in create_topics.items() if topic not in known}
    quarantine = policy.quarantine_topic or f"{topology.application_id}-quarantine"
    if missing:
        policies = {topic: {"cleanup.policy": "compact"} if topic in compacted else {} for topic in missing}
        wanted = [_spec(topic, policies[topic], number, replication_factor) for topic, number in missing.items()]
        log.ensure_topics(wanted, deadline)
        known = counts.learn(theirs, deadline)
    for topic in theirs:
        if topic not in known:
            raise TopologyError(
                f"topic {topic!r} does not exist, and the topology uses it: create it, or name it in create_topics"
            )
    tasks = topology.task_counts(known)
    specs = [
        _spec(name, {**_ANY_TIME, **topic.config}, topic.partitions or 1, replication_factor)
        for name, topic in topology.internal_topics(known).items()
    ]
    for each, number in zip(topology.subtopologies, tasks, strict=True):
        specs.append(_spec(positions_topic(each), TOPIC_CONFIG, number, replication_factor))
    if QUARANTINE in (policy.on_deserialization, policy.on_processing) and quarantine not in known:
        config = {**_ANY_TIME, "cleanup.policy": "delete", "retention.ms": "-1"}
        number = max(known.values(), default=1)
        specs.append(TopicSpec(quarantine, config, default_partitions=number, replication_factor=replication_factor))
    made = log.ensure_topics(specs, deadline)
    counts.learn(tuple(made), deadline)
    return tasks


def _spec(name: str, config: Mapping[str, str], partitions: int, replication_factor: int | None) -> TopicSpec:
    settings = {"cleanup.policy": "delete", **config}
    if "compact" in settings["cleanup.policy"]:
        settings["delete.retention.ms"] = str(TOMBSTONE_RETENTION_MS)
    return TopicSpec(name, settings, partitions=partitions, replication_factor=replication_factor)
