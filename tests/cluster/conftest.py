"""Fixtures for tests of the cluster: three nodes as processes on a real Kafka, and the figures that runs leave behind.

Only `make test-cluster` and `make chaos` run these tests, one after the other: they measure times and take the machine.
"""

import json
import os
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.support.broker import BrokerUnavailableError, Cluster, shared_broker
from tests.support.cluster import Nodes

FIGURES = Path(__file__).resolve().parents[2] / ".cache" / "cluster-figures.json"

NewNodes = Callable[..., Nodes]
NewBrokers = Callable[..., Cluster]
Figures = Callable[..., None]

_FAILED = pytest.StashKey[bool]()
_NOTED = pytest.StashKey[dict[str, Any]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the test failed, for the fixtures that clean up after it."""
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the broker that all tests of a run share: nobody may stop or freeze it."""
    try:
        return shared_broker(tmp_path_factory.getbasetemp() / "shared-broker", [os.getpid()])
    except BrokerUnavailableError as error:
        _no_kafka(error)


@pytest.fixture
def new_brokers(tmp_path: Path) -> Iterator[NewBrokers]:
    """Starts brokers for this test alone, which it may cut off, freeze and kill."""
    with ExitStack() as stack:

        def start(**options: Any) -> Cluster:
            try:
                cluster = Cluster(tmp_path / "kafka", **options)
            except BrokerUnavailableError as error:
                _no_kafka(error)
            stack.callback(cluster.close)
            cluster.start()
            return cluster

        yield start


@pytest.fixture
def new_nodes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[NewNodes]:
    """Makes clusters that end with the test: `new_nodes()`, on the shared broker, or `new_nodes(bootstrap_servers)`. Of
    a failed test the ends of all logs are printed; the directories stay as long as pytest keeps them."""
    made: list[Nodes] = []
    with ExitStack() as stack:

        def make(bootstrap_servers: str | None = None, **options: Any) -> Nodes:
            servers = bootstrap_servers or request.getfixturevalue("broker")
            nodes = Nodes(tmp_path / f"nodes-{uuid.uuid4().hex[:4]}", servers, **options)
            made.append(nodes)
            stack.callback(nodes.close)
            return nodes

        yield make
    if request.node.stash.get(_FAILED, False):
        for nodes in made:
            print(nodes.tails(60))


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Keeps what a run measured, by name, for the summary and `.cache/cluster-figures.json`."""
    noted = request.config.stash.setdefault(_NOTED, {})

    def note(name: str, **values: Any) -> None:
        noted[name] = values

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures and merge them into the file."""
    noted = config.stash.get(_NOTED, {})
    if not noted:
        return
    FIGURES.parent.mkdir(exist_ok=True)
    earlier = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    FIGURES.write_text(json.dumps({**earlier, **noted}, indent=2, sort_keys=True) + "\n")
    terminalreporter.section("figures", sep="-")
    for name, values in sorted(noted.items()):
        terminalreporter.write_line(f"{name}: " + ", ".join(f"{key} {value}" for key, value in values.items()))


def _no_kafka(error: BrokerUnavailableError) -> NoReturn:
    """Skip, or fail where Kafka must be there (`CI=true`)."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"Kafka is needed in CI: {error}", pytrace=False)
    pytest.skip(f"no Kafka here: {error}")
