"""Fixtures for tests of the service as a black box: processes of its own for each test, on each log."""

import os
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.broker import BrokerUnavailableError, Cluster, shared_broker
from tests.support.service import Service

NewService = Callable[..., Service]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the test failed, for the fixtures that clean up after it."""
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


_FAILED = pytest.StashKey[bool]()


@pytest.fixture
def new_service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[NewService]:
    """Makes services that end with the test: `new_service("a", PROFILES_...="...")`. Each name is a directory. Of a
    failed test the ends of their logs are printed; the directories stay as long as pytest keeps them."""
    made: list[Service] = []
    with ExitStack() as stack:

        def make(
            name: str = "node", *, module: str = "app", arguments: tuple[str, ...] = ("run",), **env: str
        ) -> Service:
            service = Service(tmp_path / name, environment=env, module=module, arguments=arguments)
            made.append(service)
            stack.callback(service.close)
            return service

        yield make
    if request.node.stash.get(_FAILED, False):
        for service in made:
            print(service.tail(80))


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the broker that all tests of a run share: nobody may stop or freeze it."""
    base = tmp_path_factory.getbasetemp()
    users = [os.getpid()]
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
        users.append(os.getppid())
    try:
        return shared_broker(base / "shared-broker", users)
    except BrokerUnavailableError as error:
        _no_kafka(error)


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Starts a broker for this test alone, which it may freeze and kill."""
    with ExitStack() as stack:

        def start(**options: object) -> Cluster:
            try:
                cluster = Cluster(tmp_path / "kafka", **options)  # type: ignore[arg-type]
            except BrokerUnavailableError as error:
                _no_kafka(error)
            stack.callback(cluster.close)
            cluster.start()
            return cluster

        yield start


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def log_environment(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """The settings that choose the log: the test runs once on each."""
    if request.param == "embedded":
        return {}
    return kafka_environment(request.getfixturevalue("broker"))


def kafka_environment(bootstrap_servers: str) -> dict[str, str]:
    """Settings for topics and a group that nobody else uses, with a session that ends soon."""
    name = f"t{uuid.uuid4().hex[:10]}"
    return {
        "PROFILES_BOOTSTRAP_SERVERS": bootstrap_servers,
        "PROFILES_TOPIC_PREFIX": f"{name}-",
        "PROFILES_APPLICATION_ID": name,
        "PROFILES_SESSION_TIMEOUT_MS": "1500",
    }


def _no_kafka(error: BrokerUnavailableError) -> NoReturn:
    """Skip, or fail where Kafka must be there (`CI=true`)."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"Kafka is needed in CI: {error}", pytrace=False)
    pytest.skip(f"no Kafka here: {error}")
