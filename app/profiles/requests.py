"""What a request asks for besides its content, as values without HTTP: consistency of a read, condition of a write.

The HTTP edge parses headers and parameters into these; `app/profiles/reads.py` and `app/profiles/writes.py` obey them.
No behaviour lives here.
"""

from contextvars import ContextVar
from typing import NamedTuple

#: The versions that `If-Match` names. None: not sent, so unconditional. Empty: sent, but nothing can match it.
IfMatch = tuple[int, ...] | None

#: `If-Match: *`: any version that exists. Versions start at 1, so -1 names none.
ANY: tuple[int, ...] = (-1,)

OWNER = "owner"
STRICT = "strict"

#: The W3C `traceparent` of the request that is being served; writes pass it on in the header of that name. Set by the
#: HTTP edge in the request's own context; None (the default) means that there is none.
TRACEPARENT: ContextVar[bytes | None] = ContextVar("traceparent", default=None)


class Origin(NamedTuple):
    """What the node that a client sent a write to drew for it: 16 bytes of event id, and the uid of a create (None for
    the other writes). A command that is sent again has the same ones, so its first outcome can be recognised."""

    event_id: bytes
    uid: str | None


#: The origin of the write that is being served, when it came from a peer; None (the default): draw both here. The uid
#: lies in the partition that a create without it would draw it for.
ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)


class ReadOptions(NamedTuple):
    """How fresh a read has to be.

    `consistency`: `owner` or `strict`. `max_staleness_s`: the caller accepts a state that is at most that many seconds
    old (None: he does not). `position`: the raw `Profile-Position` token that must be applied first. `is_replica`: read
    what this node follows, and not only what it owns; routing sets it, never the caller.
    """

    consistency: str = OWNER
    max_staleness_s: float | None = None
    position: str | None = None
    is_replica: bool = False


PLAIN = ReadOptions()
