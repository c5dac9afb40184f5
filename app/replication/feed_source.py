"""Reads the change feed of a running node: the way to the embedded log, which only its node may open, and to a Kafka
that cannot be reached from here.

One poll for each partition, each on a thread of its own, into one bounded buffer. A node that does not answer is left
for the next one: places (`seq`) are good on every node of a cluster. Invariants: what `poll` hands over is contiguous
for each partition; a node that is away means waiting; a place that the feed refuses for good ends the reading.
"""

import logging
import math
import threading
from base64 import urlsafe_b64decode
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
import urllib3

from app.replication.ports import Batch, Change, Position, SourceExpired, SourceInfo, SourceUnavailable
from streams.clock import Backoff, Clock
from streams.errors import ConfigError

logger = logging.getLogger(__name__)

#: Of one request; the feed also bounds an answer by its bytes.
_LIMIT = 1_000
_WAIT_MS = 5_000
_TIMEOUT_S = 15.0
#: Polling rests while so many changes wait to be taken.
_BUFFERED_CHANGES = 10_000
_TAKEN_CHANGES = 5_000
_IDLE_POSITION_S = 60.0
# Where a `seq` says of which topic it is (`app.feed.position`).
_IDENTITY = slice(1, 9)


@dataclass(frozen=True, slots=True)
class _Step:
    """An answer of the feed. `complete_at`: when it was asked for, if nothing followed it; otherwise None."""

    partition: int
    changes: Sequence[Change]
    position: Position
    pending: int
    complete_at: float | None


class FeedSource:
    """A `Source` over the change feed of one node, or of several of one cluster."""

    def __init__(self, urls: Sequence[str], clock: Clock) -> None:
        """Connects to nothing. Raises ConfigError."""
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
                raise ConfigError("a source (--source) is the address of a node: http://host:port")
        self._clock = clock
        self._client = _Client([url.rstrip("/") for url in urls])
        self._shared = threading.Condition()
        # All of these are guarded by _shared.
        self._steps: deque[_Step] = deque()
        self._buffered = 0
        self._pollers: dict[int, _Poller] = {}
        self._handed_over: dict[int, Position] = {}
        self._reached: dict[int, float] = {}
        self._pending: dict[int, int] = {}
        self._told_at: dict[int, float] = {}
        self._failure: SourceExpired | None = None
        self._is_woken = False

    def describe(self) -> SourceInfo:
        metadata = self._client.get("/metadata")
        answer = self._client.get("/api/changes?since=now&partition=0&limit=1")
        seq = str(answer["last_seq"])
        identity = urlsafe_b64decode(seq + "=" * (-len(seq) % 4))[_IDENTITY].hex()
        return SourceInfo(identity, len(metadata["partitions"]))

    def assign(self, positions: Mapping[int, Position | None]) -> None:
        now_ms, now = self._clock.time_ms(), self._clock.monotonic()
        with self._shared:
            begun = {number: position or Position(0, "0", now_ms) for number, position in positions.items()}
            kept = {
                number for number, position in begun.items() if self._handed_over.get(number, position) == position
            } & self._pollers.keys()
            for number in self._pollers.keys() - kept:
                self._pollers.pop(number).stop()
                self._reached.pop(number, None)
                self._pending.pop(number, None)
            self._steps = deque(step for step in self._steps if step.partition in kept)
            self._buffered = sum(len(step.changes) for step in self._steps)
            self._handed_over = begun
            self._told_at = dict.fromkeys(begun, now)
            self._failure = None
            for number in begun.keys() - kept:
                self._pollers[number] = _Poller(self, self._client, number, begun[number], self._clock)
            self._shared.notify_all()

    def poll(self, timeout_s: float) -> Batch | None:
        with self._shared:
            if not (self._steps or self._failure or self._is_woken):
                self._shared.wait(timeout_s)
            self._is_woken = False
            if self._failure is not None:
                raise self._failure
            changes: list[Change] = []
            moved: dict[int, Position] = {}
            now = self._clock.monotonic()
            while self._steps and len(changes) < _TAKEN_CHANGES:
                step = self._steps.popleft()
                number = step.partition
                is_new = step.position.order != self._handed_over[number].order
                self._handed_over[number] = step.position
                self._pending[number] = step.pending
                if step.complete_at is not None:
                    self._reached[number] = step.complete_at
                changes += step.changes
                if is_new or step.changes or now - self._told_at[number] >= _IDLE_POSITION_S:
                    moved[number] = step.position
                    self._told_at[number] = now
            self._buffered -= len(changes)
            self._shared.notify_all()
        return Batch(changes, moved) if moved else None

    def caught_up_at(self, partition: int) -> float:
        return self._reached.get(partition, -math.inf)

    def lag(self, partition: int) -> int | None:
        return self._pending.get(partition)

    def wakeup(self) -> None:
        with self._shared:
            self._is_woken = True
            self._shared.notify_all()

    def close(self) -> None:
        with self._shared:
            while self._pollers:
                self._pollers.popitem()[1].stop()  # Nobody waits for the requests under way: they end by themselves.
            self._shared.notify_all()
        self._client.close()

    # What follows is for the polling threads.

    def add(self, poller: "_Poller", step: _Step) -> bool:
        """Buffer *step*, waiting for room; return whether *poller* is still wanted."""
        with self._shared:
            self._shared.wait_for(lambda: poller.must_stop or self._buffered < _BUFFERED_CHANGES)
            if poller.must_stop:
                return False
            self._steps.append(step)
            self._buffered += len(step.changes)
            self._shared.notify_all()
            return True

    def fail(self, poller: "_Poller", error: SourceExpired) -> None:
        """End the reading with *error*."""
        with self._shared:
            if not poller.must_stop:
                self._failure = error
                self._shared.notify_all()


class _Poller:
    """Follows one partition, on a thread of its own, until `stop`."""

    def __init__(self, source: FeedSource, client: "_Client", partition: int, position: Position, clock: Clock) -> None:
        self.must_stop = False
        self._source = source
        self._client = client
        self._partition = partition
        self._position = position
        self._clock = clock
        self._backoff = Backoff(initial_s=0.1, maximum_s=5.0)
        self._stopped = threading.Event()
        self._is_complete = False
        self._is_known_away = False
        threading.Thread(target=self._run, name=f"feed-{partition}", daemon=True).start()

    def stop(self) -> None:
        """Take nothing more; the request under way ends by itself."""
        self.must_stop = True
        self._stopped.set()

    def _run(self) -> None:
        while not self.must_stop:
            try:
                step = self._ask()
            except SourceUnavailable as error:
                if not self._is_known_away:
                    logger.warning("feed_not_read", extra={"partition": self._partition, "reason": str(error)})
                self._is_known_away = True
                self._stopped.wait(self._backoff.next_s())
                continue
            except SourceExpired as error:
                self._source.fail(self, error)
                return
            self._is_known_away = False
            self._backoff.reset()
            self._position = step.position
            self._is_complete = step.complete_at is not None
            if not self._source.add(self, step):
                return

    def _ask(self) -> _Step:
        """Return what follows. Only who has everything waits for more."""
        asked_at, asked_at_ms = self._clock.monotonic(), self._clock.time_ms()
        wish = f"feed=longpoll&timeout={_WAIT_MS}" if self._is_complete else "feed=normal"
        number, position = self._partition, self._position
        answer = self._client.get(
            f"/api/changes?since={quote(position.token)}&partition={number}&include_docs=true&limit={_LIMIT}&{wish}"
        )
        changes = [_change(number, result) for result in answer["results"]]
        pending = int(answer["pending"])
        order = max(position.order, changes[-1].offset + 1 if changes else 0)
        as_of_ms = position.as_of_ms if pending else asked_at_ms
        return _Step(
            number,
            changes,
            Position(order, str(answer["last_seq"]), as_of_ms),
            pending,
            None if pending else asked_at,
        )


class _Client:
    """Asks one node after the other. Any thread."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self._current = 0
        self._pool = urllib3.PoolManager(
            num_pools=len(urls), maxsize=64, retries=False, timeout=urllib3.Timeout(connect=3.0, read=_TIMEOUT_S)
        )

    def get(self, target: str) -> Any:
        """Return the JSON that a node answers. Raises SourceUnavailable, SourceExpired, ConfigError."""
        chosen = self._current
        url = self._urls[chosen]
        try:
            answer = self._pool.request("GET", url + target, redirect=False)
            document = orjson.loads(answer.data)
        except (urllib3.exceptions.HTTPError, OSError, orjson.JSONDecodeError) as error:
            self._current = (chosen + 1) % len(self._urls)
            raise SourceUnavailable(f"the node {url} does not answer ({type(error).__name__})") from error
        if answer.status == 200:
            return document
        detail = document.get("detail", "") if isinstance(document, dict) else ""
        if answer.status == 410:
            raise SourceExpired(
                f"the change feed cannot go on from where the sink is: {detail}; rebuild it (--rebuild)"
            )
        if answer.status == 400:
            raise SourceExpired(f"the place that the sink has is not of this cluster: {detail}; rebuild it (--rebuild)")
        if answer.status in (401, 403):
            raise ConfigError(f"the node {url} does not let us read the change feed: {answer.status} {detail}")
        self._current = (chosen + 1) % len(self._urls)
        raise SourceUnavailable(f"the node {url} answers {answer.status} {detail}".rstrip())

    def close(self) -> None:
        """Close idle connections. Idempotent."""
        self._pool.clear()


def _change(partition: int, result: Mapping[str, Any]) -> Change:
    body = None if result.get("deleted") else orjson.dumps(result["doc"])
    return Change(partition, int(result["offset"]), str(result["uid"]), int(result["version"] or 0), body)
