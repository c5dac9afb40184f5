"""One transactional producer, whatever it is for: opening it, one transaction after the other, throwing it away.

Everything here blocks, some of it without a limit of kafka-python's: `operations.py` runs it on a thread that it can
abandon. Invariant: a transaction is committed only by an operation that nobody has given up yet, and what is reported
as not appended can never be committed later.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from kafka import KafkaProducer
from kafka import TopicPartition as KafkaTopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient

from streams.clock import Clock, Deadline
from streams.errors import LogError, LogUnavailable, OutcomeUnknown, PartitionsUnavailable
from streams.log.kafka.blame import (
    GENERATION_REFUSED,
    PRODUCER_FENCED,
    are_acknowledged,
    is_bug,
    not_acknowledged,
    not_appended,
    partitions_of,
    root_cause,
    wait,
)
from streams.log.kafka.clients import close_producer, open_client
from streams.log.kafka.identities import TransactionalIds
from streams.log.kafka.settings import KafkaSettings, producer_config
from streams.log.kafka.topics import Topics
from streams.records import ProducerRecord, TopicPartition

logger = logging.getLogger(__name__)

#: Offset, timestamp, lengths and attributes of a record, and the frame of the batch around it: never more than this.
_RECORD_OVERHEAD_BYTES = 128
_HEADER_OVERHEAD_BYTES = 10
_UNKNOWN_OFFSET = -1

#: Of an append's time: how long leaders may take to take its records, while others have, and while nobody has. Those
#: that are there need milliseconds. What is given up too early has to be done again, which a slow Kafka needs least.
_PATIENCE_SHARES = (0.5, 0.8)
_INIT_SHARE = 0.6  # of the time left that an id may take to be free, before it counts as stuck
_REFRESH_S = 0.5

Ends = Mapping[TopicPartition, int]


class AbandonedError(Exception):
    """The operation was given up by the thread that waited for it: stop, and commit nothing."""


class Operation(Protocol):
    """What is under way, seen from the thread that does it."""

    @property
    def deadline(self) -> Deadline: ...

    def enter_commit(self) -> None:
        """From here on it may be committed. Raises AbandonedError when it was given up."""
        ...


class Producing:
    """Used by one thread. Has a producer from `open` on, and a new one after each error that may have left the old one
    unusable."""

    def __init__(
        self,
        settings: KafkaSettings,
        names: Sequence[str],
        *,
        topics: Topics,
        clock: Clock,
        ids: TransactionalIds | None = None,
    ) -> None:
        """*names*: the topics that are written. *ids*: to change the transactional id when one is stuck."""
        self._settings = settings
        self._names = names
        self._topics = topics
        self._clock = clock
        self._ids = ids
        self._id = settings.transactional_id  # of the producer
        self._known: set[str] = set()  # topics that the producer was told of
        self._network: _Network | None = None
        self._producer: KafkaProducer | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a producer already."""
        return self._producer is not None

    def open(self, deadline: Deadline) -> None:
        """Have a producer that has left nothing undecided: one that did was thrown away. A new one shuts out whoever
        had its transactional id, and aborts what that one left open. Raises LogUnavailable."""
        self._opened(deadline)

    def transact(
        self,
        send: Callable[[KafkaProducer, Callable[[Any], None]], None],
        send_offsets: Callable[[KafkaProducer], None],
        operation: Operation,
        *,
        generation: int,
    ) -> Ends:
        """Commit what *send* sends (it hands each future on) and the offsets that *send_offsets* adds, in one
        transaction; return the offset after the last record of each partition. *generation* is for messages.

        Raises AbandonedError, OutcomeUnknown, another LogError, or, as it is, what *send* raised and is none of Kafka's
        errors: then certainly nothing was appended.
        """
        producer, network = self._opened(operation.deadline)
        failures_before = network.failures
        sent: list[Any] = []
        is_packed = False
        try:
            producer.begin_transaction()
            send(producer, sent.append)
            is_packed = True
            send_offsets(producer)
            ends = self._wait_for(sent, operation.deadline)
            operation.enter_commit()
        except AbandonedError:
            raise
        except _SilentError as error:
            # An abort would wait for them, and so would the next transaction under this id.
            self.discard()
            self._leave_id()
            silent = sorted({str(place) for place in error.places})
            blamed = partitions_of(error.places, self._names)
            raise PartitionsUnavailable(f"no leader has taken records of {silent}", blamed) from error
        except Exception as error:  # noqa: BLE001  # Whatever it is: nothing was committed, and nothing will be.
            cause = root_cause(error, sent)
            self._abort(is_reusable=isinstance(cause, GENERATION_REFUSED) and are_acknowledged(sent))
            if not is_packed and is_bug(cause):
                raise cause from None
            raise not_appended(cause, generation, sent, self._names) from cause
        failures_in_commit = network.failures
        try:
            producer.commit_transaction()
        except Exception as error:
            self.discard()
            if isinstance(error, PRODUCER_FENCED) and network.failures == failures_in_commit:
                raise not_appended(
                    error, generation, (), self._names
                ) from error  # The first answer to the only request.
            raise OutcomeUnknown(f"the commit was not confirmed: {type(error).__name__}: {error}") from error
        if network.failures != failures_before:
            # A request was sent twice. Its first copy may still be on its way to the broker, where it would decide
            # the *next* transaction of this producer (KAFKA-17754); a new producer has a new epoch.
            self.discard()
        return self._without_gaps(ends, operation.deadline)

    def require_leaders(self, places: Collection[TopicPartition], deadline: Deadline) -> None:
        """Raise PartitionsUnavailable when nobody leads one of *places*, before anything is begun: a transaction with
        it could neither be committed nor aborted. Raises LogUnavailable."""
        producer, network = self._opened(deadline)
        for topic in {place.topic for place in places}.difference(self._known):
            self._learn(producer, topic)
        leaderless = network.leaderless(places)
        if leaderless:
            network.refresh(min(_REFRESH_S, deadline.remaining_s(self._clock)))
            leaderless = network.leaderless(places)
        if leaderless:
            names = [str(place) for place in leaderless]
            raise PartitionsUnavailable(f"nobody leads {names}", partitions_of(leaderless, self._names))

    def _learn(self, producer: KafkaProducer, topic: str) -> None:
        """Get to know *topic*, which is none of ours. Raises LogUnavailable: it does not exist, or nobody says."""
        try:
            producer.partitions_for(topic)
        except KafkaError as error:
            raise LogUnavailable(f"topic {topic} is not known: {type(error).__name__}: {error}") from error
        self._known.add(topic)

    def commit_offsets(self, send_offsets: Callable[[KafkaProducer], None], operation: Operation) -> None:
        """Commit offsets and nothing else. Raises KafkaError, AbandonedError, LogUnavailable: the caller discards."""
        producer, network = self._opened(operation.deadline)
        failures_before = network.failures
        producer.begin_transaction()
        send_offsets(producer)
        operation.enter_commit()
        producer.commit_transaction()
        if network.failures != failures_before:
            self.discard()  # For the reason given in `transact`.

    def discard(self) -> None:
        """Throw the producer away, in the background: closing it may take a second."""
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer)

    def _opened(self, deadline: Deadline) -> tuple[KafkaProducer, "_Network"]:
        if self._producer is None:
            try:
                self._open(deadline)
            except KafkaError as error:
                self.discard()
                raise LogUnavailable(f"Kafka gives no producer: {type(error).__name__}: {error}") from error
        assert self._network is not None
        return self._producer, self._network

    def _open(self, deadline: Deadline) -> None:
        left_ms = max(1, round(deadline.remaining_s(self._clock) * 1000))
        config = producer_config(self._settings)
        config["bootstrap_timeout_ms"] = min(left_ms, config["bootstrap_timeout_ms"])
        if self._ids is not None:
            self._id = config["transactional_id"] = self._ids.current
            config["max_block_ms"] = max(1, min(round(left_ms * _INIT_SHARE), config["max_block_ms"]))
        made: list[_Network] = []

        def network(**configs: Any) -> _Network:
            made.append(_Network(**configs))
            # In the first answer already: asked for later, each topic takes another tenth of a second, since
            # kafka-python asks for metadata no more often, and no write is taken meanwhile.
            made[-1].cluster.set_topics(self._names)
            return made[-1]

        self._producer = producer = open_client(KafkaProducer, config, network)
        self._network = made[0]
        try:
            producer.init_transactions()
        except KafkaTimeoutError:
            if self._ids is not None:
                self._ids.doubt(self._id)
            raise
        if self._ids is not None:
            self._ids.given()
        for name in self._names:  # They are known, unless an answer was lost; the first append would wait for them.
            producer.partitions_for(name)
        self._known = set(self._names)

    def _leave_id(self) -> None:
        if self._ids is not None:
            self._ids.leave(self._id)

    def _wait_for(self, sent: Sequence[Any], deadline: Deadline) -> Ends:
        """Return the offset after the last record of each partition once all are acknowledged.

        Before the commit and not after it: kafka-python commits a transaction although a record of it failed in some
        ways (a time-out of its delivery). Raises _SilentError when some are not in time: those that wait with them
        should not have to.
        """
        ends: dict[TopicPartition, int] = {}
        left_s = deadline.remaining_s(self._clock)
        for share in _PATIENCE_SHARES:
            patience = Deadline.after(left_s * share - (left_s - deadline.remaining_s(self._clock)), self._clock)
            for future in sent:
                if not future.is_done:
                    wait(future, patience.remaining_s(self._clock))
            if any(future.succeeded() for future in sent):
                break
        for future in sent:
            try:
                metadata = future.get(timeout=0)
            except KafkaTimeoutError as error:
                raise _SilentError(not_acknowledged(sent)) from error
            partition = TopicPartition(metadata.topic, metadata.partition)
            if metadata.offset < 0:
                ends[partition] = _UNKNOWN_OFFSET
            elif ends.get(partition, 0) != _UNKNOWN_OFFSET:
                ends[partition] = max(metadata.offset + 1, ends.get(partition, 0))
        return ends

    def _without_gaps(self, ends: Ends, deadline: Deadline) -> Ends:
        """Fill in what a broker did not say: a retried batch can be acknowledged without its offset."""
        unknown = [partition for partition, end in ends.items() if end == _UNKNOWN_OFFSET]
        if not unknown:
            return ends
        try:
            return {**ends, **self._topics.high_watermarks(unknown, deadline)}
        except LogError as error:
            raise OutcomeUnknown("it was committed, but the broker does not say where") from error

    def _abort(self, *, is_reusable: bool) -> None:
        """Abort the transaction, so that it holds back no reader, and throw the producer away unless *is_reusable*.

        kafka-python could go on with it according to its documentation, but after a record was refused it does not
        take back the sequence numbers: each later transaction would fail with OutOfOrderSequenceNumberError. When all
        records were taken and the group refused the offsets alone, as in each rebalance, it does go on.
        """
        producer, network = self._producer, self._network
        if producer is not None and network is not None:
            failures_before = network.failures
            try:
                producer.abort_transaction()
            except Exception as error:  # noqa: BLE001  # Fenced or out of reach: a new producer aborts what is open.
                logger.debug("kafka_abort_failed", extra={"reason": type(error).__name__})
                is_reusable = False
            is_reusable = is_reusable and network.failures == failures_before  # As after a commit, see `transact`.
        if not is_reusable:
            self.discard()


class _SilentError(Exception):
    """The leaders of *places* have not taken their records in time."""

    def __init__(self, places: Collection[TopicPartition]) -> None:
        super().__init__("records were not acknowledged in time")
        self.places = places


class _Network(KafkaNetClient):  # type: ignore[misc]  # kafka-python ships no types
    """The producer's connections (`kafka_client`), which count the requests that got no answer."""

    failures = 0

    def send(self, node_id: int, request: Any, **options: Any) -> Any:
        future = super().send(node_id, request, **options)
        future.add_errback(self._count)
        return future

    def _count(self, _: BaseException) -> None:
        self.failures += 1

    def leaderless(self, places: Collection[TopicPartition]) -> list[TopicPartition]:
        """Return those of *places* that nobody leads, as far as this client knows."""
        leader = self.cluster.leader_for_partition
        return [place for place in places if leader(KafkaTopicPartition(*place)) in (None, -1)]

    def refresh(self, timeout_s: float) -> None:
        """Learn anew who leads what, in so much time."""
        is_done = threading.Event()
        self.cluster.request_update().add_both(lambda _: is_done.set())
        is_done.wait(timeout_s)


def size_bytes(record: ProducerRecord) -> int:
    """Return at most how many bytes *record* takes in a batch of its own."""
    _, _, key, content, headers, _ = record
    size = _RECORD_OVERHEAD_BYTES + len(key or b"") + len(content or b"")
    for name, value in headers:
        size += _HEADER_OVERHEAD_BYTES + len(name) + len(value)
    return size
