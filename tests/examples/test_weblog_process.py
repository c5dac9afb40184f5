"""weblog as its README has it: a process of its own on the embedded log, asked with curl."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.examples.readme import ROOT, follow
from tests.support.curl import needs_curl
from tests.support.service import Service

README = ROOT / "examples" / "weblog" / "README.md"
STEPS = 12
LINE = 'last.example - - [28/Aug/1995:00:09:00 -0400] "GET / HTTP/1.0" 200 0\n'


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Service]:
    environment = {
        "STREAMS_DATA_DIR": str(tmp_path / "state"),
        "WEBLOG_DIRECTORY": str(tmp_path / "files"),
        "WEBLOG_POLL_INTERVAL_MS": "50",
    }
    with Service(tmp_path / "instance", environment=environment, module="examples.weblog", arguments=()) as found:
        yield found


@needs_curl
def test_the_steps_of_the_readme_print_what_it_says(instance: Service, tmp_path: Path) -> None:
    """And so do the last ones again, after the process was killed and all files are touched."""
    instance.start()
    places = {"localhost:7070": f"127.0.0.1:{instance.port}", "data/weblog-files": str(tmp_path / "files")}
    assert follow(README, places, ("curl", "cp", "touch", "mv")) == STEPS
    before = {what: json.loads(instance.request("GET", f"/weblog/{what}/ALL").body) for what in ("access", "bytes")}
    instance.kill()
    for path in (tmp_path / "files").iterdir():
        path.touch()
    (tmp_path / "files" / "z.log").write_text(LINE)  # the others come before it
    instance.start()
    give_up_at = time.monotonic() + 20
    while instance.status_of("/weblog/access/last.example") != 200:
        assert time.monotonic() < give_up_at, instance.tail()
        time.sleep(0.02)
    for what, found in before.items():
        now = json.loads(instance.request("GET", f"/weblog/{what}/ALL").body)
        assert [entry for entry in now if entry[0] != "last.example"] == found
    assert instance.stop() == 0


def test_settings_that_make_no_sense_are_refused_at_once(instance: Service) -> None:
    """With a sentence and exit code 2, before anything is opened."""
    instance.environment["WEBLOG_POLL_INTERVAL_MS"] = "soon"
    instance.start(is_waited_for=False)
    assert instance.wait_for_exit() == 2
    assert "WEBLOG_POLL_INTERVAL_MS" in instance.log()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_line_counts_once_through_kills(instance: Service, tmp_path: Path) -> None:
    """Files are written and rotated while the process is killed again and again, sometimes before it is ready."""
    random = Random(1)
    files = tmp_path / "files"
    files.mkdir()
    written: Counter[str] = Counter()
    instance.start()
    for _ in range(10):
        kill_at = time.monotonic() + random.uniform(0.2, 2.0)
        while time.monotonic() < kill_at:
            hosts = [f"h{random.randrange(20)}.example" for _ in range(random.randint(1, 30))]
            written.update(hosts)
            with (files / "access.log").open("a") as file:
                file.writelines(LINE.replace("last.example", host) for host in hosts)
            if random.random() < 0.1:
                (files / "access.log").rename(files / f"{time.monotonic_ns()}.log")
            time.sleep(0.01)
        instance.kill()
        instance.start(is_waited_for=False)
    instance.wait_until_ready()
    give_up_at = time.monotonic() + 30
    while sum((found := counts(instance)).values()) < written.total():
        assert time.monotonic() < give_up_at, (written - found, instance.tail())
        time.sleep(0.2)
    assert found == written
    assert instance.stop() == 0


def counts(instance: Service) -> Counter[str]:
    found = instance.request("GET", "/weblog/access/ALL")
    return Counter(dict(json.loads(found.body))) if found.status == 200 else Counter()
