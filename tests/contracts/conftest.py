"""The back ends of the log, each behind one harness, so that a contract test knows neither.

A harness opens the log, opens it again as a new process would, and makes a topic anew, which the port cannot.
"""

import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest
from kafka import KafkaAdminClient

from streams.clock import Deadline, SystemClock
from streams.log.base import Log
from streams.log.kafka import KafkaLog, KafkaSettings
from streams.log.local import LocalLog
from streams.records import TopicPartition
from streams.testing import MemoryLog
from tests.kafka.conftest import kafka_broker

__all__ = ["kafka_broker"]


class LogHarness(Protocol):
    """One log of one test. `prefix`: of every topic that the test makes, since a broker serves many tests."""

    prefix: str

    def open(self) -> Log:
        """Return the log; after `close`, the same log again."""
        ...

    def close(self) -> None:
        """Close the log that is open."""
        ...

    def delete(self, topics: Sequence[str]) -> None:
        """Make the topics disappear. The log must be closed."""
        ...


class LocalHarness:
    def __init__(self, directory: Path) -> None:
        self.prefix = "t-"
        self._directory = directory
        self._log: LocalLog | None = None

    def open(self) -> Log:
        self._log = LocalLog(self._directory, clock=SystemClock())
        return self._log

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def delete(self, topics: Sequence[str]) -> None:
        shutil.rmtree(self._directory)


class MemoryHarness:
    """The fake that the tests of the runtime, and of users, rely on."""

    def __init__(self) -> None:
        self.prefix = "t-"
        self._log = MemoryLog(clock=SystemClock())

    def open(self) -> Log:
        return self._log

    def close(self) -> None:
        self._log.close()

    def delete(self, topics: Sequence[str]) -> None:
        self._log = MemoryLog(clock=SystemClock())


class SettledKafkaLog(KafkaLog):
    """Kafka decides a commit before it writes the markers that make it visible, some milliseconds later. A node waits
    for that by reading its records back; these tests do it here."""

    def end_offsets(
        self, partitions: Sequence[TopicPartition], deadline: Deadline, *, is_partial: bool = False
    ) -> dict[TopicPartition, int]:
        while True:
            ends = super().end_offsets(partitions, deadline, is_partial=is_partial)
            if ends == self._topics.high_watermarks(partitions, deadline):
                return ends


class KafkaHarness:
    def __init__(self, bootstrap_servers: str, directory: Path) -> None:
        self.prefix = f"t{uuid.uuid4().hex[:10]}-"
        self._bootstrap_servers = bootstrap_servers
        self._directory = directory
        self._log: KafkaLog | None = None

    def open(self) -> Log:
        settings = KafkaSettings(
            bootstrap_servers=self._bootstrap_servers,
            application_id=self.prefix + "app",
            node_id="a",
            session_timeout_ms=6000,
        )
        self._log = SettledKafkaLog(settings, state_dir=self._directory)
        return self._log

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def delete(self, topics: Sequence[str]) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self._bootstrap_servers)
        admin.delete_topics(list(topics))
        admin.close()


@pytest.fixture(params=["local", "memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def log_factory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LogHarness]:
    """Yield a harness over a log without topics; it is closed after the test."""
    if request.param == "local":
        harness: LogHarness = LocalHarness(tmp_path / "log")
    elif request.param == "memory":
        harness = MemoryHarness()
    else:
        harness = KafkaHarness(request.getfixturevalue("kafka_broker"), tmp_path / "node")
    yield harness
    harness.close()
