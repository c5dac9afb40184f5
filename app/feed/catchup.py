"""Reading the log for listeners that are too far behind for the ring: a small pool of threads, each with a reader.

A read is bounded in records and in time, a listener has one under way at most, and reads are served in the order in
which they were asked for: nobody can keep the others waiting, and nobody's backlog is in memory. What a reader brought
beyond what was asked for is kept a short while as pages, bounded in bytes, since the next request mostly goes on there.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from app.feed.errors import FeedExpired
from app.feed.events import Event, Run, events_of
from streams.clock import Clock, Deadline
from streams.errors import Draining, LogUnavailable, OffsetOutOfRange, Overloaded
from streams.log.base import Log, LogReader
from streams.records import RecordBatch, TopicPartition

T = TypeVar("T")

READERS = 2
#: Reads that may wait for a reader, besides those of listeners, who are counted elsewhere.
MAX_WAITING = 256
_PAGES_BYTES = 8 * 1024 * 1024
_PAGE_AGE_S = 30.0
#: Partitions that are read at a time: what Kafka sends is 8 MiB for each.
_AT_A_TIME = 8
_POLL_S = 0.2
_BEYOND_LOOKS = 3
_BEYOND_WAIT_S = 0.3
_STOP_S = 1.0


class Reading(NamedTuple):
    """What was read. `ends`: the end of each partition at a moment after `moment_s` (Unix time, before it was asked
    for)."""

    runs: Sequence[Run]
    ends: Mapping[int, int]
    moment_s: int


class _Page(NamedTuple):
    start: int
    next_offset: int
    events: Sequence[Event]
    size_bytes: int
    read_at: float


class CatchUp:
    """Reads what lies behind a place. The event loop only."""

    def __init__(self, *, log: Log, topic: str, clock: Clock) -> None:
        self._log = log
        self._topic = topic
        self._clock = clock
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="feed-catch-up")
        self._local = threading.local()
        self._pages = _Pages(clock)
        self._pause = threading.Event()  # set by `close`
        self._waiting = 0
        #: Reads made so far.
        self.reads = 0

    async def read(self, offsets: Mapping[int, int], *, limit: int, deadline: Deadline, is_listener: bool) -> Reading:
        """Return up to about *limit* records behind *offsets*, or what could be read before *deadline*; nothing only
        if there is nothing. Raises FeedExpired: the log has not, or no more, what lies there; LogUnavailable;
        Overloaded, unless *is_listener*."""
        if self._waiting >= MAX_WAITING and not is_listener:
            raise Overloaded("too many reads of the change feed wait already")
        self._waiting += 1
        try:
            return await self._on_thread(self._read, dict(offsets), limit, deadline)
        finally:
            self._waiting -= 1

    async def ends(self, partitions: Iterable[int], deadline: Deadline) -> Mapping[int, int]:
        """Return the end of each partition. Raises LogUnavailable."""
        offsets = dict.fromkeys(partitions, 0)
        return await self._on_thread(self._ends, offsets, deadline)

    async def settings(self, deadline: Deadline) -> Mapping[str, str]:
        """Return the topic's settings by Kafka's names. Raises LogUnavailable."""
        return await self._on_thread(self._settings, deadline)

    async def stop(self) -> None:
        """Let no read begin any more, and wait a moment for those under way. Idempotent."""
        self._pause.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        deadline = Deadline.after(_STOP_S, self._clock)
        while self._waiting and not deadline.has_passed(self._clock):
            await asyncio.sleep(0.01)

    async def _on_thread(self, call: Callable[..., T], *arguments: object) -> T:
        if self._pause.is_set():
            raise Draining("this node is stopping", retry_after_s=2.0)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    # What follows runs on the threads of the pool.

    def _read(self, offsets: dict[int, int], limit: int, deadline: Deadline) -> Reading:
        self.reads += 1
        moment_s = self._clock.time_ms() // 1000
        # Each read begins with another partition: one that is written to all the time must not hide the others from
        # whoever asks for a little at a time.
        items, turn = list(offsets.items()), self.reads % len(offsets)
        offsets = dict(items[turn:] + items[:turn])
        ends = self._ends(offsets, deadline)
        runs: list[Run] = []
        count = self._from_pages(offsets, ends, runs, limit)
        if count < limit and _behind(offsets, ends):
            self._from_log(offsets, ends, runs, limit - count, deadline)
        if not runs and _behind(offsets, ends):
            raise LogUnavailable("nothing could be read before the deadline")
        return Reading(runs, ends, moment_s)

    def _settings(self, deadline: Deadline) -> Mapping[str, str]:
        found = self._log.describe_topics([self._topic], deadline)
        if self._topic not in found:
            raise LogUnavailable(f"the log does not know the topic {self._topic}")
        return found[self._topic].config

    def _ends(self, offsets: Mapping[int, int], deadline: Deadline) -> dict[int, int]:
        """Return the ends. Raises FeedExpired when a place lies beyond its end, also after another look: a broker that
        has just become leader may know less for a moment."""
        at = [TopicPartition(self._topic, partition) for partition in offsets]
        for look in range(_BEYOND_LOOKS):
            if look:
                self._pause.wait(_BEYOND_WAIT_S)
            ends = {one.partition: end for one, end in self._log.end_offsets(at, deadline).items()}
            if all(offset <= ends[partition] for partition, offset in offsets.items()):
                return ends
        raise FeedExpired("the log has lost its end since")

    def _from_pages(self, offsets: dict[int, int], ends: Mapping[int, int], runs: list[Run], limit: int) -> int:
        count = 0
        for partition in _behind(offsets, ends):
            while count < limit and (page := self._pages.find(partition, offsets[partition])) is not None:
                offset, offsets[partition] = offsets[partition], page.next_offset
                events = page.events if offset == page.start else [one for one in page.events if one.offset >= offset]
                runs.append(Run(events, {partition: page.next_offset}))
                count += len(events)
        return count

    def _from_log(
        self, offsets: dict[int, int], ends: Mapping[int, int], runs: list[Run], limit: int, deadline: Deadline
    ) -> None:
        reader = self._reader()
        chosen = _behind(offsets, ends)[:_AT_A_TIME]
        try:
            reader.assign({TopicPartition(self._topic, partition): offsets[partition] for partition in chosen})
            while limit > 0 and _behind({p: offsets[p] for p in chosen}, ends) and not self._pause.is_set():
                if deadline.has_passed(self._clock):
                    return
                for batch in reader.poll(min(_POLL_S, deadline.remaining_s(self._clock))):
                    page = self._page(batch, offsets[batch.partition])
                    offsets[batch.partition] = batch.next_offset
                    runs.append(Run(page.events, {batch.partition: batch.next_offset}))
                    limit -= len(page.events)
        except OffsetOutOfRange as error:
            raise FeedExpired("the log does not begin as early any more") from error
        finally:
            reader.assign({})  # or it would go on fetching, and keep the embedded log's cleaner waiting

    def _page(self, batch: RecordBatch, start: int) -> _Page:
        events = events_of(batch.records)
        size_bytes = sum(event.size_bytes for event in events)
        page = _Page(start, batch.next_offset, events, size_bytes, self._clock.monotonic())
        self._pages.keep(batch.partition, page)
        return page

    def _reader(self) -> LogReader:
        reader: LogReader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self._log.open_reader()
        return reader


class _Pages:
    """Parts of the log that were read a moment ago. Any thread. They are not kept long: compaction, and so the erasure
    of a profile, must not be outlived."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pages: OrderedDict[tuple[int, int], _Page] = OrderedDict()
        self._bytes = 0

    def keep(self, partition: int, page: _Page) -> None:
        with self._lock:
            self._drop((partition, page.start))
            self._pages[partition, page.start] = page
            self._bytes += page.size_bytes
            oldest = self._clock.monotonic() - _PAGE_AGE_S
            while self._pages:
                key, first = next(iter(self._pages.items()))
                if self._bytes <= _PAGES_BYTES and first.read_at >= oldest:
                    break
                self._drop(key)

    def find(self, partition: int, offset: int) -> _Page | None:
        """Return a page that has *offset* in it."""
        oldest = self._clock.monotonic() - _PAGE_AGE_S
        with self._lock:
            for (number, start), page in self._pages.items():
                if number == partition and start <= offset < page.next_offset and page.read_at >= oldest:
                    return page
        return None

    def _drop(self, key: tuple[int, int]) -> None:
        page = self._pages.pop(key, None)
        if page is not None:
            self._bytes -= page.size_bytes


def _behind(offsets: Mapping[int, int], ends: Mapping[int, int]) -> list[int]:
    return [partition for partition, offset in offsets.items() if offset < ends[partition]]
