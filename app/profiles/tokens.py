"""Signed tokens that clients carry about: positions in the log, cursors of the list, and places in the change feed.

A token is base64url of: form u8, identity of the topics (8 bytes), content, HMAC-SHA256 cut to 16 bytes. The key is
derived from the secret for each purpose, so one kind never passes as the other. A token of topics that were deleted and
made again is refused, for their offsets mean nothing here. Anything that is not exactly what was given out: BadCursor.
A place in the feed is signed without that head: the feed has to tell one that is outdated from one that is forged, and
`app/feed/position.py` says what is in it.
"""

import hmac
from base64 import b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from hashlib import sha256
from struct import Struct

from app.profiles.results import BadCursor
from app.profiles.uids import UID_LENGTH
from streams.records import TopicPartition

POSITION_PARAMETER = "Profile-Position"
CURSOR_PARAMETER = "cursor"

_FORM = b"\x01"
_IDENTITY_SIZE = 8
_HEAD_SIZE = len(_FORM) + _IDENTITY_SIZE
_MAC_SIZE = 16
_MAX_LENGTH = 16 * 1024  # of a token's text; one of a write that touched 500 partitions is half of it
_ENTRY = Struct(">BHQ")


class Tokens:
    """Makes and reads tokens. Immutable; any thread.

    *secret*: at least 16 bytes, the same on all nodes. *topic_ids*: each topic with the log's id of it; the order does
    not matter to the caller, as positions are encoded by the sorted names.
    """

    def __init__(self, *, secret: bytes, topic_ids: Mapping[str, str]) -> None:
        assert len(secret) >= 16, "a guessable key signs nothing"
        self._topics: Sequence[str] = sorted(topic_ids)
        self._number = {topic: number for number, topic in enumerate(self._topics)}
        identity = sha256("\n".join(f"{topic}={topic_ids[topic]}" for topic in self._topics).encode()).digest()
        self._head = _FORM + identity[:_IDENTITY_SIZE]
        self._position_key = hmac.digest(secret, b"profiles position token 1", "sha256")
        self._cursor_key = hmac.digest(secret, b"profiles list cursor 2", "sha256")
        self._seq_key = hmac.digest(secret, b"profiles feed seq 1", "sha256")

    def of_positions(self, positions: Mapping[TopicPartition, int]) -> str:
        """Return the token of *positions*: each offset is the next to be read."""
        pack = _ENTRY.pack
        number = self._number
        entries = [pack(number[topic], partition, offset) for (topic, partition), offset in positions.items()]
        return _sign(self._head + b"".join(entries), self._position_key)

    def positions(self, token: str) -> dict[TopicPartition, int]:
        """Return what `of_positions` was given. Raises BadCursor."""
        content = self._verify(token, self._position_key, POSITION_PARAMETER)
        if len(content) % _ENTRY.size:
            raise BadCursor(POSITION_PARAMETER)
        return {
            TopicPartition(self._topics[number], partition): offset
            for number, partition, offset in _ENTRY.iter_unpack(content)
        }

    def of_cursor(self, uid: bytes) -> str:
        """Return the token of a page that ended with *uid*. It names no partition, so no rebalance can outdate it."""
        return _sign(self._head + uid, self._cursor_key)

    def cursor(self, token: str) -> bytes:
        """Return what `of_cursor` was given. Raises BadCursor."""
        uid = self._verify(token, self._cursor_key, CURSOR_PARAMETER)
        if len(uid) != UID_LENGTH:
            raise BadCursor(CURSOR_PARAMETER)
        return uid

    def of_seq(self, content: bytes) -> str:
        """Return the token of a place in the change feed."""
        return _sign(content, self._seq_key)

    def seq(self, token: str, parameter: str) -> bytes:
        """Return what `of_seq` was given, by whichever node of the cluster. Raises BadCursor for *parameter*."""
        return _verified(token, self._seq_key, parameter)

    def _verify(self, token: str, key: bytes, parameter: str) -> bytes:
        signed = _verified(token, key, parameter)
        if signed[:_HEAD_SIZE] != self._head:
            raise BadCursor(parameter)
        return signed[_HEAD_SIZE:]


def _sign(signed: bytes, key: bytes) -> str:
    mac = hmac.digest(key, signed, "sha256")[:_MAC_SIZE]
    return urlsafe_b64encode(signed + mac).rstrip(b"=").decode()


def _verified(token: str, key: bytes, parameter: str) -> bytes:
    if len(token) > _MAX_LENGTH:
        raise BadCursor(parameter)
    try:
        raw = b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (Base64Error, ValueError):  # ValueError: not ASCII
        raise BadCursor(parameter) from None
    signed, mac = raw[:-_MAC_SIZE], raw[-_MAC_SIZE:]
    if not hmac.compare_digest(mac, hmac.digest(key, signed, "sha256")[:_MAC_SIZE]):
        raise BadCursor(parameter)
    return signed
