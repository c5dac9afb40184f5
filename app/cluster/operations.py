"""What other nodes may have this one do for reads: answer plain reads in a batch, and scan.

Each is done from this node's own state and never asks a third node.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from app.cluster.batches import MAX_BATCH, READ_OPERATION
from app.cluster.listing import SCAN_OPERATION
from app.cluster.wire import Found, ScanRequest, decode_keys, encode_found, encode_scan
from app.profiles.reads import MAX_PAGE, Reads
from streams.errors import Unavailable
from streams.queries.peers import Caller

T = TypeVar("T")
Operation = Callable[[bytes, Caller], Awaitable[bytes]]


def read_operations(reads: Reads) -> Mapping[str, Operation]:
    """Return the operations by name. Event loop only."""

    def look_up(key: bytes) -> Found | None:
        try:
            if b"@" in key:
                return reads.search_now(key.decode())
            found = reads.get_now(key)
        except Exception:  # noqa: BLE001 - the long way meets it again and says it as a problem
            return None
        return None if found is None else (*found, b"")

    async def read(body: bytes, _caller: Caller) -> bytes:
        keys = _sane(decode_keys, body)
        if len(keys) > MAX_BATCH:
            raise Unavailable("too many reads in one call")
        return encode_found([look_up(key) for key in keys])

    async def scan(body: bytes, caller: Caller) -> bytes:
        request = _sane(ScanRequest.decode, body)
        if not 1 <= request.limit <= MAX_PAGE + 1:
            raise Unavailable("the limit is out of range")
        found = await reads.scan(request.partitions, request.start, request.limit, request.options, caller.deadline)
        if found.served_by is not None:
            found = found._replace(served_by=replace(found.served_by, hops=1))
        return encode_scan(found)

    return {READ_OPERATION: read, SCAN_OPERATION: scan}


def _sane(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except ValueError as error:
        raise Unavailable("the request of a peer makes no sense") from error
