"""A share that is never divided: one replicator copies everything."""

from dataclasses import dataclass

from app.replication.ports import SourceInfo


@dataclass(frozen=True, slots=True)
class Everything:
    """A `Share` that is never divided."""

    partitions: frozenset[int]

    @classmethod
    def of(cls, source: SourceInfo) -> "Everything":
        """Return the share of all partitions of *source*."""
        return cls(frozenset(range(source.partitions)))

    def close(self) -> None:
        """Nothing to give up."""
