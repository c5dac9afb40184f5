"""Reads committed records of assigned partitions: a thread of its own fetches ahead into a bounded buffer.

No group is involved (`KafkaConsumer.assign`). Invariants: what `poll` hands over is contiguous for each partition, so
nothing is skipped and nothing comes twice; the position moves over transaction markers too; a broker that is away
means waiting, never an error.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Collection, Mapping

from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaTopicPartition
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError

from streams.clock import Backoff, Clock
from streams.errors import OffsetOutOfRange
from streams.log.kafka.batches import Fetched, install
from streams.log.kafka.clients import open_client
from streams.log.kafka.ends import Ends
from streams.log.kafka.settings import KafkaSettings, reader_config
from streams.records import RecordBatch, TopicPartition

logger = logging.getLogger(__name__)

#: `poll` hands over at least one batch, and then no more when it has this many records.
POLL_RECORDS = 5_000
#: The fetching thread rests while the buffer holds more than this many records, or bytes.
BUFFERED_RECORDS = 20_000
BUFFERED_BYTES = 16 * 1024 * 1024
#: How many batches (each of about 1,000 records) kafka-python hands over at a time.
_BATCHES_PER_FETCH = 16
#: A partition whose position stands for this long, below its end, is stuck in the client, which is then replaced.
STALL_S = 30.0
_FETCH_WAIT_MS = 150
_LOOK_AGAIN_S = 5.0
_CLOSE_S = 3.0


class KafkaReader:
    """A `LogReader` of one node. One thread uses it; `wakeup` may be called by any."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        """Connects in the background: the log need not be there."""
        self._clock = clock
        self._shared = threading.Condition()
        # All of these are guarded by _shared.
        self._handed_over: dict[TopicPartition, int] = {}  # the position after the last batch that `poll` returned
        self._buffered: dict[TopicPartition, int] = {}  # the position after the last batch in the buffer
        self._batches: deque[Fetched] = deque()
        self._records = 0
        self._bytes = 0
        self._errors: deque[OffsetOutOfRange] = deque()
        self._is_woken = False
        self._is_closed = False
        self._is_reassigned = False
        self.ends = Ends(clock)  # has a lock of its own
        self._fetcher = _Fetcher(self, settings, clock)
        self._thread = threading.Thread(target=self._fetcher.run, name="kafka-reader", daemon=True)
        self._thread.start()

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        with self._shared:
            kept = {
                partition
                for partition, position in positions.items()
                if self._handed_over.get(partition) == position and partition in self._buffered
            }
            self._batches = deque(one for one in self._batches if (one.batch.topic, one.batch.partition) in kept)
            self._records = sum(len(one.batch.records) for one in self._batches)
            self._bytes = sum(one.size_bytes for one in self._batches)
            self._errors.clear()
            for partition in self._handed_over.keys() - kept:
                self.ends.forget(partition)
            self._buffered = {
                partition: self._buffered[partition] if partition in kept else position
                for partition, position in positions.items()
            }
            self._handed_over = dict(positions)
            self._is_reassigned = True
            self._shared.notify_all()

    def poll(self, timeout_s: float) -> list[RecordBatch]:
        shared = self._shared
        with shared:
            if not self._batches and not self._errors and not self._is_woken and timeout_s > 0:
                shared.wait_for(lambda: self._batches or self._errors or self._is_woken or self._is_closed, timeout_s)
            self._is_woken = False
            if self._errors:
                raise self._errors.popleft()
            handed: list[RecordBatch] = []
            records = 0
            was_full = self._is_full()
            while self._batches and records < POLL_RECORDS:
                _, batch, size_bytes = self._batches.popleft()
                records += len(batch.records)
                self._bytes -= size_bytes
                self._handed_over[TopicPartition(batch.topic, batch.partition)] = batch.next_offset
                handed.append(batch)
            self._records -= records
            if was_full:
                shared.notify_all()
            return handed

    def caught_up_at(self, partition: TopicPartition) -> float:
        with self._shared:
            position = self._handed_over.get(partition)
        return -math.inf if position is None else self.ends.reached_at(partition, position)

    def wakeup(self) -> None:
        with self._shared:
            self._is_woken = True
            self._shared.notify_all()

    def close(self) -> None:
        with self._shared:
            self._is_closed = True
            self._shared.notify_all()
        self._thread.join(_CLOSE_S)

    # What follows is for the fetching thread.

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def wait_for_room(self) -> tuple[bool, dict[TopicPartition, int]] | None:
        """Wait while there is nothing to fetch. Return whether the assignment was changed, and the positions from
        which to fetch; None when the reader is closed."""
        with self._shared:
            self._shared.wait_for(lambda: self._is_closed or (self._buffered and not self._is_full()))
            if self._is_closed:
                return None
            was_reassigned, self._is_reassigned = self._is_reassigned, False
            return was_reassigned, dict(self._buffered)

    def add(self, steps: list[Fetched]) -> bool:
        """Buffer *steps*; return whether each continued where the buffer ended. One that does not was fetched for an
        earlier assignment, and is dropped."""
        is_contiguous = True
        with self._shared:
            for step in steps:
                start, batch, size_bytes = step
                partition = TopicPartition(batch.topic, batch.partition)
                position = self._buffered.get(partition)
                if position != start:
                    is_contiguous = is_contiguous and position is None
                    continue
                self._batches.append(step)
                self._records += len(batch.records)
                self._bytes += size_bytes
                self._buffered[partition] = batch.next_offset
            if self._batches:
                self._shared.notify_all()
        return is_contiguous

    def fail(self, partition: TopicPartition, offset: int) -> None:
        """Report that *offset* is out of range, and stop reading *partition* until it is assigned anew."""
        with self._shared:
            if self._buffered.get(partition) == offset:
                del self._buffered[partition]
                self._errors.append(OffsetOutOfRange(partition.topic, partition.partition, offset))
                self._is_reassigned = True
                self._shared.notify_all()

    def _is_full(self) -> bool:
        return self._records > BUFFERED_RECORDS or self._bytes > BUFFERED_BYTES


class _Fetcher:
    """The fetching thread, which alone uses the consumer."""

    def __init__(self, reader: KafkaReader, settings: KafkaSettings, clock: Clock) -> None:
        self._reader = reader
        self._config = reader_config(settings)
        self._clock = clock
        self._consumer: KafkaConsumer | None = None
        self._backoff = Backoff(initial_s=0.1, maximum_s=2.0)
        self._pause = threading.Event()  # never set: a sleep that the clock of tests need not know
        self._moved: dict[TopicPartition, tuple[int, float]] = {}  # the position, and since when it is that
        self._ends: dict[TopicPartition, int] = {}  # of partitions that stood still when last looked at
        self._is_known_broken = False

    def run(self) -> None:
        must_seek = True
        while True:
            try:
                if self._consumer is None:  # Before there is anything to read, so that the first records come at once.
                    self._consumer = open_client(KafkaConsumer, self._config)
                    install(self._consumer)
                    self._reader.ends.watch(self._consumer)
                    must_seek = True
                work = self._reader.wait_for_room()
                if work is None:
                    break
                was_reassigned, positions = work
                if was_reassigned or must_seek:
                    self._seek(self._consumer, positions)
                must_seek = not self._fetch(self._consumer)
                self._replace_if_stalled(self._consumer, positions)
                self._is_known_broken = False
                self._backoff.reset()
            except Exception as error:  # noqa: BLE001  # Whatever it is: a new client, and on.
                if self._reader.is_closed:
                    break
                self._give_up(error)
        self._drop_consumer()

    def _fetch(self, consumer: KafkaConsumer) -> bool:
        """Move what has arrived to the buffer, waiting a little for it; return False when the consumer must seek."""
        try:
            fetched = consumer.poll(timeout_ms=_FETCH_WAIT_MS, max_records=_BATCHES_PER_FETCH)
        except OffsetOutOfRangeError as error:
            for partition, offset in error.args[0].items():
                self._out_of_range(consumer, TopicPartition(*partition), offset)
            return False
        except LogTruncationError as error:
            for partition in error.divergent_offsets:
                position = consumer.position(partition)
                self._reader.fail(TopicPartition(*partition), position)
            return False
        return self._reader.add([step for steps in fetched.values() for step in steps])

    def _out_of_range(self, consumer: KafkaConsumer, partition: TopicPartition, offset: int) -> None:
        """Decide what an offset out of range means: 0 is the beginning, wherever retention has moved it to."""
        if offset == 0:
            kafka_partition = KafkaTopicPartition(*partition)
            start = consumer.beginning_offsets([kafka_partition])[kafka_partition]
            if start > 0:
                self._reader.add([Fetched(0, RecordBatch(partition.topic, partition.partition, (), start), 0)])
                return
        self._reader.fail(partition, offset)

    def _seek(self, consumer: KafkaConsumer, positions: Mapping[TopicPartition, int]) -> None:
        partitions = {KafkaTopicPartition(*partition): offset for partition, offset in positions.items()}
        known = consumer.assignment()
        if known != set(partitions):
            consumer.assign(list(partitions))
        # The new ones first: to ask for any position makes kafka-python look for those of all partitions, and it fails
        # for one that has none yet.
        for partition in partitions.keys() - known:
            consumer.seek(partition, partitions[partition])
        for partition in partitions.keys() & known:
            if consumer.position(partition) != partitions[partition]:
                consumer.seek(partition, partitions[partition])

    def _replace_if_stalled(self, consumer: KafkaConsumer, positions: Mapping[TopicPartition, int]) -> None:
        """Raise when a partition has stood still for `STALL_S` although there is more to read: kafka-python has had
        several errors of that kind (its issues 3106, 3131, 3132)."""
        now = self._clock.monotonic()
        standing = []
        for partition, position in positions.items():
            last, since = self._moved.get(partition, (-1, now))
            if last != position:
                self._moved[partition] = (position, now)
                self._ends.pop(partition, None)
            elif now - since >= STALL_S:
                if position < self._ends.get(partition, 0):
                    raise KafkaError(f"no progress for {STALL_S:.0f} s in {partition.topic}-{partition.partition}")
                standing.append(partition)
        if standing:
            ends = _ends_of(consumer, standing)
            for partition in standing:  # A record may have come this very moment: look again before it is called stuck.
                if partition in ends:
                    self._ends[partition] = ends[partition]
                self._moved[partition] = (positions[partition], now - STALL_S + _LOOK_AGAIN_S)

    def _give_up(self, error: Exception) -> None:
        if not self._is_known_broken:
            logger.warning("kafka_reader_restarts", extra={"reason": f"{type(error).__name__}: {error}"})
        self._is_known_broken = True
        self._drop_consumer()
        self._pause.wait(self._backoff.next_s())

    def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._moved.clear()
        self._ends.clear()
        if consumer is not None:
            try:
                consumer.close(autocommit=False, timeout_ms=500)
            except Exception as error:  # noqa: BLE001  # It is thrown away: nothing depends on it any more.
                logger.debug("kafka_reader_not_closed", extra={"reason": type(error).__name__})


def _ends_of(consumer: KafkaConsumer, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
    """Return the ends of those of *partitions* that somebody leads; the question would wait for the others, and with it
    all reading. Nothing, when no broker answers: then nothing can have progressed."""
    leader = consumer._client.cluster.leader_for_partition
    asked = [one for one in (KafkaTopicPartition(*one) for one in partitions) if leader(one) not in (None, -1)]
    try:
        ends = consumer.end_offsets(asked, timeout_ms=1_000) if asked else {}
    except (KafkaError, KeyError):  # KeyError: kafka-python leaves out whose leader is just not known, and misses it.
        return {}
    return {TopicPartition(*partition): int(end) for partition, end in ends.items()}
