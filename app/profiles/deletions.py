"""What is remembered of a deletion, so that nobody gives its uid to a profile again while that could do harm.

A tombstone leaves no row. Were the uid restored at a lower version than that of its tombstone, a release of its earlier
life that comes late would take away a claim that holds (rule R13 of `tests/simulation/claims.py`), and a consumer that
orders by version would keep the deletion. So a delete also leaves a record among the requests, beside the profile, as
long as those are remembered. It holds the uid alone.
"""

import hashlib

from orjson import dumps, loads

from app.profiles.claims import Domain
from app.profiles.events import Event
from app.profiles.topics import REQUEST_STORE
from streams.partitioner import hex_ending_for
from streams.records import ProducerRecord
from streams.runtime.commands import View

_GONE = 410  # what a client is told of it, as the other records of that topic have it
_KEY_LENGTH = 32
_ENDING_LENGTH = 4


def deletion_record(domain: Domain, event: Event, uid: bytes, version: int, now_ms: int) -> ProducerRecord:
    """Return what remembers that the profile *uid* was deleted. *version*: the tombstone's."""
    partition = domain.partition_of(uid)
    value = dumps({"fingerprint": "", "uid": uid.decode(), "status": _GONE, "at": now_ms})
    return domain.records.request(
        event, partition=partition, key=_key(domain, uid, partition), value=value, uid=uid, version=version
    )


def is_deleted(domain: Domain, view: View, uid: bytes, *, now_ms: int, ttl_ms: int) -> bool:
    """Say whether it is remembered that *uid* was deleted: in the last *ttl_ms* certainly, before that perhaps."""
    partition = domain.partition_of(uid)
    row = view.get(REQUEST_STORE, partition, _key(domain, uid, partition))
    return row is not None and now_ms - loads(row)["at"] < ttl_ms


def _key(domain: Domain, uid: bytes, partition: int) -> bytes:
    """Return 32 bytes that lie in the uid's own partition and that no Idempotency-Key has."""
    prefix = hashlib.sha256(b"deleted " + uid).digest()[: _KEY_LENGTH - _ENDING_LENGTH]
    ending = hex_ending_for(prefix, 0, partition=partition, partitions=domain.partitions)
    assert ending is not None, "four digits reach every partition"
    return prefix + ending
