"""The rows of a task's metadata: who the database belongs to, how far it is, and the numbers of its last commits.

Pure bytes; no database here.
"""

from collections.abc import Mapping, Sequence

from orjson import dumps

from streams.stores.base import StoreIdentity

_LAYOUT_VERSION = 1
#: Slots for the numbers of the last commits. A gap shows as long as fewer were made after it; it can arise only while
#: a memtable waits to be flushed, some 0.1 s.
COMMITS = 4096


def identity_row(task: int, stores: Sequence[str], identity: StoreIdentity, created_ms: int) -> bytes:
    """Return the row that says what the database was made from."""
    return dumps(
        {
            "layout": _LAYOUT_VERSION,
            "task": task,
            "stores": sorted(stores),
            "topic_ids": dict(sorted(identity.topic_ids.items())),
            "partitions": identity.partitions,
            "format_version": identity.format_version,
            "created_ms": created_ms,
        }
    )


def state_row(positions: Mapping[str, int], caught_up_ms: int | None, commits: int) -> bytes:
    """Return the row that every commit writes: how far the rows are, and how many commits made them."""
    return dumps({"positions": dict(positions), "caught_up_ms": caught_up_ms, "commits": commits})


def commit_row(number: int) -> tuple[bytes, bytes]:
    """Return key and value of the row that proves that commit *number* is there."""
    return b"commit" + (number % COMMITS).to_bytes(2, "big"), number.to_bytes(8, "big")
