"""The documents are true: every curl example is run as it stands, every link inside the project leads somewhere.

Examples are fenced blocks marked `sh`, extracted from the Markdown. A command that calls curl ends with a comment that
names the status it gets; the blocks of one document run one after the other in one shell, so variables carry on.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.service import ROOT, Service

_EXAMPLES = ["README.md", "docs/api.md", "docs/changes.md"]
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_STATUS = re.compile(r"# (\d{3})$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
_DEFAULT_BASE = "http://127.0.0.1:8080"

# Standard error is free for the status: -s silences what curl would say there, and a curl that fails ends the shell.
_PRELUDE = r"""
set -eu -o pipefail
curl() { command curl -s --max-time 15 --write-out '%{stderr}%{http_code}\n' "$@" 2>> "$STATUSES"; }
"""


def _documents() -> list[Path]:
    return [path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if path.is_file()]


@pytest.mark.parametrize("name", _EXAMPLES)
def test_curl_examples_get_the_status_that_they_name(name: str, tmp_path: Path) -> None:
    """Each example of the document, run in order on a fresh node, is answered with the status in its comment."""
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("curl or bash is not installed: the examples of the documents were not run")
    script = "\n".join(_BLOCK.findall((ROOT / name).read_text()))
    expected = _STATUS.findall(script)
    assert len(expected) == len(re.findall(r"\bcurl ", script)), "every curl names its status"
    with Service(tmp_path / "node") as service:
        service.start()
        statuses = tmp_path / "statuses"
        statuses.touch()
        here = f"http://127.0.0.1:{service.port}"
        done = subprocess.run(
            ["bash", "-c", _PRELUDE + script.replace(_DEFAULT_BASE, here)],
            env={"PATH": os.environ["PATH"], "STATUSES": str(statuses)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        output = f"{done.stdout}\n{done.stderr}\n{service.tail(10)}"
    assert done.returncode == 0, output
    assert statuses.read_text().split() == expected, output


@pytest.mark.parametrize("path", _documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_inside_the_project_lead_somewhere(path: Path) -> None:
    """A relative link of a document names a file of the project."""
    missing = [link for link in _LINK.findall(path.read_text()) if not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("path", _documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_document_names_exist(path: Path) -> None:
    """A path of the code in backquotes, such as `app/asgi.py`, is the path of a file or folder."""
    named = re.findall(r"`((?:app|streams|tests|docs|benchmarks)/[\w./-]+)`", path.read_text())
    missing = sorted({name for name in named if not (ROOT / name).exists()})
    assert not missing
