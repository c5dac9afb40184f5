"""What an operator reads while stores are restored."""

import logging
from dataclasses import dataclass
from typing import Any, cast

import pytest

from streams.runtime.progress import RestoreProgress
from streams.runtime.task import StreamTask
from streams.testing import FakeClock


@dataclass
class Restoring:
    """A task that has so many records to go."""

    partition: int
    left: int

    def lag_records(self) -> int:
        return self.left


def test_a_restore_tells_percent_rate_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    """A line every two seconds, never more, and one at the end; a node that has nothing to restore says nothing."""
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    progress = RestoreProgress(clock)
    first, second = Restoring(0, 600), Restoring(3, 400)
    tasks = cast("list[StreamTask]", [first, second])

    progress.report([])
    assert not caplog.records
    progress.report(tasks)
    clock.advance(1.0)
    first.left = 500
    progress.report(tasks)
    assert not caplog.records
    clock.advance(1.0)
    first.left, second.left = 350, 400
    progress.report(tasks)
    progress.report(tasks)
    clock.advance(2.0)
    first.left, second.left = 0, 200
    progress.report(tasks[1:])
    clock.advance(1.0)
    progress.report([])

    assert [record.getMessage() for record in caplog.records] == ["restoring", "restoring", "restored"]
    lines: list[Any] = caplog.records
    assert [(line.percent, line.records_per_s, line.seconds_left, line.tasks) for line in lines[:2]] == [
        (25.0, 125, 6, [0, 3]),
        (80.0, 200, 1, [3]),
    ]
    assert (lines[2].records, lines[2].seconds) == (1000, 5.0)
