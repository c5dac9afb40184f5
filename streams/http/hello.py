"""The words in which nodes answer each other: what a node tells of itself when it is pinged, and why it refuses.
Values and their encoding; no I/O."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from streams.cluster import ClusterView

PREFIX = b"/peers/"
PING = "ping"

#: Why a request was refused. After any but REPLAYED it has certainly not been acted upon.
STALE = "stale"
REPLAYED = "replayed"
ANOTHER_NODE = "another-node"
LATE = "late"
OVERLOADED = "overloaded"
UNKNOWN = "unknown-operation"
NOT_OWNER = "not-owner"
UNAVAILABLE = "unavailable"

#: What the note of a signed answer says: the answer is the result, a Refusal, an error, or a client's to come.
DONE = "done"
REFUSED = "refused"
FAILED = "failed"
LET_IN = "let-in"

#: The body of a ping that asks for positions too.
WITH_POSITIONS = b"positions"


class Hello(NamedTuple):
    """Who answers. `now_ms`: his monotonic clock. `view`: None unless it is newer than the asker's. `positions`: by
    partition, as `Member.positions`; None when not asked for."""

    node_id: str
    incarnation: str
    now_ms: int
    epoch: int
    view: ClusterView | None = None
    positions: Mapping[int, int] | None = None

    def encode(self) -> bytes:
        document = {
            "node_id": self.node_id,
            "incarnation": self.incarnation,
            "now_ms": self.now_ms,
            "epoch": self.epoch,
            "view": self.view.encode().decode() if self.view is not None else None,
            "positions": list(self.positions.items()) if self.positions is not None else None,
        }
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Hello":
        """Return what `encode` was called on. Raises ValueError for anything else."""
        try:
            document = json.loads(data)
            view, positions = document["view"], document["positions"]
            return cls(
                str(document["node_id"]),
                str(document["incarnation"]),
                int(document["now_ms"]),
                int(document["epoch"]),
                ClusterView.decode(view.encode()) if view is not None else None,
                {int(partition): int(position) for partition, position in positions} if positions is not None else None,
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not the answer to a ping: {type(error).__name__}") from error


class Refusal(NamedTuple):
    """Why a node did not look at a request, or would not. `reason` is one of the words above. `hello`
    lets the sender try again with what he did not know."""

    reason: str
    message: str
    retry_after_s: float
    hello: Hello

    def encode(self) -> bytes:
        document = [self.reason, self.message, self.retry_after_s, self.hello.encode().decode()]
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Refusal":
        """Return what `encode` was called on. Raises ValueError for anything else."""
        try:
            reason, message, retry_after_s, hello = json.loads(data)
            return cls(str(reason), str(message), float(retry_after_s), Hello.decode(hello.encode()))
        except (TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a refusal: {type(error).__name__}") from error
