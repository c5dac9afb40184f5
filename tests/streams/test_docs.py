"""The pages for users are true: every block of Python on a page is run, in order and in one namespace."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs" / "streams").glob("*.md"), *(ROOT / "streams").glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_example_works(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader copies runs, and its assertions hold; line numbers of a failure are those of the page."""
    monkeypatch.chdir(tmp_path)  # where an example leaves what it makes
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": "page"}
    found = list(BLOCK.finditer(text))
    assert found, "a page without an example"
    for block in found:
        before = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(before + block[1], str(page), "exec"), namespace)
