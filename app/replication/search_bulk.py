"""Writing changes with `_bulk`: how they are put into requests, and what the answer to each item means.

Every document carries the offset of its change as its external version: the server takes it only over an older one. So
it does no harm to repeat a request, to have several under way, or to be late. Invariant: each change ends as exactly
one of applied, stale, refused (with a marker in its place) or to be tried again; nothing is left out.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import orjson

from app.replication.ports import Change, Refused, SinkMoved, SinkUnavailable, SinkUnusable
from app.replication.search_client import BLOCKED, SearchClient
from app.replication.search_index import REFUSED, TOMBSTONE

#: Bounds of one request, before compression. Far below what the servers accept (100 MB), since they hold it in memory.
REQUEST_CHANGES = 500
REQUEST_BYTES = 4 * 1024 * 1024
#: How many requests are under way at the same time.
REQUESTS_IN_FLIGHT = 4

_PATH = "_bulk?require_alias=true&filter_path=items.*.status,items.*.error.type,items.*.error.reason"
_MOVED = "index_not_found_exception"
_CLOSED = "index_closed_exception"  # while a snapshot is restored, for one
_DENIED = "security_exception"
_RESERVED = b'"replication"'
#: Where the servers' sentences name the field; the rest of them may repeat its content.
_FIELD = re.compile(r"""field(?: name)?(?:=| \[| ")["\[]?([A-Za-z0-9_.@-]{1,100})""")


class Verdict(Enum):
    """What an item's answer means."""

    APPLIED = "applied"
    STALE = "something as new or newer is there"
    REFUSED = "never"
    BUSY = "later"
    MOVED = "the index is gone"
    DENIED = "not by this client"


class _Item(NamedTuple):
    change: Change
    line: bytes
    refusal: str | None = None  # why it is not even sent


@dataclass(slots=True)
class Attempt:
    """What became of changes that were tried once. `rest`: to be tried again, for the `reason`."""

    applied: int = 0
    stale: int = 0
    refused: list[Refused] = field(default_factory=list)
    rest: list[Change] = field(default_factory=list)
    reason: str | None = None

    def note(self, change: Change, verdict: Verdict, reason: str) -> None:
        """Take in what became of one change that is not refused."""
        if verdict is Verdict.APPLIED:
            self.applied += 1
        elif verdict is Verdict.STALE:
            self.stale += 1
        else:
            self.rest.append(change)
            self.reason = self.reason or reason

    def add(self, other: "Attempt") -> None:
        """Take in what became of other changes."""
        self.applied += other.applied
        self.stale += other.stale
        self.refused += other.refused
        self.rest += other.rest
        self.reason = self.reason or other.reason


class BulkWriter:
    """One thread calls it; the requests are made by a few of its own."""

    def __init__(self, client: SearchClient, *, request_changes: int = REQUEST_CHANGES) -> None:
        """*request_changes*: the most that one request has."""
        self._client = client
        self._request_changes = request_changes
        self._pool = ThreadPoolExecutor(REQUESTS_IN_FLIGHT, thread_name_prefix="bulk")

    def write(self, alias: str, changes: Sequence[Change]) -> Attempt:
        """Try each of *changes* (each of another uid) once. Raises SinkMoved, SinkUnusable.

        When the servers are busy or away, what was not sent yet is not tried: it is in the `rest`.
        """
        whole = Attempt()
        requests = _requests(changes, self._request_changes)
        under_way: deque[Future[Attempt]] = deque()
        try:
            for items in requests:
                under_way.append(self._pool.submit(self._try, alias, items))
                if len(under_way) >= REQUESTS_IN_FLIGHT:
                    whole.add(under_way.popleft().result())
                if whole.reason is not None:
                    break
            while under_way:
                whole.add(under_way.popleft().result())
        finally:
            for future in under_way:  # After an error: none of them may go on once this has returned.
                future.exception()
        whole.rest += [item.change for items in requests for item in items]
        return whole

    def put(self, alias: str, documents: Mapping[str, tuple[int, Mapping[str, Any]]]) -> None:
        """Write documents of ours, by id: (order, document). One that is newer there stays, one as new is replaced.
        Raises SinkUnavailable, SinkMoved, SinkUnusable."""
        lines = [
            _action(name, order, "external_gte") + orjson.dumps(one) + b"\n" for name, (order, one) in documents.items()
        ]
        for verdict, reason in self._send(alias, lines) or [(Verdict.REFUSED, "too large")]:
            if verdict is Verdict.BUSY:
                raise SinkUnavailable(reason)
            if verdict is Verdict.REFUSED:
                raise SinkUnusable(f"the server refuses to keep a position: {reason}")

    def close(self) -> None:
        """End the threads. Idempotent."""
        self._pool.shutdown()

    def _try(self, alias: str, items: Sequence[_Item]) -> Attempt:
        attempt = Attempt()
        refusals: dict[str, str] = {}
        markers: list[_Item] = []
        sent = self._judge(alias, [item for item in items if item.refusal is None])
        unsent = [(item.change, Verdict.REFUSED, item.refusal) for item in items if item.refusal is not None]
        for change, verdict, reason in sent + unsent:
            if verdict is Verdict.REFUSED:
                refusals[change.uid] = reason
                markers.append(_Item(change, _marker(change, reason)))
            else:
                attempt.note(change, verdict, reason)
        for change, verdict, reason in self._judge(alias, markers):
            if verdict is Verdict.REFUSED:
                raise SinkUnusable(f"the server refuses everything: {reason}")
            if verdict is Verdict.APPLIED:
                attempt.refused.append(Refused(change.uid, change.version, refusals[change.uid]))
            else:  # Stale: it was set aside before, or something newer is there.
                attempt.note(change, verdict, reason)
        return attempt

    def _judge(self, alias: str, items: Sequence[_Item]) -> list[tuple[Change, Verdict, str]]:
        """Send *items*, in as many requests as it takes, and return what became of each."""
        if not items:
            return []
        try:
            verdicts = self._send(alias, [item.line for item in items])
        except SinkUnavailable as error:
            return [(item.change, Verdict.BUSY, str(error)) for item in items]
        if verdicts is not None:
            return [(item.change, *verdict) for item, verdict in zip(items, verdicts, strict=True)]
        if len(items) == 1:
            return [
                (items[0].change, Verdict.REFUSED, "the request is too large, or refused, with this document alone")
            ]
        middle = len(items) // 2
        return self._judge(alias, items[:middle]) + self._judge(alias, items[middle:])

    def _send(self, alias: str, lines: Sequence[bytes]) -> list[tuple[Verdict, str]] | None:
        """Return the verdict on each line; None when the request is too large, or refused as a whole. Raises
        SinkUnavailable, SinkMoved, SinkUnusable."""
        answer = self._client.request("POST", f"{alias}/{_PATH}", lines=b"".join(lines), expected=(200, 400, 404, 413))
        if answer.error_type == _CLOSED:
            raise SinkUnavailable("the index is closed")
        if answer.status == 404:
            raise SinkMoved(f"{alias} is gone")
        if answer.status != 200:
            return None
        items = answer.document.get("items") if isinstance(answer.document, dict) else None
        if not isinstance(items, list) or len(items) != len(lines):
            raise SinkUnavailable("the answer to a bulk request does not tell of each document")
        verdicts = [verdict_of(item["index"]) for item in items]
        for verdict, reason in verdicts:
            if verdict is Verdict.MOVED:
                raise SinkMoved(f"{alias} is gone")
            if verdict is Verdict.DENIED:
                raise SinkUnusable(f"these credentials may not write to {alias}: {reason}")
        return verdicts


def verdict_of(answer: Mapping[str, Any]) -> tuple[Verdict, str]:
    """Return what the *answer* to one item means, and the reason for people: without anything of the content."""
    status = answer.get("status", 0)
    if 200 <= status < 300:
        return Verdict.APPLIED, ""
    if status == 409:
        return Verdict.STALE, ""
    error = answer.get("error") or {}
    kind = str(error.get("type", "unknown"))
    found = _FIELD.search(str(error.get("reason", "")))
    reason = f"{status} {kind}" + (f" (field {found[1]})" if found else "")
    if kind == _MOVED:
        return Verdict.MOVED, reason
    if status == 401 or kind == _DENIED:
        return Verdict.DENIED, reason
    if status == 429 or status >= 500 or kind in (BLOCKED, _CLOSED):
        return Verdict.BUSY, reason
    return Verdict.REFUSED, reason


def _requests(changes: Sequence[Change], most: int) -> Iterator[list[_Item]]:
    """Yield the items of each request, within its bounds."""
    items: list[_Item] = []
    size = 0
    for change in changes:
        item = _item(change)
        if items and (len(items) >= most or size + len(item.line) > REQUEST_BYTES):
            yield items
            items, size = [], 0
        items.append(item)
        size += len(item.line)
    if items:
        yield items


def _item(change: Change) -> _Item:
    """Return what writes *change*: the profile as it is, or its tombstone."""
    body = change.body
    if body is None:
        return _Item(change, _ours(change, {"kind": TOMBSTONE}))
    if _RESERVED in body and "replication" in orjson.loads(body):
        return _Item(change, b"", "it has a member named replication")
    if b"\n" in body:  # written by somebody else: the service writes one line
        body = orjson.dumps(orjson.loads(body))
    return _Item(change, _action(change.uid, change.offset, "external") + body + b"\n")


def _marker(change: Change, reason: str) -> bytes:
    return _ours(change, {"kind": REFUSED, "reason": reason})


def _ours(change: Change, what: Mapping[str, str]) -> bytes:
    document = {"uid": change.uid, "version": change.version, "replication": what}
    return _action(change.uid, change.offset, "external") + orjson.dumps(document) + b"\n"


def _action(name: str, version: int, version_type: str) -> bytes:
    return b'{"index":{"_id":"%b","version":%d,"version_type":"%b"}}\n' % (
        name.encode(),
        version,
        version_type.encode(),
    )
