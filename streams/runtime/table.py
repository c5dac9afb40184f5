"""The queue in front of the fenced table: commands wait here, within a bound and within their deadlines.

`FencedTable` never touches the log or a store; `streams.runtime.section` takes commands from it and decides them.
Invariant: every command that was accepted gets exactly one outcome, at the latest a little after its deadline.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from streams.clock import Clock, Deadline
from streams.errors import Draining, NotWritten, Overloaded, Unavailable
from streams.runtime.commands import Command, Outcome, Refused, Unknown


class Receiver(Protocol):
    """Who gets outcomes. Called on the stream thread with all that came due together; must not block."""

    def deliver(self, outcomes: list[tuple[Any, Outcome]]) -> None:
        """Take (token, outcome) pairs, where *token* is what `submit` was given."""
        ...


class Pending:
    """A command that waits for its outcome. `is_answered` is set once; the stream thread owns it after `submit`."""

    __slots__ = ("command", "deadline_at", "is_answered", "receiver", "token")

    def __init__(self, command: Command, deadline_at: float, receiver: Receiver, token: Any) -> None:
        self.command = command
        self.deadline_at = deadline_at
        self.receiver = receiver
        self.token = token
        self.is_answered = False


class FencedTable:
    """Where writes enter: any thread submits, the stream thread drains."""

    def __init__(self, *, clock: Clock, max_queued: int, wakeup: Callable[[], None]) -> None:
        """*max_queued* bounds the commands that wait; *wakeup* rouses the stream thread."""
        self._clock = clock
        self._max_queued = max_queued
        self._wakeup = wakeup
        self._queue: deque[Pending] = deque()
        self._parked: deque[Pending] = deque()  # the stream thread's
        self._outcomes: dict[int, tuple[Receiver, list[tuple[Any, Outcome]]]] = {}
        self._is_draining = False
        #: Set by the stream thread before it looks at the queue for the last time and then sleeps. `submit` looks at it
        #: after queueing, so one of the two always sees the other (the interpreter orders both for all threads).
        self.is_consumer_waiting = False

    def submit(self, command: Command, deadline: Deadline, receiver: Receiver, token: Any) -> None:
        """Queue *command* and rouse the stream thread; *receiver* gets its outcome with *token*. Any thread. Raises
        Overloaded when the queue is full and Draining when the node stops: nothing was begun then."""
        self.enqueue(command, deadline, receiver, token)
        self.rouse()

    def enqueue(self, command: Command, deadline: Deadline, receiver: Receiver, token: Any) -> None:
        """As `submit`, but without rousing: for a caller who has more to queue, and calls `rouse` when he has done."""
        if self._is_draining:
            raise Draining("this node is stopping", retry_after_s=2.0)
        queue = self._queue
        if len(queue) + len(self._parked) >= self._max_queued:
            raise Overloaded(f"{self._max_queued} commands wait already")
        queue.append(Pending(command, deadline.at, receiver, token))

    def rouse(self) -> None:
        """Wake the stream thread if it sleeps. Any thread."""
        if self.is_consumer_waiting:
            self._wakeup()

    def execute(self, command: Command, deadline: Deadline) -> Outcome:
        """Submit and wait for the outcome. Not for an event loop, nor for the stream thread itself."""
        waiter = _BlockingReceiver()
        self.submit(command, deadline, waiter, None)
        return waiter.wait(deadline.remaining_s(self._clock) + 1.0) or Unknown(command.event_id)

    @property
    def queued(self) -> int:
        """How many commands wait to be looked at. Any thread."""
        return len(self._queue)

    @property
    def waiting(self) -> int:
        """How many commands wait to be begun, those included that wait for their partition. Any thread."""
        return len(self._queue) + len(self._parked)

    def start_draining(self) -> None:
        """Refuse new commands from now on; those accepted are still answered. Any thread."""
        self._is_draining = True

    # What follows belongs to the stream thread.

    def take(self, limit: int) -> list[Pending]:
        """Remove and return up to *limit* commands in order of arrival, answering those whose deadline has passed."""
        now = self._clock.monotonic()
        taken: list[Pending] = []
        queue = self._queue
        while queue and len(taken) < limit:
            pending = queue.popleft()
            if pending.deadline_at <= now:
                self.answer(pending, Refused(NotWritten("its deadline passed before it was begun")))
            elif not pending.is_answered:
                taken.append(pending)
        return taken

    def give_back(self, pendings: Iterable[Pending]) -> None:
        """Put commands back at the head of the queue, in their order: they will be decided again."""
        self._queue.extendleft(reversed([pending for pending in pendings if not pending.is_answered]))

    def park(self, pending: Pending) -> None:
        """Keep *pending* out of the queue, since its partition cannot be written yet."""
        self._parked.append(pending)

    def unpark(self) -> None:
        """Put all that is parked back at the head of the queue, in its order: to be looked at again."""
        if self._parked:
            parked, self._parked = self._parked, deque()
            self._queue.extendleft(reversed(parked))

    def expire_queued(self, why: Callable[[Command], Unavailable | None]) -> None:
        """Answer queued commands whose deadline has passed, with the reason that *why* gives or else NotWritten."""
        now = self._clock.monotonic()
        for queue in (self._queue, self._parked):
            if not any(pending.deadline_at <= now for pending in tuple(queue)):
                continue
            for _ in range(len(queue)):
                pending = queue.popleft()
                if pending.deadline_at <= now:
                    error = why(pending.command) or NotWritten("its deadline passed before it was begun")
                    self.answer(pending, Refused(error))
                else:
                    queue.append(pending)

    def answer(self, pending: Pending, outcome: Outcome) -> None:
        """Note the outcome; it goes out with the next `flush`. A second answer to the same command is dropped: its
        first one was Unknown, given at its deadline, and what happened later does not make that wrong."""
        if pending.is_answered:
            return
        pending.is_answered = True
        receiver = pending.receiver
        entry = self._outcomes.get(id(receiver))
        if entry is None:
            self._outcomes[id(receiver)] = (receiver, [(pending.token, outcome)])
        else:
            entry[1].append((pending.token, outcome))

    def answer_unknown(self, pendings: Iterable[Pending]) -> None:
        """Answer commands that were begun, and of which nobody can say yet what becomes of them."""
        for pending in pendings:
            self.answer(pending, Unknown(pending.command.event_id))

    def flush(self) -> None:
        """Hand all noted outcomes to their receivers."""
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, {}
            for receiver, items in outcomes.values():
                receiver.deliver(items)


class _BlockingReceiver:
    """Hands one outcome to the thread that waits for it."""

    def __init__(self) -> None:
        self._outcome: Outcome | None = None
        self._is_there = threading.Event()

    def deliver(self, outcomes: list[tuple[Any, Outcome]]) -> None:
        self._outcome = outcomes[0][1]
        self._is_there.set()

    def wait(self, timeout_s: float) -> Outcome | None:
        self._is_there.wait(timeout_s)
        return self._outcome
