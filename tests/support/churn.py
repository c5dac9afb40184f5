"""Load that keeps no history: many profiles that are created, renamed, readdressed, swapped and deleted all the time.

For tests that judge by the log what came out of it: which requests were carried out does not matter, only that there
are many, on many profiles, and often several on one. What each client draws comes from the seed. It runs on a thread of
its own, so that whoever harms the service meanwhile may wait for it.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from typing import Any

from tests.support.client import Client, NoAnswerError, NotSentError, Reply

_HOT_PROFILES = 20  # half of all changes go to so many
_AWAY_PAUSE_S = 0.05  # while nobody answers
_GROWING_CLIENTS = 32
_GROWING_TIMEOUT_S = 600.0
_EXPECTED = frozenset({200, 201, 204, 404, 409, 412, 503, 504})


class Churn:
    """Clients of one service. `start`, wait as you like, `stop`."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        seed: int,
        profiles: int,
        clients: int = 8,
        pause_s: float = 0.002,
    ) -> None:
        """*profiles*: about so many live at the same time. *pause_s*: the mean time between two requests of a
        client."""
        #: What was acknowledged, by kind.
        self.done: Counter[str] = Counter()
        #: Every e-mail that was ever asked for.
        self.emails: set[str] = set()
        #: Every uid that was ever seen.
        self.uids: set[str] = set()
        self._live: dict[str, str] = {}
        self._order: list[str] = []  # of the live ones, with gaps that are skipped
        self._address = address
        self._seed = seed
        self._profiles = profiles
        self._clients = clients
        self._pause_s = pause_s
        self._must_stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._round = 0

    @property
    def acknowledged(self) -> int:
        return sum(self.done.values())

    def grow(self) -> None:
        """Return when as many profiles live as should."""
        self._start(_GROWING_CLIENTS, is_growing=True)
        end = time.monotonic() + _GROWING_TIMEOUT_S
        try:
            while len(self._live) < self._profiles and self._error is None:
                assert time.monotonic() < end, f"only {len(self._live)} profiles after {_GROWING_TIMEOUT_S} s"
                time.sleep(0.05)
        finally:
            self.stop()

    def start(self) -> None:
        """Begin, or go on after a `stop` with other draws."""
        self._start(self._clients, is_growing=False)

    def _start(self, clients: int, *, is_growing: bool) -> None:
        self._round += 1
        self._must_stop.clear()
        arguments = (clients, is_growing)
        self._thread = threading.Thread(target=self._run, args=arguments, name="churn", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let each client finish its request, and return. Raises what a client met that it did not expect."""
        self._must_stop.set()
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive(), "a client does not end"
            self._thread = None
        if self._error is not None:
            raise self._error

    def _run(self, clients: int, is_growing: bool) -> None:
        async def all_clients() -> None:
            await asyncio.gather(*(self._client(number, is_growing=is_growing) for number in range(clients)))

        try:
            asyncio.run(all_clients())
        except BaseException as error:
            self._error = error

    async def _client(self, number: int, *, is_growing: bool) -> None:
        rng = random.Random(f"{self._seed}/{self._round}/{number}")
        client = Client(self._address)
        count = 0
        while not self._must_stop.is_set():
            count += 1
            mark = f"s{self._seed}r{self._round}c{number}n{count}"
            try:
                if is_growing:
                    await self._create(client, mark)
                    continue
                await self._act(client, rng, mark)
            except (NotSentError, NoAnswerError):
                await asyncio.sleep(_AWAY_PAUSE_S)
            if self._pause_s:
                await asyncio.sleep(rng.expovariate(1 / self._pause_s))
        client.close()

    async def _act(self, client: Client, rng: random.Random, mark: str) -> None:
        what, uid = rng.random(), self._choose(rng)
        if uid is None or what < (0.2 if len(self._live) < self._profiles else 0.1):
            await self._create(client, mark)
        elif what < 0.75:
            await self._send(client, "rename", "PATCH", uid, {"username": mark})
        elif what < 0.83:
            await self._readdress(client, "readdress", uid, f"{mark}@example.com")
        elif what < 0.90:
            await self._swap(client, rng, mark)
        elif (await self._send(client, "delete", "DELETE", uid)).status == 204:
            self._live.pop(uid, None)

    async def _create(self, client: Client, mark: str) -> None:
        email = f"{mark}@example.com"
        self.emails.add(email)
        reply = await client.request("POST", "/api/profile", {"username": mark, "email": email})
        self._check("create", reply)
        if reply.status == 201:
            uid = reply.json()["uid"]
            self.uids.add(uid)
            self._live[uid] = email
            self._order.append(uid)

    async def _readdress(self, client: Client, kind: str, uid: str, email: str) -> None:
        self.emails.add(email)
        reply = await self._send(client, kind, "PATCH", uid, {"email": email})
        if reply.status == 200 and uid in self._live:
            self._live[uid] = email

    async def _swap(self, client: Client, rng: random.Random, mark: str) -> None:
        """Let two profiles exchange their e-mails, over a third one: whatever comes between, nobody has both."""
        first, second = self._choose(rng), self._choose(rng)
        if first is None or second is None or first == second:
            return
        one, other = self._live[first], self._live.get(second)
        if other is None:
            return
        for uid, email in ((first, f"{mark}@example.com"), (second, one), (first, other)):
            await self._readdress(client, "swap", uid, email)

    async def _send(self, client: Client, kind: str, method: str, uid: str, document: Any = None) -> Reply:
        headers = {"Content-Type": "application/merge-patch+json"} if document is not None else None
        reply = await client.request(method, f"/api/profile/{uid}", document, headers)
        self._check(kind, reply)
        if reply.status == 404:
            self._live.pop(uid, None)
        return reply

    def _check(self, kind: str, reply: Reply) -> None:
        assert reply.status in _EXPECTED, f"{kind}: {reply}"
        if reply.status < 300:
            self.done[kind] += 1

    def _choose(self, rng: random.Random) -> str | None:
        for _ in range(20):
            if not self._order:
                return None
            uid = rng.choice(self._order[-_HOT_PROFILES:] if rng.random() < 0.5 else self._order)
            if uid in self._live:
                return uid
        self._order = list(self._live)
        return rng.choice(self._order) if self._order else None
