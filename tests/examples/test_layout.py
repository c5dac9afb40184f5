"""What an example may lean on: `streams`, the web framework and its own files, so that it can be copied and changed."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
FOREIGN = {"falcon", "fastavro"}
#: How an example becomes a server, and how its routes say that something is wrong: the same in all of them.
COMMON = ("examples", "examples.serving", "examples.answering")
MODULES = sorted(EXAMPLES.rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 70


def imports_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "an import says from where"
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_an_example_stands_on_streams_alone(path: Path) -> None:
    """No import of the profile service, of another example, or of a package that the service happens to have."""
    tree = ast.parse(path.read_text())
    own = "examples" if path.parent == EXAMPLES else f"examples.{path.relative_to(EXAMPLES).parts[0]}"
    for name in imports_of(tree):
        root = name.split(".")[0]
        if root == "examples":
            assert name.startswith(own) or name in COMMON, name
        else:
            assert root == "streams" or root in FOREIGN or root in sys.stdlib_module_names, name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_its_files_and_functions_are_short_and_say_what_they_are(path: Path) -> None:
    """As those of the packages."""
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name
