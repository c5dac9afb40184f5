"""Load that records a history: many clients read, search, create, change and delete profiles, few enough to collide.

Reproducible as far as concurrency allows: what each client does is drawn from the seed. Each client is one task with
connections of its own; all share one event loop and so one clock. A client that one node fails goes on to the next.
"""

import asyncio
import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from streams.partitioner import partition_for
from tests.support.client import Client, NoAnswerError, NotSentError, Reply
from tests.support.history import NEVER, Kind, Operation, Outcome

_HOT_PROFILES = 12  # of those known, so many get most of the requests
_MAX_KNOWN = 150
_DOMAIN = "mail.example.com"
_REFUSED_PAUSE_S = 0.02  # while nobody listens
_NS_PER_MS = 1_000_000
_PLAIN: Mapping[str, str] = {}
_MAX_STALENESS_S = 5
_FAILED = frozenset({Outcome.UNKNOWN, Outcome.NOT_WRITTEN, Outcome.UNSERVED})


class Load:
    """Clients and what they saw. Use it on one event loop; read `operations` after `stop`."""

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        *,
        seed: int,
        clients: int = 16,
        emails: int = 40,
        pause_s: float = 0.004,
        request_timeout_s: float | None = None,
        with_keys: bool = True,
        with_replicas: bool = False,
        retries: int = 0,
    ) -> None:
        """*emails*: how many addresses all clients share. *pause_s*: the mean time between two requests of a client.
        *request_timeout_s*: sent as `Request-Timeout`. *with_keys*: half of the creates carry an Idempotency-Key and
        are repeated with it until their outcome is known. *with_replicas*: a third of the reads by uid are strict,
        allow staleness, or bring the position of a write. *retries*: how often a read that was not served, or a write
        that certainly was not written, is sent again at once, to the next node."""
        self.operations: list[Operation] = []
        #: What was not served, not written or of unknown outcome in the end; also what was never sent.
        self.failed: list[Operation] = []
        #: Uid to the last version that any client saw.
        self.known: dict[str, int] = {}
        #: Profiles that are none of the clients' business.
        self.reserved: set[str] = set()
        #: Uid to the token of an acknowledged write, and the version that it made.
        self._tokens: dict[str, tuple[str, int]] = {}
        self.slowest_s = 0.0
        self._addresses = addresses
        self._seed = seed
        self._clients = clients
        self._emails = [f"shared{number}@{_DOMAIN}" for number in range(emails)]
        self._pause_s = pause_s
        self._request_timeout_s = request_timeout_s
        self._with_keys = with_keys
        self._with_replicas = with_replicas
        self._retries = retries
        self._is_stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(self._clients)]

    async def stop(self) -> None:
        """Let each client finish its request, and return. Raises what a client met that it did not expect."""
        self._is_stopping.set()
        await asyncio.gather(*self._tasks)

    async def run_until(self, acknowledged: int, *, timeout_s: float = 60.0) -> None:
        """Start, run until so many writes were acknowledged (or the time is over), and stop."""
        self.start()
        end = time.monotonic() + timeout_s
        while self.count(Outcome.OK, is_write=True) < acknowledged and time.monotonic() < end:
            await asyncio.sleep(0.05)
        await self.stop()

    async def settle(self, *, partitions: int = 1) -> None:
        """Return when no write of unknown outcome can take effect any more: each owner decides one group of writes
        after the other, so when a write that is begun now has been acknowledged in a partition, all earlier ones of
        that partition come before it. *partitions*: how many there are, if they have several owners."""
        self._request_timeout_s = None
        caller = self.caller(0)
        left = set(range(partitions))
        for number in range(100 * partitions):
            if not left:
                break
            email = f"settle-{number}@{_DOMAIN}"
            # Where the e-mail belongs the profile goes, too (without an Idempotency-Key).
            if partition_for(email.encode(), partitions) in left:
                last = Operation(-1, Kind.CREATE, 0, email=email, mark=f"settle-{number}")
                await self.perform(caller, last)
                if last.outcome is Outcome.OK:
                    left.discard(partition_for(last.uid.encode(), partitions))
                else:
                    await asyncio.sleep(0.1)
        caller.close()

    def caller(self, number: int) -> "Caller":
        """Return the connections of client *number*, who begins with a node of his own."""
        return Caller(self._addresses, number)

    def count(self, *outcomes: Outcome, is_write: bool | None = None) -> int:
        """Return how many operations had one of *outcomes* (none given: any)."""
        return sum(
            (not outcomes or op.outcome in outcomes) and (is_write is None or op.is_write is is_write)
            for op in self.operations
        )

    def summary(self) -> str:
        """Return how many operations of each kind had which outcome, for people."""
        counts = Counter(f"{op.kind}/{op.outcome}" for op in self.operations)
        parts = [f"{name} {count}" for name, count in sorted(counts.items())]
        return f"seed {self._seed}: {len(self.operations)} operations, slowest {self.slowest_s:.2f} s; " + ", ".join(
            parts
        )

    async def _run(self, number: int) -> None:
        rng = random.Random(f"{self._seed}/{number}")
        client = self.caller(number)
        count = 0
        try:
            while not self._is_stopping.is_set():
                count += 1
                operation = self._draw(rng, number, f"w{number}-{count}")
                key = f'"{self._seed}-{operation.mark}"' if self._with_keys and rng.random() < 0.5 else None
                wish = self._wish(rng, operation.uid) if operation.kind is Kind.GET else _PLAIN
                await self.perform(client, operation, key if operation.kind is Kind.CREATE else None, wish)
                if operation.outcome is Outcome.OK and operation.is_write and rng.random() < 0.5:
                    await self._look_again(client, rng, number, operation)
                await asyncio.sleep(rng.expovariate(1 / self._pause_s) if self._pause_s else 0)
        finally:
            client.close()

    def _draw(self, rng: random.Random, number: int, mark: str) -> Operation:
        """Choose the next request."""
        what = rng.random()
        uids = list(self.known)
        if not uids or (what < 0.12 and len(uids) < _MAX_KNOWN):
            return Operation(number, Kind.CREATE, 0, email=self._email(rng, mark), mark=mark)
        uid = rng.choice(uids[-_HOT_PROFILES:] if rng.random() < 0.8 else uids)
        if what < 0.50:
            return Operation(number, Kind.GET, 0, uid=uid)
        if what < 0.65:
            return Operation(number, Kind.SEARCH, 0, email=rng.choice(self._emails))
        if_match = self.known[uid] if rng.random() < 0.5 else None
        if if_match is not None and rng.random() < 0.1:
            if_match = max(1, if_match - 1)
        if what < 0.82:
            return Operation(number, Kind.PUT, 0, uid=uid, email=self._email(rng, mark), mark=mark, if_match=if_match)
        if what < 0.96:
            email = self._email(rng, mark) if rng.random() < 0.3 else None
            return Operation(number, Kind.PATCH, 0, uid=uid, email=email, mark=mark, if_match=if_match)
        return Operation(number, Kind.DELETE, 0, uid=uid, if_match=if_match)

    def _email(self, rng: random.Random, mark: str) -> str:
        return rng.choice(self._emails) if rng.random() < 0.7 else f"{mark}@{_DOMAIN}"

    async def _look_again(self, client: "Caller", rng: random.Random, number: int, write: Operation) -> None:
        """Read at once what was just acknowledged, by uid and by e-mail; of several nodes, at another one."""
        client.move_on()
        await self.perform(client, Operation(number, Kind.GET, 0, uid=write.uid), wish=self._wish(rng, write.uid))
        if write.email is not None and rng.random() < 0.5:
            await self.perform(client, Operation(number, Kind.SEARCH, 0, email=write.email))

    def _wish(self, rng: random.Random, uid: str) -> Mapping[str, str]:
        """Choose how fresh a read has to be."""
        what = rng.random() if self._with_replicas else 1.0
        if what < 0.12:
            return {"Prefer": f"max-staleness={_MAX_STALENESS_S}"}
        if what < 0.24 and uid in self._tokens:
            return {"Profile-Position": self._tokens[uid][0]}
        return {"consistency": "strict"} if what < 0.33 else _PLAIN

    async def perform(
        self, caller: "Caller", op: Operation, key: str | None = None, wish: Mapping[str, str] = _PLAIN
    ) -> None:
        """Send *op* and note what came of it. With *key*, repeat it until it is known; the call is that of the first
        attempt, since any of them may be the one that took effect. *wish*: how fresh a read has to be; headers, and
        `consistency` for the query."""
        if "Profile-Position" in wish:
            op.least_version = self._tokens[op.uid][1]
        has_effect_maybe = False
        while True:
            called_ns = time.monotonic_ns()
            op.called_ns = op.called_ns if op.called_ns and op.is_write else called_ns
            was_sent, op.status = True, 0
            try:
                reply = await self._send(caller.client, op, key, wish)
            except NotSentError:
                was_sent = False
                op.outcome = Outcome.NOT_WRITTEN if op.is_write else Outcome.UNSERVED
                if has_effect_maybe:
                    op.outcome = Outcome.UNKNOWN
            except NoAnswerError as error:
                op.detail = str(error)
                op.outcome = Outcome.UNKNOWN if op.is_write else Outcome.UNSERVED
            else:
                op.returned_ns = time.monotonic_ns()
                self._note(op, reply, is_repeated=has_effect_maybe)
                _note_staleness(op, reply, wish)
            has_effect_maybe = has_effect_maybe or op.outcome is Outcome.UNKNOWN
            if was_sent:
                self.slowest_s = max(self.slowest_s, (time.monotonic_ns() - called_ns) / 1e9)
            if not self._is_repeated(op, key):
                break
            op.attempts += 1
            caller.move_on()
            await asyncio.sleep(_REFUSED_PAUSE_S)
        await self._keep(caller, op, was_sent=was_sent)

    def _is_repeated(self, op: Operation, key: str | None) -> bool:
        if op.outcome not in _FAILED:
            return False
        if key is not None and not self._is_stopping.is_set():
            return True
        return op.attempts <= self._retries and op.outcome is not Outcome.UNKNOWN

    async def _keep(self, caller: "Caller", op: Operation, *, was_sent: bool) -> None:
        """Put *op* into the history, unless it was never sent."""
        if op.outcome is Outcome.UNKNOWN:
            op.returned_ns = NEVER
        if op.outcome in _FAILED:
            self.failed.append(op)
            caller.move_on()
        if was_sent or op.outcome is Outcome.UNKNOWN:
            self.operations.append(op)
        else:
            await asyncio.sleep(_REFUSED_PAUSE_S)

    async def _send(self, client: Client, op: Operation, key: str | None, wish: Mapping[str, str]) -> Reply:
        headers = {name: value for name, value in wish.items() if name != "consistency"}
        strict = "?consistency=strict" if "consistency" in wish else ""
        if self._request_timeout_s is not None:
            headers["Request-Timeout"] = str(self._request_timeout_s)
        if op.if_match is not None:
            headers["If-Match"] = f'"{op.if_match}"'
        if key is not None:
            headers["Idempotency-Key"] = key
        timeout_s = 20.0 if self._request_timeout_s is None else self._request_timeout_s + 10.0
        match op.kind:
            case Kind.GET:
                return await client.request("GET", f"/api/profile/{op.uid}{strict}", None, headers, timeout_s=timeout_s)
            case Kind.SEARCH:
                return await client.request("GET", f"/api/search?email={op.email}", None, headers, timeout_s=timeout_s)
            case Kind.CREATE:
                document: dict[str, Any] = {"username": op.mark, "email": op.email}
                return await client.request("POST", "/api/profile", document, headers, timeout_s=timeout_s)
            case Kind.PUT:
                document = {"username": op.mark, "email": op.email}
                return await client.request("PUT", f"/api/profile/{op.uid}", document, headers, timeout_s=timeout_s)
            case Kind.PATCH:
                document = {"username": op.mark} if op.email is None else {"username": op.mark, "email": op.email}
                return await client.request("PATCH", f"/api/profile/{op.uid}", document, headers, timeout_s=timeout_s)
            case Kind.DELETE:
                return await client.request("DELETE", f"/api/profile/{op.uid}", None, headers, timeout_s=timeout_s)

    def _note(self, op: Operation, reply: Reply, *, is_repeated: bool) -> None:
        """Fill in the outcome. *is_repeated*: an earlier attempt under the same key may have taken effect."""
        op.status = reply.status
        if reply.status in (200, 201):
            self._note_state(op, reply)
        elif reply.status == 204 and op.kind is Kind.DELETE:
            op.outcome = Outcome.OK
            self.known.pop(op.uid, None)
        elif reply.status == 404 and op.kind is not Kind.CREATE:
            op.outcome = Outcome.NOT_FOUND
            self.known.pop(op.uid, None)
        elif reply.status == 409 and op.is_write:
            self._note_conflict(op, reply)
        elif reply.status == 410 and op.kind is Kind.CREATE:
            op.outcome, op.version, op.uid = Outcome.OK, 1, str(reply.json()["uid"])
        elif reply.status == 412 and op.if_match is not None:
            op.outcome, op.version = Outcome.MISMATCH, int(reply.json()["current_version"])
            self.known[op.uid] = max(self.known.get(op.uid, 0), op.version)
        elif reply.status == 503:
            op.outcome = Outcome.NOT_WRITTEN if op.is_write else Outcome.UNSERVED
            if is_repeated:
                op.outcome = Outcome.UNKNOWN
            op.detail = _text(reply)
        elif reply.status == 504:
            op.outcome, op.detail = Outcome.UNKNOWN if op.is_write else Outcome.UNSERVED, _text(reply)
        else:
            op.outcome, op.detail = Outcome.UNEXPECTED, _text(reply)

    def _note_conflict(self, op: Operation, reply: Reply) -> None:
        document = reply.json()
        if document.get("type", "").endswith("idempotency-in-progress"):
            op.outcome = Outcome.UNKNOWN
            return
        op.outcome, op.existing_uid = Outcome.CONFLICT, document.get("existing_uid")

    def _note_state(self, op: Operation, reply: Reply) -> None:
        document = reply.json()
        version = int(document["version"])
        op.outcome = Outcome.OK
        if reply.headers.get("etag") != f'"{version}"':
            op.outcome, op.detail = Outcome.UNEXPECTED, f"ETag {reply.headers.get('etag')} for version {version}"
        if op.is_write:
            with contextlib.suppress(KeyError):
                op.uid = op.uid or document["uid"]
            is_later = op.kind is Kind.CREATE and version > 1  # repeated: the profile as it is now
            if "profile-position" in reply.headers and not is_later:
                self._tokens[op.uid] = reply.headers["profile-position"], version
            if not is_later and (document["username"] != op.mark or (op.email and document["email"] != op.email)):
                op.outcome, op.detail = Outcome.UNEXPECTED, f"asked for {op.mark}, got {document}"
            op.version = 1 if op.kind is Kind.CREATE else version
        else:
            if op.kind is Kind.GET and document["uid"] != op.uid:
                op.outcome, op.detail = Outcome.UNEXPECTED, f"another profile: {document}"
            op.uid, op.version, op.mark = document["uid"], version, document["username"]
            op.email = op.email if op.kind is Kind.SEARCH else document["email"]
            if op.kind is Kind.SEARCH and document["email"] != op.email:
                op.outcome, op.detail = Outcome.UNEXPECTED, f"another e-mail: {document}"
        if op.uid not in self.reserved:
            self.known[op.uid] = max(self.known.get(op.uid, 0), version)


def _text(reply: Reply) -> str:
    return reply.body[:300].decode(errors="replace")


def _note_staleness(op: Operation, reply: Reply, wish: Mapping[str, str]) -> None:
    """Note how stale the answer says that it is; more than *wish* allows was not asked for."""
    op.served_by = reply.headers.get("profile-served-by", "")
    told = re.search(r"staleness-ms=(\d+)", op.served_by)
    told_ms = int(told[1]) if told else 0
    op.staleness_ns = (told_ms + 1) * _NS_PER_MS if told_ms else 0  # it is rounded
    if op.outcome not in (Outcome.OK, Outcome.NOT_FOUND) or "Profile-Position" in wish:
        return
    if told_ms > (_MAX_STALENESS_S * 1000 if "Prefer" in wish else 0):
        op.outcome, op.detail = Outcome.UNEXPECTED, f"staler than {dict(wish)} allows: {op.served_by}"


class Caller:
    """One client: a connection to each node, one of which is in use."""

    def __init__(self, addresses: Sequence[tuple[str, int]], number: int) -> None:
        self._clients = [Client(address) for address in addresses]
        self._number = number % len(addresses)

    @property
    def client(self) -> Client:
        return self._clients[self._number]

    def move_on(self) -> None:
        """Use the next node from now on."""
        self._number = (self._number + 1) % len(self._clients)

    def close(self) -> None:
        for client in self._clients:
            client.close()
