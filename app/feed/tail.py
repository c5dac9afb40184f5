"""The one reader at the end of the log that all listeners of this node share: a thread, while there are listeners.

It reads committed records of all partitions, makes events of them and hands these to the event loop, which owns the
ring. It waits when the loop has not taken what it was given, so that nothing is buffered without bound; whatever goes
wrong with the log, it begins again at the end of it, and listeners read the log themselves up to there.
"""

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence

from app.feed.events import Event, events_of
from app.feed.position import Position
from streams.clock import Backoff, Clock, Deadline
from streams.errors import LogUnavailable, StreamsError
from streams.log.base import Log, LogReader
from streams.records import RecordBatch, TopicPartition

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_ENDS_TIMEOUT_S = 5.0
_STOP_S = 2.0
#: A piece of the ring has about so many bytes at most.
_CHUNK_BYTES = 128 * 1024
#: Polls that the event loop may be behind.
_MAX_BEHIND = 4

#: Events, and the place behind them.
Piece = tuple[Sequence[Event], Position]
#: Told on the event loop. `begun`: the tail reads from this place on. `told`: what it has read, piece by piece.
Begun = Callable[[Position], None]
Told = Callable[[Sequence[Piece]], None]


class Tail:
    """`follow`, `rest` and `stop` belong to the event loop; the reader to the thread."""

    def __init__(self, *, log: Log, topic: str, clock: Clock, begun: Begun, told: Told) -> None:
        self._log = log
        self._topic = topic
        self._clock = clock
        self._begun = begun
        self._told = told
        self._loop: asyncio.AbstractEventLoop | None = None
        self._partitions = 0
        self._rests = 0  # how often it was told to rest: whoever follows after that begins anew
        self._is_wanted = threading.Event()
        self._is_stopping = threading.Event()
        self._room = threading.Semaphore(_MAX_BEHIND)
        self._thread: threading.Thread | None = None
        self._reader: LogReader | None = None

    def follow(self, partitions: int) -> None:
        """Read from the end of the log on. Returns at once; idempotent."""
        self._partitions = partitions
        self._is_wanted.set()
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name="feed-tail", daemon=True)
            self._thread.start()

    def rest(self) -> None:
        """Read nothing until `follow` is called again. Returns at once; what was read meanwhile may still be told."""
        self._rests += 1
        self._is_wanted.clear()

    def stop(self) -> None:
        """End the thread, within two seconds. Blocks; any thread; idempotent."""
        self._is_stopping.set()
        self._is_wanted.set()
        self._room.release()
        if self._thread is not None:
            self._thread.join(_STOP_S)

    # What follows runs on the thread.

    def _run(self) -> None:
        backoff = Backoff(initial_s=0.1, maximum_s=2.0)
        while not self._is_stopping.is_set():
            self._is_wanted.wait()
            try:
                self._read(backoff)
            except StreamsError as error:
                if not self._is_stopping.is_set():
                    level = logging.INFO if isinstance(error, LogUnavailable) else logging.WARNING
                    logger.log(level, "the change feed reads on from the end of the log: %s", error)
            except Exception:
                logger.exception("the change feed failed, and reads on from the end of the log")
            finally:
                if self._reader is not None:
                    self._reader.assign({})
                self._is_stopping.wait(backoff.next_s())
        if self._reader is not None:
            self._reader.close()

    def _read(self, backoff: Backoff) -> None:
        """Read until nobody wants it any more. Raises StreamsError."""
        rests = self._rests
        reader, position = self._begin()
        self._post(self._begun, position)
        places = [TopicPartition(self._topic, partition) for partition in range(self._partitions)]
        while self._rests == rests and not self._is_stopping.is_set():
            batches = reader.poll(_POLL_S)
            backoff.reset()
            caught_up_at = min(reader.caught_up_at(place) for place in places)
            pieces: list[Piece] = list(_pieces(batches, position))
            if pieces:
                position = pieces[-1][1]
            if caught_up_at > -math.inf:
                age_s = self._clock.monotonic() - caught_up_at
                moment_s = int(self._clock.time_ms() / 1000 - age_s)
                position = position.renewed(moment_s)
            pieces.append(((), position))
            self._room.acquire()
            self._post(self._tell, pieces)

    def _begin(self) -> tuple[LogReader, Position]:
        moment_s = self._clock.time_ms() // 1000
        places = [TopicPartition(self._topic, partition) for partition in range(self._partitions)]
        ends = self._log.end_offsets(places, Deadline.after(_ENDS_TIMEOUT_S, self._clock))
        if self._reader is None:
            self._reader = self._log.open_reader()
        self._reader.assign(ends)
        return self._reader, Position(tuple(ends[place] for place in places), None, moment_s, is_whole=True)

    def _tell(self, pieces: Sequence[Piece]) -> None:
        self._room.release()
        self._told(pieces)

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)


def _pieces(batches: Sequence[RecordBatch], position: Position) -> Iterator[Piece]:
    """Yield the events of *batches* in pieces, each with the place behind it."""
    offsets = list(position.offsets)
    piece: list[Event] = []
    size_bytes = 0
    for batch in batches:
        for event in events_of(batch.records):
            if size_bytes >= _CHUNK_BYTES:
                yield piece, position._replace(offsets=tuple(offsets))
                piece, size_bytes = [], 0
            piece.append(event)
            size_bytes += event.size_bytes
            offsets[event.partition] = event.offset + 1
        offsets[batch.partition] = batch.next_offset
    if tuple(offsets) != position.offsets:
        yield piece, position._replace(offsets=tuple(offsets))
