"""Fences one after the other: how long each may take."""

from collections.abc import Mapping
from concurrent.futures import Future

import pytest

from streams.clock import Deadline
from streams.errors import Fenced, LogUnavailable
from streams.log.base import Ownership
from streams.records import TopicPartition
from streams.runtime.fencing import Fencing
from streams.testing.clock import FakeClock

OWNERSHIP = Ownership(1, "member", frozenset({0}))
Fence = Future[Mapping[TopicPartition, int]]


class Writer:
    """Notes how long each fence may take; the test decides how it ends."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.allowed_s: list[float] = []
        self.last: Fence = Future()

    def fence(self, ownership: Ownership, deadline: Deadline) -> Fence:
        assert ownership is OWNERSHIP
        self.allowed_s.append(round(deadline.remaining_s(self._clock), 3))
        self.last = Future()
        return self.last


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def fail(fencing: Fencing, writer: Writer, clock: FakeClock, error: Exception) -> None:
    """Let the fence under way end with *error*, and begin the next."""
    writer.last.set_exception(error)
    assert not fencing.advance(OWNERSHIP)
    clock.advance(2.0)  # more than any pause between two
    assert not fencing.advance(OWNERSHIP)


def test_a_slow_log_is_given_more_time_up_to_a_bound(clock: FakeClock) -> None:
    """Else a log that needs a little longer than one attempt has would never be fenced."""
    writer = Writer(clock)
    fencing = Fencing(writer, clock, lambda: None, 4.0)  # type: ignore[arg-type]  # no appends here
    fencing.advance(OWNERSHIP)
    for _ in range(4):
        fail(fencing, writer, clock, LogUnavailable("fencing took too long"))
    assert writer.allowed_s == [4.0, 6.0, 9.0, 12.0, 12.0]
    place = TopicPartition("t", 0)
    writer.last.set_result({place: 7})
    assert fencing.advance(OWNERSHIP)
    assert fencing.barrier == {place: 7}
    fencing.succeeded()
    fencing.require()
    fencing.advance(OWNERSHIP)
    assert writer.allowed_s[-1] == 4.0


def test_who_is_refused_needs_no_more_time(clock: FakeClock) -> None:
    """A fence that somebody else's made worthless is no sign of a slow log."""
    writer = Writer(clock)
    fencing = Fencing(writer, clock, lambda: None, 4.0)  # type: ignore[arg-type]  # no appends here
    fencing.advance(OWNERSHIP)
    fail(fencing, writer, clock, Fenced("another producer"))
    assert writer.allowed_s == [4.0, 4.0]
