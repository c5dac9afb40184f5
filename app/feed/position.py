"""A place in the change feed: how far each partition was read, and when what was read was last the whole. Pure.

A `seq` is a place as a signed text. Content: form u8, identity of the topic (8 bytes), moment u32 (Unix time in
seconds), whole u8 (0 or 1), scope varint (0: all partitions, otherwise the one partition plus 1), then the next offset
of each partition in scope as a varint. Any node of the cluster reads what another one gave out: nothing in it is of a
node.

The moment is what makes a place expire. Invariant: everything that the log held at that moment lies below the offsets,
or, while the place is not whole, its reader began with nothing at that moment. So a tombstone that was not read yet was
either written after the moment, or what it deletes was still there at that moment: it stays in the log for a time that
is counted from there (docs/decisions/0016-change-feed.md has the whole argument).
"""

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

from app.feed.errors import FeedExpired

_FORM = b"\x01"
_IDENTITY_SIZE = 8
_MOMENT_SIZE = 4
_WHOLE_SIZE = 1
_HEAD_SIZE = len(_FORM) + _IDENTITY_SIZE
#: Of the retention of tombstones a quarter is not relied on: for the clocks of nodes and brokers, for the time that the
#: brokers' cleaner takes for one pass, and for the time that reading takes. Who has not read everything once may rely
#: on a quarter: the embedded log counts the retention of a tombstone from when it was written, which may be as long
#: ago as the cleaner may wait (`max.compaction.lag.ms`, half of the retention).
_QUARTERS_WHOLE, _QUARTERS_BEGUN = 3, 1


class Position(NamedTuple):
    """Immutable, so that all who stand at one place share one object.

    `offsets`: the next to read, of each partition, or of `partition` alone. `moment_s`, `is_whole`: see above.
    """

    offsets: tuple[int, ...]
    partition: int | None
    moment_s: int
    is_whole: bool

    def slot(self, partition: int) -> int:
        """Return where the offset of *partition* stands in `offsets`, -1 if it is out of scope."""
        if self.partition is None:
            return partition
        return 0 if partition == self.partition else -1

    def items(self) -> Iterator[tuple[int, int]]:
        """Return each partition in scope with its offset."""
        if self.partition is None:
            return iter(enumerate(self.offsets))
        return iter(((self.partition, self.offsets[0]),))

    def narrowed(self, partition: int | None) -> "Position":
        """Return the same place for one partition alone, or as it is for None. Raises ValueError: that partition is
        out of scope, so this place says nothing about it."""
        if partition == self.partition:
            return self
        if partition is None or self.partition is not None:
            raise ValueError(f"this place is of partition {self.partition} alone")
        return self._replace(offsets=(self.offsets[partition],), partition=partition)

    def renewed(self, moment_s: int) -> "Position":
        """Return the same place, of which is known that it had everything at *moment_s*."""
        return self._replace(moment_s=max(moment_s, self.moment_s), is_whole=True)


class Signer(Protocol):
    """What makes a place unforgeable (`app.profiles.tokens.Tokens`)."""

    def of_seq(self, content: bytes) -> str: ...

    def seq(self, token: str, parameter: str) -> bytes: ...


class Seqs:
    """Writes and reads the `seq`s of one topic. Immutable; any thread."""

    def __init__(self, *, signer: Signer, topic: str, topic_id: str, partitions: int) -> None:
        """A topic of the same name that was made anew, or one with another count, has other places."""
        self._of_seq: Callable[[bytes], str] = signer.of_seq
        self._seq = signer.seq
        self.partitions = partitions
        self._head = _FORM + identity_of(topic, topic_id, partitions)

    def text(self, position: Position) -> str:
        """Return the `seq` of *position*."""
        return self._of_seq(self.prefix(position) + b"".join(map(varint, position.offsets)))

    def prefix(self, position: Position) -> bytes:
        """Return what a `seq` has before its offsets. It is the same while only offsets move."""
        moment = position.moment_s.to_bytes(_MOMENT_SIZE, "big") + bytes([position.is_whole])
        return self._head + moment + varint(0 if position.partition is None else position.partition + 1)

    def signed(self, content: bytes) -> str:
        """Return the `seq` of *content*: a prefix, and the offsets as varints."""
        return self._of_seq(content)

    def position(self, seq: str, parameter: str) -> Position:
        """Return the place of a `seq` that came as *parameter*. Raises BadCursor for a text that no node of this
        cluster gave out, FeedExpired when it is of a topic that is no more."""
        content = self._seq(seq, parameter)
        if content[:_HEAD_SIZE] != self._head:
            raise FeedExpired("the topic was made anew since")
        at = _HEAD_SIZE + _MOMENT_SIZE
        moment_s = int.from_bytes(content[_HEAD_SIZE:at], "big")
        scope, *offsets = _varints(content, at + _WHOLE_SIZE)
        assert len(offsets) == (self.partitions if scope == 0 else 1), "signed by us, and yet of another shape"
        return Position(tuple(offsets), scope - 1 if scope else None, moment_s, bool(content[at]))


def identity_of(topic: str, topic_id: str, partitions: int) -> bytes:
    """Return what tells a topic from one of the same name that was made anew, or that has another partition count."""
    return sha256(f"{topic}={topic_id}/{partitions}".encode()).digest()[:_IDENTITY_SIZE]


def horizon_s(position: Position, delete_retention_ms: int) -> int:
    """Return for how many seconds after its moment *position* can be relied on, given the topic's setting."""
    return delete_retention_ms * (_QUARTERS_WHOLE if position.is_whole else _QUARTERS_BEGUN) // 4000


def varint(number: int) -> bytes:
    """Return *number*, which is not negative, in groups of seven bits, the lowest first (LEB128)."""
    if number < 0x80:
        return number.to_bytes(1, "big")
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varints(data: bytes, at: int) -> Sequence[int]:
    numbers = []
    number = shift = 0
    for byte in data[at:]:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number = shift = 0
    return numbers
