"""One signed request to one node and its answer, verified. It decides nothing: who may be asked, how long to wait and
what to do after a failure is up to `streams.http.liveness` and `streams.http.peers`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from streams.clock import Clock, Deadline
from streams.cluster import NodeInfo
from streams.http.addresses import PeerAddress
from streams.http.hello import FAILED, LET_IN, REFUSED, REPLAYED, Refusal
from streams.http.signing import (
    CALL,
    HEADER,
    UNKNOWN_MS,
    BadSignature,
    Envelope,
    Keys,
    Message,
    Nonces,
    seal,
    unseal_answer,
)
from streams.http.transport import Sending, Transport
from streams.queries.peers import NO_EXTRA, PeerLost, PeerReply, PeerUnreachable

_MAX_LAG_MS = 400  # less than a request may run ahead; a clock that is further behind was stopped
_DRIFT_MS = 1.0  # from one answer to the next


class PeerRefused(PeerUnreachable):
    """The node says, signed, that it did not act and never will."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.reason}: {refusal.message}", retry_after_s=refusal.retry_after_s)
        self.refusal = refusal


@dataclass(slots=True)
class PeerClock:
    """What another node's monotonic clock shows, reckoned from what it said. The reckoning lags by the way of the
    answer that told it; so the one that says most is kept, as long as two clocks can have drifted apart."""

    ahead_ms: float | None = None

    def learn(self, told_ms: int, clock: Clock) -> None:
        ahead_ms = told_ms - clock.monotonic() * 1000
        if self.ahead_ms is not None and self.ahead_ms - ahead_ms < _MAX_LAG_MS:
            ahead_ms = max(ahead_ms, self.ahead_ms - _DRIFT_MS)
        self.ahead_ms = ahead_ms

    def now_ms(self, clock: Clock) -> int:
        """Return milliseconds, UNKNOWN_MS if it never said."""
        return UNKNOWN_MS if self.ahead_ms is None else int(clock.monotonic() * 1000 + self.ahead_ms)


@dataclass(frozen=True, slots=True)
class Recipient:
    """The start of a node that is asked, and where."""

    info: NodeInfo
    address: PeerAddress
    clock: PeerClock = field(default_factory=PeerClock)


@dataclass(slots=True)
class Exchange:
    """Event loop only."""

    node: NodeInfo
    keys: Keys
    clock: Clock
    _nonces: Nonces = field(default_factory=Nonces)

    async def ask(
        self,
        transport: Transport,
        recipient: Recipient,
        message: Message,
        sending: Sending,
        *,
        deadline: Deadline,
        epoch: int,
        kind: str = CALL,
        extra: Mapping[str, str] = NO_EXTRA,
    ) -> tuple[PeerReply, int]:
        """Send *message*, once, and return the answer with the epoch that the other node knows. Raises PeerUnreachable
        (PeerRefused when the node said so itself) and PeerLost; an answer that is not signed for this very request is
        nobody's: PeerLost."""
        nonce = self._nonces.next()
        info = recipient.info
        envelope = Envelope(
            sender=self.node.node_id,
            target_id=info.node_id,
            target_incarnation=info.incarnation,
            fresh_ms=recipient.clock.now_ms(self.clock),
            nonce=nonce,
            left_ms=int(deadline.remaining_s(self.clock) * 1000),
            epoch=epoch,
            kind=kind,
            extra=extra,
        )
        sealed = seal(self.keys, envelope, message, address=info.address)
        method, target, headers, body = message
        reply = await transport.send(recipient.address, method, target, [(HEADER, sealed), *headers], body, sending)
        word, known_epoch = self._verify(reply, nonce, info.node_id)
        if word == REFUSED:
            refusal = _decode(reply.body, info.node_id)
            if refusal.reason == REPLAYED:
                raise PeerLost(f"node {info.node_id} got the request twice")
            raise PeerRefused(refusal)
        if word == FAILED:
            raise PeerLost(f"node {info.node_id} failed: {reply.body[:200].decode(errors='replace')}")
        return reply, known_epoch

    def _verify(self, reply: PeerReply, nonce: str, node_id: str) -> tuple[str, int]:
        value = next((value for name, value in reply.headers if name == HEADER), b"")
        # Who lets a client's request in says so before the answer is known: that alone is signed.
        status, body = (0, b"") if value[64:].startswith(LET_IN.encode()) else (reply.status, reply.body)
        try:
            note = unseal_answer(self.keys, value, nonce=nonce, status=status, body=body)
        except BadSignature:
            raise PeerLost(f"the answer ({reply.status}) was not signed by node {node_id}") from None
        word, _, epoch = note.partition(" ")
        return word, int(epoch)


def _decode(body: bytes, node_id: str) -> Refusal:
    try:
        return Refusal.decode(body)
    except ValueError as error:
        raise PeerLost(f"node {node_id} refused in words that this one does not know") from error
