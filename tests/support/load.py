"""Load that records a history: many clients read, search, create, change and delete profiles, few enough to collide.

Reproducible as far as concurrency allows: what each client does is drawn from the seed. Each client is one task with
connections of its own; all share one event loop and so one clock.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.support.client import Client, NoAnswerError, NotSentError, Reply
from tests.support.history import NEVER, Kind, Operation, Outcome

_HOT_PROFILES = 12  # of those known, so many get most of the requests
_MAX_KNOWN = 150
_DOMAIN = "mail.example.com"
_REFUSED_PAUSE_S = 0.02  # while nobody listens


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
    ) -> None:
        """*emails*: how many addresses all clients share. *pause_s*: the mean time between two requests of a client.
        *request_timeout_s*: sent as `Request-Timeout`. *with_keys*: half of the creates carry an Idempotency-Key and
        are repeated with it until their outcome is known."""
        self.operations: list[Operation] = []
        #: Uid to the last version that any client saw.
        self.known: dict[str, int] = {}
        self.slowest_s = 0.0
        self._addresses = addresses
        self._seed = seed
        self._clients = clients
        self._emails = [f"shared{number}@{_DOMAIN}" for number in range(emails)]
        self._pause_s = pause_s
        self._request_timeout_s = request_timeout_s
        self._with_keys = with_keys
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

    async def settle(self) -> None:
        """Return when no write of unknown outcome can take effect any more: the node decides one group of writes after
        the other, so a write that is begun now and acknowledged has all earlier ones before it."""
        self._request_timeout_s = None
        client = Client(self._addresses[0])
        for number in range(100):
            mark = f"settle-{number}"
            last = Operation(-1, Kind.CREATE, 0, email=f"{mark}@{_DOMAIN}", mark=mark)
            await self._perform(client, last, None)
            if last.outcome is Outcome.OK:
                break
            await asyncio.sleep(0.1)
        client.close()

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
        client = Client(self._addresses[number % len(self._addresses)])
        count = 0
        try:
            while not self._is_stopping.is_set():
                count += 1
                operation = self._draw(rng, number, f"w{number}-{count}")
                key = f'"{self._seed}-{operation.mark}"' if self._with_keys and rng.random() < 0.5 else None
                await self._perform(client, operation, key if operation.kind is Kind.CREATE else None)
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

    async def _look_again(self, client: Client, rng: random.Random, number: int, write: Operation) -> None:
        """Read at once what was just acknowledged, by uid and by e-mail."""
        await self._perform(client, Operation(number, Kind.GET, 0, uid=write.uid), None)
        if write.email is not None and rng.random() < 0.5:
            await self._perform(client, Operation(number, Kind.SEARCH, 0, email=write.email), None)

    async def _perform(self, client: Client, op: Operation, key: str | None) -> None:
        """Send *op* and note what came of it. With *key*, repeat it until it is known; the call is that of the first
        attempt, since any of them may be the one that took effect."""
        has_effect_maybe = False
        while True:
            called_ns = time.monotonic_ns()
            op.called_ns = op.called_ns or called_ns
            try:
                reply = await self._send(client, op, key)
            except NotSentError:
                op.outcome = Outcome.UNKNOWN if has_effect_maybe else Outcome.NOT_WRITTEN
                if not op.is_write:
                    return
                if key is None or self._is_stopping.is_set():
                    break
                await asyncio.sleep(_REFUSED_PAUSE_S)
                continue
            except NoAnswerError as error:
                op.outcome, op.detail = Outcome.UNKNOWN if op.is_write else Outcome.UNSERVED, str(error)
                has_effect_maybe = True
            else:
                op.returned_ns = time.monotonic_ns()
                self._note(op, reply, is_repeated=has_effect_maybe)
                has_effect_maybe = has_effect_maybe or op.outcome is Outcome.UNKNOWN
            self.slowest_s = max(self.slowest_s, (time.monotonic_ns() - called_ns) / 1e9)
            is_open = op.outcome in (Outcome.UNKNOWN, Outcome.NOT_WRITTEN)
            if key is None or not is_open or self._is_stopping.is_set():
                break
            await asyncio.sleep(_REFUSED_PAUSE_S)
        if op.outcome is Outcome.UNKNOWN:
            op.returned_ns = NEVER
        if op.outcome is Outcome.NOT_WRITTEN and op.status == 0:
            await asyncio.sleep(_REFUSED_PAUSE_S)
            return  # Never sent: no part of the history.
        self.operations.append(op)

    async def _send(self, client: Client, op: Operation, key: str | None) -> Reply:
        headers: dict[str, str] = {}
        if self._request_timeout_s is not None:
            headers["Request-Timeout"] = str(self._request_timeout_s)
        if op.if_match is not None:
            headers["If-Match"] = f'"{op.if_match}"'
        if key is not None:
            headers["Idempotency-Key"] = key
        timeout_s = 20.0 if self._request_timeout_s is None else self._request_timeout_s + 10.0
        match op.kind:
            case Kind.GET:
                return await client.request("GET", f"/api/profile/{op.uid}", None, headers, timeout_s=timeout_s)
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
        elif reply.status == 504:
            op.outcome = Outcome.UNKNOWN if op.is_write else Outcome.UNSERVED
        else:
            op.outcome, op.detail = Outcome.UNEXPECTED, reply.body[:300].decode(errors="replace")

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
        self.known[op.uid] = max(self.known.get(op.uid, 0), version)
