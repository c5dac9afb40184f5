"""Brings profiles into a running service, line by line, in requests of many lines, several of them under way at once.

Why nothing is created twice, whatever is lost, killed or sent again: a line without uid is a create, and an e-mail has
one profile (G3), so the second time it is refused, and found to be there already; a line with uid is a restore, which
the second time finds itself. So a 503, a 504 and a connection that broke all mean: once more. Event loop only.
Invariants: the mark never passes a line that is not settled; of two lines of one e-mail or uid the first in the file is
sent first.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

import orjson

from app.backfill.checkpoint import Tally
from app.backfill.client import Client, NoAnswer, Place
from app.backfill.errors import NobodyAnswers, NotTheService
from app.backfill.lines import MAX_LINE_BYTES, Line, Mark
from app.profiles.email import EmailPolicy, InvalidEmail, normalise
from streams.clock import Backoff, Clock
from streams.queries.peers import PeerReply

BATCH_LINES = 250
BATCH_BYTES = 512 * 1024
#: Requests under way at once: enough that the service always has a group to commit and one to decide.
REQUESTS = 4
#: Batches that may wait for an older one, so that one that is stuck does not let the others run away from it.
_WINDOW = 32
_CHECKPOINT_EVERY_S = 1.0
_PATIENCE_S = 300.0
_FIRST_PATIENCE_S = 15.0
_MAX_RETRY_AFTER_S = 30.0
_MAX_FAULTS = 5  # answers 500, until the line that is to blame is looked for

_NDJSON = b"application/x-ndjson"
_TARGET = b"/api/import"
_CREATED, _THERE = "created", "already there"
_RETRIED = frozenset((408, 425, 429, 500, 502, 503, 504))


class Target(Protocol):
    """Who is told how far it is."""

    def refused(self, line: Line, reason: dict[str, Any]) -> None:
        """*line* will never be taken as it is. Called in the order of the file."""
        ...

    def checkpoint(self, mark: Mark, tally: Tally) -> None:
        """Every line before *mark* is settled, and was told of. Called about once a second, and at the end."""
        ...


@dataclass(slots=True)
class _Batch:
    lines: Sequence[Line]
    #: What became of lines, by number: _CREATED, _THERE, or why it was refused.
    outcomes: dict[int, Any] = field(default_factory=dict)
    is_settled: bool = False
    #: How often the service has answered 500 to all that was left.
    faults: int = 0

    @property
    def left(self) -> list[Line]:
        """The lines that have no outcome yet."""
        return [line for line in self.lines if line.number not in self.outcomes]


class Busy(Exception):
    """The service cannot take it now. *retry_after_s*: how long it asks to wait, 0 if it does not say."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Importer:
    """One import of one input."""

    def __init__(
        self,
        *,
        places: Sequence[Place],
        source: str | None,
        told: Target,
        clock: Clock,
        requests: int = REQUESTS,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """*source*: the id of the topic that the input was exported from, if it is known."""
        self._clients = [Client(places, number) for number in range(requests)]
        self._target = _TARGET + (b"?source=" + quote(source, safe="").encode() if source else b"")
        self._told = told
        self._clock = clock
        self._patience_s = patience_s
        self.mark, self._tally = Mark(), Tally()
        self._answered_at = clock.monotonic()
        self._checkpoint_at = self._answered_at
        self._reading = asyncio.Lock()
        self._order: deque[_Batch] = deque()
        self._keys: set[str] = set()  # of the lines under way
        self._settled = asyncio.Event()
        self._stashed: Line | None = None
        #: Why it waits, for whoever watches; None while it does not.
        self.waits_for: str | None = None

    async def hello(self) -> str:
        """Return the id of the topic that the service writes to. Raises NobodyAnswers, NotTheService."""
        backoff = Backoff(initial_s=0.1, maximum_s=2.0)
        end = self._clock.monotonic() + min(self._patience_s, _FIRST_PATIENCE_S)
        while True:
            try:
                reply = await self._clients[0].ask(b"POST", _TARGET, b"", _NDJSON)
                self._judge(reply)
                return next(value.decode("latin-1") for name, value in reply.headers if name == b"profile-topic-id")
            except StopIteration:
                raise NotTheService("who answers there is no profile service that takes imports") from None
            except (Busy, NoAnswer) as error:
                self._clients[0].move_on()
                if self._clock.monotonic() >= end:
                    raise NobodyAnswers(f"the service cannot be reached: {error}") from error
                await asyncio.sleep(backoff.next_s())

    async def run(self, lines: Iterator[Line], mark: Mark, tally: Tally) -> Tally:
        """Import *lines*, which begin at *mark*, and return what became of all of them, those of *tally* included.
        Raises NobodyAnswers, NotTheService, and what reading raises: what was told of is done."""
        self.mark, self._tally = mark, tally
        self._answered_at = self._clock.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for client in self._clients:
                    group.create_task(self._work(client, lines))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            for client in self._clients:
                client.close()
            self._told.checkpoint(self.mark, self._tally)
        return self._tally

    async def _work(self, client: Client, lines: Iterator[Line]) -> None:
        while True:
            async with self._reading:
                batch = await self._next(lines)
            if batch is None:
                return
            await self._settle(client, batch)
            self._end(batch)

    async def _next(self, lines: Iterator[Line]) -> _Batch | None:
        """Return the next lines, as many as go together; None behind the last."""
        while len(self._order) >= _WINDOW:
            await self._wait_for_settled()
        found: list[Line] = []
        size = 0
        while len(found) < BATCH_LINES and size < BATCH_BYTES:
            line = self._stashed or next(lines, None)
            self._stashed = None
            if line is None:
                break
            if line.key is not None:
                if line.key in self._keys:
                    self._stashed = line
                    if found:
                        break
                    await self._wait_for_settled()
                    continue
                self._keys.add(line.key)
            found.append(line)
            size += len(line.text)
        if not found:
            return None
        batch = _Batch(found)
        self._order.append(batch)
        return batch

    async def _wait_for_settled(self) -> None:
        self._settled.clear()
        await self._settled.wait()

    def _end(self, batch: _Batch) -> None:
        """Every line of *batch* is settled: tell of all that is settled from the mark on."""
        batch.is_settled = True
        self._keys.difference_update([line.key for line in batch.lines if line.key is not None])
        tally = self._tally
        while self._order and self._order[0].is_settled:
            done = self._order.popleft()
            for line in done.lines:
                outcome = done.outcomes[line.number]
                if outcome is _CREATED:
                    tally.created += 1
                elif outcome is _THERE:
                    tally.already_there += 1
                else:
                    tally.refuse(outcome["reason"])
                    self._told.refused(line, outcome)
            self.mark = Mark(done.lines[-1].end, done.lines[-1].number)
        self._settled.set()
        now = self._clock.monotonic()
        if now - self._checkpoint_at >= _CHECKPOINT_EVERY_S:
            self._checkpoint_at = now
            self._told.checkpoint(self.mark, tally)

    async def _settle(self, client: Client, batch: _Batch) -> None:
        """Send the lines of *batch* until each has an answer that stays."""
        for line in batch.lines:
            if line.is_too_long:
                batch.outcomes[line.number] = _reason("payload-too-large", f"a line may have {MAX_LINE_BYTES} bytes")
        backoff = Backoff(initial_s=0.1, maximum_s=5.0)
        while left := batch.left:
            retry_after_s = 0.0
            try:
                await self._send(client, batch, left)
            except Busy as error:
                client.move_on()
                self.waits_for, retry_after_s = str(error), error.retry_after_s
            except NoAnswer as error:
                self.waits_for = str(error)
            if len(batch.left) < len(left):
                self._answered_at = self._clock.monotonic()
                backoff.reset()
            if not batch.left:
                break
            if self._clock.monotonic() - self._answered_at > self._patience_s:
                why = f"nothing was taken for {self._patience_s:.0f} s ({self.waits_for})"
                raise NobodyAnswers(f"{why}; run the same command to go on")
            await asyncio.sleep(max(backoff.next_s(), min(retry_after_s, _MAX_RETRY_AFTER_S)))
        self.waits_for = None

    async def _send(self, client: Client, batch: _Batch, lines: Sequence[Line], *, is_divided: bool = False) -> None:
        """Send *lines* once and note what became of them; those without an outcome must be sent again. What is too
        large, or fails again and again, is divided until the one line that does it stands alone, and is refused. Raises
        Busy, NoAnswer, NotTheService."""
        reply = await client.ask(b"POST", self._target, b"\n".join([line.text for line in lines]), _NDJSON)
        batch.faults += reply.status == 500
        if reply.status == 413 or (reply.status == 500 and (is_divided or batch.faults >= _MAX_FAULTS)):
            half = len(lines) // 2
            if half:
                await self._send(client, batch, lines[:half], is_divided=True)
                await self._send(client, batch, lines[half:], is_divided=True)
            else:
                slug = "payload-too-large" if reply.status == 413 else "fault-of-the-service"
                detail = f"the service answers {reply.status} to this line"
                batch.outcomes[lines[0].number] = _reason(slug, detail)
            return
        self._judge(reply)
        try:
            answers = [orjson.loads(answer) for answer in reply.body.splitlines()]
            statuses = [int(answer["status"]) for answer in answers]
        except (ValueError, TypeError, KeyError) as error:
            raise NotTheService("the answer is not that of a profile service") from error
        if len(answers) != len(lines):
            raise NotTheService("the answer has another number of lines")
        for line, status, answer in zip(lines, statuses, answers, strict=True):
            slug = str(answer.get("type", "")).rpartition("/")[2]
            if status == 201:
                batch.outcomes[line.number] = _CREATED
            elif status == 200:
                batch.outcomes[line.number] = _THERE
            elif status in _RETRIED:
                self.waits_for = slug
            elif slug == "email-taken" and line.uid is None and "existing_uid" in answer:
                await self._compare(client, batch, line, answer)
            else:
                batch.outcomes[line.number] = _reason_of(slug, status, answer)

    async def _compare(self, client: Client, batch: _Batch, line: Line, answer: dict[str, Any]) -> None:
        """Settle a create whose e-mail is taken: by this very profile, or by another. When it is free now, it has no
        outcome yet."""
        uid = str(answer["existing_uid"])
        reply = await client.ask(b"GET", b"/api/profile/" + quote(uid, safe="").encode())
        if reply.status == 404:
            return
        self._judge(reply)
        is_same = _is_same(orjson.loads(line.text), orjson.loads(reply.body))
        batch.outcomes[line.number] = _THERE if is_same else _reason_of("email-taken", 409, answer)

    def _judge(self, reply: PeerReply) -> None:
        """Raise Busy or NotTheService unless *reply* is a good one."""
        if reply.status == 200:
            return
        if reply.status in _RETRIED:
            wait = next((value for name, value in reply.headers if name == b"retry-after"), b"")
            raise Busy(f"the service answers {reply.status}", float(wait) if wait.isdigit() else 0.0)
        raise NotTheService(f"the service answers {reply.status}: {_title(reply.body)}")


def read_once(lines: Iterator[Line], judge: Callable[[Line], dict[str, Any] | None], told: Target) -> Tally:
    """Have *lines* judged one by one and sent nowhere. *judge* returns why a line would be refused, or None."""
    tally = Tally()
    for line in lines:
        reason = judge(line)
        if reason is None:
            tally.created += 1
        else:
            tally.refuse(reason["reason"])
            told.refused(line, reason)
    told.checkpoint(Mark(), tally)
    return tally


def _is_same(wanted: dict[str, Any], found: dict[str, Any]) -> bool:
    """Say whether a create of *wanted* would have made the content that *found* has."""
    try:
        display = normalise(wanted["email"], EmailPolicy.INTERNAL).display
    except InvalidEmail:
        return False
    return (wanted["username"], display) == (found["username"], found["email"])


def _reason(slug: str, detail: str) -> dict[str, Any]:
    return {"reason": slug, "detail": detail}


def _reason_of(slug: str, status: int, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a problem that say why; none of them holds an e-mail."""
    kept = {name: value for name, value in answer.items() if name not in ("type", "status", "title", "detail")}
    return {**_reason(slug or f"status-{status}", str(answer.get("detail", ""))), **kept}


def _title(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["detail"])[:200]
    except (ValueError, TypeError, KeyError):
        return "no reason is given"
