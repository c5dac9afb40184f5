"""Windows: which stretches of time a record belongs to, and until when a window takes late records. Pure values.

All times are Unix milliseconds of the records' timestamps, and only *stream time* (the greatest timestamp seen so
far) passes. A window closes when stream time reaches its end plus the grace; what comes for it later is dropped, and
counted.
"""

from collections.abc import Callable
from dataclasses import dataclass

from streams.errors import TopologyError


def _positive(what: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise TopologyError(f"{what} must be a whole number of milliseconds greater than 0, not {value!r}")


def _not_negative(what: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TopologyError(f"{what} must be a whole number of milliseconds, 0 or more, not {value!r}")


@dataclass(frozen=True, slots=True)
class TimeWindows:
    """Windows [start, start + size_ms) whose starts are the multiples of advance_ms. See `tumbling` and `hopping`."""

    size_ms: int
    advance_ms: int
    grace_ms: int

    def __post_init__(self) -> None:
        _positive("size_ms", self.size_ms)
        _positive("advance_ms", self.advance_ms)
        _not_negative("grace_ms", self.grace_ms)
        if self.advance_ms > self.size_ms:
            raise TopologyError(f"advance_ms ({self.advance_ms}) must not exceed size_ms ({self.size_ms})")

    def starts_of(self, timestamp_ms: int) -> range:
        """Return the starts of the windows that *timestamp_ms* lies in, the earliest first; none before the epoch."""
        first = max(0, timestamp_ms - self.size_ms + self.advance_ms) // self.advance_ms * self.advance_ms
        return range(first, timestamp_ms + 1, self.advance_ms)

    def starter(self) -> Callable[[int], range | tuple[int]]:
        """Return the fastest function that does what `starts_of` does."""
        size_ms = self.size_ms
        if self.advance_ms != size_ms:
            return self.starts_of
        return lambda timestamp_ms: (timestamp_ms - timestamp_ms % size_ms,)

    @property
    def retention_ms(self) -> int:
        """For how long, in stream time, a store has to keep a window."""
        return self.size_ms + self.grace_ms


@dataclass(frozen=True, slots=True)
class SlidingWindows:
    """Windows [end - difference_ms, end], one for each distinct set of records no further apart than difference_ms."""

    difference_ms: int
    grace_ms: int

    def __post_init__(self) -> None:
        _not_negative("difference_ms", self.difference_ms)
        _not_negative("grace_ms", self.grace_ms)

    @property
    def retention_ms(self) -> int:
        """For how long, in stream time, a store has to keep a window."""
        return 2 * self.difference_ms + self.grace_ms


@dataclass(frozen=True, slots=True)
class SessionWindows:
    """Sessions [first, last]: records of one key between which never more than gap_ms pass."""

    gap_ms: int
    grace_ms: int

    def __post_init__(self) -> None:
        _positive("gap_ms", self.gap_ms)
        _not_negative("grace_ms", self.grace_ms)

    @property
    def retention_ms(self) -> int:
        """For how long, in stream time, a store has to keep a session after its end."""
        return self.gap_ms + self.grace_ms


@dataclass(frozen=True, slots=True)
class JoinWindows:
    """A record joins one of the other stream that is at most before_ms earlier and at most after_ms later."""

    before_ms: int
    after_ms: int
    grace_ms: int

    def __post_init__(self) -> None:
        _not_negative("grace_ms", self.grace_ms)
        if self.before_ms + self.after_ms < 0:
            raise TopologyError(f"a join window must not end ({self.after_ms}) before it starts ({-self.before_ms})")

    @property
    def retention_ms(self) -> int:
        """For how long, in stream time, a store has to keep a record."""
        return self.before_ms + self.after_ms + self.grace_ms


Windows = TimeWindows | SlidingWindows | SessionWindows


def tumbling(size_ms: int, *, grace_ms: int = 0) -> TimeWindows:
    """Windows of *size_ms*, one after the other: each record is in exactly one. The start belongs to a window, the end
    does not. *grace_ms*: for how long after its end, in stream time, a window still takes late records; what comes
    after that is dropped, and counted. Raises TopologyError for a size of 0 or a grace below 0."""
    return TimeWindows(size_ms, size_ms, grace_ms)


def hopping(size_ms: int, *, advance_ms: int, grace_ms: int = 0) -> TimeWindows:
    """Windows of *size_ms*, one starting every *advance_ms*: a record is in several. Otherwise as `tumbling`. Raises
    TopologyError for an advance greater than the size, too."""
    return TimeWindows(size_ms, advance_ms, grace_ms)


def sliding(difference_ms: int, *, grace_ms: int = 0) -> SlidingWindows:
    """Windows that move with the records, one for each distinct set of records that lie no further apart than
    *difference_ms*; both ends belong to them. *grace_ms*: as in `tumbling`. Raises TopologyError for numbers below
    0."""
    return SlidingWindows(difference_ms, grace_ms)


def session(gap_ms: int, *, grace_ms: int = 0) -> SessionWindows:
    """Sessions that end after *gap_ms* without a record of their key. A late record can make one of two, for which
    `aggregate` needs its merger. *grace_ms*: as in `tumbling`. Raises TopologyError for a gap of 0."""
    return SessionWindows(gap_ms, grace_ms)


def join_windows(
    difference_ms: int | None = None,
    *,
    before_ms: int | None = None,
    after_ms: int | None = None,
    grace_ms: int = 0,
) -> JoinWindows:
    """The window of a join of two streams: *difference_ms* in both directions, unless one of them is given. A record
    meets those of the other stream that are at most *before_ms* earlier and *after_ms* later, both included; either
    may be negative. *grace_ms*: as in `tumbling`. Raises TopologyError when a bound is missing, or the window would
    end before it starts."""
    before = difference_ms if before_ms is None else before_ms
    after = difference_ms if after_ms is None else after_ms
    if before is None or after is None:
        raise TopologyError("a join window needs difference_ms, or before_ms and after_ms")
    return JoinWindows(before, after, grace_ms)
