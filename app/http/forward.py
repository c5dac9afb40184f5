"""Between the responders and the cluster: a request that belongs to another node goes there as it came, and its answer
comes back as it was; what a peer sent is answered here or refused with our map.

Nothing is decided here: `app/cluster/router.py` does. A client's credentials stay here: only the headers listed below
travel. Event loop only.
"""

from binascii import Error as HexError
from binascii import unhexlify
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import quote

from falcon.asgi import Request, Response

from app.cluster.router import CLAIM_HEADER, MISDIRECTED, SEE_OTHER, Answered, ClaimFound, Errand, Router
from app.cluster.trail import Trail
from app.http.context import BODY, CALLER, REQUEST_ID, TRAIL, is_explained
from app.http.headers import is_uid
from app.profiles.requests import ORIGIN, PLAIN, STRICT, Origin, ReadOptions
from app.profiles.results import ClaimElsewhere, Read, Written
from app.profiles.uids import RandomBytes, draw_uid, random_id
from streams.clock import Clock, Deadline
from streams.partitioner import partition_for
from streams.queries.peers import Caller, PeerRequest
from streams.queries.routing import Need

T = TypeVar("T")

#: What of a client's request goes to the peer, by its lower-case name. No credentials, no deadline (it is signed).
TRAVELLING = (
    b"accept", b"content-encoding", b"content-type", b"idempotency-key", b"if-match", b"if-none-match", b"prefer",
    b"profile-position", b"traceparent",
)  # fmt: skip
#: What of an answer the server of this node writes itself.
_OF_THIS_NODE = frozenset((b"connection", b"content-length", b"x-request-id"))
_SERVED_BY = b"profile-served-by"
_HOPS = b"; hops="

# Signed values of the application that travel with a forwarded request.
_EVENT = "event"
_UID = "uid"
_CLAIM = "claim"

_NO_CLUSTER = "here=owner"


class Dispatch:
    """Has a request answered by whoever may answer it. *router* None: this node is alone, and everything is here."""

    def __init__(
        self, *, clock: Clock, random: RandomBytes, router: Router | None, partitions: Callable[[], int]
    ) -> None:
        self._clock = clock
        self._random = random
        self._router = router
        self._partitions = partitions

    async def read(
        self,
        req: Request,
        key_of: Callable[[], bytes],
        options: ReadOptions,
        due: Deadline,
        call: Callable[[ReadOptions, Deadline], Awaitable[T]],
    ) -> T:
        """Return what *call* reads of the partition that the key is in. Raises Answered, Misdirected (to a peer), and
        what *call* raises."""
        trail = self._trail(req)
        if self._router is None:
            trail.begin()
            result = await call(options, due)
            trail.note(_NO_CLUSTER)
            return result
        partition = partition_for(key_of(), self._partitions())
        need = _need_of(options)
        caller: Caller | None = req.scope.get(CALLER)
        if caller is not None:
            return await self._router.run_for_peer(partition, need, caller.hop, options, lambda asked: call(asked, due))
        errand = Errand(partition, need, due, lambda hop: _request(req, hop, {}), trail)
        return await self._router.run(errand, options, call)

    async def search(
        self,
        req: Request,
        key_of: Callable[[], bytes],
        options: ReadOptions,
        due: Deadline,
        call: Callable[[ReadOptions, Deadline], Awaitable[Read]],
        finish: Callable[[str, ReadOptions, Deadline], Awaitable[Read]],
    ) -> Read:
        """Return what *call* finds at the e-mail's owner or, when the profile is another's, what *finish* finds for its
        uid there: two hops at most, both made by this node. Raises as `read` does."""
        caller: Caller | None = req.scope.get(CALLER)
        claim = caller.extra.get(_CLAIM) if caller is not None else None
        if claim is not None and is_uid(claim) is not None:
            return await self.read(req, claim.encode, options, due, lambda *asked: finish(claim, *asked))
        try:
            return await self.read(req, key_of, options, due, call)
        except ClaimElsewhere as found:
            if self._router is None:
                raise found.why from None
            uid, hops = found.uid, 1
        except ClaimFound as found:
            uid, hops = found.uid, 2
        if caller is not None:
            raise ClaimFound(uid)
        assert self._router is not None, "a node that is alone has raised"
        errand = Errand(
            partition_for(uid.encode(), self._partitions()),
            _need_of(options),
            due,
            lambda hop: _request(req, hop, {_CLAIM: uid}),
            self._trail(req),
        )
        try:
            return await self._router.run(errand, options, lambda *asked: finish(uid, *asked))
        except Answered as answered:
            answered.hops = hops
            raise

    async def write(
        self,
        req: Request,
        key_of: Callable[[], bytes | None],
        due: Deadline,
        call: Callable[[], Awaitable[Written]],
        *,
        uid: str | None,
    ) -> Written:
        """Return what *call* writes, at the owner of the partition that the key is in (None: it will write nothing).
        *uid*: of the profile, None for a create, which is given one. Raises as `read` does, and WriteOutcomeUnknown."""
        key = key_of() if self._router is not None else None
        if self._router is None or key is None:
            ORIGIN.set(None)
            return await call()
        partitions = self._partitions()
        partition = partition_for(key, partitions)
        caller: Caller | None = req.scope.get(CALLER)
        if caller is not None:
            ORIGIN.set(_origin_of(caller, partition, partitions))
            return await self._router.run_for_peer(partition, Need.WRITE, caller.hop, PLAIN, lambda _: call())
        drawn = draw_uid(self._random, partition=partition, partitions=partitions) if uid is None else None
        origin = Origin(random_id(self._random), drawn)
        ORIGIN.set(origin)
        extra = {_EVENT: origin.event_id.hex()} if drawn is None else {_EVENT: origin.event_id.hex(), _UID: drawn}
        errand = Errand(
            partition, Need.WRITE, due, lambda hop: _request(req, hop, extra), self._trail(req), origin, uid or ""
        )
        return await self._router.run(errand, PLAIN, lambda *_: call())

    async def write_lines(
        self,
        req: Request,
        key: bytes | None,
        due: Deadline,
        call: Callable[[], Awaitable[T]],
        lines: bytes,
    ) -> T:
        """As `write`, for several writes of one partition that travel as *lines*. Each can be sent again whatever
        became of it, so none has an origin of its own."""
        ORIGIN.set(None)
        if self._router is None or key is None:
            return await call()
        partition = partition_for(key, self._partitions())
        caller: Caller | None = req.scope.get(CALLER)
        if caller is not None:
            return await self._router.run_for_peer(partition, Need.WRITE, caller.hop, PLAIN, lambda _: call())
        origin = Origin(random_id(self._random), None)
        errand = Errand(
            partition, Need.WRITE, due, lambda hop: _request(req, hop, {}, lines), Trail(self._clock), origin
        )
        return await self._router.run(errand, PLAIN, lambda *_: call())

    @property
    def is_alone(self) -> bool:
        """Whether there is no other node, ever."""
        return self._router is None

    def partition_of(self, key: bytes) -> int:
        """Return the partition of a uid or an e-mail's key. Raises Unavailable while the log was never reached."""
        return partition_for(key, self._partitions())

    def _trail(self, req: Request) -> Trail:
        trail: Trail | None = req.scope.get(TRAIL)
        if trail is None:
            trail = Trail(self._clock)
            if is_explained(req):
                req.scope[TRAIL] = trail
        return trail


def write_answer(resp: Response, answered: Answered) -> None:
    """Make the answer of another node ours, as it is but for the number of hops. Whoever brought it has added `Via`."""
    reply = answered.reply
    resp.status = reply.status
    for name, value in reply.headers:
        if name in _OF_THIS_NODE:
            continue
        if name == _SERVED_BY:
            value = with_hops(value, answered.hops)
        if name == b"content-type":
            resp.content_type = value.decode("latin-1")
        else:
            resp.set_header(name.decode("latin-1"), value.decode("latin-1"))
    if reply.body:
        resp.data = reply.body


def write_misdirected(resp: Response, view: bytes) -> None:
    """Tell a peer that this is not the place, and what we know of the cluster."""
    resp.status = MISDIRECTED
    resp.content_type = "application/json"
    resp.data = view


def write_claim(resp: Response, found: ClaimFound) -> None:
    """Tell a peer whose owner can finish his search."""
    resp.status = SEE_OTHER
    resp.set_header(CLAIM_HEADER.decode(), found.uid)


def with_hops(served_by: bytes, hops: int) -> bytes:
    """Return a value of Profile-Served-By with another number of hops."""
    return served_by.rpartition(_HOPS)[0] + _HOPS + b"%d" % hops


def _need_of(options: ReadOptions) -> Need:
    if options.consistency == STRICT:
        return Need.STRICT
    if options.position is not None or options.max_staleness_s is not None:
        return Need.STALE
    return Need.OWNER


def _request(req: Request, hop: str, extra: dict[str, str], body: bytes | None = None) -> PeerRequest:
    """Return the client's request as it goes to a peer, or with *body* a part of it. HEAD goes as GET, so that its
    answer has the same headers."""
    scope = req.scope
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    query: bytes = scope["query_string"]
    target = quote(scope["path"]).encode() + (b"?" + query if query else b"")
    headers = [(name, value) for name, value in scope["headers"] if name in TRAVELLING]
    headers.append((b"x-request-id", scope[REQUEST_ID].encode()))
    return PeerRequest(method.encode(), target, headers, scope.get(BODY, b"") if body is None else body, hop, extra)


def _origin_of(caller: Caller, partition: int, partitions: int) -> Origin | None:
    """Return what the first node drew, None when it is nothing that could have been drawn for this partition."""
    try:
        event_id = unhexlify(caller.extra.get(_EVENT, ""))
    except (HexError, ValueError):
        return None
    uid = caller.extra.get(_UID)
    if uid is not None and (is_uid(uid) is None or partition_for(uid.encode(), partitions) != partition):
        return None
    return Origin(event_id, uid) if len(event_id) == 16 else None
