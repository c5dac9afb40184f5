"""The node's one writer: runs transactions on a thread of its own, and gives up on it at the deadline.

kafka-python waits without a limit in places (a commit while a broker is down was measured at 26 s). So a thread that is
late is abandoned together with its producer, and the next operation gets a new one; the abandoned thread finds out when
its call returns, and ends. Invariants: at most one operation is under way; each future is done shortly after its
deadline; what was given up before its commit began is never committed.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue

from streams.clock import Clock, Deadline
from streams.errors import Fenced, LogUnavailable, OutcomeUnknown, RecordTooLarge
from streams.log.base import Ownership
from streams.log.kafka.transactions import AbandonedError, Transactions, size_bytes
from streams.records import ProducerRecord, TopicPartition

Ends = Mapping[TopicPartition, int]

#: So many threads may hang in calls that do not return before new work is refused until one of them does.
ABANDONED_LIMIT = 8
_IDLE_S = 3600.0


class KafkaWriter:
    """A `LogWriter`. One thread submits; futures are done on the writer's threads."""

    def __init__(
        self, make_transactions: Callable[[], Transactions], *, record_limit: Callable[[str], int], clock: Clock
    ) -> None:
        """*record_limit* returns the largest record of a topic in bytes, as far as it is known."""
        self._make_transactions = make_transactions
        self._record_limit = record_limit
        self._clock = clock
        self._state = threading.Condition()
        # All of these are guarded by _state.
        self._worker: _Worker | None = None
        self._current: _Operation | None = None
        self._abandoned: list[_Worker] = []
        self._must_fence = True
        self._is_closed = False
        self._wakes_at = 0.0
        threading.Thread(target=self._watch, name="kafka-writer-watch", daemon=True).start()

    def fence(self, ownership: Ownership, deadline: Deadline) -> "Future[Ends]":
        def run(transactions: Transactions, operation: _Operation) -> Ends:
            barrier = transactions.fence(ownership, operation)
            self._must_fence = False
            return barrier

        self._must_fence = True
        return self._submit(run, deadline, is_append=False)

    def append(
        self,
        group: Sequence[ProducerRecord],
        *,
        ownership: Ownership,
        positions: Mapping[int, int],
        deadline: Deadline,
    ) -> "Future[Ends]":
        limits: dict[str, int] = {}
        for record in group:
            limit = limits.get(record.topic)
            if limit is None:
                limit = limits[record.topic] = self._record_limit(record.topic)
            size = size_bytes(record)
            if size > limit:
                return _failed(RecordTooLarge(f"a record of {size} bytes for {record.topic}, which takes {limit}"))
        if self._must_fence:
            return _failed(Fenced("fence first: what earlier writers did is not known yet"))
        return self._submit(
            lambda transactions, operation: transactions.append(group, ownership, positions, operation),
            deadline,
            is_append=True,
        )

    def close(self, deadline: Deadline) -> None:
        with self._state:
            self._is_closed = True
            self._state.wait_for(lambda: self._current is None, deadline.remaining_s(self._clock))
            operation, worker = self._current, self._worker
            self._worker = None
            error = self._abandon(operation) if operation is not None else None
            self._state.notify_all()
        if worker is not None:
            worker.stop()
        if operation is not None and error is not None:
            operation.future.set_exception(error)

    @property
    def abandoned_threads(self) -> int:
        """How many threads still hang in a call that was given up. Any thread."""
        with self._state:
            self._abandoned = [worker for worker in self._abandoned if worker.is_alive()]
            return len(self._abandoned)

    def _submit(
        self, run: "Callable[[Transactions, _Operation], Ends]", deadline: Deadline, *, is_append: bool
    ) -> "Future[Ends]":
        operation = _Operation(self, run, deadline, is_append=is_append)
        with self._state:
            if self._is_closed:
                return _failed(LogUnavailable("the writer is closed"))
            assert self._current is None, "at most one operation is under way"
            if self._worker is None:
                if self.abandoned_threads >= ABANDONED_LIMIT:
                    return _failed(LogUnavailable(f"{ABANDONED_LIMIT} calls to Kafka have not returned yet"))
                self._worker = _Worker(self, self._make_transactions)
            self._current = operation
            if deadline.at < self._wakes_at:
                self._state.notify_all()
            self._worker.queue.put(operation)
        return operation.future

    def finished(self, operation: "_Operation", result: Ends | None, error: BaseException | None) -> bool:
        """Called by a worker: hand out the outcome. Return False when *operation* was given up meanwhile: the worker
        must end then, with its producer."""
        with self._state:
            if operation.is_abandoned:
                return False
            if isinstance(error, OutcomeUnknown):
                self._must_fence = True
            self._current = None
            if self._is_closed:
                self._state.notify_all()
        if error is not None:
            operation.future.set_exception(error)
        else:
            assert result is not None
            operation.future.set_result(result)
        return True

    def enter_commit(self, operation: "_Operation") -> None:
        """Called by a worker before the one request that decides."""
        with self._state:
            if operation.is_abandoned:
                raise AbandonedError
            operation.may_be_committed = True

    def _watch(self) -> None:
        """Give up operations at their deadline, on a thread of its own."""
        while True:
            with self._state:
                if self._is_closed and self._current is None:
                    return
                now = self._clock.monotonic()
                operation = self._current
                error = None
                if operation is None or operation.deadline.at > now:
                    wait_s = _IDLE_S if operation is None else operation.deadline.at - now
                    self._wakes_at = now + wait_s
                    self._state.wait(wait_s)
                    self._wakes_at = 0.0
                else:
                    error = self._abandon(operation)
            if operation is not None and error is not None:
                operation.future.set_exception(error)

    def _abandon(self, operation: "_Operation") -> Exception:
        """Give *operation* up, with its thread. The caller holds the lock, and reports the error that is returned."""
        operation.is_abandoned = True
        self._current = None
        if self._worker is not None:
            self._abandoned.append(self._worker)
            self._worker = None
        if operation.is_append and operation.may_be_committed:
            self._must_fence = True
            return OutcomeUnknown("the commit was not confirmed before the deadline")
        return LogUnavailable(
            "Kafka did not take the records in time" if operation.is_append else "fencing took too long"
        )


class _Operation:
    """A call under way. `is_abandoned` and `may_be_committed` are guarded by the writer's lock."""

    def __init__(
        self,
        writer: KafkaWriter,
        run: "Callable[[Transactions, _Operation], Ends]",
        deadline: Deadline,
        *,
        is_append: bool,
    ) -> None:
        self.future: Future[Ends] = Future()
        self.run = run
        self.deadline = deadline
        self.is_append = is_append
        self.is_abandoned = False
        self.may_be_committed = False
        self._writer = writer

    def enter_commit(self) -> None:
        self._writer.enter_commit(self)


class _Worker:
    """A thread with a producer of its own; it ends with its writer, or after an operation that was given up."""

    def __init__(self, writer: KafkaWriter, make_transactions: Callable[[], Transactions]) -> None:
        self.queue: SimpleQueue[_Operation | None] = SimpleQueue()
        self._writer = writer
        self._transactions = make_transactions()
        self._thread = threading.Thread(target=self._run, name="kafka-writer", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """End after what is queued."""
        self.queue.put(None)

    def _run(self) -> None:
        while (operation := self.queue.get()) is not None:
            result, error = None, None
            try:
                result = operation.run(self._transactions, operation)
            except BaseException as raised:  # noqa: BLE001  # It belongs to whoever waits for the future.
                error = raised
            if not self._writer.finished(operation, result, error):
                break
        self._transactions.discard()


def _failed(error: Exception) -> "Future[Ends]":
    future: Future[Ends] = Future()
    future.set_exception(error)
    return future
