"""The gate for requests of other nodes: it looks at the signature, then carries out an operation between nodes, or lets
a forwarded request of a client through. It knows no server: whoever has the request brings it as values.

Nothing passes that was not signed for this start of this node, now, once. Each kind has its own limit of requests in
progress and is refused at once above it, so that no kind can take the place of another, and nodes that wait for each
other do not wait in a circle.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple

from streams.clock import Clock, Deadline
from streams.cluster import ClusterView, NodeInfo
from streams.errors import NotOwner, Overloaded, Unavailable
from streams.http.headers import forwarded_headers
from streams.http.hello import (
    ANOTHER_NODE,
    DONE,
    FAILED,
    LATE,
    LET_IN,
    NOT_OWNER,
    OVERLOADED,
    PING,
    PREFIX,
    REFUSED,
    REPLAYED,
    STALE,
    UNAVAILABLE,
    UNKNOWN,
    WITH_POSITIONS,
    Hello,
    Refusal,
)
from streams.http.signing import (
    CALL,
    HEADER,
    KINDS,
    UNKNOWN_MS,
    BadSignature,
    Envelope,
    Keys,
    Message,
    ReplayGuard,
    is_loopback_host,
    seal_answer,
    unseal,
)
from streams.queries.peers import Caller, Headers, PeerLost, PeerReply

logger = logging.getLogger(__name__)

_STATUS = {STALE: 401, REPLAYED: 401, ANOTHER_NODE: 401, UNKNOWN: 404, NOT_OWNER: 421}
_FORWARDED = "forwarded"
#: Who adds one of these speaks for somebody else, who may be anywhere; no peer does.
_OF_A_PROXY = frozenset((b"forwarded", b"x-forwarded-for", b"via"))

Run = Callable[[bytes, Caller], Awaitable[bytes]]


class Operation(NamedTuple):
    """Something that nodes ask of each other. `run` gets the body and who asks, and returns the result. If it raises
    `Unavailable` (but PeerLost) it has done nothing and never will; after any other error the caller knows nothing."""

    run: Run
    max_in_flight: int = 64


class Refused(Exception):
    """The request is not looked at. `envelope` None: its sender is nobody known, and is told nothing."""

    def __init__(self, reason: str, message: str, envelope: Envelope | None, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.envelope = envelope
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class Visit:
    """A request that was let in, and its place among those in progress: leave the `with` block when it is answered.
    `headers`: what of its header the sender signed; nothing else may be looked at. `proof`: a field that the answer's
    header must have, or the peer takes it for that of a stranger who got hold of this node's address."""

    caller: Caller
    headers: Headers
    kind: str
    proof: tuple[bytes, bytes]
    _in_flight: Counter[str]

    def __enter__(self) -> Caller:
        return self.caller

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._in_flight[self.kind] -= 1


@dataclass(slots=True)
class PeerGate:
    """Event loop only. *operations*: by name, reached as `POST /peers/<name>`."""

    node: NodeInfo
    keys: Keys
    clock: Clock
    get_view: Callable[[], ClusterView]
    get_positions: Callable[[], Mapping[int, int]]
    operations: Mapping[str, Operation]
    max_forwarded: int = 256
    #: Where the operations are: a process that runs several nodes at one address has a gate below PREFIX for each.
    prefix: bytes = PREFIX
    #: Refusals by reason, for metrics.
    refusals: Counter[str] = field(default_factory=Counter)
    _guard: ReplayGuard = field(init=False)
    _limits: dict[str, int] = field(init=False)
    _in_flight: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._guard = ReplayGuard(self.clock)
        self.operations = {**self.operations, PING: Operation(self._ping)}
        self._limits = {name: operation.max_in_flight for name, operation in self.operations.items()}
        assert _FORWARDED not in self._limits
        self._limits[_FORWARDED] = self.max_forwarded

    async def enter(
        self, method: bytes, target: bytes, headers: Headers, body: bytes, *, client_host: str | None
    ) -> PeerReply | Visit:
        """Answer a request that carries HEADER, or return the Visit of a client's request that this node is to answer
        itself, never to forward. *target*: path and query as received; *headers*: names in lower case; *client_host*:
        the IP address of the connection's other end."""
        try:
            visit, envelope = self._check(method, target, headers, body, client_host)
        except Refused as refused:
            return self._refuse(refused)
        if envelope.kind != CALL:
            return visit
        with visit as caller:
            try:
                result = await self.operations[visit.kind].run(body, caller)
            except PeerLost as error:
                return self._answer(envelope, 504, FAILED, str(error).encode())
            except Unavailable as error:
                reason = (
                    NOT_OWNER
                    if isinstance(error, NotOwner)
                    else OVERLOADED
                    if isinstance(error, Overloaded)
                    else UNAVAILABLE
                )
                return self._refuse(Refused(reason, str(error), envelope, retry_after_s=error.retry_after_s))
            except Exception:
                logger.exception("peer_operation_failed", extra={"operation": visit.kind, "peer": caller.node_id})
                return self._answer(envelope, 500, FAILED, b"")
        return self._answer(envelope, 200, DONE, result)

    def _check(
        self, method: bytes, target: bytes, headers: Headers, body: bytes, client_host: str | None
    ) -> tuple[Visit, Envelope]:
        signed = forwarded_headers(headers)
        envelope = self._unseal(Message(method, target, signed, body), headers, client_host)
        kind = self._kind(envelope, method, target)
        if kind != PING or envelope.fresh_ms != UNKNOWN_MS:
            self._check_time(envelope)
        try:
            if not self._guard.use(envelope.nonce):
                raise Refused(REPLAYED, "this was sent before", envelope)
        except Overloaded as error:
            raise Refused(OVERLOADED, str(error), envelope) from None
        if self._in_flight[kind] >= self._limits[kind]:
            raise Refused(OVERLOADED, f"too many requests of peers are in progress: {kind}", envelope)
        self._in_flight[kind] += 1
        caller = Caller(
            envelope.sender,
            self._deadline(envelope),
            envelope.epoch,
            hop="" if envelope.kind == CALL else envelope.kind,
            extra=envelope.extra,
        )
        proof = b""
        if envelope.kind != CALL:  # the answer of an operation is signed whole
            proof = seal_answer(self.keys, nonce=envelope.nonce, status=0, note=self._note(LET_IN), body=b"")
        return Visit(caller, signed, kind, (HEADER, proof), self._in_flight), envelope

    def _unseal(self, message: Message, headers: Headers, client_host: str | None) -> Envelope:
        values = [value for name, value in headers if name == HEADER]
        if not self.keys.is_secret:
            is_proxied = not _OF_A_PROXY.isdisjoint(name for name, _ in headers)
            if is_proxied or not is_loopback_host(client_host or ""):
                raise Refused("stranger", "without a cluster secret peers must be on this machine", None)
        try:
            return unseal(self.keys, values[0] if len(values) == 1 else b"", message, address=self.node.address)
        except BadSignature:
            raise Refused("signature", "the signature is not of this cluster for this node", None) from None

    def _kind(self, envelope: Envelope, method: bytes, target: bytes) -> str:
        """Return the name of what is asked for, by which it is counted."""
        assert envelope.kind in KINDS, "signed by another version"
        is_internal = target.startswith(PREFIX)
        operation = target.removeprefix(self.prefix).decode("latin-1") if is_internal else _FORWARDED
        if envelope.target_id != self.node.node_id or envelope.sender == self.node.node_id:
            raise Refused(ANOTHER_NODE, f"this is node {self.node.node_id}", envelope)
        if envelope.target_incarnation != self.node.incarnation and operation != PING:
            raise Refused(ANOTHER_NODE, f"node {self.node.node_id} has been started anew", envelope)
        # A client's request never becomes an operation, whatever path he chose.
        is_call = envelope.kind == CALL
        if is_internal != is_call or (is_call and (method != b"POST" or operation not in self.operations)):
            raise Refused(UNKNOWN, "there is no such operation between nodes", envelope)
        return operation

    def _check_time(self, envelope: Envelope) -> None:
        if not self._guard.is_fresh(envelope.fresh_ms):
            raise Refused(STALE, "this was sent too long ago, or by a clock that is not ours", envelope)
        if self._deadline(envelope).has_passed(self.clock):
            raise Refused(LATE, "nobody waits for the answer any more", envelope)

    def _deadline(self, envelope: Envelope) -> Deadline:
        """Return the sender's deadline on our clock: counted from when he sent, not from when we came to read it."""
        now = self.clock.monotonic()
        sent = now if envelope.fresh_ms == UNKNOWN_MS else min(now, envelope.fresh_ms / 1000)
        return Deadline(sent + envelope.left_ms / 1000)

    async def _ping(self, body: bytes, caller: Caller) -> bytes:
        return self._hello(caller.epoch, self.get_positions() if body == WITH_POSITIONS else None).encode()

    def _hello(self, known_epoch: int, positions: Mapping[int, int] | None = None) -> Hello:
        view = self.get_view()
        return Hello(
            self.node.node_id,
            self.node.incarnation,
            self._guard.now_ms(),
            view.epoch,
            view if view.epoch > known_epoch else None,
            positions,
        )

    def _note(self, word: str) -> str:
        return f"{word} {self.get_view().epoch}"

    def _answer(self, envelope: Envelope, status: int, word: str, body: bytes) -> PeerReply:
        value = seal_answer(self.keys, nonce=envelope.nonce, status=status, note=self._note(word), body=body)
        headers = [
            (HEADER, value),
            (b"content-type", b"application/octet-stream"),
            (b"cache-control", b"no-store"),
            (b"content-length", b"%d" % len(body)),
        ]
        return PeerReply(status, headers, body)

    def _refuse(self, refused: Refused) -> PeerReply:
        self.refusals[refused.reason] += 1
        if refused.envelope is None:
            return PeerReply(401, [(b"cache-control", b"no-store"), (b"content-length", b"0")], b"")
        hello = self._hello(refused.envelope.epoch)
        body = Refusal(refused.reason, str(refused), refused.retry_after_s, hello).encode()
        return self._answer(refused.envelope, _STATUS.get(refused.reason, 503), REFUSED, body)
