"""How a node and its tasks stand: values for operators, and how they are taken. Nothing here changes anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streams.clock import Clock
from streams.runtime.states import TaskState
from streams.runtime.task import StreamTask


@dataclass(frozen=True, slots=True)
class TaskHealth:
    """How a task stands. `position` and `end` are sums over its topics; `lag_records` counts the offsets
    that are left, `percent` is how much of the way is done; `staleness_s`: since when it may miss something, 0 for an
    active task, infinite for one that was never caught up."""

    partition: int
    state: str
    position: int
    end: int
    lag_records: int
    percent: float
    rebuilds: int
    staleness_s: float


@dataclass(frozen=True, slots=True)
class QuarantinedRecord:
    """Where a record lies that could not be processed, and why. `at_ms`: the record's timestamp, Unix time in ms."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """How the node stands. Ready: it is in the group, all partitions that it owns are active, and it takes their
    writes; an observer: all its partitions were caught up once. `ailing_partitions`: the owned ones for which the
    log takes nothing for now; they keep no node from being ready."""

    is_live: bool
    is_ready: bool
    is_draining: bool
    section: str
    lease_left_s: float
    queued_commands: int
    ailing_partitions: int
    tasks: Sequence[TaskHealth]


def tasks_health(tasks: Mapping[int, StreamTask], clock: Clock) -> list[TaskHealth]:
    """Return how each of *tasks* stands, by partition. Any thread."""
    now = clock.monotonic()
    return [_task_health(task, now) for _, task in sorted(tasks.items())]


def _task_health(task: StreamTask, now: float) -> TaskHealth:
    lag = task.lag_records()
    total = sum((task.barrier or {}).values())
    return TaskHealth(
        partition=task.partition,
        state=task.state.value,
        position=sum(task.positions.values()),
        end=sum(task.positions.values()) + lag,
        lag_records=lag,
        percent=100.0 if not total else round(100 * (total - lag) / total, 1),
        rebuilds=task.rebuilds,
        staleness_s=0.0 if task.state is TaskState.ACTIVE else max(0.0, now - task.caught_up_at),
    )
