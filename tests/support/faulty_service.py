"""The service in bad circumstances, which a right one copes with: `python -m tests.support.faulty_service FAULT...`.

FAULTs: `crash-points` (it kills itself at a named point of its work, once the test has asked for that), and a wall
clock that is wrong: `clock:SECONDS` (ahead, or behind when negative) or `clock:jumping`. Unlike those of
`tests.support.buggy_service` these are no bugs: no promise may break. Nothing of this is known to the product.
"""

import inspect
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

from kafka import KafkaProducer

from app.cli.main import main
from app.profiles.settlement import Settlement
from streams.log.kafka.transactions import Transactions
from streams.runtime.events import OwnershipEvents
from streams.runtime.states import TaskState
from streams.runtime.table import FencedTable
from streams.runtime.task import StreamTask
from streams.stores.rocksdb import RocksTaskStore

JUMPING = "jumping"
_JUMP_EVERY_S = 2.0
_JUMPS_S = (0, 3600, -3600, 7200)


class Point(NamedTuple):
    """Before, or after, a call of *method* of *owner*, if *applies* to the object."""

    owner: type
    method: str
    is_after: bool = False
    applies: Callable[[Any], bool] = lambda _: True


#: Where it can be made to die: on a write's way, and on a partition's.
POINTS: Mapping[str, Point] = {
    "before the append": Point(Transactions, "append"),
    "sent, not committed": Point(KafkaProducer, "commit_transaction"),
    "committed, nobody knows": Point(KafkaProducer, "commit_transaction", is_after=True),
    "read back, not applied": Point(StreamTask, "apply", applies=lambda task: task.state is TaskState.ACTIVE),
    "before the store's batch": Point(RocksTaskStore, "commit"),
    "applied, not answered": Point(FencedTable, "flush"),
    "ownership is told": Point(OwnershipEvents, "on_assigned"),
    "ownership is taken": Point(OwnershipEvents, "on_revoked"),
    "before the fence": Point(Transactions, "fence"),
    "an e-mail is claimed, nothing written": Point(Settlement, "_claim", is_after=True),
    "written, the old e-mail not released": Point(Settlement, "_release"),
    "asked for a claim": Point(Settlement, "claim"),
    "while it restores": Point(StreamTask, "apply", applies=lambda task: task.state is not TaskState.ACTIVE),
}


def crash_file(state_dir: Path) -> Path:
    """Where a test writes the name of the point at which the node of *state_dir* is to die; it dies once."""
    return state_dir.with_suffix(".crash-at")


def install_crash_points() -> None:
    """Look for `crash_file` at each point."""
    file = crash_file(Path(os.environ["PROFILES_STATE_DIR"]))
    for name, point in POINTS.items():
        _install(name, point, file)


def _install(name: str, point: Point, file: Path) -> None:
    call = getattr(point.owner, point.method)

    def crash_if_due(target: Any) -> None:
        if file.exists() and file.read_text() == name and point.applies(target):
            file.unlink()
            os.killpg(os.getpgid(0), signal.SIGKILL)

    @wraps(call)
    async def watched_async(self: Any, *arguments: Any, **options: Any) -> Any:
        if not point.is_after:
            crash_if_due(self)
        result = await call(self, *arguments, **options)
        if point.is_after:
            crash_if_due(self)
        return result

    @wraps(call)
    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        if not point.is_after:
            crash_if_due(self)
        result = call(self, *arguments, **options)
        if point.is_after:
            crash_if_due(self)
        return result

    setattr(point.owner, point.method, watched_async if inspect.iscoroutinefunction(call) else watched)


def shift_clock(how: str) -> None:
    """Let the wall clock of this process be wrong. The monotonic clock is left alone, as by a step of the system's."""
    read, read_ns = time.time, time.time_ns

    def offset_s() -> int:
        if how != JUMPING:
            return int(how)
        return _JUMPS_S[int(time.monotonic() / _JUMP_EVERY_S) % len(_JUMPS_S)]

    time.time = lambda: read() + offset_s()
    time.time_ns = lambda: read_ns() + offset_s() * 1_000_000_000


if __name__ == "__main__":
    for fault in sys.argv[1:]:
        if fault == "crash-points":
            install_crash_points()
        else:
            shift_clock(fault.removeprefix("clock:"))
    sys.exit(main(["run"]))
