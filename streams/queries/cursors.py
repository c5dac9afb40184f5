"""Cursors of lists: opaque to the client, checked when they come back. Pure; immutable; any thread.

A cursor is base64url of: form u8, digest of the question (8 bytes), the key of the last row, HMAC-SHA256 cut to 16
bytes. It names a place between keys and no partition or offset: rows may come and go, partitions may move, any node can
go on, unless one alone was asked. What passes for another question, or was not made with the cluster's key: BadCursor.
"""

import hmac
from base64 import b64decode, urlsafe_b64encode
from hashlib import sha256

from streams.queries.asking import PLAIN, Ask, BadCursor

_FORM = b"\x01"
_DIGEST_SIZE = 8
_HEAD_SIZE = len(_FORM) + _DIGEST_SIZE
_MAC_SIZE = 16
_MAX_LENGTH = 64 * 1024  # of its text, which has to pass in a URL


class Cursors:
    """Makes and reads cursors."""

    def __init__(self, secret: bytes, *, application_id: str) -> None:
        """*secret*: of the cluster. Empty: anybody can make cursors, who learns no more by it than by asking for a
        range; all nodes still read each other's."""
        root = secret or sha256(b"no secret " + application_id.encode()).digest()
        self._key = hmac.digest(root, b"streams query cursor 1", "sha256")

    def make(self, ask: Ask, last: bytes, *, origin: str = "") -> str:
        """Return the cursor of a page of *ask* that ended with the row of key *last*. *origin*: the one node that was
        asked, whose list has not what others have before that key; empty: all nodes were."""
        signed = _FORM + _digest(ask, origin) + last
        return urlsafe_b64encode(signed + self._mac(signed)).rstrip(b"=").decode()

    def read(self, ask: Ask, cursor: str, *, origin: str = "") -> bytes:
        """Return the key that `make` was given for the same question and *origin*. Raises BadCursor."""
        if len(cursor) > _MAX_LENGTH:
            raise BadCursor
        try:
            raw = b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except ValueError:  # not base64, or not even ASCII
            raise BadCursor from None
        signed, mac = raw[:-_MAC_SIZE], raw[-_MAC_SIZE:]
        if not hmac.compare_digest(mac, self._mac(signed)) or signed[:_HEAD_SIZE] != _FORM + _digest(ask, origin):
            raise BadCursor
        return signed[_HEAD_SIZE:]

    def _mac(self, signed: bytes) -> bytes:
        return hmac.digest(self._key, signed, "sha256")[:_MAC_SIZE]


def _digest(ask: Ask, origin: str) -> bytes:
    """Return what tells one question from another, whatever the size of a page and the freshness."""
    question = ask._replace(after=None, limit=1, freshness=PLAIN).encode()
    return sha256(question + origin.encode()).digest()[:_DIGEST_SIZE]
