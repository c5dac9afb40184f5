"""Runs transactions on a thread of their own, and gives up on it at the deadline.

kafka-python waits without a limit in places (a commit while a broker is down was measured at 26 s). So a thread that is
late is abandoned together with its producer, and the next operation gets a new one; the abandoned thread finds out when
its call returns, and ends. Invariants: at most one operation is under way; each future is done shortly after its
deadline; what was given up before its commit began is never committed.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

from streams.clock import Clock, Deadline
from streams.errors import LogError, LogUnavailable, OutcomeUnknown
from streams.log.kafka.producing import AbandonedError, Ends

#: So many threads may hang in calls that do not return before new work is refused until one of them does.
ABANDONED_LIMIT = 8
_IDLE_S = 3600.0


class Discardable(Protocol):
    """What holds a producer."""

    def discard(self) -> None:
        """Throw the producer away, in the background."""
        ...


P = TypeVar("P", bound=Discardable)


class Operations(Generic[P]):
    """One thread submits; futures are done on the threads that are made here, each with a P of its own."""

    def __init__(self, make_producing: Callable[[], P], *, clock: Clock) -> None:
        self._make_producing = make_producing
        self._clock = clock
        self._state = threading.Condition()
        # All of these are guarded by _state.
        self._worker: _Worker[P] | None = None
        self._current: _Operation[P] | None = None
        self._abandoned: list[_Worker[P]] = []
        self._must_fence = True
        self._is_closed = False
        self._wakes_at = 0.0
        threading.Thread(target=self._watch, name="kafka-writer-watch", daemon=True).start()

    @property
    def must_fence(self) -> bool:
        """Whether what was written before is not known: at first, and after an unknown outcome, until `fenced`."""
        return self._must_fence

    def fenced(self, *, is_known: bool = True) -> None:
        """Say whether what was written before is known now."""
        self._must_fence = not is_known

    def close(self, deadline: Deadline) -> None:
        """See `LogWriter.close`."""
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

    def submit(
        self, run: "Callable[[P, _Operation[P]], Ends]", deadline: Deadline, *, is_append: bool
    ) -> "Future[Ends]":
        """Have *run* done. The future fails with what it raises, and at *deadline* with LogUnavailable, or, if it
        *is_append* and may have been committed, with OutcomeUnknown."""
        operation = _Operation(self, run, deadline, is_append=is_append)
        with self._state:
            if self._is_closed:
                return failed(LogUnavailable("the writer is closed"))
            assert self._current is None, "at most one operation is under way"
            if self._worker is None:
                if self.abandoned_threads >= ABANDONED_LIMIT:
                    return failed(LogUnavailable(f"{ABANDONED_LIMIT} calls to Kafka have not returned yet"))
                self._worker = _Worker(self, self._make_producing)
            self._current = operation
            if deadline.at < self._wakes_at:
                self._state.notify_all()
            self._worker.queue.put(operation)
        return operation.future

    def finished(self, operation: "_Operation[P]", result: Ends | None, error: BaseException | None) -> bool:
        """Called by a worker: hand out the outcome. Return False when *operation* was given up meanwhile: the worker
        must end then, with its producer."""
        with self._state:
            if operation.is_abandoned:
                return False
            if operation.is_append and operation.may_be_committed and _is_bug(error):
                bug, error = error, OutcomeUnknown(f"it may be committed: {type(error).__name__}: {error}")
                error.__cause__ = bug
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

    def enter_commit(self, operation: "_Operation[P]") -> None:
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

    def _abandon(self, operation: "_Operation[P]") -> Exception:
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


class _Operation(Generic[P]):
    """A call under way. `is_abandoned` and `may_be_committed` are guarded by its owner's lock."""

    def __init__(
        self,
        owner: Operations[P],
        run: "Callable[[P, _Operation[P]], Ends]",
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
        self._owner = owner

    def enter_commit(self) -> None:
        self._owner.enter_commit(self)


class _Worker(Generic[P]):
    """A thread with a producer of its own; it ends with its owner, or after an operation that was given up."""

    def __init__(self, owner: Operations[P], make_producing: Callable[[], P]) -> None:
        self.queue: SimpleQueue[_Operation[P] | None] = SimpleQueue()
        self._owner = owner
        self._producing = make_producing()
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
                result = operation.run(self._producing, operation)
            except BaseException as raised:  # noqa: BLE001  # It belongs to whoever waits for the future.
                error = raised
            if not self._owner.finished(operation, result, error):
                break
        self._producing.discard()


def _is_bug(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, LogError)


def failed(error: Exception) -> "Future[Ends]":
    """Return a future that has failed with *error*."""
    future: Future[Ends] = Future()
    future.set_exception(error)
    return future
