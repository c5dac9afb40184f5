"""Random requests from the API's own description: no 5xx, and every answer is one that the description allows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import NewService
from tests.e2e.test_kill import seed_of_run

#: Statuses that a request of a valid shape may get, and those that one of an invalid shape may get before its shape is
#: looked at. Two checks are left out below, because OpenAPI 3.1 cannot describe the method QUERY. The change feed is
#: asked for answers that end; those that wait, or never end, have tests of their own. To an import every text is lines:
#: what is wrong with one is said in its place, under 200.
SETTINGS = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "3xx", 400, 404, 409, 410, 412, 413, 414, 422, 431]
negative_data_rejection.expected-statuses = [400, 404, 405, 409, 412, 413, 414, 415, 422, 431]

[[operations]]
include-path = "/api/changes"
parameters = { "query.feed" = "normal" }

[[operations]]
include-path = "/api/import"
generation.mode = "positive"
"""
#: It has no way of its own to send lines: they are text.
COMMAND = """
import sys, schemathesis
from schemathesis.cli import schemathesis as run

@schemathesis.serializer("application/x-ndjson", "application/jsonl")
def lines(context, value):
    return value.encode() if isinstance(value, str) else repr(value).encode()

sys.exit(run())
"""
LEAST_CASES = 300


@pytest.mark.parametrize("examples", [8, pytest.param(150, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_every_answer_is_as_described(new_service: NewService, tmp_path: Path, examples: int) -> None:
    """Valid and invalid requests to every operation, and sequences of them, get answers as described."""
    service = new_service().start()
    seed = seed_of_run()
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    done = subprocess.run(
        [
            *(sys.executable, "-c", COMMAND),
            *("--config-file", str(tmp_path / "schemathesis.toml")),
            *("run", f"http://127.0.0.1:{service.port}/api/openapi.json"),
            *("--checks", "all", "--max-examples", str(examples), "--seed", str(seed)),
            *("--exclude-checks", "unsupported_method,allow_header_conformance"),
            *("--request-timeout", "12", "--continue-on-failure", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=3500,
        check=False,
    )
    print(f"CHAOS_SEED={seed}\n{done.stdout[-20000:]}{done.stderr[-2000:]}")
    assert done.returncode == 0, f"CHAOS_SEED={seed}"
    cases = re.search(r"(\d+) generated", done.stdout)
    assert cases, "no summary"
    assert int(cases[1]) >= LEAST_CASES
    assert service.request("GET", "/readyz").status == 200
    assert "Traceback" not in service.log(), service.tail()
