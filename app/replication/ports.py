"""What lies between the replicator and the systems that it copies from and to. Values and ports; nothing here does I/O.

The promise that all parts keep together: **when the log has been quiet for a while, the sink holds exactly the fold of
the log**. Three rules make it so. A source hands over the changes of a profile in log order and leaves none out; a sink
accepts any change any number of times, and an older one never replaces a newer one; a position is written only when
everything before it is in the sink, and is kept *in* the sink, so that both always go back together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from streams.errors import StreamsError
from streams.records import Headers


class Change(NamedTuple):
    """The state of one profile after a record of the log.

    `offset`: its place in the partition. Of two changes of a uid the one with the greater offset is the newer, whoever
    wrote them: unlike `version`, which begins anew when a deleted profile is restored from an export, and which a
    foreign producer may get wrong. `uid`: the text of a UUID. `version`: the profile's; a delete's is one more than
    that of the last state, or 0 where a foreign tombstone says none. `body`: the profile as it is served (JSON, UTF-8),
    None for a delete. `headers`: those of the record, in its order; empty where the source has none (change feed).
    `timestamp_ms`: the record's, 0 where it is not known.
    """

    partition: int
    offset: int
    uid: str
    version: int
    body: bytes | None
    headers: Headers = ()
    timestamp_ms: int = 0


class Position(NamedTuple):
    """The place in one partition of the source after which to go on.

    `order`: the next offset to read, so that two positions of a partition can be compared; `token` is the source's own
    name for the place, opaque to everybody else. `as_of_ms`: Unix time of the latest moment of which is known that all
    that the log held *then* lies before this position. Deletes can disappear from a compacted log: a position whose
    `as_of_ms` is too old (`SourceInfo.horizon_ms`) may have missed some, and must not be gone on from.
    """

    order: int
    token: str
    as_of_ms: int


class Skipped(NamedTuple):
    """A record that is no profile, by its place. The service quarantines it, too: it changes no state."""

    partition: int
    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A step of one or more partitions: `changes`, in log order for each partition, and the `positions` after them.

    A position can move without a change. A uid can occur several times; a sink of states may keep the last alone.
    """

    changes: Sequence[Change]
    positions: Mapping[int, Position]
    skipped: Sequence[Skipped] = ()


class Refused(NamedTuple):
    """A change that the sink will never take, and why: never with the content. It was set aside under its uid."""

    uid: str
    version: int
    reason: str


@dataclass(frozen=True, slots=True)
class Written:
    """What `Sink.write` did: how many changes were applied, how many were old (or repeated), and what was refused."""

    applied: int = 0
    stale: int = 0
    refused: Sequence[Refused] = ()


class ReplicationError(StreamsError):
    """The root of what stands between source and sink.

    ReplicationError
    |- SourceUnavailable   wait and ask again
    |- SourceExpired       the position cannot be gone on from: rebuild the sink
    |- SinkUnavailable     wait and write again (the `rest`)
    |- SinkMoved           the sink was replaced by another one: ask for its positions and go on from there
    '- SinkUnusable        stop: only an operator can mend it
    """


class SourceUnavailable(ReplicationError):
    """The source does not answer now."""

    is_retriable = True


class SourceExpired(ReplicationError):
    """The position lies in another log, outside of it, or so far back that deletes may be missing."""


class SinkUnavailable(ReplicationError):
    """The sink is away, busy, full or slow: the same again later, for as long as it takes.

    `rest` is what is still to be written, where the sink knows that; None means all of it. `done` is what became of
    the other changes.
    """

    is_retriable = True

    def __init__(self, message: str, *, rest: Batch | None = None, done: Written | None = None) -> None:
        super().__init__(message)
        self.rest = rest
        self.done = done or Written()


class SinkMoved(ReplicationError):
    """What was written to is not there any more, because it was rebuilt. Nothing of the batch counts as written."""

    is_retriable = True


class SinkUnusable(ReplicationError):
    """The sink belongs to somebody else, follows another log, or refuses this client. The message says what to do."""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """`identity` changes when the log is another one (a topic's id); `horizon_ms`: how old `Position.as_of_ms` may
    be, None where the source itself refuses a position that is too old."""

    identity: str
    partitions: int
    horizon_ms: int | None = None


class Source(Protocol):
    """Where changes come from. One thread uses it; only `wakeup` may be called by any."""

    def describe(self) -> SourceInfo:
        """Ask what is read. Raises SourceUnavailable, or another StreamsError when it can never be read."""
        ...

    def assign(self, positions: Mapping[int, Position | None]) -> None:
        """Replace the assignment: read each partition from its position on; None is the beginning. A partition that
        stays with an unchanged position goes on without a gap."""
        ...

    def poll(self, timeout_s: float) -> Batch | None:
        """Return the next step, waiting for it up to *timeout_s*; None after that, or `wakeup`. Bounded in records and
        bytes. A source that is away yields nothing until it is back. Raises SourceExpired."""
        ...

    def caught_up_at(self, partition: int) -> float:
        """Return the latest moment, on the monotonic clock in seconds, of which it is known that `poll` has by now
        handed over all that the log held then; minus infinity if there is none. It goes on without new records."""
        ...

    def lag(self, partition: int) -> int | None:
        """Return how many records follow what `poll` has handed over, as last known; None before anything is known."""
        ...

    def wakeup(self) -> None:
        """Make a `poll` that waits now, or the next one, return at once. Any thread."""
        ...

    def close(self) -> None:
        """Stop and free what it holds. Idempotent."""
        ...


class Share(Protocol):
    """Which partitions this replicator copies, when several of one name divide them. Only a division of work: two that
    copy one partition for a while repeat each other's work, and a sink bears that."""

    @property
    def partitions(self) -> frozenset[int]:
        """Those to copy now. Any thread."""
        ...

    def close(self) -> None:
        """Give them up. Idempotent."""
        ...


class Sink(Protocol):
    """Where changes go. One thread uses it."""

    def ensure(self, source: SourceInfo) -> None:
        """Make what is missing, and check what is there. Raises SinkUnavailable; SinkUnusable when it is not ours, or
        was filled from a source of another identity."""
        ...

    def positions(self, partitions: frozenset[int]) -> Mapping[int, Position]:
        """Take over *partitions*: shut out, where the sink can, whoever wrote to them before, and return the positions
        kept in the sink; a partition without one is left out (it begins at the beginning). Called anew whenever
        partitions are assigned. Raises SinkUnavailable, SinkMoved, SinkUnusable."""
        ...

    def write(self, batch: Batch) -> Written:
        """Try once to write *batch*. When it returns, every change is durable in the sink, or set aside under its uid,
        or was older than what is there. The batch's positions are durable now or with the next `flush`, never before
        the changes. Raises SinkUnavailable (then it is called with its `rest`), SinkMoved, SinkUnusable."""
        ...

    def flush(self) -> None:
        """Make the positions of all that was written durable. Called about once a second while there is something to
        write, and before stopping. Raises like `write`."""
        ...

    def close(self) -> None:
        """Free what it holds; writes nothing. Idempotent."""
        ...


class Held(NamedTuple):
    """What a sink holds of one uid. `body` None: a delete, or (with `reason`) a change that was refused."""

    uid: str
    version: int
    body: bytes | None
    reason: str | None = None


class Inspectable(Protocol):
    """A sink that can be compared with the log (`--verify`) and asked what it set aside (`--refused`). `attach` comes
    first."""

    def attach(self, source: SourceInfo | None = None) -> None:
        """Look at what is there; make nothing, take over nothing. Raises SinkUnavailable; SinkUnusable when there is
        nothing of ours, or it was filled from another source than *source*."""
        ...

    def scan(self) -> Iterator[Held]:
        """Yield everything that is held, each uid once, in any order; a bounded part in memory at a time. Raises
        SinkUnavailable."""
        ...

    def look_up(self, uids: Sequence[str]) -> Mapping[str, Held]:
        """Return what is held of *uids* (at most 1,000) at this moment. Raises SinkUnavailable."""
        ...

    def refused(self, limit: int) -> list[Refused]:
        """Return at most *limit* of the changes that were set aside. Raises SinkUnavailable."""
        ...


class Rebuildable(Protocol):
    """A sink that can be made anew beside what its readers use (`--rebuild`)."""

    def begin_rebuild(self, source: SourceInfo) -> None:
        """Write to a new, empty place from now on, or to the one that an interrupted rebuild has begun: `positions`
        are those of that place. Readers see the old one. It may be called again. Raises like `Sink.ensure`."""
        ...

    def abandon_rebuild(self) -> None:
        """Remove what a rebuild has begun. Raises like `Sink.write`."""
        ...

    def finish_rebuild(self) -> None:
        """Let the readers see the new place instead of the old, in one step, and remove the old one. Call `flush`
        first. It may be called again when its outcome is not known. Raises like `Sink.write`."""
        ...
