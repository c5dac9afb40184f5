"""Reads the profiles topic of a log that this process may open itself: Kafka (or, in tests, one in memory).

Committed records only, in log order, positions over gaps: all of that is the log's reader. What is a profile is
decided by the service's own derivation (`app.profiles.topology`), so that a record which the service quarantines
changes nothing here either.
"""

import logging
import math
import threading
from collections.abc import Mapping

from app.feed.position import identity_of
from app.profiles.rows import body_of, version_of
from app.profiles.topology import materialise_profile
from app.replication.ports import (
    Batch,
    Change,
    Position,
    Skipped,
    SourceExpired,
    SourceInfo,
    SourceUnavailable,
)
from streams.clock import Clock, Deadline
from streams.errors import LogUnavailable, OffsetOutOfRange, PoisonRecord
from streams.log.base import Log, TopicInfo
from streams.records import Headers, Record, TopicPartition, header

logger = logging.getLogger(__name__)

_ASK_TIMEOUT_S = 10.0
_WATCH_INTERVAL_S = 1.0
_IDENTITY_EVERY = 10  # looks at the ends for each look at the topic's identity
#: A partition without changes tells its position so often, so that the sink knows how fresh it is.
IDLE_POSITION_S = 60.0
_DEFAULT_RETENTION_MS = 24 * 3600 * 1000  # Kafka's own default of delete.retention.ms
_VERSION_HEADER = "profile-version"
_VERSION_DIGITS = 16  # of the largest that the service gives
_VERSION_AT = 7  # where the service's records have it (`app.profiles.events`)


class LogSource:
    """A `Source` over *topic* of *log*, which it closes in the end."""

    def __init__(self, log: Log, topic: str, clock: Clock) -> None:
        """Opens the reader; connects in the background."""
        self._log = log
        self._topic = topic
        self._clock = clock
        self._reader = log.open_reader()
        self._positions: dict[int, Position] = {}  # after what `poll` has handed over
        self._told_at: dict[int, float] = {}
        self._watch = _Watch(log, topic, clock)

    def describe(self) -> SourceInfo:
        info = _describe(self._log, self._topic, self._clock)
        if info is None:
            raise SourceUnavailable(f"the topic {self._topic} does not exist yet; the service creates it")
        self._watch.identity = info.topic_id
        retention_ms = int(info.config.get("delete.retention.ms", _DEFAULT_RETENTION_MS))
        identity = identity_of(self._topic, info.topic_id, info.partitions)  # that of the change feed, too
        return SourceInfo(identity.hex(), info.partitions, retention_ms - retention_ms // 4)

    def assign(self, positions: Mapping[int, Position | None]) -> None:
        now_ms, now = self._clock.time_ms(), self._clock.monotonic()
        # Nothing was read before the beginning, so there is nothing there whose delete could be missed.
        self._positions = {number: position or Position(0, "0", now_ms) for number, position in positions.items()}
        self._told_at = dict.fromkeys(positions, now)
        self._reader.assign({self._place(number): position.order for number, position in self._positions.items()})
        self._watch.follow([self._place(number) for number in positions])

    def poll(self, timeout_s: float) -> Batch | None:
        if self._watch.is_replaced:
            raise SourceExpired(f"the topic {self._topic} was deleted and made anew; rebuild the sink (--rebuild)")
        try:
            steps = self._reader.poll(timeout_s)
        except OffsetOutOfRange as error:
            raise SourceExpired(
                f"{error}: the log does not reach back to where the sink is, or ends before it; "
                f"rebuild the sink (--rebuild)"
            ) from error
        changes: list[Change] = []
        skipped: list[Skipped] = []
        moved: dict[int, Position] = {}
        for step in steps:
            for record in step.records:
                try:
                    changes.append(change_of(record))
                except PoisonRecord as error:
                    place = f"{record.topic}-{record.partition} offset {record.offset}"
                    skipped.append(Skipped(record.partition, place, error.reason))
            before = self._positions[step.partition]
            as_of_ms = max(before.as_of_ms, self._as_of_ms(step.partition))
            moved[step.partition] = Position(step.next_offset, str(step.next_offset), as_of_ms)
        moved.update(self._reminders(moved))
        self._positions.update(moved)
        return Batch(changes, moved, skipped) if moved else None

    def caught_up_at(self, partition: int) -> float:
        return self._reader.caught_up_at(self._place(partition))

    def lag(self, partition: int) -> int | None:
        end, position = self._watch.ends.get(self._place(partition)), self._positions.get(partition)
        return None if end is None or position is None else max(0, end - position.order)

    def wakeup(self) -> None:
        self._reader.wakeup()

    def close(self) -> None:
        self._watch.close()
        self._reader.close()
        self._log.close()

    def _place(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)

    def _as_of_ms(self, partition: int) -> int:
        """Return until when all is handed over, on the wall clock; 0 if that is not known."""
        reached = self.caught_up_at(partition)
        if reached == -math.inf:
            return 0
        return self._clock.time_ms() - round((self._clock.monotonic() - reached) * 1000)

    def _reminders(self, moved: Mapping[int, Position]) -> dict[int, Position]:
        """Return the positions of partitions that have been silent for a while, with their new freshness."""
        now = self._clock.monotonic()
        silent = {}
        for number, position in self._positions.items():
            if number in moved:
                self._told_at[number] = now
            elif now - self._told_at[number] >= IDLE_POSITION_S:
                self._told_at[number] = now
                as_of_ms = self._as_of_ms(number)
                if as_of_ms > position.as_of_ms:
                    silent[number] = position._replace(as_of_ms=as_of_ms)
        return silent


class _Watch:
    """Asks about once a second where the partitions end, and now and then whether the topic is the same: on a thread of
    its own, since the log may be slow to answer. The maps are replaced whole."""

    def __init__(self, log: Log, topic: str, clock: Clock) -> None:
        self.ends: Mapping[TopicPartition, int] = {}
        self.identity: str | None = None
        self.is_replaced = False
        self._log = log
        self._topic = topic
        self._clock = clock
        self._places: list[TopicPartition] = []
        self._must_stop = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, places: list[TopicPartition]) -> None:
        self._places = places
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="source-watch", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._must_stop.set()
        if self._thread is not None:
            self._thread.join(_WATCH_INTERVAL_S)

    def _run(self) -> None:
        looks = 0
        while not self._must_stop.is_set():
            try:
                self.ends = self._log.end_offsets(self._places, Deadline.after(_ASK_TIMEOUT_S, self._clock))
                looks += 1
                if looks % _IDENTITY_EVERY == 0:
                    info = _describe(self._log, self._topic, self._clock)
                    self.is_replaced = info is not None and self.identity not in (None, info.topic_id)
            except (LogUnavailable, SourceUnavailable) as error:
                logger.debug("source_not_seen", extra={"reason": str(error)})
            self._must_stop.wait(_WATCH_INTERVAL_S)


def change_of(record: Record) -> Change:
    """Return what *record* makes of a profile. Raises PoisonRecord for what the service would quarantine."""
    uid, row = materialise_profile(record, may_be_copy=True)  # a copy may be copied on
    if row is None:
        version, body = _tombstone_version(record.headers), None
    else:
        version, body = version_of(row), body_of(row)
    return Change(record.partition, record.offset, uid.decode(), version, body, record.headers, record.timestamp_ms)


def _tombstone_version(headers: Headers) -> int:
    if len(headers) > _VERSION_AT and headers[_VERSION_AT][0] == _VERSION_HEADER:
        text = headers[_VERSION_AT][1]
    else:
        text = header(headers, _VERSION_HEADER) or b""
    return int(text) if text.isdigit() and len(text) <= _VERSION_DIGITS else 0


def _describe(log: Log, topic: str, clock: Clock) -> TopicInfo | None:
    try:
        return log.describe_topics([topic], Deadline.after(_ASK_TIMEOUT_S, clock)).get(topic)
    except LogUnavailable as error:
        raise SourceUnavailable(str(error)) from error
