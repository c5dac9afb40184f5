"""The node's one writer: the port over `Transactions`, which run on a thread that can be given up.

Invariant: nothing is appended before a fence, nor after an unknown outcome before the next one.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from streams.clock import Clock, Deadline
from streams.errors import Fenced, RecordRefused, RecordTooLarge
from streams.log.base import Look, Ownership
from streams.log.kafka.blame import partitions_of
from streams.log.kafka.operations import Operations, failed
from streams.log.kafka.producing import Ends, Operation, size_bytes
from streams.log.kafka.transactions import Transactions
from streams.records import ProducerRecord


class KafkaWriter(Operations[Transactions]):
    """A `LogWriter`. One thread submits; futures are done on the writer's threads."""

    def __init__(
        self,
        make_transactions: Callable[[], Transactions],
        *,
        names: Sequence[str],
        record_limit: Callable[[str], int],
        look: Callable[[frozenset[int], Deadline], Look],
        clock: Clock,
    ) -> None:
        """*names*: the writer's own topics. *record_limit* returns the largest record of a topic in bytes, as far as it
        is known; *look* does what `LogWriter.look` does, on any thread."""
        super().__init__(make_transactions, clock=clock)
        self._look = look
        self._names = tuple(names)
        self._record_limit = record_limit

    def fence(self, ownership: Ownership, deadline: Deadline) -> "Future[Ends]":
        def run(transactions: Transactions, operation: Operation) -> Ends:
            barrier = transactions.fence(ownership, operation)
            self.fenced()
            return barrier

        self.fenced(is_known=False)
        return self.submit(run, deadline, is_append=False)

    def look(self, partitions: frozenset[int], deadline: Deadline) -> "Future[Look]":
        future: Future[Look] = Future()

        def run() -> None:
            try:
                future.set_result(self._look(partitions, deadline))
            except Exception as error:  # noqa: BLE001  # It belongs to whoever waits for the future.
                future.set_exception(error)

        threading.Thread(target=run, name="kafka-look", daemon=True).start()
        return future

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
            topic, _, key, value, _, _ = record
            limit = limits.get(topic)
            if limit is None:
                limit = limits[topic] = self._record_limit(topic)
            size = size_bytes(record)
            if size > limit:
                why = f"a record of {size} bytes for {topic}, which takes {limit}"
                return failed(RecordTooLarge(why, partitions_of([record], self._names)))
            if key is None and value is None and topic in self._names:
                why = f"a record for {topic} has neither key nor value"
                return failed(RecordRefused(why, partitions_of([record], self._names)))
        if self.must_fence:
            return failed(Fenced("fence first: what earlier writers did is not known yet"))
        return self.submit(
            lambda transactions, operation: transactions.append(group, ownership, positions, operation),
            deadline,
            is_append=True,
        )
