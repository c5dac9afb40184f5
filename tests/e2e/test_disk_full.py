"""A full disk under load: writes are refused honestly, nothing acknowledged is lost, and room is enough to go on."""

import asyncio
import contextlib
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.conftest import NewService
from tests.e2e.test_kill import seed_of_run
from tests.support.history import Operation, Outcome
from tests.support.load import Load
from tests.support.service import Service
from tests.support.verdict import judge

SIZE_MB = 96
REQUEST_TIMEOUT_S = 2.0
RECOVERY_S = 30.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little room. Only root may mount one."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, *, leave_bytes: int) -> Path:
    """Write a file that leaves *leave_bytes* free."""
    ballast = place / "ballast"
    room = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize - leave_bytes
    # The service takes some of the room at the same time: no room is what is wanted.
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        for _ in range(max(0, room) // 4096):
            file.write(bytes(4096))
    return ballast


@pytest.mark.parametrize("leave_bytes", [0, 65536], ids=["at once", "after some writes"])
def test_a_full_disk(
    new_service: NewService, log_environment: Mapping[str, str], small_disk: Path, leave_bytes: int
) -> None:
    """Writes get 503 or 504 in time while there is no room, reads go on or get 503, and all works again with room."""
    service = new_service(PROFILES_STATE_DIR=str(small_disk / "data"), **log_environment).start()
    seed = seed_of_run()

    async def scenario() -> None:
        load = Load([service.address], seed=seed, request_timeout_s=REQUEST_TIMEOUT_S)
        load.start()
        await written(service, load, 60)
        ballast = await asyncio.to_thread(fill, small_disk, leave_bytes=leave_bytes)
        full_ns = time.monotonic_ns()
        during = await refused(load, full_ns, 5)
        await asyncio.to_thread(ballast.unlink)
        freed_at = time.monotonic()
        await written(service, load, 1)
        recovery_s = time.monotonic() - freed_at
        await written(service, load, 60)
        await load.stop()
        outcomes = Counter(f"{op.kind}/{op.status}" for op in during)
        print(
            f"CHAOS_SEED={seed}; works {recovery_s:.2f} s after there is room; when full: {outcomes}; {load.summary()}"
        )
        assert recovery_s < RECOVERY_S
        assert load.slowest_s < REQUEST_TIMEOUT_S + 1, load.summary()
        verdict = await judge(service, load, least_acknowledged=120)
        verdict.assert_clean(f"CHAOS_SEED={seed}")

    asyncio.run(scenario())


async def refused(load: Load, since_ns: int, count: int) -> list[Operation]:
    """Wait until *count* writes called after *since_ns* failed; returns all that was called since then and has ended.

    Without it the disk was never full for the service, and the run would show nothing.
    """
    end = time.monotonic() + 30
    while True:
        await asyncio.sleep(1.0)
        during = [op for op in load.operations if op.called_ns > since_ns]
        if sum(op.is_write and op.outcome is not Outcome.OK for op in during) >= count:
            return during
        assert time.monotonic() < end, f"the disk was never full: {load.summary()}"


async def written(service: Service, load: Load, count: int) -> None:
    """Wait for *count* more acknowledged writes."""
    wanted = load.count(Outcome.OK, is_write=True) + count
    end = time.monotonic() + 60
    while load.count(Outcome.OK, is_write=True) < wanted:
        assert time.monotonic() < end, f"{load.summary()}\n{service.tail()}"
        await asyncio.sleep(0.02)


def test_a_start_on_a_full_disk(new_service: NewService, small_disk: Path) -> None:
    """Without room the node does not pretend: it ends with an error or says 503; with room it starts with all data."""
    service = new_service(PROFILES_STATE_DIR=str(small_disk / "data")).start()
    body = b'{"username":"u","email":"u@mail.com"}'
    created = service.request("POST", "/api/profile", body)
    assert created.status == 201
    service.kill()
    ballast = fill(small_disk, leave_bytes=0)
    service.start(is_waited_for=False)
    end = time.monotonic() + 5
    while service.is_running and time.monotonic() < end:
        found = service.status_of(created.headers["location"])
        assert found in (None, 200, 503)
        time.sleep(0.1)
    if service.is_running:
        reply = service.request(
            "POST", "/api/profile", b'{"username":"v","email":"v@mail.com"}', {"Request-Timeout": "1"}
        )
        assert reply.status in (503, 504)
        service.kill()
    else:
        assert service.exit_code != 0
    ballast.unlink()
    service.start()
    assert service.request("GET", created.headers["location"]).body == created.body
