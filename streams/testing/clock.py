"""A clock for tests: it stands still until it is moved."""


class FakeClock:
    """A clock that only its owner moves."""

    def __init__(self, *, monotonic_s: float = 1000.0, time_ms: int = 1_700_000_000_000) -> None:
        self._monotonic_s = monotonic_s
        self._time_ms = time_ms

    def monotonic(self) -> float:
        return self._monotonic_s

    def time_ms(self) -> int:
        return self._time_ms

    def advance(self, seconds: float) -> None:
        """Move both clocks on."""
        self._monotonic_s += seconds
        self._time_ms += round(seconds * 1000)
