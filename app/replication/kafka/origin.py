"""The headers of a copied record: where it came from, and the whole set where the source has none. Pure.

`profiles-origin` lists the topics that a record has come through (their identities, see `SourceInfo`), the first one
first, with commas. Invariant: it grows by one with each copy and is never shortened, so that a record which is on its
way round is recognised.
"""

import uuid

from orjson import loads

from app.profiles.events import CREATED, DELETED, ORIGIN_HEADER, UPDATED, Event, Records
from app.profiles.model import timestamp
from app.profiles.topics import TopicNames
from app.replication.ports import Change
from streams.records import Headers, header

#: Event ids of records whose own ids are not known are made below this one: the same from whoever copies them.
_NAMESPACE = uuid.UUID("0f1c2b7e-6d3a-5d2b-9c41-7a4f3e1d8b60")
_FIRST_VERSION = 1


def trail_of(headers: Headers) -> tuple[str, ...]:
    """Return the topics that a record has come through before the one that it was read from; none for an original."""
    found = header(headers, ORIGIN_HEADER)
    return tuple(found.decode("ascii", "replace").split(",")) if found else ()


def copied(headers: Headers, source: str) -> Headers:
    """Return the headers of the copy of a record that was read from the topic *source*.

    The origin comes first: there it keeps the service's own records, which are read by place, apart from copies.
    """
    trail = ",".join((*trail_of(headers), source)).encode()
    return ((ORIGIN_HEADER, trail), *(pair for pair in headers if pair[0] != ORIGIN_HEADER))


def headers_of(change: Change, now_ms: int) -> Headers:
    """Return the headers that the record of *change* has, or, where the source tells none, those that say the same: the
    id of the event follows from uid and version then, and the time of a delete that is not known is *now_ms*."""
    if change.headers:
        return change.headers
    name = f"{change.uid} {change.version}{' deleted' if change.body is None else ''}"
    if change.body is None:
        kind, time = DELETED, timestamp(change.timestamp_ms or now_ms)
    else:
        kind, time = (CREATED if change.version == _FIRST_VERSION else UPDATED), loads(change.body)["updated_at"]
    event = Event.of(uuid.uuid5(_NAMESPACE, name).bytes, time, None)
    record = Records(TopicNames.prefixed("")).profile(
        event, kind, partition=0, uid=change.uid.encode(), version=change.version, body=change.body
    )
    return record.headers
