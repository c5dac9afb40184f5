"""Which header fields go from node to node with a client's request and its answer. Pure functions on bytes.

A field that belongs to one connection stays on it (RFC 9110 section 7.6.1). What tells who the client is, or lets him
in, stays with the node that he chose: a peer needs neither, and a rogue one must not get them.
"""

import re

from streams.queries.peers import Headers

_OF_A_CONNECTION = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings", b"expect")
)
_OF_THE_CLIENT = frozenset((b"authorization", b"cookie", b"forwarded", b"x-real-ip", b"via"))
_OF_THE_MESSAGE = frozenset((b"host", b"content-length"))  # made anew for each connection
_KEPT_PREFIXES = (b"proxy-", b"x-forwarded-", b"profile-peer")
_OF_THE_SERVER = frozenset((b"date", b"server"))  # each server writes its own
_CLEAN_TARGET = re.compile(rb"/[\x21\x22\x24-\x7e]*")
_UNCLEAN = re.compile(rb"[^\x21\x22\x24-\x7e]")


def forwarded_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return what of a client's request header goes to the peer. The same on both sides: it is what gets signed."""
    named = _named_by_connection(headers)
    return [
        (name, value.strip(b" \t"))
        for name, value in headers
        if name not in _OF_A_CONNECTION
        and name not in _OF_THE_CLIENT
        and name not in _OF_THE_MESSAGE
        and not name.startswith(_KEPT_PREFIXES)
        and name not in named
    ]


def answered_headers(headers: Headers, *, via: bytes) -> list[tuple[bytes, bytes]]:
    """Return what of a peer's answer goes to the client, marked as having come by way of the node *via*."""
    named = _named_by_connection(headers)
    kept = [
        (name, value)
        for name, value in headers
        if name not in _OF_A_CONNECTION
        and name not in _OF_THE_SERVER
        and not name.startswith(_KEPT_PREFIXES)
        and name not in named
    ]
    kept.append((b"via", b"1.1 " + via))
    return kept


def clean_target(target: bytes) -> bytes:
    """Return *target* with what no client library passes on unchanged percent-encoded, which means the same
    (RFC 3986 section 2.4); an empty query loses its question mark, since ASGI does not tell it from none."""
    if _CLEAN_TARGET.fullmatch(target) is None:
        target = _UNCLEAN.sub(lambda found: b"%%%02X" % found[0][0], target)
    return target.removesuffix(b"?")


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    return frozenset(
        option.strip(b" \t").lower() for name, value in headers if name == b"connection" for option in value.split(b",")
    )
