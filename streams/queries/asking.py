"""The values of a query: what is asked of a store, how fresh the answer has to be, what comes back, and what can be
wrong with it. No behaviour but their encoding for peers; nothing here does I/O.
"""

import json
import struct
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import NamedTuple

from streams.errors import StreamsError, Unavailable

LOCAL = "local"
CLUSTER = "cluster"

OWNER = "owner"
STRICT = "strict"

#: The questions, by the words of their routes.
GET = "get"
ALL = "all"
RANGE = "range"
PREFIX = "prefix"
WINDOW = "window"
SESSION = "session"

MAX_LIMIT = 1000

_HEAD = struct.Struct(">I")
_ROW = struct.Struct(">II")


class QueryError(StreamsError):
    """The question cannot be answered as it is put: mend it. Nothing was read."""


class UnknownStore(QueryError):
    """The topology has no store of this name that can be queried."""


class WrongQuery(QueryError):
    """The store is of another kind than the question asks about."""


class BadParameter(QueryError):
    """A key, a bound or a limit makes no sense; `parameter` names it."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class BadCursor(BadParameter):
    """The cursor was not given out for this question."""

    def __init__(self) -> None:
        super().__init__("cursor", "the cursor is not one that was given out for this question")


class NotHere(Unavailable):
    """The question was put to this node alone, and it has not what is asked for."""


class TooStale(Unavailable):
    """The copy is further behind than the caller allows."""


class Freshness(NamedTuple):
    """What an answer has to rest on. `consistency` `owner`: the owner's lease, or else a barrier; `strict`: a barrier,
    which proves that nothing newer was committed when it was asked. With `max_staleness_s` (seconds) any copy will do
    that is no further behind."""

    consistency: str = OWNER
    max_staleness_s: float | None = None


PLAIN = Freshness()


class Ask(NamedTuple):
    """A question about one store, in bytes. `key`: of GET, WINDOW and SESSION. `low`, `high`: the least key and the
    first beyond the greatest (None: no bound), of the others. `from_ms`, `to_ms`: both included; of starts of windows,
    of the time that a session touches. `after`: the row after which the answer begins."""

    store: str
    kind: str
    key: bytes = b""
    low: bytes = b""
    high: bytes | None = None
    from_ms: int = 0
    to_ms: int = (1 << 63) - 1
    after: bytes | None = None
    limit: int = 100
    freshness: Freshness = PLAIN

    def encode(self) -> bytes:
        """Return compact JSON."""
        document = [
            self.store,
            self.kind,
            _text(self.key),
            _text(self.low),
            _text(self.high),
            self.from_ms,
            self.to_ms,
            _text(self.after),
            self.limit,
            list(self.freshness),
        ]
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Ask":
        """Return what `encode` was called on. Raises ValueError."""
        try:
            store, kind, key, low, high, from_ms, to_ms, after, limit, freshness = json.loads(data)
            return cls(
                str(store),
                str(kind),
                _bytes(key) or b"",
                _bytes(low) or b"",
                _bytes(high),
                int(from_ms),
                int(to_ms),
                _bytes(after),
                int(limit),
                Freshness(*freshness),
            )
        except (TypeError, RecursionError) as error:
            raise ValueError("not a question about a store") from error


class Part(NamedTuple):
    """Who told of a partition. `staleness_ms`: by how much he may be behind; 0 for an owner under its lease, and after
    a barrier."""

    partition: int
    node_id: str
    role: str
    staleness_ms: int


class Refusal(NamedTuple):
    """Why a partition cannot be told of. `reason`: a word of `streams.queries.refusals`."""

    partition: int
    reason: str
    message: str
    lag_records: int = 0


class Answer(NamedTuple):
    """What one node tells. `rows`: key and row as they are stored, in the order of keys. `until`: the key up to which
    that is all that the partitions of `parts` have; None: it is all."""

    rows: Sequence[tuple[bytes, bytes]]
    until: bytes | None
    parts: Sequence[Part]
    refusals: Sequence[Refusal] = ()

    @property
    def partitions(self) -> Sequence[int]:
        """The partitions that were told of."""
        return [part.partition for part in self.parts]

    def encode(self) -> bytes:
        """Return the answer as bytes: a head in JSON, then the rows as they are."""
        head = json.dumps(
            [len(self.rows), _text(self.until), self.parts, self.refusals], separators=(",", ":")
        ).encode()
        pieces = [_HEAD.pack(len(head)), head]
        for key, row in self.rows:
            pieces += (_ROW.pack(len(key), len(row)), key, row)
        return b"".join(pieces)

    @classmethod
    def decode(cls, data: bytes) -> "Answer":
        """Return what `encode` was called on. Raises ValueError."""
        try:
            (length,) = _HEAD.unpack_from(data)
            at = _HEAD.size + length
            count, until, parts, refusals = json.loads(data[_HEAD.size : at])
            rows = []
            while at < len(data):
                key_length, row_length = _ROW.unpack_from(data, at)
                middle = at + _ROW.size + key_length
                rows.append((data[at + _ROW.size : middle], data[middle : middle + row_length]))
                at = middle + row_length
            if at != len(data) or len(rows) != count:
                raise ValueError("the answer of a peer was cut off")
            return cls(rows, _bytes(until), [Part(*one) for one in parts], [Refusal(*one) for one in refusals])
        except (TypeError, struct.error, RecursionError) as error:
            raise ValueError("not an answer about a store") from error


def _text(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text, validate=True)
