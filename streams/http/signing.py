"""The signature of a request between nodes, and of the answer to it. Pure but for the memory of used nonces; no I/O.

Signed are: method, target, header fields, body, who sends, to which start of which node and at which address, a nonce,
the deadline, the epoch, what kind of request it is, and what the application adds. So nothing can be altered, sent to
another node, passed on by one, or sent again, also not after a restart.

There is no wall clock in it. A request says what the *receiver's* monotonic clock shows, as its last signed answers
told: a node whose wall clock is wrong, or jumps, works as well as any other. The same number bounds how long a request
may have lain in a buffer, and makes the deadline exact however long that was.
"""

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

import orjson

from streams.clock import Clock
from streams.errors import ConfigError, Overloaded
from streams.queries.peers import OWNER, REPLICA, Headers

HEADER = b"profile-peer"
MIN_SECRET_BYTES = 16

#: The kinds of a request: an operation between nodes, or a client's request for the owner or for a follower.
CALL = "call"
KINDS = frozenset((CALL, OWNER, REPLICA))

#: Said instead of the receiver's clock by who does not know it yet.
UNKNOWN_MS = -1

_MAC_HEX = 64
_FORM = 1
_MAX_VALUE_BYTES = 4096


class Keys(NamedTuple):
    """What requests and answers are signed with. `is_secret` False: anybody on this machine can know them."""

    request: bytes
    answer: bytes
    is_secret: bool


def derive_keys(secret: bytes, *, application_id: str, own_address: str) -> Keys:
    """Return the keys of the cluster. An empty *secret* will do only while all nodes are on loopback. Raises
    ConfigError."""
    if not secret and not is_loopback_address(own_address):
        raise ConfigError(f"a node that others reach at {own_address} needs a cluster secret")
    if secret and len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(f"the cluster secret has fewer than {MIN_SECRET_BYTES} bytes")
    root = secret or sha256(b"no secret " + application_id.encode()).digest()
    return Keys(
        hmac.digest(root, b"streams peer request 1", "sha256"),
        hmac.digest(root, b"streams peer answer 1", "sha256"),
        is_secret=bool(secret),
    )


def is_loopback_address(address: str) -> bool:
    """Say whether `http://host:port` is reached from this machine alone, as far as its text tells."""
    return is_loopback_host(address.partition("://")[2].rpartition(":")[0].strip("[]"))


def is_loopback_host(host: str) -> bool:
    """Say whether the IP address or name is this machine's loopback; other names are not looked up."""
    if host == "localhost":
        return True
    try:
        ip = ip_address(host)
    except ValueError:
        return False
    return ((isinstance(ip, IPv6Address) and ip.ipv4_mapped) or ip).is_loopback


class Envelope(NamedTuple):
    """What travels signed beside the request itself. `fresh_ms`: the receiver's clock when it was sent. `left_ms`:
    until the deadline, at that moment. `extra`: small, opaque."""

    sender: str
    target_id: str
    target_incarnation: str
    fresh_ms: int
    nonce: str
    left_ms: int
    epoch: int
    kind: str
    extra: Mapping[str, str]


class Message(NamedTuple):
    """What is signed of the request. `headers`: those of the application; `target` as the receiver gets it."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes


class BadSignature(Exception):
    """Whoever made it does not know the key, or it was made for something else."""


def seal(keys: Keys, envelope: Envelope, message: Message, *, address: str) -> bytes:
    """Return the value of HEADER for *message*, to be sent to the node at *address*."""
    text = orjson.dumps([_FORM, *envelope[:-1], dict(envelope.extra)])
    assert _MAC_HEX + len(text) <= _MAX_VALUE_BYTES, "the application's values are too long"
    return _request_mac(keys, text, message, address) + text


def unseal(keys: Keys, value: bytes, message: Message, *, address: str) -> Envelope:
    """Return what was sealed for *message* and this node's own *address*. Raises BadSignature."""
    if len(value) > _MAX_VALUE_BYTES:
        raise BadSignature
    mac, text = value[:_MAC_HEX], value[_MAC_HEX:]
    if not hmac.compare_digest(mac, _request_mac(keys, text, message, address)):
        raise BadSignature
    form, *fields = orjson.loads(text)  # whoever knows the key wrote it
    if form != _FORM:
        raise BadSignature
    return Envelope(*fields)


def seal_answer(keys: Keys, *, nonce: str, status: int, note: str, body: bytes) -> bytes:
    """Return the value of HEADER for the answer to the request with *nonce*. *note*: signed with it; ASCII."""
    return _answer_mac(keys, nonce, status, note.encode(), body) + note.encode()


def unseal_answer(keys: Keys, value: bytes, *, nonce: str, status: int, body: bytes) -> str:
    """Return the note. Raises BadSignature."""
    mac, note = value[:_MAC_HEX], value[_MAC_HEX:]
    if not hmac.compare_digest(mac, _answer_mac(keys, nonce, status, note, body)):
        raise BadSignature
    return note.decode()


class Nonces:
    """Makes nonces that nobody else makes: a random beginning, then a count."""

    def __init__(self) -> None:
        self._session = secrets.token_hex(12)
        self._count = 0

    def next(self) -> str:
        self._count += 1
        return f"{self._session}{self._count:x}"


@dataclass(slots=True)
class ReplayGuard:
    """Remembers which nonces were used, at least as long as a request that carries them can pass as fresh. Event loop
    only. At most two times *capacity* nonces of about 120 bytes each: it refuses rather than forgets."""

    clock: Clock
    past_ms: int = 5000
    future_ms: int = 500  # a sender's estimate lags behind; only the drift of two clocks lets it run ahead
    capacity: int = 100_000
    _recent: set[str] = field(default_factory=set)
    _older: set[str] = field(default_factory=set)
    _turned_ms: int = 0

    def is_fresh(self, fresh_ms: int) -> bool:
        """Say whether a request that was sent when our clock showed *fresh_ms* is still to be looked at."""
        age_ms = self.now_ms() - fresh_ms
        return -self.future_ms <= age_ms <= self.past_ms

    def use(self, nonce: str) -> bool:
        """Return False if *nonce* was used before. Raises Overloaded when no more can be remembered."""
        now_ms = self.now_ms()
        if now_ms - self._turned_ms > self.past_ms + self.future_ms:
            # What a whole lifetime has passed since is forgotten: nothing that carries it is fresh any more.
            is_long_ago = now_ms - self._turned_ms > 2 * (self.past_ms + self.future_ms)
            self._older = set() if is_long_ago else self._recent
            self._recent = set()
            self._turned_ms = now_ms
        if nonce in self._recent or nonce in self._older:
            return False
        if len(self._recent) >= self.capacity:
            raise Overloaded("too many requests of peers to remember")
        self._recent.add(nonce)
        return True

    def now_ms(self) -> int:
        return int(self.clock.monotonic() * 1000)


def _request_mac(keys: Keys, text: bytes, message: Message, address: str) -> bytes:
    # No part but the last two, whose length is fixed, can contain a line break: there is one way to split it.
    fields = b"\n".join(sorted([name + b":" + value for name, value in message.headers]))
    parts = (
        address.encode(),
        text,
        message.method,
        message.target,
        sha256(fields).digest() + sha256(message.body).digest(),
    )
    return _mac(keys.request, b"\n".join(parts))


def _answer_mac(keys: Keys, nonce: str, status: int, note: bytes, body: bytes) -> bytes:
    parts = (nonce.encode(), b"%d" % status, note, sha256(body).digest())
    return _mac(keys.answer, b"\n".join(parts))


def _mac(key: bytes, text: bytes) -> bytes:
    begun = _begun(key).copy()
    begun.update(text)
    return begun.hexdigest().encode()


@lru_cache(maxsize=4)
def _begun(key: bytes) -> hmac.HMAC:
    """Return the code of no text at all: to go on from there costs half of what `hmac.digest` does."""
    return hmac.new(key, digestmod=sha256)
