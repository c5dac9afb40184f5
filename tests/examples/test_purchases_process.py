"""purchases as its README has it: a process of its own on the embedded log, asked with curl."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.readme import ROOT, follow
from tests.support.curl import needs_curl
from tests.support.service import Service

README = ROOT / "examples" / "purchases" / "README.md"
STEPS = 9


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Service]:
    environment = {"STREAMS_DATA_DIR": str(tmp_path / "state"), "PURCHASES_WAIT_MS": "200"}
    with Service(tmp_path / "instance", environment=environment, module="examples.purchases", arguments=()) as found:
        yield found


@needs_curl
def test_the_steps_of_the_readme_print_what_it_says(instance: Service) -> None:
    """And what came out is still there, and no more, after the process was killed."""
    instance.start()
    assert follow(README, {"localhost:8002": f"127.0.0.1:{instance.port}"}) == STEPS
    before = instance.request("GET", "/topics/achats-enrichis").body
    instance.kill()
    instance.start()
    assert instance.request("GET", "/topics/achats-enrichis").body == before
    assert instance.stop() == 0


@pytest.mark.parametrize(("name", "text"), [("PURCHASES_WAIT_MS", "long"), ("PURCHASES_VERSION", "ventes")])
def test_settings_that_make_no_sense_are_refused_at_once(instance: Service, name: str, text: str) -> None:
    """With a sentence and exit code 2, before anything is opened."""
    instance.environment[name] = text
    instance.start(is_waited_for=False)
    assert instance.wait_for_exit() == 2
    assert text in instance.log()
