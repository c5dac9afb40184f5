"""The bodies of the operations between nodes: from values to bytes and back. No I/O.

Both ends are nodes of one release line and have proven who they are; bytes that make no sense raise ValueError. Numbers
are big-endian.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import astuple
from struct import Struct
from typing import NamedTuple

from app.profiles.requests import ReadOptions
from app.profiles.results import Scan, ServedBy

#: One plain read that was answered: body, ETag, Profile-Served-By, and the uid where an e-mail was searched.
Found = tuple[bytes, bytes, bytes, bytes]

_LENGTH = Struct(">H")
_ENTRY = Struct(">IBHB")
_NOT_FOUND = _ENTRY.pack(0, 0, 0, 0)
_ROW = Struct(">BI")


def encode_keys(keys: Sequence[bytes]) -> bytes:
    """Return the body of `read`: uids and e-mails, as they were in the requests."""
    return b"".join([part for key in keys for part in (_LENGTH.pack(len(key)), key)])


def decode_keys(body: bytes) -> list[bytes]:
    """Return what `encode_keys` was given."""
    keys, at = [], 0
    try:
        while at < len(body):
            end = at + 2 + _LENGTH.unpack_from(body, at)[0]
            keys.append(body[at + 2 : end])
            at = end
    except struct.error as error:
        raise ValueError("not a list of keys") from error
    if at != len(body):
        raise ValueError("not a list of keys")
    return keys


def encode_found(entries: Sequence[Found | None]) -> bytes:
    """Return the answer to `read`: for each key what was found, or None when the request has to take the long way."""
    pack = _ENTRY.pack
    parts: list[bytes] = []
    for entry in entries:
        if entry is None:
            parts.append(_NOT_FOUND)
        else:
            body, tag, served_by, uid = entry
            parts += (pack(len(body), len(tag), len(served_by), len(uid)), body, tag, served_by, uid)
    return b"".join(parts)


def decode_found(answer: bytes, count: int) -> list[Found | None]:
    """Return what `encode_found` was given for *count* keys."""
    entries: list[Found | None] = []
    at, size, unpack = 0, _ENTRY.size, _ENTRY.unpack_from
    try:
        for _ in range(count):
            body, tag, served_by, uid = unpack(answer, at)
            at += size
            if not body:
                entries.append(None)
                continue
            body += at
            tag += body
            served_by += tag
            uid += served_by
            entries.append((answer[at:body], answer[body:tag], answer[tag:served_by], answer[served_by:uid]))
            at = uid
    except struct.error as error:
        raise ValueError("not the answers to a list of keys") from error
    if at != len(answer):
        raise ValueError("not the answers to a list of keys")
    return entries


class ScanRequest(NamedTuple):
    """The body of `scan`: the first *limit* profiles of *partitions* from the uid *start* on."""

    partitions: Sequence[int]
    start: bytes
    limit: int
    options: ReadOptions

    def encode(self) -> bytes:
        document = [list(self.partitions), self.start.decode("latin-1"), self.limit, list(self.options)]
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, body: bytes) -> "ScanRequest":
        """Return what `encode` was called on."""
        try:
            partitions, start, limit, options = json.loads(body)
            return cls([int(one) for one in partitions], start.encode("latin-1"), int(limit), ReadOptions(*options))
        except (TypeError, AttributeError, RecursionError) as error:
            raise ValueError("not a request of a scan") from error


def encode_scan(scan: Scan) -> bytes:
    """Return the answer to `scan`."""
    origin = scan.served_by
    fields = astuple(origin) if origin is not None else None
    head = json.dumps([list(scan.partitions), fields], separators=(",", ":")).encode()
    parts = [_ROW.pack(0, len(head)), head]
    for uid, body in scan.rows:
        parts += (_ROW.pack(len(uid), len(body)), uid, body)
    return b"".join(parts)


def decode_scan(answer: bytes) -> Scan:
    """Return what `encode_scan` was given."""
    try:
        _, size = _ROW.unpack_from(answer)
        at = _ROW.size + size
        partitions, origin = json.loads(answer[_ROW.size : at])
        rows = []
        while at < len(answer):
            uid_size, body_size = _ROW.unpack_from(answer, at)
            start = at + _ROW.size
            at = start + uid_size + body_size
            rows.append((answer[start : start + uid_size], answer[start + uid_size : at]))
        if at != len(answer):
            raise ValueError("the answer to a scan is cut short")
        return Scan(rows, partitions, ServedBy(*origin) if origin is not None else None)
    except (struct.error, TypeError) as error:
        raise ValueError("not the answer to a scan") from error
