"""What happened to one request on its way through the cluster: for `?explain=1`, and for nothing else."""

from dataclasses import dataclass, field

from streams.clock import Clock


@dataclass(slots=True)
class Trail:
    """Notes of one request, in order: words without blanks and milliseconds. Event loop only."""

    clock: Clock
    steps: list[str] = field(default_factory=list)
    began: float = 0.0

    def begin(self) -> None:
        """Start the time of the next step."""
        self.began = self.clock.monotonic()

    def note(self, step: str) -> None:
        """Add a step and the ms that it took since `begin`."""
        self.steps.append(f"{step}; ms={(self.clock.monotonic() - self.began) * 1000:.1f}")

    def __str__(self) -> str:
        return ", ".join(self.steps)
