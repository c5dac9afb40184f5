"""Real search servers for tests: one of each kind for a run, and others for tests that kill or freeze theirs."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import broker as broker  # the fixture: the broker that all tests of a run share
from tests.support.search_server import DISTRIBUTIONS, ELASTICSEARCH, OPENSEARCH, SearchServer, ServerUnavailableError

NewServer = Callable[..., SearchServer]

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
