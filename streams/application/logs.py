"""The logs of an application: the embedded one, which its nodes share, or for each node a client of Kafka of its own,
since group and transactional id are the client's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from streams.application.settings import StreamsSettings
from streams.clock import Clock, Deadline
from streams.cluster import Member
from streams.log.base import Log, LogProducer, LogReader, LogWriter, Membership, TopicInfo, TopicSpec
from streams.log.kafka import KafkaLog, KafkaSettings
from streams.log.local import LocalLog
from streams.records import TopicPartition


class Logs:
    """Opens the logs; belongs to one application. `shared` is for questions, and for what is sent from outside."""

    def __init__(self, settings: StreamsSettings, application_id: str, node_id: str, clock: Clock) -> None:
        """Raises LogLocked, LogDamaged or LogUnavailable when the embedded log cannot be opened."""
        self._settings = settings
        self._application_id = application_id
        self._node_id = node_id
        self._clock = clock
        self._nodes: dict[str, Log] = {}
        self._configs: dict[str, Mapping[str, str]] = {}
        opened: Log
        if settings.bootstrap_servers is None:
            opened = LocalLog(settings.data_dir / "log", clock=clock)
        else:
            opened = KafkaLog(self._kafka("client"), clock=clock)
        self.shared: Log = _Noting(opened, self._configs)

    def of(self, name: str, directory: Path) -> Log:
        """Return the log of the node *name*, which keeps its own things in *directory*. Whoever closes it closes what
        is the node's alone."""
        if self._settings.bootstrap_servers is None:
            return UnclosedLog(self.shared)
        if name not in self._nodes:
            self._nodes[name] = KafkaLog(self._kafka(name), state_dir=directory, clock=self._clock)
        return self._nodes[name]

    def config_of(self, topic: str) -> Mapping[str, str]:
        """Return the settings of *topic*, as it was last described or made."""
        return self._configs[topic]

    def close(self) -> None:
        """Close all. Idempotent."""
        for log in self._nodes.values():
            log.close()
        self.shared.close()

    def _kafka(self, name: str) -> KafkaSettings:
        settings = self._settings
        assert settings.bootstrap_servers is not None
        return KafkaSettings(
            bootstrap_servers=settings.bootstrap_servers,
            application_id=f"{self._application_id}-{name}",
            node_id=self._node_id,
            session_timeout_ms=settings.session_timeout_ms,
            client_overrides=settings.kafka,
        )


class UnclosedLog:
    """A log that others use, too: closing it does nothing. `inner`: the log itself."""

    def __init__(self, log: Log) -> None:
        self.inner = log

    def ensure_topics(self, specs: Sequence[TopicSpec], deadline: Deadline) -> dict[str, TopicInfo]:
        return self.inner.ensure_topics(specs, deadline)

    def describe_topics(self, names: Sequence[str], deadline: Deadline) -> dict[str, TopicInfo]:
        return self.inner.describe_topics(names, deadline)

    def end_offsets(
        self, partitions: Sequence[TopicPartition], deadline: Deadline, *, is_partial: bool = False
    ) -> dict[TopicPartition, int]:
        return self.inner.end_offsets(partitions, deadline, is_partial=is_partial)

    def delete_before(self, offsets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        self.inner.delete_before(offsets, deadline)

    def open_reader(self) -> LogReader:
        return self.inner.open_reader()

    def open_writer(self, topics: Sequence[str], membership: Membership) -> LogWriter:
        return self.inner.open_writer(topics, membership)

    def open_producer(self) -> LogProducer:
        return self.inner.open_producer()

    def open_membership(self, topics: Sequence[str], member: Member) -> Membership:
        return self.inner.open_membership(topics, member)

    def gauges(self) -> Mapping[str, float]:
        return self.inner.gauges()

    def close(self) -> None:
        """Whoever opened it closes it."""


class _Noting(UnclosedLog):
    """A log whose topics' settings are noted."""

    def __init__(self, log: Log, configs: dict[str, Mapping[str, str]]) -> None:
        super().__init__(log)
        self._configs = configs

    def ensure_topics(self, specs: Sequence[TopicSpec], deadline: Deadline) -> dict[str, TopicInfo]:
        return self._noted(super().ensure_topics(specs, deadline))

    def describe_topics(self, names: Sequence[str], deadline: Deadline) -> dict[str, TopicInfo]:
        return self._noted(super().describe_topics(names, deadline))

    def close(self) -> None:
        self.inner.close()

    def _noted(self, infos: dict[str, TopicInfo]) -> dict[str, TopicInfo]:
        self._configs.update({name: info.config for name, info in infos.items()})
        return infos
