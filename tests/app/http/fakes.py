"""A profile service, a node and metrics in memory, behind the edge's ports, and a client that speaks raw ASGI to it."""

import asyncio
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from falcon.asgi import App
from falcon.inspect import inspect_routes

from app.cluster.ports import only
from app.feed.feed import Feed
from app.http.api import create_api
from app.profiles.email import EmailPolicy, InvalidEmail, normalise
from app.profiles.requests import ANY, IfMatch, ReadOptions
from app.profiles.results import (
    EmailTaken,
    Page,
    ProfileDiffers,
    ProfileNotFound,
    Read,
    ServedBy,
    Stored,
    ValidationFailed,
    VersionMismatch,
    Written,
)
from app.profiles.schema import Validator, email_error
from app.profiles.topics import COUNTED_STORES
from streams.clock import Deadline, SystemClock
from streams.cluster import ClusterView, NodeInfo, Placement
from streams.errors import Unavailable
from streams.queries.counts import Counts
from streams.records import TopicPartition
from streams.testing import MemoryLog
from tests.app.profiles.fakes import FakeNode as StoreNode
from tests.app.profiles.fakes import State

SERVED_BY = ServedBy(node="node-1", role="owner", position=7, staleness_ms=0, hops=0)
SERVED_BY_VALUE = "node-1; role=owner; position=7; staleness-ms=0; hops=0"
TOKEN = "position-token"
UNKNOWN_UID = "00000000-0000-4000-8000-000000000000"


class FakeService:
    """Keeps profiles in a dict. `failure` is raised by every call while it is set; `seen` notes the arguments."""

    def __init__(self) -> None:
        self.profiles: dict[str, dict[str, Any]] = {}
        self.failure: Exception | None = None
        self.seen: dict[str, Any] = {}
        self.fast_reads = 0
        self._validator = Validator(EmailPolicy.PUBLIC)

    def add(self, username: str = "bob", email: str = "bob1@mail.com") -> str:
        """Store a profile and return its uid."""
        uid = str(uuid.uuid4())
        self.profiles[uid] = {"uid": uid, "username": username, "email": email, "version": 1}
        return uid

    def get_now(self, uid: bytes) -> tuple[bytes, bytes, bytes] | None:
        self._fail()
        self.fast_reads += 1
        if uid.decode() not in self.profiles:
            return None
        stored = self._stored(uid.decode())
        return stored.body, b'"%d"' % stored.version, SERVED_BY_VALUE.encode()

    def search_now(self, email: str) -> tuple[bytes, bytes, bytes, bytes] | None:
        self._fail()
        self.fast_reads += 1
        key = normalise(email).key
        for uid, profile in self.profiles.items():
            if normalise(profile["email"]).key == key:
                stored = self._stored(uid)
                return stored.body, b'"%d"' % stored.version, SERVED_BY_VALUE.encode(), uid.encode()
        return None

    async def get(self, uid: str, options: ReadOptions, deadline: Deadline) -> Read:
        self._note(options=options, deadline=deadline)
        return Read(self._stored(self._known(uid)), SERVED_BY)

    async def search(self, email: str, options: ReadOptions, deadline: Deadline) -> Read:
        self._note(options=options, deadline=deadline, email=email)
        try:
            key = normalise(email).key
        except InvalidEmail:
            raise ValidationFailed([email_error()]) from None
        for uid, profile in self.profiles.items():
            if normalise(profile["email"]).key == key:
                return Read(self._stored(uid), SERVED_BY)
        raise ProfileNotFound(None, SERVED_BY)

    async def get_claimed(self, uid: str, email: str, options: ReadOptions, deadline: Deadline) -> Read:
        raise AssertionError("only a node of a cluster is asked this")

    def email_key(self, email: str) -> bytes:
        try:
            return normalise(email).key
        except InvalidEmail:
            raise ValidationFailed([email_error()]) from None

    def create_key(self, document: object, idempotency_key: str | None) -> bytes | None:
        raise AssertionError("only a node of a cluster asks this")

    async def page(
        self, *, limit: int, cursor: str | None, options: ReadOptions, deadline: Deadline, is_partial: bool
    ) -> Page:
        self._note(options=options, deadline=deadline)
        uids = [uid for uid in sorted(self.profiles) if cursor is None or uid > cursor]
        following = uids[limit - 1] if len(uids) > limit else None
        return Page([self._stored(uid).body for uid in uids[:limit]], following, SERVED_BY)

    async def create(self, document: object, *, idempotency_key: str | None, deadline: Deadline) -> Written:
        self._note(document=document, idempotency_key=idempotency_key, deadline=deadline)
        content = self._validator.new(document)
        self._refuse_taken(content.address.key, None)
        return self._written(self.add(content.username, content.address.display), is_created=True)

    async def replace(self, uid: str, document: object, *, if_match: IfMatch, deadline: Deadline) -> Written:
        self._note(document=document, if_match=if_match, deadline=deadline)
        self._check(self._known(uid), if_match)
        return self._change(uid, self._validator.replacement(document, uid))

    async def patch(self, uid: str, document: object, *, if_match: IfMatch, deadline: Deadline) -> Written:
        self._note(document=document, if_match=if_match, deadline=deadline)
        self._check(self._known(uid), if_match)
        return self._change(uid, self._validator.patch(document, uid))

    async def delete(self, uid: str, *, if_match: IfMatch, deadline: Deadline) -> Written:
        self._note(if_match=if_match, deadline=deadline)
        self._check(self._known(uid), if_match)
        del self.profiles[uid]
        return Written(None, is_created=False, is_changed=True, positions={})

    async def restore(self, uid: str, document: object, *, source: str | None, deadline: Deadline) -> Written:
        self._note(uid=uid, document=document, source=source, deadline=deadline)
        profile = self._validator.exported(document, uid)
        if uid in self.profiles:
            if self._stored(uid).body == profile.body:
                return Written(profile.stored, is_created=False, is_changed=False, positions={})
            raise ProfileDiffers(uid, self.profiles[uid]["version"])
        self._refuse_taken(profile.address.key, None)
        self.profiles[uid] = json.loads(profile.body)
        return self._written(uid, is_created=True)

    def topic_id(self) -> str:
        return "id-1"

    def position_token(self, positions: Mapping[TopicPartition, int]) -> str:
        return TOKEN

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _note(self, **seen: Any) -> None:
        self._fail()
        self.seen = seen

    def _known(self, uid: str) -> str:
        if uid not in self.profiles:
            raise ProfileNotFound(uid, SERVED_BY)
        return uid

    def _stored(self, uid: str) -> Stored:
        profile = self.profiles[uid]
        return Stored(uid, profile["version"], json.dumps(profile, separators=(",", ":")).encode())

    def _check(self, uid: str, if_match: IfMatch) -> None:
        version = self.profiles[uid]["version"]
        if if_match is not None and if_match != ANY and version not in if_match:
            raise VersionMismatch(version)

    def _refuse_taken(self, key: bytes, own: str | None) -> None:
        for uid, profile in self.profiles.items():
            if uid != own and normalise(profile["email"]).key == key:
                raise EmailTaken(uid)

    def _change(self, uid: str, change: Any) -> Written:
        profile = self.profiles[uid]
        if change.address is not None:
            self._refuse_taken(change.address.key, uid)
            profile["email"] = change.address.display
        profile["username"] = change.username or profile["username"]
        profile["version"] += 1
        return self._written(uid, is_created=False)

    def _written(self, uid: str, *, is_created: bool) -> Written:
        return Written(self._stored(uid), is_created, is_changed=True, positions={TopicPartition("profiles", 0): 8})


@dataclass
class FakeTask:
    """One partition's health."""

    partition: int = 0
    state: str = "active"
    position: int = 10
    end: int = 10
    lag_records: int = 0
    percent: float = 100.0


@dataclass
class FakeHealth:
    """What the fake node says of itself."""

    is_live: bool = True
    is_ready: bool = True
    is_draining: bool = False
    tasks: list[FakeTask] = field(default_factory=lambda: [FakeTask()])


@dataclass
class FakeQuarantined:
    """A record that could not be processed."""

    topic: str = "profiles"
    partition: int = 1
    offset: int = 5
    reason: str = "not-json"
    at_ms: int = 1000


class FakeNode:
    """A node whose health the test sets."""

    def __init__(self) -> None:
        self.info = NodeInfo("node-1", "1", "http://127.0.0.1:1")
        self.partitions = 2
        self.view = ClusterView(1, {"node-1": self.info}, [Placement("node-1")] * 2)
        self.view_age_s = 3.0
        self.state = FakeHealth()
        self.quarantined: list[FakeQuarantined] = []

    def health(self) -> FakeHealth:
        return self.state

    def quarantine(self, limit: int) -> Sequence[FakeQuarantined]:
        return self.quarantined[:limit]


class FakeMetrics:
    """Notes every observation."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, int]] = []

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((method, route, status))

    def render(self) -> bytes:
        return b"profiles_up 1\n"


@dataclass
class Answer:
    """An HTTP answer as the server would get it: header names in lower case, in their order."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def __getitem__(self, name: str) -> str:
        values = [value for key, value in self.headers if key == name.lower().encode()]
        assert len(values) == 1, f"{name} is there {len(values)} times"
        return values[0].decode()

    def __contains__(self, name: str) -> bool:
        return any(key == name.lower().encode() for key, _ in self.headers)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def slug(self) -> str:
        """The problem's slug, after the checks that hold for every problem."""
        assert self["Content-Type"] == "application/problem+json"
        problem = self.json
        assert problem["status"] == self.status
        assert problem["request_id"] == self["X-Request-Id"]
        assert {"title", "detail", "instance"} <= problem.keys()
        return str(problem["type"]).removeprefix("/problems/")


class Edge:
    """The API around the fakes. `request` is one whole exchange in raw ASGI."""

    def __init__(self) -> None:
        self.service = FakeService()
        self.node = FakeNode()
        self.metrics = FakeMetrics()
        self.events_left = 0  # of the last request's body, how many the application did not ask for
        self.api = create_api(
            service=self.service,
            node=self.node,
            clock=SystemClock(),
            metrics=self.metrics,
            request_timeout_s=10.0,
            random=os.urandom,
            members=only(self.node, lambda: {0: 5, 1: 6}),
            feed=silent_feed(),
            cluster=None,
            counts=Counts(node=StoreNode(State(self.node.partitions)), stores=COUNTED_STORES),
        )

    @property
    def templates(self) -> list[str]:
        """The URI templates of all routes."""
        return [route.path for route in inspect_routes(cast("App[Any, Any]", self.api.api))]

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: bytes | Sequence[bytes] | None = None,
        *,
        json: object = None,
        **scope: Any,
    ) -> Answer:
        """Send a request and return the answer. *body* as a sequence comes in that many events, without a length."""
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        if json is not None:
            body = _dumps(json)
        names = {name.lower() for name, _ in pairs}
        if body is not None and "content-type" not in names:
            pairs.append(("Content-Type", "application/json"))
        if isinstance(body, bytes) and "content-length" not in names:
            pairs.append(("Content-Length", str(len(body))))
        if "host" not in names:
            pairs.append(("Host", "localhost:8080"))
        return self.exchange(
            method,
            target,
            [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in pairs],
            [body] if isinstance(body, bytes) else list(body or [b""]),
            **scope,
        )

    def exchange(
        self, method: str, target: str, headers: list[tuple[bytes, bytes]], chunks: list[bytes], **scope: Any
    ) -> Answer:
        """Send exactly this, and check what an ASGI server would check of the answer."""
        path, _, query = target.partition("?")
        base = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": path.encode("utf-8", "surrogateescape"),
            "query_string": query.encode("latin-1", "replace"),
            "root_path": "",
            "headers": headers,
            "server": ("127.0.0.1", 8080),
            "client": ("127.0.0.1", 50000),
            **scope,
        }
        events = [
            {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
            for index, chunk in enumerate(chunks)
        ]
        sent: list[dict[str, Any]] = []
        self.events_left = len(events)

        async def receive() -> dict[str, Any]:
            event = events.pop(0) if events else {"type": "http.disconnect"}
            self.events_left = len(events)
            return event

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        asyncio.run(self.api(base, receive, send))
        assert [message["type"] for message in sent] == [
            "http.response.start",
            *["http.response.body"] * (len(sent) - 1),
        ]
        answer = Answer(
            sent[0]["status"],
            [(bytes(name), bytes(value)) for name, value in sent[0]["headers"]],
            b"".join(message.get("body", b"") for message in sent[1:]),
        )
        assert all(b"\r" not in value and b"\n" not in value for _, value in answer.headers)
        if method == "HEAD" or answer.status in (204, 304):
            assert answer.body == b""
        elif "Content-Length" in answer:
            assert int(answer["Content-Length"]) == len(answer.body)
        return answer


def silent_feed() -> Feed:
    """Return a change feed of a log that was not reached yet."""

    def unknown() -> Any:
        raise Unavailable("the log has not been reached yet")

    class Nowhere:
        partitions = property(lambda _: unknown())
        topic_ids = property(lambda _: unknown())

    clock = SystemClock()
    return Feed(
        log=MemoryLog(clock=clock), topic="profiles", node=Nowhere(), signer=unknown, clock=clock, max_listeners=1
    )


def _dumps(value: object) -> bytes:
    return json.dumps(value).encode()
