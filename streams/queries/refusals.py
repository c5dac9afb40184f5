"""Why a partition could not be told of, as a word that travels between nodes, and as the error that a caller gets."""

from collections.abc import Sequence

from streams.errors import Draining, LeaseExpired, NotOwner, Restoring, StoreError, Unavailable
from streams.queries.asking import Refusal, TooStale
from streams.queries.peers import PeerUnreachable

RESTORING = "restoring"
UNREACHABLE = "unreachable"

_WORDS: Sequence[tuple[str, type[Exception]]] = (
    (RESTORING, Restoring),
    ("stale", TooStale),
    ("draining", Draining),
    ("unsettled", NotOwner),
    ("unsettled", LeaseExpired),
    (UNREACHABLE, PeerUnreachable),
)


def refusal_of(partition: int, error: Exception) -> Refusal:
    """Return the refusal that *error* (Unavailable, StoreError, OSError) means for *partition*."""
    if isinstance(error, StoreError | OSError):
        return Refusal(partition, UNREACHABLE, f"the store cannot be read: {type(error).__name__}")
    word = next((word for word, kind in _WORDS if isinstance(error, kind)), "unavailable")
    return Refusal(partition, word, str(error), error.lag_records if isinstance(error, Restoring) else 0)


def error_of(refusal: Refusal) -> Unavailable:
    """Return the error that says *refusal*."""
    partition, reason, message, lag_records = refusal
    if reason == RESTORING:
        return Restoring(message, partition=partition, lag_records=lag_records)
    kind = next((kind for word, kind in _WORDS if word == reason), Unavailable)
    assert issubclass(kind, Unavailable), "every word stands for one"
    return kind(message, partition=partition)
