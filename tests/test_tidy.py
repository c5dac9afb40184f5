"""The rules of the house, read from the source: who may import what, how long things are, and what the documents list.

Nothing here imports the code under test but the tables that the documents must repeat.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from app.cli.main import build_parser
from app.http.profiles import PROFILES_PATH
from app.http.search import SEARCH_PATH
from app.observability.metrics import CATALOGUE
from app.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("streams", "app")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70

# Layers of `streams`, from the ground up: a module imports its own layer and those below.
LAYERS = (
    {"streams.errors", "streams.records", "streams.clock", "streams.config", "streams.serdes", "streams.metrics"}
    | {"streams.partitioner", "streams.lockfile", "streams.files", "streams.cluster", "streams.assignment"},
    {"streams.topology"},
    {"streams.log", "streams.stores"},
    {"streams.operators", "streams.processing"},
    {"streams.dsl"},
    {"streams.runtime", "streams.testing"},
    {"streams.application"},
    {"streams.queries"},
    {"streams.http"},
    {"streams.cli", "streams.__main__"},
)
# Foreign packages that only these may import.
CONFINED = {
    "kafka": ("streams.log.kafka", "app.replication.kafka"),
    "rocksdict": ("streams.log.local", "streams.stores.rocksdb", "streams.stores.directory"),
    "falcon": ("streams.http", "app.http"),
    "gunicorn": ("app.server",),
    "uvloop": ("app.server",),
    "marshmallow": ("app.profiles", "app.http"),
    "apispec": ("app.http",),
    "email_validator": ("app.profiles",),
    "prometheus_client": ("app.observability",),
    "structlog": ("app.observability",),
    "fastavro": ("streams.serdes.avro",),
    "tqdm": ("app.cli",),
    "urllib3": ("app.replication",),
}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
# Calls that are allowed in these modules only.
BANNED_CALLS = {
    "time.time": ("streams.clock",),
    "time.time_ns": ("streams.clock",),
    "time.monotonic": ("streams.clock",),
    "time.sleep": (),
    "random.random": ("streams.clock",),
    "print": ("app.cli", "streams.cli"),
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def sources() -> dict[str, tuple[Path, ast.Module]]:
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {module_of(path): (path, ast.parse(path.read_text())) for path in paths}


def within(module: str, packages: tuple[str, ...] | set[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def imports_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each imported module; for `from a import b` a.b where that is a module of ours, otherwise a."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if full in sources() else node.module), node.lineno


def everywhere() -> Iterator[tuple[str, ast.Module]]:
    return ((module, tree) for module, (_, tree) in sources().items())


def test_imports_go_one_way() -> None:
    """`streams` knows no application, and each of its layers only those below."""
    wrong = []
    for module, tree in everywhere():
        layer = next((n for n, names in enumerate(LAYERS) if within(module, names)), None)
        assert layer is not None or within(module, ("app",)) or module == "streams", f"{module} is in no layer"
        for name, line in imports_of(tree):
            target = next((n for n, names in enumerate(LAYERS) if within(name, names)), None)
            is_upward = layer is not None and target is not None and target > layer
            if is_upward or (within(module, ("streams",)) and within(name, ("app", "examples"))):
                wrong.append(f"{module}:{line} imports {name}")
    assert not wrong


def test_foreign_packages_stay_where_they_belong() -> None:
    """A library can be replaced where it is confined."""
    wrong = [
        f"{module}:{line} imports {name}"
        for module, tree in everywhere()
        for name, line in imports_of(tree)
        if (places := CONFINED.get(name.partition(".")[0])) is not None and not within(module, places)
    ]
    assert not wrong


def test_every_import_is_at_the_top_of_its_module() -> None:
    """No import in a function or behind TYPE_CHECKING: that is how cycles hide."""
    wrong = []
    for module, tree in everywhere():
        top = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in top:
                wrong.append(f"{module}:{node.lineno}")
            if isinstance(node, ast.Name) and node.id == "TYPE_CHECKING":
                wrong.append(f"{module}:{node.lineno} TYPE_CHECKING")
    assert not wrong


def test_there_are_no_import_cycles() -> None:
    """Modules can be ordered."""
    graph = {module: {name for name, _ in imports_of(tree) if name in sources()} for module, tree in everywhere()}
    seen: dict[str, bool] = {}

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if seen.get(module):
            return
        assert module not in trail, " -> ".join((*trail, module))
        for target in graph[module]:
            visit(target, (*trail, module))
        seen[module] = True

    for module in graph:
        visit(module, ())


def test_files_and_functions_are_short() -> None:
    """What is longer has more than one subject."""
    wrong = []
    for module, (path, tree) in sources().items():
        lines = len(path.read_text().splitlines())
        if lines > MAX_FILE_LINES:
            wrong.append(f"{module} has {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    wrong.append(f"{module}.{node.name} has {length} lines")
    assert not wrong


def test_every_module_says_what_lives_there() -> None:
    """A file opens with a docstring, unless it is empty."""
    assert not [module for module, tree in everywhere() if tree.body and ast.get_docstring(tree) is None]


def test_importing_does_nothing() -> None:
    """At the top of a module stand definitions and constants: no environment, files, threads or sockets."""
    touching = {"os.environ", "os.getenv", "open", "socket.socket", "threading.Thread", "Path.cwd", "sys.argv"}
    wrong = []
    for module, tree in everywhere():
        for statement in tree.body:
            if isinstance(statement, DEFINITIONS):
                continue
            if isinstance(statement, ast.If) and module in ("app.__main__", "streams.__main__"):
                continue
            wrong += [
                f"{module}:{statement.lineno} {name}"
                for node in ast.walk(statement)
                if isinstance(node, ast.Attribute | ast.Name) and (name := ast.unparse(node)) in touching
            ]
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                wrong.append(f"{module}:{statement.lineno} a call")
    assert not wrong


def test_time_jitter_and_printing_have_their_places() -> None:
    """Time and chance come from the injected clock, output from the command line."""
    wrong = [
        f"{module}:{node.lineno} {name}"
        for module, tree in everywhere()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in BANNED_CALLS
        if not within(module, BANNED_CALLS[name])
    ]
    assert not wrong


def routes() -> set[str]:
    """Every path that the API adds: what begins with a slash in `app.http.api`, and the two that have names."""
    _, tree = sources()["app.http.api"]
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {text for text in texts if re.fullmatch(r"/[a-z.{}/]+", text)} - {"/{uid}"} | {PROFILES_PATH, SEARCH_PATH}


def commands() -> list[str]:
    """Every command of the command line, with its parents."""

    def below(parser: object, prefix: str) -> Iterator[str]:
        for action in getattr(parser, "_actions", []):
            for name, child in (getattr(action, "choices", None) or {}).items() if action.nargs == "A..." else ():
                nested = list(below(child, f"{prefix}{name} "))
                yield from nested or [f"{prefix}{name}"]

    return list(below(build_parser(), ""))


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([f"`{setting.name}`" for setting in SETTINGS], id="settings"),
        pytest.param([f"`{entry.name}`" for entry in CATALOGUE], id="metrics"),
        pytest.param([f"`python -m app {name}`" for name in commands()], id="commands"),
        pytest.param([f"`{route}`" for route in sorted(routes())], id="routes"),
    ],
)
def test_the_operations_page_lists_everything(words: list[str]) -> None:
    """A setting, metric, command or route that nobody can look up does not exist."""
    page = (ROOT / "docs" / "operations.md").read_text()
    assert words
    assert not [word for word in words if word not in page]


def test_the_operations_page_states_the_defaults_and_meanings_in_force() -> None:
    """A row of the settings' table is the row in the code."""
    page = (ROOT / "docs" / "operations.md").read_text()
    for setting in SETTINGS:
        default = setting.derived if setting.default is None else f"`{setting.default}`" if setting.default else "empty"
        assert f"| `{setting.name}` | {default} | {setting.meaning} |" in page
    for entry in CATALOGUE:
        row = f"| `{entry.name}` | {entry.kind} | {entry.unit} | {', '.join(entry.labels) or '-'} | {entry.meaning} |"
        assert row in page
