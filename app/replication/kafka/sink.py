"""The sink that is a topic of another Kafka: every record of the source, once, in its order, with its position.

Invariants: partition n of the target holds what partition n of the source held, record by record, in the same order;
the position of a partition is committed in the transaction of the records before it; nothing is sent before the mark
was read that the transactions of earlier writers left behind.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from orjson import JSONDecodeError, dumps, loads

from app.profiles.topics import TopicNames, topic_specs
from app.replication.kafka import inspection
from app.replication.kafka.copying import Copy, Copying, Mark
from app.replication.kafka.origin import copied, headers_of, trail_of
from app.replication.kafka.target import TargetCluster, identity_of_topic
from app.replication.ports import (
    Batch,
    Change,
    Held,
    Position,
    Refused,
    SinkMoved,
    SinkUnavailable,
    SinkUnusable,
    SourceInfo,
    Written,
)
from streams.clock import Backoff, Clock, Deadline
from streams.errors import ConfigError, Fenced, LogError, LogUnavailable, OutcomeUnknown, RecordTooLarge, TopicMismatch
from streams.log.base import TopicInfo, TopicSpec
from streams.log.kafka.operations import Operations
from streams.log.kafka.producing import Ends
from streams.records import TopicPartition

logger = logging.getLogger(__name__)

#: Of each call; a transaction that is open for longer was given up, and is aborted by the broker.
TIMEOUT_S = 20.0
_CLOSE_S = 3.0
#: Who was shut out lately waits longer before it shuts out the other: two that believe in one share take turns slowly.
_CONTENTION_S = 60.0
_OWN_NAMES = ("profiles", "profile-emails", "profile-requests")


class KafkaSink:
    """A `Sink`, and `Inspectable`. One thread uses it."""

    def __init__(self, target: TargetCluster, topic: str, *, clock: Clock) -> None:
        """Connects to nothing. Raises ConfigError for a *topic* that no copy may have."""
        check_name(topic)
        self._target = target
        self._topic = topic
        self._clock = clock
        self._source: SourceInfo | None = None
        self._topic_id = ""
        self._partitions = 0
        self._writers: dict[int, Operations[Copying]] = {}
        self._orders: dict[int, int] = {}  # of the partitions that are taken: the next offset to be copied
        self._must_take: set[int] = set()  # what happened to the last transaction of these is not known
        self._pending: dict[int, Position] = {}  # to be committed with the next records, or by `flush`
        self._contention = Backoff(initial_s=0.2, maximum_s=5.0)
        self._shut_out_at: float | None = None
        self._pause = threading.Event()  # never set: a sleep that the clock of tests need not know

    def ensure(self, source: SourceInfo) -> None:
        deadline = self._deadline()
        try:
            found = self._target.ensure(_spec(self._topic, source), deadline)
        except LogUnavailable as error:
            raise SinkUnavailable(str(error)) from error
        except LogError as error:
            raise SinkUnusable(str(error)) from error
        if identity_of_topic(found.name, found.topic_id, found.partitions) == source.identity:
            raise SinkUnusable(f"the topic {self._topic} would be copied into itself")
        _check_stamps(found)
        self._source = source
        self._topic_id = found.topic_id

    def positions(self, partitions: frozenset[int]) -> Mapping[int, Position]:
        self._wait_when_contended()
        for partition in self._writers.keys() - partitions:
            self._writers.pop(partition).close(self._deadline(_CLOSE_S))
        self._orders.clear()
        self._pending.clear()
        self._must_take.clear()
        found = self._take(partitions)
        logger.info("copy_goes_on", extra={"topic": self._topic, "partitions": sorted(partitions)})
        return found

    def write(self, batch: Batch) -> Written:
        if unknown := batch.positions.keys() - self._orders.keys():
            raise SinkMoved(f"partitions {sorted(unknown)} of the copy are not this replicator's")
        if doubtful := self._must_take & batch.positions.keys():
            self._take(doubtful)
        parts: dict[int, list[Change]] = {partition: [] for partition in batch.positions}
        for change in batch.changes:
            parts[change.partition].append(change)
        work: dict[int, Callable[[], Future[Ends]]] = {}
        copies: dict[int, int] = {}
        for partition, changes in parts.items():
            position = batch.positions[partition]
            records = self._records(changes, self._orders[partition])
            copies[partition] = len(records)
            if records:
                work[partition] = partial(self._submit, partition, records, position)
            elif not self._is_behind(partition, position):
                self._pending[partition] = position
        failures = self._run(work)
        for partition in work.keys() - failures.keys():
            self._pending.pop(partition, None)
            self._orders[partition] = batch.positions[partition].order
        applied = sum(copies[partition] for partition in parts.keys() - failures.keys())
        done = Written(applied, sum(len(parts[one]) for one in parts.keys() - failures.keys()) - applied)
        if failures:
            self._raise(failures, _rest(batch, failures), done)
        return done

    def flush(self) -> None:
        if doubtful := self._must_take & self._pending.keys():
            self._take(doubtful)
        for partition in [one for one, position in self._pending.items() if self._is_behind(one, position)]:
            del self._pending[partition]
        due = dict(self._pending)
        failures = self._run({number: partial(self._submit, number, (), due[number]) for number in due})
        for partition in due.keys() - failures.keys():
            self._orders[partition] = due[partition].order
            del self._pending[partition]
        for partition, error in list(failures.items()):
            if isinstance(error, Fenced):  # Whoever has it now knows how far it is; nothing of ours is missing.
                self._shut_out_at = self._clock.monotonic()
                del self._orders[partition], self._pending[partition], failures[partition]
        if failures:
            self._raise(failures, None, Written())

    def attach(self, source: SourceInfo | None = None) -> None:
        try:
            found = self._target.describe(self._topic, self._deadline())
            if found is None:
                raise SinkUnusable(f"there is no topic {self._topic}: nothing was copied there yet")
            self._partitions, self._topic_id = found.partitions, found.topic_id
            if source is not None:
                self._source = source
                for number, mark in self._target.marks(self._topic, range(found.partitions), self._deadline()).items():
                    self._position(number, mark)
        except LogUnavailable as error:
            raise SinkUnavailable(str(error)) from error

    def scan(self) -> Iterator[Held]:
        try:
            yield from inspection.scan(self._target, self._topic, self._partitions, self._clock)
        except LogError as error:
            raise SinkUnavailable(str(error)) from error

    def look_up(self, uids: Sequence[str]) -> Mapping[str, Held]:
        try:
            return inspection.look_up(self._target, self._topic, self._partitions, uids, self._clock)
        except LogError as error:
            raise SinkUnavailable(str(error)) from error

    def refused(self, _limit: int) -> list[Refused]:
        return []  # What cannot be copied stops the copy: it is exact, or it is not called one.

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close(self._deadline(_CLOSE_S))
        self._writers.clear()
        self._target.close()

    def _is_behind(self, partition: int, position: Position) -> bool:
        """Whether the copy has gone on beyond *position*, by another's hand: to commit it now would take the copy's own
        position back, and whoever goes on from there would write everything since then once more."""
        return position.order < self._orders[partition]

    def _records(self, changes: Sequence[Change], start: int) -> list[Copy]:
        """Return what has to be written of *changes*: from the offset *start* on, and nothing that has come from the
        target's own cluster."""
        assert self._source is not None
        now_ms = self._clock.time_ms()
        records = []
        for change in changes:
            if change.offset < start or self._has_been_there(trail_of(change.headers)):
                continue
            headers = copied(headers_of(change, now_ms), self._source.identity)
            records.append(Copy(change.uid.encode(), change.body, headers, change.timestamp_ms or None))
        return records

    def _has_been_there(self, trail: Collection[str]) -> bool:
        try:
            return bool(trail) and any(self._target.has_topic(topic_id, self._deadline()) for topic_id in trail)
        except LogUnavailable as error:
            raise SinkUnavailable(str(error)) from error

    def _take(self, partitions: Collection[int]) -> dict[int, Position]:
        """Shut out earlier writers of *partitions*, and only then read what they have left. Raises SinkUnavailable,
        SinkUnusable."""
        failures = self._run({partition: partial(self._submit_take, partition) for partition in partitions})
        if failures:
            self._raise(failures, None, Written())
        try:
            marks = self._target.marks(self._topic, partitions, self._deadline())
            begun = {number: self._position(number, mark) for number, mark in marks.items()}
            self._check_empty(set(partitions) - begun.keys())
        except LogUnavailable as error:
            raise SinkUnavailable(str(error)) from error
        for partition in partitions:
            self._orders[partition] = begun[partition].order if partition in begun else 0
        self._must_take.difference_update(partitions)
        return begun

    def _check_empty(self, partitions: set[int]) -> None:
        """Refuse to begin a copy where there is something already: it would be there twice."""
        for partition in sorted(partitions):
            if self._target.holds_records(TopicPartition(self._topic, partition), self._deadline()):
                raise SinkUnusable(
                    f"{self._topic}-{partition} holds records, but no position of this replicator: it was filled by "
                    f"somebody else, under another --name, or more than offsets.retention.minutes ago; "
                    f"choose another topic, or delete this one to begin anew"
                )

    def _position(self, partition: int, mark: Mark) -> Position:
        assert self._source is not None
        try:
            kept = loads(mark.metadata)
            source, topic_id, token, as_of_ms = kept["source"], kept["topic"], kept["token"], kept["as_of_ms"]
        except (JSONDecodeError, KeyError, TypeError):
            raise SinkUnusable(
                f"the offset of {self._topic}-{partition} was committed by another program in the group "
                f"{self._target.group}; choose another --name"
            ) from None
        if (source, topic_id) != (self._source.identity, self._topic_id):
            raise SinkUnusable(
                f"{self._topic}-{partition} is a copy of another log (its topic was deleted and made anew, or the "
                f"settings name another one); copy into another topic, or delete this one to begin anew"
            )
        return Position(mark.order, token, as_of_ms)

    def _submit_take(self, partition: int) -> "Future[Ends]":
        writer = self._writers.get(partition)
        if writer is None:
            writer = self._writers[partition] = self._target.open_writer(TopicPartition(self._topic, partition))
        return writer.submit(Copying.take, self._deadline(), is_append=False)

    def _submit(self, partition: int, records: Sequence[Copy], position: Position) -> "Future[Ends]":
        assert self._source is not None
        assert not self._is_behind(partition, position), "a position never goes back"
        kept = {
            "source": self._source.identity,
            "topic": self._topic_id,
            "token": position.token,
            "as_of_ms": position.as_of_ms,
        }
        mark = Mark(position.order, dumps(kept).decode())
        return self._writers[partition].submit(
            lambda copying, operation: copying.copy(records, mark, operation), self._deadline(), is_append=True
        )

    def _run(self, work: Mapping[int, Callable[[], "Future[Ends]"]]) -> dict[int, LogError]:
        """Do *work* for all partitions at once; return what failed."""
        futures = {partition: submit() for partition, submit in work.items()}
        failures: dict[int, LogError] = {}
        for partition, future in futures.items():
            try:
                future.result()
            except LogError as error:
                failures[partition] = error
                self._must_take.add(partition)
        return failures

    def _raise(self, failures: Mapping[int, LogError], rest: Batch | None, done: Written) -> None:
        """Raise what *failures* come to; what only passes counts last."""
        for partition, error in failures.items():
            if isinstance(error, RecordTooLarge | TopicMismatch):
                raise SinkUnusable(
                    f"{self._topic}-{partition} does not take a record: {error}; give the topic the max.message.bytes "
                    f"of the source"
                ) from error
        for partition, error in failures.items():
            if isinstance(error, Fenced):
                self._shut_out_at = self._clock.monotonic()
                raise SinkMoved(f"another replicator of this name copies {self._topic}-{partition} now") from error
        partition, error = next(iter(failures.items()))
        what = "what became of a transaction is not known" if isinstance(error, OutcomeUnknown) else "not written"
        raise SinkUnavailable(f"{self._topic}-{partition}: {what}: {error}", rest=rest, done=done) from error

    def _wait_when_contended(self) -> None:
        if self._shut_out_at is None:
            return
        if self._clock.monotonic() - self._shut_out_at > _CONTENTION_S:
            self._contention.reset()
        self._shut_out_at = None
        self._pause.wait(self._contention.next_s())

    def _deadline(self, seconds: float = TIMEOUT_S) -> Deadline:
        return Deadline.after(seconds, self._clock)


def check_name(topic: str) -> None:
    """Raise ConfigError for a name that a service could take for a topic of its own: whoever runs one there would
    give an e-mail of the copy to somebody else."""
    for name in _OWN_NAMES:
        if topic.endswith(name):
            raise ConfigError(
                f"a copy must not be named {topic}: a service with PROFILES_TOPIC_PREFIX={topic.removesuffix(name)!r} "
                f"would write to it; choose a name such as {topic}-copy"
            )


def _spec(topic: str, source: SourceInfo) -> TopicSpec:
    """Return what the copy must be: as the service's own topics, with tombstones that stay no less than the source's,
    whose horizon is three quarters of that."""
    usual, *_ = topic_specs(
        TopicNames.prefixed(""),
        partitions=source.partitions,
        default_partitions=source.partitions,
        replication_factor=None,
        idempotency_ttl_ms=0,
    )
    config = {**usual.config, "message.timestamp.type": "CreateTime"}
    if source.horizon_ms is not None:
        config["delete.retention.ms"] = str(max(int(config["delete.retention.ms"]), source.horizon_ms * 4 // 3))
    return TopicSpec(name=topic, config=config, partitions=source.partitions, default_partitions=source.partitions)


def _check_stamps(found: TopicInfo) -> None:
    if found.config.get("message.timestamp.type", "CreateTime") != "CreateTime":
        raise SinkUnusable(f"the topic {found.name} has message.timestamp.type=LogAppendTime: a copy keeps its times")


def _rest(batch: Batch, failures: Collection[int]) -> Batch:
    return Batch(
        [change for change in batch.changes if change.partition in failures],
        {partition: position for partition, position in batch.positions.items() if partition in failures},
    )
