"""Export and import as their users have them: commands, files, a real service on either log, kill -9 of either side."""

import asyncio
import contextlib
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app.cli.main import main
from tests.e2e.conftest import NewService, kafka_environment
from tests.e2e.test_kill import seed_of_run
from tests.support.dump import Raw, raw_embedded, raw_kafka
from tests.support.history import Outcome
from tests.support.load import Load
from tests.support.service import ROOT, Service

WAIT_S = 60.0


def people(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"username": f"person {n}", "email": f"person-{n}@example.com"} for n in range(start, start + count)]


def write_lines(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" if not isinstance(line, str) else line + "\n" for line in lines))
    return path


class Done(NamedTuple):
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def command(service: Service, *arguments: str) -> Done:
    """Run `python -m app` with *arguments* in the environment of *service*, in this process: starting one takes longer
    than what most of these commands do."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments, service.environment)
    return Done(code, out.getvalue(), err.getvalue())


def bring_in(service: Service, path: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Run the import, check its exit code, return its summary."""
    done = command(service, "import", str(path), "--json", *arguments)
    assert done.returncode == code, done.stderr + service.tail(20)
    summary: dict[str, Any] = json.loads(done.stdout)
    assert "@" not in done.stdout + done.stderr
    return summary


def take_out(service: Service, path: Path) -> tuple[list[bytes], dict[str, Any]]:
    """Run the export; return its lines and its positions."""
    done = command(service, "export", str(path))
    assert done.returncode == 0, done.stderr + service.tail(20)
    return exported(path)


def exported(path: Path) -> tuple[list[bytes], dict[str, Any]]:
    """Return the lines and the positions of an export."""
    return path.read_bytes().splitlines(), json.loads(path.with_name(path.name + ".positions").read_bytes())


def raw(service: Service) -> list[Raw]:
    """Return the records of the topic of profiles. A node on the embedded log is stopped for it."""
    if "PROFILES_BOOTSTRAP_SERVERS" in service.environment:
        topic = service.environment["PROFILES_TOPIC_PREFIX"] + "profiles"
        return raw_kafka(service.environment["PROFILES_BOOTSTRAP_SERVERS"], topic)
    if service.is_running:
        service.stop()
    return raw_embedded(service.state_dir, "profiles")


def fold_at(records: list[Raw], positions: dict[str, Any]) -> list[bytes]:
    """Return what *records* come to at the positions of an export, by uid: reckoned here, not by the product."""
    offsets = {one["partition"]: one["offset"] for one in positions["positions"]}
    state: dict[bytes, bytes] = {}
    for record in records:
        assert record.key is not None
        if record.offset < offsets[record.partition]:
            if record.value is None:
                state.pop(record.key, None)
            else:
                state[record.key] = record.value
    return [state[uid] for uid in sorted(state)]


def offsets_of(positions: dict[str, Any]) -> list[int]:
    return [one["offset"] for one in positions["positions"]]


def begin(service: Service, *arguments: str) -> "subprocess.Popen[str]":
    """Begin a command in the background."""
    return subprocess.Popen(
        [sys.executable, "-m", "app", *arguments],
        cwd=ROOT,
        env=service.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> bool:
    """Wait until *condition* holds; False when *process* ended before."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


def fresh(log_environment: Mapping[str, str]) -> dict[str, str]:
    """Return settings for a log that has nothing, on the same broker if there is one."""
    broker = log_environment.get("PROFILES_BOOTSTRAP_SERVERS")
    return kafka_environment(broker) if broker else {}


@pytest.mark.timeout(300)
def test_round_trip(new_service: NewService, log_environment: Mapping[str, str], tmp_path: Path) -> None:
    """Import, change, delete, export; import that into a fresh service, export again: the same bytes. A second import
    of either file changes nothing, and what was deleted does not come back."""
    first = new_service("first", **log_environment).start()
    users = write_lines(tmp_path / "users.jsonl", people(600))
    assert bring_in(first, users)["created"] == 600
    uids = [json.loads(line)["uid"] for line in take_out(first, tmp_path / "before.jsonl")[0]]
    for number, uid in enumerate(uids[:30]):
        document = json.dumps({"username": "changed", "email": f"Changed-{number}@Example.com"}).encode()
        assert first.request("PUT", f"/api/profile/{uid}", document).status == 200
    for uid in uids[30:40]:
        assert first.request("DELETE", f"/api/profile/{uid}").status == 204
    export = tmp_path / "exported.jsonl"
    lines, positions = take_out(first, export)
    assert len(lines) == 590
    assert {json.loads(line)["version"] for line in lines} == {1, 2}
    for line in (lines[0], lines[300]):
        assert first.request("GET", f"/api/profile/{json.loads(line)['uid']}").body == line

    # Back into the service that it came from: all there, but for what was deleted since the older export.
    again = bring_in(first, export)
    assert (again["created"], again["already_there"], again["refused"]) == (0, 590, 0)
    older = bring_in(first, tmp_path / "before.jsonl", code=1)
    assert older["reasons"] == {"profile-differs": 30, "profile-gone": 10}

    second = new_service("second", **fresh(log_environment)).start()
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(export.read_bytes()))
    assert bring_in(second, packed)["created"] == 590
    back, there = take_out(second, tmp_path / "back.jsonl")
    assert back == lines
    for path in (packed, export):
        path.with_name(path.name + ".progress").unlink(missing_ok=True)
        summary = bring_in(second, path)
        assert (summary["created"], summary["already_there"]) == (0, 590)
    assert offsets_of(take_out(second, tmp_path / "end.jsonl")[1]) == offsets_of(there)
    records = raw(second)
    assert fold_at(records, there) == back
    assert len(records) == 590
    assert fold_at(raw(first), positions) == lines
    if not log_environment:  # A node that does not run is exported from its directory.
        assert take_out(second, tmp_path / "stopped.jsonl")[0] == back
        assert command(second, "verify").returncode == 0


@pytest.mark.timeout(300)
def test_export_while_writers_write(
    new_service: NewService, log_environment: Mapping[str, str], tmp_path: Path
) -> None:
    """Each of some exports is the fold at its positions, and has all that was acknowledged before it began."""
    service = new_service(**log_environment).start()
    found: list[tuple[list[bytes], dict[str, Any], set[str]]] = []

    async def scenario() -> None:
        load = Load([service.address], seed=7, clients=8, with_keys=False)
        load.start()
        for number in range(3):
            before = load.count(Outcome.OK, is_write=True)
            while load.count(Outcome.OK, is_write=True) < before + 100:
                await asyncio.sleep(0.02)
            acknowledged = {uid for uid in load.known if service.status_of(f"/api/profile/{uid}") == 200}
            path = tmp_path / f"{number}.jsonl"
            done = await asyncio.to_thread(service.command, "export", str(path))
            assert done.returncode == 0, done.stderr
            found.append((*exported(path), acknowledged))
        await load.stop()

    asyncio.run(scenario())
    records = raw(service)
    ends: Counter[int] = Counter(record.partition for record in records)
    assert ends
    for lines, positions, acknowledged in found:
        assert lines == fold_at(records, positions)
        gone = {record.key.decode() for record in records if record.key is not None and record.value is None}
        assert acknowledged - gone <= {json.loads(line)["uid"] for line in lines}
    totals = [sum(offsets_of(positions)) for _, positions, _ in found]
    assert totals == sorted(set(totals)), "the writers went on between the exports"


def kill_rounds(service: Service, directory: Path, *, lines: int, rounds: int) -> None:
    """Import *lines* while importer and service are killed in turn, *rounds* times; then nobody is missing or twice."""
    seed = seed_of_run()
    print(f"CHAOS_SEED={seed}")
    rng = random.Random(seed)
    wanted: list[Any] = people(lines)
    bad = rng.sample(range(lines), 20)
    for number in bad:
        wanted[number] = "{" if rng.random() < 0.5 else {"username": "", "email": wanted[number]["email"]}
    path = write_lines(directory / "users.jsonl", wanted)
    progress = directory / "users.jsonl.progress"
    rejected = directory / "rejected.jsonl"
    arguments = ("import", str(path), "--errors", str(rejected), "--json")

    def done() -> int:
        return int(json.loads(progress.read_text())["mark"]["lines"]) if progress.exists() else 0

    process = begin(service, *arguments)
    resumed = 0
    try:
        for number in range(rounds):
            target = min(done() + rng.randrange(1, max(2, lines // rounds // 2)), lines - 1)
            if not wait_until(lambda target=target: done() >= target, process):  # type: ignore[misc]
                break
            if number % 2:
                service.kill()
                service.start()
            else:
                process.kill()
                process.communicate()
                resumed += done() > 0
                process = begin(service, *arguments)
        output, errors = process.communicate(timeout=WAIT_S * 3)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1, errors
    summary = json.loads(output)
    assert summary["lines"] == lines
    assert summary["created"] + summary["already_there"] == lines - len(bad)
    rows = [json.loads(row) for row in rejected.read_text().splitlines()]
    assert [row["line"] - 1 for row in rows] == sorted(bad)
    assert resumed, "the import was over before it could be killed"
    records = raw(service)
    emails = Counter(json.loads(record.value)["email"] for record in records if record.value is not None)
    assert emails == Counter(one["email"] for one in wanted if isinstance(one, dict) and one["username"])


@pytest.mark.timeout(300)
def test_kill_of_the_import_and_of_the_service(new_service: NewService, tmp_path: Path) -> None:
    """Four rounds on the embedded log: the same command goes on; no profile twice, none missing."""
    kill_rounds(new_service().start(), tmp_path, lines=4000, rounds=4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_of_the_import_and_of_the_service_many_times(
    new_service: NewService, log_environment: Mapping[str, str], tmp_path: Path
) -> None:
    """`CHAOS_ROUNDS` (20) rounds on each log."""
    rounds = int(os.environ.get("CHAOS_ROUNDS", "20"))
    kill_rounds(new_service(**log_environment).start(), tmp_path, lines=2000 * rounds, rounds=rounds)


def test_conflicts_are_listed_one_by_one(new_service: NewService, tmp_path: Path) -> None:
    """With line, reason and the profile in the way; the e-mail in the errors file alone. The rest is taken."""
    service = new_service().start()
    bring_in(service, write_lines(tmp_path / "a.jsonl", people(5)))
    uid = service.request("GET", "/api/search?email=person-1@example.com").body.decode().split('"')[3]
    lines = ["\ufeff", *people(3), {"username": "other", "email": "PERSON-1@example.com"}, "", "[]", *people(2, 5)]
    path, rejected = write_lines(tmp_path / "b.jsonl", lines), tmp_path / "rejected.jsonl"
    done = command(service, "import", str(path), "--errors", str(rejected))
    assert done.returncode == 1
    assert f"line 5: email-taken: another profile has this e-mail (existing_uid={uid})" in done.stderr
    assert "9 lines: 2 created, 3 already there, 2 refused" in done.stdout
    assert "@" not in done.stdout + done.stderr
    rows = [json.loads(row) for row in rejected.read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in rows] == [(5, "email-taken"), (7, "validation-failed")]
    assert json.loads(rows[0]["input"]) == lines[4]
    dry = command(service, "import", str(path), "--dry-run", "--json")
    assert (dry.returncode, json.loads(dry.stdout)["reasons"]) == (1, {"validation-failed": 1})


def test_a_finished_import_is_not_repeated_and_another_input_is_begun(new_service: NewService, tmp_path: Path) -> None:
    """The progress holds for this input and this topic."""
    service = new_service("a").start()
    path = write_lines(tmp_path / "a.jsonl", people(10))
    bring_in(service, path)
    done = command(service, "import", str(path))
    assert done.returncode == 0
    assert "was imported before" in done.stderr
    write_lines(path, people(11))
    done = command(service, "import", str(path), "--json")
    assert "begins anew" in done.stderr
    assert (json.loads(done.stdout)["created"], json.loads(done.stdout)["already_there"]) == (1, 10)
    other = new_service("b").start()
    assert bring_in(other, path)["created"] == 11


@pytest.mark.timeout(300)
def test_pipes_and_failures_have_their_exit_codes(new_service: NewService, tmp_path: Path) -> None:
    """Nobody there, no such file, no service, half a file: 2, with a sentence. Ctrl-C and SIGTERM: 130."""
    service = new_service().start()
    piped = subprocess.run(
        [sys.executable, "-m", "app", "import", "-", "--json"],
        cwd=ROOT,
        env=service.environment,
        input="".join(json.dumps(one) + "\n" for one in people(3)),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (piped.returncode, json.loads(piped.stdout)["created"]) == (0, 3)
    out = service.command("export", "-")
    assert (out.returncode, len(out.stdout.splitlines())) == (0, 3)
    assert "3 profiles exported" in out.stderr
    half = tmp_path / "half.jsonl.gz"
    half.write_bytes(gzip.compress(b'{"username":"a","email":"a@mail.com"}\n' * 100)[:-9])
    for arguments, sentence in (
        (("import", str(tmp_path / "nothing")), "No such file"),
        (("import", str(half)), "ends in the middle"),
        (("import", str(half), "--url", "nowhere"), "is not the address of a service"),
        (("export", str(tmp_path / "no" / "such" / "directory")), "No such file"),
    ):
        failed = command(service, *arguments)
        assert (failed.returncode, "Traceback" in failed.stderr) == (2, False), failed.stderr
        assert sentence in failed.stderr
    path = write_lines(tmp_path / "long.jsonl", people(60_000))
    for number in (signal.SIGINT, signal.SIGTERM):
        process = begin(service, "import", str(path))
        progress = tmp_path / "long.jsonl.progress"
        assert wait_until(progress.exists, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=WAIT_S)
        assert (process.returncode, "Traceback" in errors) == (130, False), errors
        progress.unlink()
