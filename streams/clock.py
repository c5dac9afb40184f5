"""Time, deadlines and back-off: the only place of the package that asks the system for the time or for jitter.

Deadlines are on the monotonic clock, so that a step of the wall clock can neither end nor prolong a wait.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """What time it is. Any thread may call it."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        ...

    def time_ms(self) -> int:
        """Return Unix time in milliseconds; it may step in either direction."""
        ...


class SystemClock:
    """The machine's clocks. Any thread."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        return time.monotonic()

    def time_ms(self) -> int:
        """Return Unix time in milliseconds."""
        return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, in seconds, after which nobody waits for the answer any more."""

    at: float

    @classmethod
    def after(cls, seconds: float, clock: Clock) -> "Deadline":
        """Return the moment that lies `seconds` from now."""
        return cls(clock.monotonic() + seconds)

    def remaining_s(self, clock: Clock) -> float:
        """Return the seconds that are left, 0 when it has passed."""
        return max(0.0, self.at - clock.monotonic())

    def has_passed(self, clock: Clock) -> bool:
        """Say whether nothing is left."""
        return clock.monotonic() >= self.at


class Backoff:
    """Exponential back-off with full jitter. Not thread-safe: one for each retry loop.

    Source of the jitter rule: "Exponential Backoff And Jitter", AWS Architecture Blog.
    """

    def __init__(
        self, *, initial_s: float = 0.05, maximum_s: float = 2.0, draw: Callable[[], float] = random.random
    ) -> None:
        self._initial_s = initial_s
        self._maximum_s = maximum_s
        self._draw = draw
        self._attempts = 0

    def next_s(self) -> float:
        """Return how long to wait before the next attempt, in seconds; it grows with each call up to the maximum."""
        ceiling = min(self._maximum_s, self._initial_s * (1 << min(self._attempts, 30)))
        self._attempts += 1
        return ceiling * (0.5 + 0.5 * self._draw())

    def reset(self) -> None:
        """Start again from the initial wait: to be called after a success."""
        self._attempts = 0
