"""The last changes of all partitions, in the order in which they were read, for listeners that follow closely.

Bounded in bytes and in pieces. A listener has no queue of its own: it has the number of the next piece, and whoever
falls out of the ring reads the log. The event loop owns it; the tail's thread only hands over what it has read.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from operator import le
from typing import NamedTuple

from app.feed.events import Answer, Event, Run, answer_from
from app.feed.position import Position, Seqs

RING_BYTES = 4 * 1024 * 1024
_MAX_CHUNKS = 2048
#: Of an answer that many listeners share.
SHARED_RESULTS = 1000
SHARED_BYTES = 256 * 1024
_MAX_SHARED = 8


class Chunk(NamedTuple):
    """Events that were read at a time, with the places before and behind them. Immutable."""

    number: int
    before: Position
    events: Sequence[Event]
    after: Position
    size_bytes: int


class Ring:
    """Event loop only."""

    def __init__(self, seqs: Seqs, head: Position) -> None:
        """*head*: where the tail begins to read, all partitions."""
        self._seqs = seqs
        self._chunks: deque[Chunk] = deque()
        self._shared: OrderedDict[tuple[int, int], Answer] = OrderedDict()
        self._next = 0
        self._at_head: Answer | None = None
        self.head = head
        self.size_bytes = 0

    def add(self, events: Sequence[Event], after: Position) -> None:
        """Append *events*, behind which the place is *after*. Without events only the place moves on."""
        self._at_head = None
        if not events:
            self.head = after
            return
        size_bytes = sum(event.size_bytes for event in events)
        chunks = self._chunks
        chunks.append(Chunk(self._next, self.head, events, after, size_bytes))
        self._next += 1
        self.head = after
        self.size_bytes += size_bytes
        while len(chunks) > 1 and (self.size_bytes > RING_BYTES or len(chunks) > _MAX_CHUNKS):
            self.size_bytes -= chunks.popleft().size_bytes

    @property
    def next_number(self) -> int:
        """The number that the next piece will have."""
        return self._next

    def join(self, position: Position) -> int | None:
        """Return the number of the piece from which on the ring has all that is behind *position*; None if it has not,
        or if *position* is further than the tail itself, so that nothing proves that the log has it."""
        if any(offset > self.head.offsets[partition] for partition, offset in position.items()):
            return None
        if _reaches(position, self.head):
            return self._next
        for chunk in reversed(self._chunks):
            if _reaches(position, chunk.before):
                return chunk.number
        return None

    def read(self, number: int, position: Position, *, limit: int, limit_bytes: int) -> tuple[int, Answer] | None:
        """Return the answer from piece *number* on, and the number of the piece after it; None: the piece is gone.

        *position* is where `join` or the last answer left off: between it and the piece there is nothing.
        """
        chunks = self._chunks
        oldest = chunks[0].number if chunks else self._next
        if number < oldest:
            return None
        if number >= self._next:
            return self._next, self._nothing(position)
        before = chunks[number - oldest].before
        if limit >= SHARED_RESULTS and position.partition is None and all(map(le, position.offsets, before.offsets)):
            return self._read_shared(number, oldest, before)
        runs: list[Run] = []
        size_bytes = 0
        while number < self._next and size_bytes < limit_bytes:
            chunk = chunks[number - oldest]
            runs.append(_run(chunk))
            size_bytes += chunk.size_bytes
            number += 1
        answer = answer_from(position, runs, self._seqs, limit=limit, limit_bytes=limit_bytes)
        # A piece that was not used up is read again: the place says what of it is known already.
        while number > oldest and not _reaches(answer.position, chunks[number - 1 - oldest].after):
            number -= 1
        if number == self._next:
            nothing = self._nothing(answer.position)
            answer = Answer(answer.results, nothing.position, nothing.seq)
        return number, answer

    def _read_shared(self, number: int, oldest: int, position: Position) -> tuple[int, Answer]:
        """As `read`, in whole pieces, so that all who stand at *position* get one answer and share the next place."""
        taken = [self._chunks[number - oldest]]
        size_bytes = taken[0].size_bytes
        for at in range(number - oldest + 1, len(self._chunks)):
            chunk = self._chunks[at]
            size_bytes += chunk.size_bytes
            if size_bytes > SHARED_BYTES:
                break
            taken.append(chunk)
        after = taken[-1].after
        key = number, number + len(taken)
        answer = self._shared.get(key)
        if answer is None:
            no_limit = sum(len(chunk.events) for chunk in taken) + 1
            made = answer_from(position, map(_run, taken), self._seqs, limit=no_limit, limit_bytes=2 * size_bytes)
            answer = self._shared[key] = Answer(made.results, after, self._seqs.text(after))
            while len(self._shared) > _MAX_SHARED:
                self._shared.popitem(last=False)
        return number + len(taken), answer

    def _nothing(self, position: Position) -> Answer:
        """Return the answer that there is nothing behind *position*, as far as the tail has read. It is worth
        something: the place is as young as what the tail knows."""
        if position.partition is not None:
            head = self.head.narrowed(position.partition)
            return Answer((), head, self._seqs.text(head))
        if self._at_head is None:
            self._at_head = Answer((), self.head, self._seqs.text(self.head))
        return self._at_head


def _reaches(position: Position, other: Position) -> bool:
    """Whether *position* is at or behind *other*, which is of all partitions, in every partition in its scope."""
    return all(offset >= other.offsets[partition] for partition, offset in position.items())


def _run(chunk: Chunk) -> Run:
    return Run(chunk.events, dict(enumerate(chunk.after.offsets)))
