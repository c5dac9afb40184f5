"""Real search servers for tests: one of each kind for a run, and others for tests that kill or freeze theirs."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import broker as broker  # the fixture: the broker that all tests of a run share
from tests.e2e.conftest import kafka_environment
from tests.search.rig import Rig, replicator, seed_of_run
from tests.support.churn import Churn
from tests.support.search_server import DISTRIBUTIONS, ELASTICSEARCH, OPENSEARCH, SearchServer, ServerUnavailableError
from tests.support.service import Service

NewServer = Callable[..., SearchServer]
NewRig = Callable[..., Rig]

#: For `parametrize`: the two servers of the gate, and those that only the long runs try.
SERVERS = [
    pytest.param(name, marks=[] if one in (ELASTICSEARCH, OPENSEARCH) else pytest.mark.slow)
    for name, one in DISTRIBUTIONS.items()
]


@pytest.fixture(scope="module")
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewServer]:
    """Starts servers that end with the module's tests: `new_server("opensearch-2.19.0", settings=...)`."""
    with ExitStack() as stack:

        def start(name: str, **options: object) -> SearchServer:
            server = or_skip(lambda: SearchServer(_directory(tmp_path_factory, name), DISTRIBUTIONS[name], **options))  # type: ignore[arg-type]
            stack.callback(server.close)
            server.start()
            return server

        yield start


@pytest.fixture
def new_rig(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[NewRig]:
    """Starts everything of a test: `new_rig(server, profiles=20_000, replicators=2, is_embedded=True, bug="...")`. The
    profiles are made while the replicators follow already."""
    with ExitStack() as stack:

        def make(
            name: str,
            *,
            profiles: int,
            replicators: int = 1,
            is_embedded: bool = False,
            bug: str | None = None,
            clients: int = 8,
        ) -> Rig:
            seed = seed_of_run()
            print(f"CHAOS_SEED={seed}", flush=True)
            server = or_skip(lambda: SearchServer(tmp_path / "server", DISTRIBUTIONS[name]))
            environment = {} if is_embedded else kafka_environment(request.getfixturevalue("broker"))
            service = Service(tmp_path / "service", environment=environment)
            stack.callback(service.close)
            stack.callback(server.close)
            server.start(is_waited_for=False)
            service.start()
            server.wait_until_ready()
            source = f"http://127.0.0.1:{service.port}" if is_embedded else None
            copies = [
                replicator(tmp_path / f"replicator-{number}", service, server, bug=bug, source=source)
                for number in range(replicators)
            ]
            for one in copies:
                stack.callback(one.close)
                one.start(is_waited_for=False)
            churn = Churn(service.address, seed=seed, profiles=profiles, clients=clients)
            churn.grow()
            return Rig(service, server, copies, churn, seed)

        yield make


def _directory(factory: pytest.TempPathFactory, name: str) -> Path:
    return factory.mktemp(name)


def or_skip(make: Callable[[], SearchServer]) -> SearchServer:
    """Return what *make* returns. Without a server the test fails where it must run (`CI=true`), else it is skipped."""
    try:
        return make()
    except ServerUnavailableError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"a search server is needed in CI: {error}", pytrace=False)
        pytest.skip(f"no search server here: {error}")
