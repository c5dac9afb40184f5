"""word_count as its README has it: a process of its own on the embedded log, asked with curl."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.readme import ROOT, follow
from tests.support.curl import needs_curl
from tests.support.service import Service

README = ROOT / "examples" / "word_count" / "README.md"
STEPS = 9


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Service]:
    environment = {"STREAMS_DATA_DIR": str(tmp_path / "state")}
    with Service(tmp_path / "instance", environment=environment, module="examples.word_count", arguments=()) as found:
        yield found


@needs_curl
def test_the_steps_of_the_readme_print_what_it_says(instance: Service) -> None:
    """And nothing is counted again or forgotten when the process was killed, and started on the same directory."""
    instance.start()
    places = {"localhost:9080": f"127.0.0.1:{instance.port}", '"port":9080': f'"port":{instance.port}'}
    assert follow(README, places) == STEPS
    before = instance.request("GET", "/state/keyvalues/word-count/all").body
    instance.kill()
    instance.start()
    assert instance.request("GET", "/state/keyvalues/word-count/all").body == before
    assert instance.request("POST", "/lines", b"zero", {"Content-Type": "text/plain"}).body == b'{"lines":1}'
    give_up_at = time.monotonic() + 20
    while instance.request("GET", "/state/keyvalue/word-count/zero").body != b'{"key":"zero","value":4}':
        assert time.monotonic() < give_up_at, instance.tail()
        time.sleep(0.02)
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
    assert "word_count: " in instance.log()
    assert not Path(instance.environment["STREAMS_DATA_DIR"]).exists()
