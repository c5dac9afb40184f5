"""Import into a cluster by way of nodes that own little of it, and of one that dies meanwhile; export of its topic."""

import json
import uuid
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.conftest import NewNodes
from tests.e2e.test_backfill import begin, bring_in, fold_at, people, raw, take_out, wait_until, write_lines

pytestmark = pytest.mark.cluster


def test_an_import_goes_on_while_a_node_dies(new_nodes: NewNodes, tmp_path: Path) -> None:
    """The lines of its partitions wait for the next owner; in the end everybody is there once, and the export is the
    fold of the topic."""
    nodes = new_nodes().start("a", "b", "c")
    path = write_lines(tmp_path / "users.jsonl", people(3000))
    urls = [f"http://127.0.0.1:{nodes[name].port}" for name in "ab"]
    process = begin(nodes["a"], "import", str(path), "--json", "--url", urls[0], "--url", urls[1])
    progress = tmp_path / "users.jsonl.progress"
    assert wait_until(lambda: progress.exists() and json.loads(progress.read_text())["mark"]["lines"] > 0, process)
    nodes["b"].kill()
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    summary = json.loads(output)
    assert (summary["created"] + summary["already_there"], summary["refused"]) == (3000, 0)
    lines, positions = take_out(nodes["a"], tmp_path / "out.jsonl")
    records = raw(nodes["a"])
    assert fold_at(records, positions) == lines
    assert Counter(json.loads(line)["email"] for line in lines) == Counter(one["email"] for one in people(3000))


def test_profiles_are_restored_whoever_owns_uid_and_email(new_nodes: NewNodes, tmp_path: Path) -> None:
    """Uids from elsewhere, so that most e-mails belong to another node than their profiles: each is found by uid and by
    e-mail, twice changes nothing, and an e-mail that is taken is refused."""
    nodes = new_nodes().start("a", "b", "c")
    time = "2026-01-01T09:00:00.000Z"
    lines = [
        {"uid": str(uuid.uuid4()), **one, "version": number % 5 + 1, "created_at": time, "updated_at": time}
        for number, one in enumerate(people(200))
    ]
    path = write_lines(tmp_path / "exported.jsonl", lines)
    assert bring_in(nodes["b"], path)["created"] == 200
    (tmp_path / "exported.jsonl.progress").unlink()
    assert bring_in(nodes["c"], path)["already_there"] == 200
    out, _ = take_out(nodes["a"], tmp_path / "out.jsonl")
    assert sorted(map(json.loads, out), key=str) == sorted(lines, key=str)
    for line in lines[:40]:
        found = nodes["a"].request("GET", f"/api/search?email={line['email']}")
        assert json.loads(found.body) == line
    thieves = [{**line, "uid": str(uuid.uuid4())} for line in lines[:20]]
    refused = bring_in(nodes["b"], write_lines(tmp_path / "thieves.jsonl", thieves), code=1)
    assert refused["reasons"] == {"email-taken": 20}
