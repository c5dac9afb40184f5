"""Damage of what is on disk: a rebuild or an honest error, never a wrong answer.

A node is filled, stopped and spoilt, and started again; then every profile, every search and the list are compared with
what was written. The stores may always be rebuilt from the log. The embedded log is the only copy of its data: where
it is damaged, the node must refuse to start rather than serve a part as the whole.
"""

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import NewService
from tests.support.service import Response, Service

PROFILES = 400
SEED = 20261121
READY_TIMEOUT_S = 30.0

Model = dict[str, tuple[int, str, str] | None]


def fill(service: Service, *, first: int, count: int, model: Model) -> None:
    """Create profiles, change a third of them, delete a tenth; note in *model* what must be served."""
    for number in range(first, first + count):
        email = f"p{number}@mail.com"
        body = json.dumps({"username": f"p{number}", "email": email}).encode()
        uid = json.loads(service.request("POST", "/api/profile", body).body)["uid"]
        model[uid] = (1, f"p{number}", email)
        if number % 3 == 0:
            body = json.dumps({"username": f"q{number}", "email": f"q{number}@mail.com"}).encode()
            assert service.request("PUT", f"/api/profile/{uid}", body).status == 200
            model[uid] = (2, f"q{number}", f"q{number}@mail.com")
        if number % 10 == 0:
            assert service.request("DELETE", f"/api/profile/{uid}").status == 204
            model[uid] = None


def get(service: Service, target: str) -> Response:
    """GET, again while the answer is 503: damage is met when it is read, and the task is then rebuilt."""
    end = time.monotonic() + READY_TIMEOUT_S
    while (found := service.request("GET", target)).status == 503:
        assert "retry-after" in found.headers
        assert time.monotonic() < end, f"{target} gets 503 for {READY_TIMEOUT_S} s"
        time.sleep(0.05)
    return found


def compare(service: Service, model: Model) -> None:
    """Assert that get, search and list give exactly what *model* says, and that no deleted profile can be restored."""
    cursor, listed = "", {}
    while cursor is not None:
        target = "/api/profile?limit=500" + (f"&cursor={cursor}" if cursor else "")
        page = json.loads(get(service, target).body)
        listed.update({item["uid"]: item for item in page["items"]})
        cursor = page["next"]
    assert listed.keys() == {uid for uid, state in model.items() if state is not None}
    for uid, state in model.items():
        found = get(service, f"/api/profile/{uid}")
        if state is None:
            assert found.status == 404
            assert restored(service, uid) == 410
            continue
        document = json.loads(found.body)
        assert (document["version"], document["username"], document["email"]) == state
        assert listed[uid] == document
        assert json.loads(get(service, f"/api/search?email={state[2]}").body) == document


def restored(service: Service, uid: str) -> int:
    """Return the status of restoring the profile *uid*, which asks for what is remembered of its deletion."""
    line = {"uid": uid, "username": "u", "email": f"{uid}@mail.com", "version": 1}
    times = dict.fromkeys(("created_at", "updated_at"), "2026-01-31T23:59:59.999Z")
    end = time.monotonic() + READY_TIMEOUT_S
    while True:
        reply = service.request(
            "POST", "/api/import", json.dumps(line | times).encode(), {"Content-Type": "application/x-ndjson"}
        )
        assert reply.status == 200, reply
        status = int(json.loads(reply.body)["status"])
        if status != 503:
            return status
        assert time.monotonic() < end, f"{uid} gets 503 for {READY_TIMEOUT_S} s"
        time.sleep(0.05)


def flip(path: Path, rng: random.Random) -> None:
    """Change a byte in the middle of *path*."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data) // 4, 3 * len(data) // 4)] ^= 0xFF
    path.write_bytes(data)


def halve(path: Path, rng: random.Random) -> None:
    """Cut *path* in two and lose the second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


#: One of each kind of file; the others run with the long fault tests.
QUICK = {("SST", flip), ("WAL", halve), ("MANIFEST", flip), ("CURRENT", remove)}

DAMAGES = [
    pytest.param(
        pattern,
        damage,
        id=f"{damage.__name__} {name}",
        marks=() if (name, damage) in QUICK else pytest.mark.slow,
    )
    for name, pattern, damages in (
        ("SST", "*.sst", (flip, halve, remove, empty)),
        ("WAL", "*.log", (flip, halve, remove, empty)),
        ("MANIFEST", "MANIFEST-*", (flip, halve, remove, empty)),
        ("CURRENT", "CURRENT", (remove, empty)),
        ("IDENTITY", "IDENTITY", (remove,)),
    )
    for damage in damages
]

Damage = Callable[[Path, random.Random], None]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    """A state directory with SST files and a WAL in every task and in the log, and what must be served from it."""
    directory = tmp_path_factory.mktemp("image")
    model: Model = {}
    with Service(directory) as service:
        service.start()
        fill(service, first=0, count=PROFILES, model=model)
        assert service.stop() == 0  # closing flushes: SST files
        service.start()
        fill(service, first=PROFILES, count=PROFILES // 8, model=model)
        service.kill()  # nothing is flushed: a WAL with the newest rows
    return directory / "data", model


def copied(new_service: NewService, image: tuple[Path, Model]) -> tuple[Service, Model]:
    """A node that is not started yet, on a copy of the image."""
    service = new_service()
    shutil.copytree(image[0], service.state_dir)
    return service, dict(image[1])


def all_of(directory: Path, pattern: str) -> list[Path]:
    """The files below *directory* that match, not empty, in a stable order."""
    return sorted(path for path in directory.rglob(pattern) if path.is_file() and path.stat().st_size)


@pytest.mark.parametrize(("pattern", "damage"), DAMAGES)
def test_damaged_stores_are_rebuilt(
    new_service: NewService, image: tuple[Path, Model], pattern: str, damage: Damage
) -> None:
    """One file of the kind is spoilt in each task's store: after the start every answer is right, and stays so."""
    service, model = copied(new_service, image)
    rng = random.Random(SEED)
    spoilt = 0
    for task in sorted((service.state_dir / "tasks").iterdir()):
        for path in all_of(task, pattern)[:1]:
            damage(path, rng)
            spoilt += 1
    assert spoilt >= 6, f"only {spoilt} files {pattern}"
    service.start()
    compare(service, model)
    service.wait_until_ready(READY_TIMEOUT_S)
    fill(service, first=5000, count=10, model=model)
    compare(service, model)
    assert service.stop() == 0
    verified = service.command("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.parametrize(("pattern", "damage"), DAMAGES)
def test_a_damaged_log_is_never_served_in_part(
    new_service: NewService, image: tuple[Path, Model], pattern: str, damage: Damage
) -> None:
    """A file of the embedded log is spoilt and the stores are gone: all is right, or the node says what is wrong and
    ends with an error."""
    service, model = copied(new_service, image)
    shutil.rmtree(service.state_dir / "tasks")
    candidates = all_of(service.state_dir / "log", pattern)
    assert candidates, pattern
    damage(max(candidates, key=lambda path: path.stat().st_size), random.Random(SEED))
    service.start(is_waited_for=False)
    try:
        service.wait_until_ready(READY_TIMEOUT_S)
    except AssertionError:
        assert not service.is_running, f"neither ready nor ended:\n{service.tail()}"
        assert service.exit_code == 2
        assert "cannot run" in service.log(), service.tail()
        return
    compare(service, model)


def test_an_old_copy_of_the_stores_catches_up(new_service: NewService, image: tuple[Path, Model]) -> None:
    """The tasks of an older state directory are copied back beside a newer log: they are brought up to date, and
    tasks that changed places are rebuilt."""
    service, model = copied(new_service, image)
    old = service.directory / "old"
    shutil.copytree(service.state_dir / "tasks", old)
    service.start()
    fill(service, first=6000, count=60, model=model)
    for uid in [uid for uid, state in model.items() if state is not None][:40]:
        assert service.request("DELETE", f"/api/profile/{uid}").status == 204
        model[uid] = None
    assert service.stop() == 0
    shutil.rmtree(service.state_dir / "tasks")
    shutil.copytree(old, service.state_dir / "tasks")
    service.start()
    compare(service, model)
    assert service.stop() == 0
    tasks = service.state_dir / "tasks"
    (tasks / "0").rename(tasks / "x")
    (tasks / "1").rename(tasks / "0")
    (tasks / "x").rename(tasks / "1")
    service.start()
    compare(service, model)
    assert service.stop() == 0
    assert service.command("verify").returncode == 0


def test_an_old_copy_of_the_log_is_noticed(new_service: NewService, image: tuple[Path, Model]) -> None:
    """The log of an older state directory is copied back beside newer stores: what only they had is not served."""
    service, model = copied(new_service, image)
    old = service.directory / "old"
    shutil.copytree(service.state_dir / "log", old)
    service.start()
    later: Model = {}
    fill(service, first=7000, count=100, model=later)
    assert service.stop() == 0
    shutil.rmtree(service.state_dir / "log")
    shutil.copytree(old, service.state_dir / "log")
    service.start()
    compare(service, model)
    assert service.stop() == 0
    assert service.command("verify").returncode == 0
