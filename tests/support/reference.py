"""Writes docs/streams/reference: what users of `streams` call, from its signatures and docstrings. griffe reads them;
nothing is run but the parser of the command line. With `--check` pages are compared, and one that differs is an error.

PAGES is what is public. A name that is not there may change without notice.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import griffe

from streams.cli.main import COMMANDS, EXIT_CODES, build_parser

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "streams" / "reference"
WIDTH = 110
MADE = "<!-- Made from docstrings by `make reference`: change them, not this page. -->\n"


class Page(NamedTuple):
    """One page. *names*: the public names of each module; those of its `__all__` follow."""

    name: str
    title: str
    summary: str
    names: dict[str, tuple[str, ...]]


PAGES = (
    Page(
        "dsl",
        "Topologies",
        "what a topology is written with, and what it is when it is built",
        {
            "streams.dsl": ("StreamsBuilder", "KStream", "KGroupedStream", "WindowedKStream", "KTable"),
            "streams.topology.subtopology": ("ProcessorTopology",),
        },
    ),
    Page(
        "stores",
        "Stores of processors",
        "what a processor reads and writes, and what the test driver shows",
        {
            "streams.stores.typed": ("KeyValueStore",),
            "streams.stores.windows": ("WindowStore",),
            "streams.stores.sessions": ("SessionStore",),
            "streams.stores.membership": ("MembershipStore",),
        },
    ),
    Page(
        "serdes",
        "Serdes",
        "keys and values in bytes",
        {
            "streams.serdes": ("of", "SerdeLike", "Serde", "FunctionSerde"),
            "streams.serdes.avro": ("AvroSerde",),
            "streams.serdes.registry": ("SchemaRegistry",),
        },
    ),
    Page(
        "testing",
        "The test driver",
        "a topology in memory",
        {"streams.testing.driver": ("TopologyTestDriver", "DrivenRecord")},
    ),
    Page(
        "application",
        "Applications",
        "a topology, running, and what goes into it",
        {
            "streams.application": ("StreamsApplication", "StreamsSettings"),
            "streams.application.producing": ("Input", "Producer"),
            "streams.runtime.processing.counters": ("ProcessingCounters",),
            "streams.runtime.processing.feeding": ("FailedTask",),
        },
    ),
    Page(
        "queries",
        "Queries",
        "questions to stores, in the process and from another program",
        {
            "streams.queries.stores": ("StoreQueries", "Options", "Entry", "Page"),
            "streams.queries.counts": ("StoreCount", "PartitionCount"),
            "streams.queries.remote": ("RemoteQueries",),
            "streams.queries.asking": (
                "Freshness",
                "Part",
                "QueryError",
                "UnknownStore",
                "WrongQuery",
                "BadParameter",
                "BadCursor",
                "NotHere",
                "TooStale",
            ),
        },
    ),
    Page(
        "http",
        "HTTP",
        "stores and metadata below the paths of an application, and a server",
        {
            "streams.http.interactive": ("InteractiveQueries",),
            "streams.http.serving": ("serve_app", "run_server"),
            "streams.cli.serving": ("create_app",),
        },
    ),
    Page(
        "values",
        "Values and times",
        "records, deadlines and the clock",
        {
            "streams.records": ("Headers", "TopicPartition", "ProducerRecord", "Record", "header"),
            "streams.clock": ("Clock", "SystemClock", "Deadline", "Backoff"),
        },
    ),
)
ERRORS = "streams.errors"


def pages() -> dict[str, str]:
    """Return the text of each page by the name of its file."""
    package = griffe.load("streams", search_paths=[ROOT], try_relative_path=False, resolve_aliases=True)
    assert isinstance(package, griffe.Module)
    made = {f"{page.name}.md": "\n".join(_page(package, page)) for page in PAGES}
    made["errors.md"] = "\n".join(_errors(package))
    made["cli.md"] = "\n".join(_commands())
    made["README.md"] = "\n".join(_index(package))
    return {name: MADE + text.rstrip("\n") + "\n" for name, text in made.items()}


def _index(package: griffe.Module) -> Iterator[str]:
    yield "# Reference of `streams`\n"
    yield "Every public name with its signature: what it does, units, errors, and which threads may call it. The guides"
    yield "beside this folder say how the names go together: begin with [streams](../../../streams/README.md).\n"
    yield "Times are Unix milliseconds, and durations say their unit in their name, unless something else is said. An"
    yield "import starts nothing.\n"
    yield "| Page | | Names |\n|---|---|---|"
    for page in PAGES:
        names = ", ".join(f"`{each.name}`" for _, each in _public(package, page))
        yield f"| [{page.title}]({page.name}.md) | {page.summary} | {names} |"
    yield "| [Errors](errors.md) | one tree, divided by what the caller should do | all of `streams.errors` |"
    commands = ", ".join(f"`{command.NAME}`" for command in COMMANDS)
    yield f"| [Command line](cli.md) | `python -m streams` | {commands} |"


def _page(package: griffe.Module, page: Page) -> Iterator[str]:
    yield f"# {page.title}\n"
    last = ""
    for module, found in _public(package, page):
        if module != last:
            last = module
            yield f"## `{module}`\n"
            yield _text(package[module.partition(".")[2]]) + "\n"
        yield from _object(found)


def _public(package: griffe.Module, page: Page) -> Iterator[tuple[str, griffe.Object]]:
    """Yield each module of *page* with its names."""
    for module, names in page.names.items():
        holder = package[module.partition(".")[2]]
        for name in dict.fromkeys((*names, *map(str, holder.exports or ()))):
            found = holder[name]
            yield module, found.final_target if found.is_alias else found


def _object(found: griffe.Object) -> Iterator[str]:
    yield f"### {found.name}\n"
    if isinstance(found, griffe.Function):
        yield _code(_signature(found, "def "))
    elif isinstance(found, griffe.Class):
        yield _code(_class(found))
    else:
        assert isinstance(found, griffe.Attribute)
        yield _code(_attribute(found))
    said = _text(found)
    if not said:
        raise SystemExit(f"{found.path} has no docstring")
    yield said + "\n"
    if isinstance(found, griffe.Class):
        start = found.members.get("__init__")
        if isinstance(start, griffe.Function) and start.docstring is not None:
            yield _text(start) + "\n"
        for member in _members(found):
            yield f"#### {found.name}.{member.name}\n"
            if isinstance(member, griffe.Function):
                yield _code(_signature(member, _keyword(member)))
            else:
                assert isinstance(member, griffe.Attribute)
                yield _code(_attribute(member))
            yield _text(member) + "\n"


def _members(found: griffe.Class) -> Iterator[griffe.Function | griffe.Attribute]:
    """Yield the public members of *found* that say what they are, then those of its bases in this package."""
    seen: set[str] = set()
    for holder in (found, *found.mro()):
        for member in holder.members.values():
            if (
                member.is_alias
                or member.name in seen
                or (member.name.startswith("_") and member.name not in _OPERATORS)
            ):
                continue
            seen.add(member.name)
            is_said = bool(_text(member))
            if isinstance(member, griffe.Function) and not is_said:
                raise SystemExit(f"{member.path} has no docstring")
            if is_said and isinstance(member, griffe.Function | griffe.Attribute):
                yield member


def _class(found: griffe.Class) -> str:
    bases = f"({', '.join(map(str, found.bases))})" if found.bases else ""
    head = f"class {found.name}{bases}"
    if found.name in _MADE_ELSEWHERE:
        return head
    if "dataclass" in found.labels or "NamedTuple" in map(str, found.bases):
        members = [each for each in found.members.values() if isinstance(each, griffe.Attribute)]
        fields = [each for each in members if not each.name.startswith("_")]
        return "\n".join([f"{head}:", *(f"    {_attribute(each)}" for each in fields if "property" not in each.labels)])
    start = found.members.get("__init__")
    if isinstance(start, griffe.Function):
        return f"{head}:\n" + _indented(_signature(start, "def "))
    return head


_OPERATORS = ("__contains__",)
#: Users get these from other objects and never make them.
_MADE_ELSEWHERE = {
    "KStream", "KTable", "GlobalKTable", "KGroupedStream", "KGroupedTable", "WindowedKStream", "ProcessorContext",
    "KeyValueStore", "WindowStore", "SessionStore", "MembershipStore", "Producer", "ProcessingCounters",
    "ProcessorTopology", "StoreQueries",
}  # fmt: skip


def _signature(function: griffe.Function, keyword: str) -> str:
    given: list[str] = []
    last = None
    for parameter in function.parameters:
        if parameter.name in ("self", "cls") and not given and last is None:
            continue
        if parameter.kind is griffe.ParameterKind.keyword_only and last not in (
            griffe.ParameterKind.keyword_only,
            griffe.ParameterKind.var_positional,
        ):
            given.append("*")
        last = parameter.kind
        stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(last, "")
        hint = "" if parameter.annotation is None else f": {_plain(parameter.annotation)}"
        default = ""
        if parameter.default is not None and not stars:
            shown = _plain_value(parameter.default)
            default = f" = {shown}" if hint else f"={shown}"
        given.append(f"{stars}{parameter.name}{hint}{default}")
    returns = "" if function.returns is None else f" -> {_plain(function.returns)}"
    line = f"{keyword}{function.name}({', '.join(given)}){returns}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{keyword}{function.name}(", *(f"    {each}," for each in given), f"){returns}"])


def _keyword(function: griffe.Function) -> str:
    of_class = "@classmethod\n" if "classmethod" in function.labels else ""
    return of_class + ("async def " if "async" in function.labels else "def ")


def _attribute(attribute: griffe.Attribute) -> str:
    """Return name, type and default of a field; of any other attribute the value only where no type is written."""
    hint = "" if attribute.annotation is None else f": {_plain(attribute.annotation)}"
    is_alias = hint == ": TypeAlias"
    is_default = attribute.parent is not None and attribute.parent.is_class and "class-attribute" in attribute.labels
    if attribute.value is None or (hint and not (is_alias or is_default)):
        return attribute.name + hint
    return f"{attribute.name}{'' if is_alias else hint} = {_plain_value(attribute.value)}"


def _plain_value(expression: str | griffe.Expr) -> str:
    """Return a value with the quotes of the house."""
    text = str(expression)
    return text if '"' in text else text.replace("'", '"')


def _plain(expression: str | griffe.Expr) -> str:
    """Return an annotation without the quotes of a forward reference."""
    return str(expression).strip("'\"")


def _text(found: griffe.Object | griffe.Alias) -> str:
    """Return what is said of *found*: its docstring, or the comments `#:` above it."""
    if found.docstring is not None:
        return found.docstring.value
    if not isinstance(found, griffe.Attribute) or found.lineno is None:
        return ""
    assert isinstance(found.filepath, Path)
    lines = found.filepath.read_text().splitlines()[: found.lineno - 1]
    said: list[str] = []
    while lines and (line := lines.pop().strip()).startswith("#:"):
        said.insert(0, line[2:].strip())
    return "\n".join(said)


def _errors(package: griffe.Module) -> Iterator[str]:
    module = package[ERRORS.partition(".")[2]]
    yield "# Errors\n"
    yield f"## `{ERRORS}`\n"
    yield _text(module) + "\n"
    for found in module.members.values():
        if isinstance(found, griffe.Class):
            yield from _object(found)


def _commands() -> Iterator[str]:
    yield "# Command line\n"
    yield _code("python -m streams COMMAND ...", "sh")
    yield _code(EXIT_CODES.rstrip(), "text")
    subparsers = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    for command in COMMANDS:
        yield f"## `{command.NAME}`\n"
        yield f"{command.SUMMARY[0].upper()}{command.SUMMARY[1:]}.\n"
        yield "| | |\n|---|---|"
        for action in subparsers.choices[command.NAME]._actions:
            if action.dest == "help":
                continue
            value = "" if action.metavar is None or not action.option_strings else f" {action.metavar}"
            shown = " ".join(action.option_strings) or action.metavar
            words = f"`{'`, `'.join(action.choices)}`" if action.choices else ""
            default = f"; `{action.default}` unless given" if action.choices and action.default else ""
            yield f"| `{shown}{value}` | {'; '.join(part for part in (action.help, words) if part)}{default} |"
        yield "\n" + _code(command.EPILOG.rstrip(), "text")


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```\n"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def main() -> int:
    """Write the pages, or with `--check` compare them; return the exit code."""
    made = pages()
    if "--check" not in sys.argv[1:]:
        FOLDER.mkdir(exist_ok=True)
        for path in FOLDER.glob("*.md"):
            if path.name not in made:
                path.unlink()
        for name, text in made.items():
            (FOLDER / name).write_text(text)
        return 0
    there = {path.name: path.read_text() for path in FOLDER.glob("*.md")}
    wrong = sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))
    if wrong:
        print(f"docs/streams/reference is not what the docstrings say ({', '.join(wrong)}): run `make reference`")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
