"""food_orders as its README has it: a process of its own on the embedded log, asked with curl."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.readme import ROOT, follow
from tests.support.curl import needs_curl
from tests.support.service import Service

README = ROOT / "examples" / "food_orders" / "README.md"
STEPS = 12


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Service]:
    environment = {"STREAMS_DATA_DIR": str(tmp_path / "state")}
    with Service(tmp_path / "instance", environment=environment, module="examples.food_orders", arguments=()) as found:
        yield found


@needs_curl
def test_the_steps_of_the_readme_print_what_it_says(instance: Service) -> None:
    """And nothing is counted again or forgotten when the process was killed, and started on the same directory."""
    instance.start()
    places = {"localhost:2020": f"127.0.0.1:{instance.port}", '"port":2020': f'"port":{instance.port}'}
    assert follow(README, places) == STEPS
    before = instance.request("GET", "/stores/order-count/all").body
    instance.kill()
    instance.start()
    assert instance.request("GET", "/stores/order-count/all").body == before
    assert instance.request("GET", "/stores/customer-v1-changelog/get/2").body == b'{"response":"adam"}'
    assert instance.stop() == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("STREAMS_ON_PROCESSING_ERROR", "ignore"),
        ("STREAMS_NUM_STANDBY_REPLICAS", "-1"),
        ("STREAMS_DATA_DIRECTORY", "x"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(instance: Service, name: str, text: str) -> None:
    """With a sentence and exit code 2, before anything is opened."""
    instance.environment[name] = text
    instance.start(is_waited_for=False)
    assert instance.wait_for_exit() == 2
    assert "food_orders: " in instance.log()
    assert not Path(instance.environment["STREAMS_DATA_DIR"]).exists()
