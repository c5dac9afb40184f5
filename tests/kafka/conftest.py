"""The real broker for tests: one for all workers of a run, with names of their own for each test."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from streams.log.kafka import KafkaLog, KafkaSettings
from tests.support.broker import BrokerUnavailableError, Cluster, shared_broker

T = TypeVar("T")


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the run's shared broker: never stop or freeze this one, others use it too."""
    base = tmp_path_factory.getbasetemp()
    users = [os.getpid()]
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
        users.append(os.getppid())
    return or_skip(lambda: shared_broker(base / "shared-broker", users))


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Starts brokers for one test alone, which may do to them what it likes."""
    with ExitStack() as stack:

        def start(**options: object) -> Cluster:
            cluster = or_skip(lambda: Cluster(tmp_path / "kafka", **options))
            stack.callback(cluster.close)
            cluster.start()
            return cluster

        yield start


@pytest.fixture
def prefix() -> str:
    """A prefix for topics and application ids that no other test uses."""
    return f"t{uuid.uuid4().hex[:10]}-"


@pytest.fixture
def open_log(prefix: str, tmp_path: Path) -> Iterator[Callable[..., KafkaLog]]:
    """Opens logs that are closed after the test: `open_log(address, node_id="a", ...)`."""
    with ExitStack() as stack:

        def open_one(bootstrap_servers: str, **settings: object) -> KafkaLog:
            chosen = {"application_id": prefix + "app", "node_id": "a", "session_timeout_ms": 3000, **settings}
            directory = chosen.pop("state_dir", tmp_path / f"node-{chosen['node_id']}")
            log = KafkaLog(KafkaSettings(bootstrap_servers=bootstrap_servers, **chosen), state_dir=directory)
            stack.callback(log.close)
            return log

        yield open_one


def or_skip(start: Callable[[], T]) -> T:
    """Return what *start* returns. Without Kafka the test fails where it must run (`CI=true`), else it is skipped."""
    try:
        return start()
    except BrokerUnavailableError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"Kafka is needed in CI: {error}", pytrace=False)
        pytest.skip(f"no Kafka here: {error}")
