"""The gate without a network: who and what is let in, how much at a time, and what a refusal tells."""

import asyncio
from dataclasses import dataclass, field

import pytest

from streams.cluster import NOWHERE, NodeInfo
from streams.errors import NotOwner
from streams.http.gate import Operation, PeerGate, Visit
from streams.http.hello import Hello, Refusal
from streams.http.signing import CALL, HEADER, UNKNOWN_MS, Envelope, Message, Nonces, seal, unseal_answer
from streams.queries.peers import OWNER, REPLICA, Caller, PeerLost, PeerReply
from tests.streams.http.rig import SECRET, keys_of, view_of
from tests.streams.http.test_signing import StandingClock

ME = NodeInfo("b", "start-1", "http://127.0.0.1:2")
OTHER = NodeInfo("a", "start-9", "http://127.0.0.1:3")


@dataclass
class Rig:
    """A gate, and a sender who knows everything that he needs to."""

    clock: StandingClock = field(default_factory=StandingClock)
    nonces: Nonces = field(default_factory=Nonces)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    callers: list[Caller] = field(default_factory=list)
    secret: bytes = SECRET

    def __post_init__(self) -> None:
        self.view = NOWHERE
        operations = {"echo": Operation(self.echo), "slow": Operation(self.slow, 2), "not": Operation(self.refuse)}
        operations |= {"lost": Operation(self.lose), "bug": Operation(self.fail)}
        keys = keys_of(self.secret)
        self.gate = PeerGate(ME, keys, self.clock, lambda: self.view, lambda: {3: 7}, operations, max_forwarded=2)

    async def echo(self, body: bytes, caller: Caller) -> bytes:
        self.callers.append(caller)
        return body

    async def slow(self, body: bytes, caller: Caller) -> bytes:
        self.entered.set()
        await self.leave.wait()
        return body

    async def refuse(self, body: bytes, caller: Caller) -> bytes:
        raise NotOwner("not mine", partition=1, retry_after_s=0.5)

    async def lose(self, body: bytes, caller: Caller) -> bytes:
        raise PeerLost("a third node fell silent")

    async def fail(self, body: bytes, caller: Caller) -> bytes:
        raise ZeroDivisionError

    def envelope(self, **changes: object) -> Envelope:
        plain = Envelope("a", "b", "start-1", self.now_ms(), self.nonces.next(), 1000, 4, CALL, {})
        return plain._replace(**changes)  # type: ignore[arg-type]

    def now_ms(self) -> int:
        return int(self.clock.now * 1000)

    async def send(
        self,
        target: bytes = b"/peers/echo",
        *,
        method: bytes = b"POST",
        host: str | None = "127.0.0.1",
        envelope: Envelope | None = None,
        **changes: object,
    ) -> PeerReply | Visit:
        self.last = envelope or self.envelope(**changes)
        value = seal(keys_of(self.secret), self.last, Message(method, target, (), b"body"), address=ME.address)
        return await self.gate.enter(method, target, [(HEADER, value)], b"body", client_host=host)

    def note(self, reply: PeerReply | Visit) -> str:
        assert isinstance(reply, PeerReply)
        value = dict(reply.headers)[HEADER]
        return unseal_answer(keys_of(self.secret), value, nonce=self.last.nonce, status=reply.status, body=reply.body)

    def reason(self, reply: PeerReply | Visit) -> str:
        assert self.note(reply).startswith("refused")
        assert isinstance(reply, PeerReply)
        return Refusal.decode(reply.body).reason


def test_an_operation_is_carried_out_for_who_is_known() -> None:
    """The result is signed for the request, and carries the epoch of our view."""

    async def run(rig: Rig) -> None:
        rig.view = view_of(ME, epoch=6)
        reply = await rig.send()
        assert isinstance(reply, PeerReply)
        assert (reply.status, reply.body, rig.note(reply)) == (200, b"body", "done 6")
        caller = rig.callers[0]
        assert (caller.node_id, caller.epoch, caller.hop) == ("a", 4, "")
        assert caller.deadline.at == pytest.approx(rig.clock.now + 1)

    asyncio.run(run(Rig()))


@pytest.mark.parametrize(
    ("target", "changes", "reason"),
    [
        (b"/peers/echo", {"target_id": "c"}, "another-node"),
        (b"/peers/echo", {"target_incarnation": "start-0"}, "another-node"),
        (b"/peers/echo", {"sender": "b"}, "another-node"),
        (b"/peers/echo", {"fresh_ms": UNKNOWN_MS}, "stale"),
        (b"/peers/echo", {"fresh_ms": 100_000 - 5_001}, "stale"),
        (b"/peers/echo", {"fresh_ms": 100_000 + 501}, "stale"),
        (b"/peers/echo", {"fresh_ms": 100_000 - 300, "left_ms": 200}, "late"),
        (b"/peers/nothing", {}, "unknown-operation"),
        (b"/peers/forwarded", {}, "unknown-operation"),
        (b"/peers/", {}, "unknown-operation"),
        (b"/peers/echo", {"kind": OWNER}, "unknown-operation"),  # a client chose a path of ours
        (b"/peers/echo", {"kind": REPLICA}, "unknown-operation"),
        (b"/api/profile/1", {"kind": CALL}, "unknown-operation"),
        (b"/peers/not", {}, "not-owner"),
    ],
)
def test_what_is_refused_is_told_why_and_by_whom(target: bytes, changes: dict[str, object], reason: str) -> None:
    """The refusal is signed, and tells a sender who knows the secret our clock, start and view."""

    async def run(rig: Rig) -> None:
        rig.view = view_of(ME, OTHER, epoch=6)
        reply = await rig.send(target, **changes)
        assert rig.reason(reply) == reason
        hello = Refusal.decode(reply.body).hello  # type: ignore[union-attr]
        assert hello == Hello("b", "start-1", rig.now_ms(), 6, rig.view)
        assert not rig.callers
        assert rig.gate.refusals == {reason: 1}

    asyncio.run(run(Rig()))


def test_a_stranger_learns_nothing() -> None:
    """Without a valid signature, with none, or with two, the answer is empty and unsigned."""

    async def run(rig: Rig) -> None:
        good = seal(keys_of(), rig.envelope(), Message(b"POST", b"/peers/echo", (), b""), address=ME.address)
        bad = seal(
            keys_of(b"another secret 123"),
            rig.envelope(),
            Message(b"POST", b"/peers/echo", (), b""),
            address=ME.address,
        )
        for headers in ([], [(HEADER, bad)], [(HEADER, b"")], [(HEADER, good)] * 2, [(HEADER, b"\xff" * 99)]):
            reply = await rig.gate.enter(b"POST", b"/peers/echo", headers, b"", client_host="127.0.0.1")
            assert isinstance(reply, PeerReply)
            assert (reply.status, reply.body) == (401, b"")
            assert HEADER not in dict(reply.headers)
        assert not rig.callers

    asyncio.run(run(Rig()))


def test_nothing_passes_twice() -> None:
    """A copy of a request is refused, also when the first one was refused for want of room."""

    async def run(rig: Rig) -> None:
        envelope = rig.envelope()
        assert rig.note(await rig.send(envelope=envelope)).startswith("done")
        assert rig.reason(await rig.send(envelope=envelope)) == "replayed"
        assert len(rig.callers) == 1

    asyncio.run(run(Rig()))


def test_a_request_that_lay_in_a_buffer_keeps_its_senders_deadline() -> None:
    """A node that was stopped does not take what waited in its sockets for new."""

    async def run(rig: Rig) -> None:
        envelope = rig.envelope(left_ms=1000)
        rig.clock.now += 0.9
        await rig.send(envelope=envelope)
        assert rig.callers[0].deadline.at == pytest.approx(rig.clock.now + 0.1, abs=0.01)
        envelope = rig.envelope(left_ms=1000)
        rig.clock.now += 1.1
        assert rig.reason(await rig.send(envelope=envelope)) == "late"

    asyncio.run(run(Rig()))


def test_each_kind_has_its_own_limit() -> None:
    """What is over it is refused at once; the others, and pings, go on; a place is free again afterwards."""

    async def run(rig: Rig) -> None:
        slow = [asyncio.create_task(rig.send(b"/peers/slow")) for _ in range(2)]
        await asyncio.sleep(0)
        assert rig.reason(await rig.send(b"/peers/slow")) == "overloaded"
        visits = [await rig.send(b"/x", kind=OWNER) for _ in range(2)]
        assert rig.reason(await rig.send(b"/x", kind=REPLICA)) == "overloaded"
        assert rig.note(await rig.send()).startswith("done")
        assert rig.note(await rig.send(b"/peers/ping")).startswith("done")
        rig.leave.set()
        await asyncio.gather(*slow)
        for visit in visits:
            assert isinstance(visit, Visit)
            with visit:
                pass
        assert rig.note(await rig.send(b"/peers/slow")).startswith("done")
        assert isinstance(await rig.send(b"/x", kind=OWNER), Visit)

    asyncio.run(run(Rig()))


def test_a_forwarded_request_is_marked() -> None:
    """Its caller says as whom we are asked, and what the application sent along; only signed fields are shown."""

    async def run(rig: Rig) -> None:
        visit = await rig.send(b"/api/profile/1", method=b"GET", kind=REPLICA, extra={"uid": "u"})
        assert isinstance(visit, Visit)
        with visit as caller:
            assert (caller.hop, caller.extra) == ("replica", {"uid": "u"})
            assert visit.headers == []

    asyncio.run(run(Rig()))


@pytest.mark.parametrize("operation", [b"/peers/lost", b"/peers/bug"])
def test_a_failed_operation_is_no_refusal(operation: bytes) -> None:
    """Whoever asked must not believe that nothing was done."""

    async def run(rig: Rig) -> None:
        reply = await rig.send(operation)
        assert isinstance(reply, PeerReply)
        assert reply.status >= 500
        assert rig.note(reply).startswith("failed")

    asyncio.run(run(Rig()))


def test_a_ping_needs_no_knowledge_but_the_secret() -> None:
    """It is how clock, start and view become known; the view is sent to those only who know an older one."""

    async def run(rig: Rig) -> None:
        rig.view = view_of(ME, OTHER, epoch=6)
        for epoch, view in ((5, rig.view), (6, None)):
            reply = await rig.send(b"/peers/ping", fresh_ms=UNKNOWN_MS, target_incarnation="start-0", epoch=epoch)
            assert isinstance(reply, PeerReply)
            assert Hello.decode(reply.body) == Hello("b", "start-1", rig.now_ms(), 6, view)
        assert rig.reason(await rig.send(b"/peers/ping", target_id="c")) == "another-node"

    asyncio.run(run(Rig()))


def test_without_a_secret_only_this_machine_is_let_in() -> None:
    """Everybody can compute that key; whoever comes from elsewhere is a stranger."""

    async def run(rig: Rig) -> None:
        assert rig.note(await rig.send(host="127.0.0.1")).startswith("done")
        for host in ("10.0.0.1", "", None):
            reply = await rig.send(host=host)
            assert isinstance(reply, PeerReply)
            assert (reply.status, reply.body) == (401, b"")

    asyncio.run(run(Rig(secret=b"")))


@pytest.mark.parametrize("name", [b"via", b"forwarded", b"x-forwarded-for"])
def test_without_a_secret_nobody_comes_through_a_proxy(name: bytes) -> None:
    """The proxy is on this machine, and its client may be anywhere."""
    rig = Rig(secret=b"")

    async def scenario() -> None:
        value = seal(keys_of(b""), rig.envelope(), Message(b"POST", b"/peers/echo", (), b"body"), address=ME.address)
        reply = await rig.gate.enter(
            b"POST", b"/peers/echo", [(HEADER, value), (name, b"x")], b"body", client_host="127.0.0.1"
        )
        assert isinstance(reply, PeerReply)
        assert reply.status == 401

    asyncio.run(scenario())
