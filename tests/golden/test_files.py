"""The golden files belong together: cases, what Kafka Streams made of them, the driver, and the README.

Nothing here runs a topology, and nothing needs Java. What our own library makes of the cases is in test_golden.py.
"""

import hashlib
import json
import re
from typing import Any

import pytest

from tests.golden.format import (
    CASES,
    CORPUS,
    EXPECTED,
    HERE,
    KAFKA_STREAMS_VERSION,
    case_names,
    driver_sha256,
    load_case,
    load_corpus,
    load_expected,
    load_vocabulary,
    split_function,
)

README = (HERE / "README.md").read_text()
AGAIN = "run `make golden` and look at what changed"
# Which kind of function an operation takes, by the member that names it.
KINDS = {
    "filter": {"function": "predicate"},
    "filter_not": {"function": "predicate"},
    "map_values": {"function": "value mapper"},
    "map": {"function": "mapper"},
    "flat_map": {"function": "flat mapper"},
    "flat_map_values": {"function": "flat value mapper"},
    "select_key": {"function": "key selector"},
    "group_by": {"function": "key selector"},
    "process": {"function": "processor"},
    "reduce": {"function": "reducer", "subtractor": "reducer"},
    "aggregate": {"function": "aggregator", "subtractor": "aggregator"},
    "join": {"function": "joiner", "key_function": "key selector", "foreign_key": "key selector"},
    "left_join": {"function": "joiner", "key_function": "key selector", "foreign_key": "key selector"},
    "outer_join": {"function": "joiner"},
}


def table(header: str) -> list[list[str]]:
    """Return the rows of the README's table whose header line begins with *header*, as lists of cells."""
    lines = README.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {header} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def names_of(header: str) -> set[str]:
    """Return the names in the first column of a table: of `append x` the name is append."""
    return {row[0].strip("`").split(" ")[0] for row in table(header)}


@pytest.mark.parametrize("name", case_names())
def test_expected_file_was_made_from_this_case(name: str) -> None:
    """A case that was changed, and whose expected file was not made again, is found."""
    case, expected = load_case(name), load_expected(name)
    assert expected.case_sha256 == case.sha256, AGAIN
    assert expected.kafka_streams == KAFKA_STREAMS_VERSION, AGAIN


@pytest.mark.parametrize("name", case_names())
def test_expected_file_answers_the_whole_case(name: str) -> None:
    """There is a step for each input, up to the one that failed, and a result for each read of a store."""
    case, expected = load_case(name), load_expected(name)
    if expected.topology_error is not None:
        assert not case.input
        return
    if failed := [number for number, step in enumerate(expected.steps) if step.error is not None]:
        assert failed == [len(expected.steps) - 1]
        assert len(expected.steps) <= len(case.input)
        return
    assert len(expected.steps) == len(case.input)
    assert tuple(read for read, _ in expected.stores) == case.stores
    written = {step["topic"] for step in case.topology if step.op == "to"}
    assert set(expected.topics) == written
    assert all(set(step.outputs) <= written for step in expected.steps)


def test_there_is_no_expected_file_without_a_case() -> None:
    """Files of cases that were removed or renamed do not stay behind."""
    made = {path.stem for path in EXPECTED.glob("*.json")} - {"driver", "partitions", "serdes"}
    assert made == set(case_names())


def test_each_case_says_what_it_shows() -> None:
    """Each description is one sentence, and no two cases have the same topology and input."""
    seen: dict[str, str] = {}
    for name in case_names():
        data = json.loads((CASES / f"{name}.json").read_text())
        description = data.pop("description")
        assert description.endswith("."), f"{name}: {description!r} is not a sentence"
        assert "?" not in description, f"{name}: say what Kafka Streams does, not what was asked"
        content = json.dumps(data, sort_keys=True)
        assert content not in seen, f"{name} is the same as {seen[content]}"
        seen[content] = name


def test_corpora_were_made_from_the_lists_beside_them() -> None:
    """Keys and values that were added without making the files again are found, and each has its bytes."""
    for made, source in (("partitions", "keys"), ("serdes", "serdes")):
        content = (CORPUS / f"{source}.json").read_bytes()
        whole = json.loads((EXPECTED / f"{made}.json").read_text())
        assert whole["corpus_sha256"] == hashlib.sha256(content).hexdigest(), AGAIN
        given, entries = json.loads(content), load_corpus(made)
        assert [{name: entry[name] for name in one} for one, entry in zip(given, entries, strict=True)] == given
        assert all(re.fullmatch("([0-9a-f]{2})*", entry["bytes"]) for entry in entries)


def test_files_were_made_by_this_driver() -> None:
    """A driver that was changed may say something else: then everything is made again."""
    assert load_vocabulary()["driver_sha256"] == driver_sha256(), AGAIN


def test_readme_explains_the_vocabulary_of_the_driver() -> None:
    """The README's tables name exactly the operations, functions and reads that the driver knows."""
    vocabulary = load_vocabulary()
    assert names_of("op") == set(vocabulary["operations"])
    for kind, names in vocabulary["functions"].items():
        assert names_of(kind) == set(names), kind
    assert names_of("read") == set(vocabulary["reads"])


def test_readme_names_the_members_of_each_operation() -> None:
    """Of each operation the README has the members that the driver takes; those of joins stand below the table."""
    joining = {"store", "before_ms", "after_ms", "grace_ms", "key_function", "foreign_key"}
    for name, members, _ in table("op"):
        operation = load_vocabulary()["operations"][name.strip("`")]
        needed = {word for word in re.findall(r"[\w\[\]]+", members) if not word.startswith("[")}
        allowed = {word.strip("[]") for word in re.findall(r"\[\w+\]", members)}
        assert needed == set(operation["needed"]) - {"id"}, name
        assert allowed == set(operation["allowed"]) - (joining if "join" in name else set()), name
    assert joining <= set(re.findall(r"`(\w+)`", README))


@pytest.mark.parametrize("kind", sorted({kind for members in KINDS.values() for kind in members.values()}))
def test_each_function_is_used_by_a_case(kind: str) -> None:
    """No word of the vocabulary is there for nothing."""
    assert set(load_vocabulary()["functions"][kind]) == {name for used, name in functions_used() if used == kind}


def test_each_operation_and_read_is_used_by_a_case() -> None:
    """No operation and no read is there for nothing."""
    cases = [load_case(name) for name in case_names()]
    assert {step.op for case in cases for step in case.topology} == set(load_vocabulary()["operations"])
    assert {read.read for case in cases for read in case.stores} == set(load_vocabulary()["reads"])


def functions_used() -> set[tuple[str, str]]:
    """Return kind and name of each function that a case names."""
    used = set()
    for name in case_names():
        for step in load_case(name).topology:
            members: list[tuple[str, Any]] = [(kind, step.get(m)) for m, kind in KINDS.get(step.op, {}).items()]
            members += [("predicate", branch["function"]) for branch in step.get("branches", ())]
            used |= {(kind, split_function(text)[0]) for kind, text in members if text is not None}
    return used
