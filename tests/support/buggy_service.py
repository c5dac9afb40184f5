"""The service with a bug: `python -m tests.support.buggy_service BUG[,FAULT]` patches classes, then runs the product.

Each bug is one that a service of this kind could have. The tests must find every one of them, or they prove nothing of
the service without it. FAULTS are not bugs: circumstances that a right service copes with and some bugs need to show.
Nothing of this is known to the product.
"""

import math
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import app.profiles.commands
import app.profiles.idempotency
from app.cli.main import main
from app.profiles.claims import Ask, Claims, Moved
from app.profiles.results import EmailTaken
from app.profiles.rows import ClaimRow
from app.profiles.service import ProfileService
from app.profiles.topics import PROFILE_STORE, REQUEST_STORE, SEARCH_STORE
from streams.clock import Deadline
from streams.errors import NotWritten
from streams.log.base import Ownership, OwnershipListener
from streams.log.kafka.membership import KafkaMembership
from streams.log.kafka.transactions import Transactions
from streams.log.local.writer import LocalWriter
from streams.records import ProducerRecord, RecordBatch, TopicPartition
from streams.runtime.asyncio_table import AsyncTable
from streams.runtime.commands import Command, Decided, Outcome, Refused, Unknown, View
from streams.runtime.group import Flights, Group, GroupView
from streams.runtime.section import WriteSection
from streams.runtime.task import StreamTask
from streams.stores.rocksdb import RocksBatch, RocksTaskStore
from tests.support.cluster_bugs import CLUSTER_BUGS

_SLOW_APPEND_S = 0.8  # longer than a request of the test may take, with its grace


def acknowledge_before_apply() -> None:
    """The answer goes out as soon as the log has the records, and the stores follow; nobody is told that they do."""
    settle = WriteSection._settle

    def settle_and_answer(self: WriteSection, group: Group, append: "Future[Mapping[TopicPartition, int]]") -> None:
        settle(self, group, append)
        if append.exception() is None:
            for pending, result, _ in group.members:
                self._table.answer(pending, Decided(result, group.targets))
            self._table.flush()

    WriteSection._settle = settle_and_answer  # type: ignore[method-assign]
    Flights.note = lambda self, overlays, group, *, unready: None  # type: ignore[method-assign]


def no_fence() -> None:
    """Every node believes that it owns everything, and its transactions carry no proof. Kafka only."""
    partitions = int(os.environ["PROFILES_PARTITIONS"])

    def start(self: KafkaMembership, listener: OwnershipListener) -> None:
        listener.on_assigned(Ownership(1, "everybody", frozenset(range(partitions))))

    KafkaMembership.start = start  # type: ignore[method-assign]
    KafkaMembership.leave = lambda self, deadline: None  # type: ignore[method-assign]
    KafkaMembership.lease_until = property(lambda self: math.inf)  # type: ignore[method-assign, assignment]
    Transactions._send_offsets = lambda self, producer, positions, ownership: None  # type: ignore[method-assign]
    Transactions._commit_offsets = lambda self, positions, ownership, operation: None  # type: ignore[method-assign]


def index_beside_the_row() -> None:
    """The rows of the e-mail index are committed with the next batch of the task, not with their own."""
    put, delete = RocksBatch.put, RocksBatch.delete
    late: dict[int, list[tuple[str, bytes, bytes | None]]] = {}
    apply = StreamTask.apply

    def put_later(self: RocksBatch, store: str, key: bytes, value: bytes) -> None:
        if store == SEARCH_STORE:
            late.setdefault(id(self._handles), []).append((store, key, value))
        else:
            put(self, store, key, value)

    def delete_later(self: RocksBatch, store: str, key: bytes) -> None:
        if store == SEARCH_STORE:
            late.setdefault(id(self._handles), []).append((store, key, None))
        else:
            delete(self, store, key)

    def apply_and_index(self: StreamTask, batches: Sequence[RecordBatch]) -> int:
        earlier = self._store.batch()
        assert isinstance(earlier, RocksBatch)
        for store, key, value in late.pop(id(earlier._handles), []):
            if value is None:
                delete(earlier, store, key)
            else:
                put(earlier, store, key, value)
        self._store.commit(earlier, self._positions)
        return apply(self, batches)

    RocksBatch.put, RocksBatch.delete = put_later, delete_later  # type: ignore[method-assign]
    StreamTask.apply = apply_and_index  # type: ignore[method-assign]


def if_match_ignored() -> None:
    """A conditional write is carried out whatever the version is."""
    app.profiles.commands.precondition_failure = lambda *_, **__: None


def email_not_checked() -> None:
    """An e-mail is claimed without looking who has it."""
    Claims.obstacle = lambda self, *_: None  # type: ignore[method-assign]


def claim_not_released() -> None:
    """A claim holds for ever, also when its profile does not carry the e-mail any more."""

    def obstacle(self: Claims, email_key: bytes, claimant: bytes | None) -> EmailTaken | Ask | Moved | None:
        claim = self.find(email_key)
        return EmailTaken(claim.uid.decode()) if isinstance(claim, ClaimRow) else claim

    Claims.obstacle = obstacle  # type: ignore[method-assign]
    Claims.release = lambda self, *_, **__: ()  # type: ignore[method-assign]


def unknown_answered_as_not_written() -> None:
    """At the deadline the caller is told that nothing was written, whatever the log is doing."""
    execute = AsyncTable.execute

    async def execute_or_deny(self: AsyncTable, command: Command, deadline: Deadline) -> Outcome:
        outcome = await execute(self, command, deadline)
        return Refused(NotWritten("timed out")) if isinstance(outcome, Unknown) else outcome

    AsyncTable.execute = execute_or_deny  # type: ignore[method-assign]


def requests_forgotten() -> None:
    """The record of an Idempotency-Key is never found again."""
    decide = app.profiles.idempotency.IdempotentCreate.decide

    class Forgetful:
        """A view without remembered requests."""

        def __init__(self, view: View) -> None:
            self._view = view

        def get(self, store: str, partition: int, key: bytes) -> bytes | None:
            return None if store == REQUEST_STORE else self._view.get(store, partition, key)

    app.profiles.idempotency.IdempotentCreate.decide = lambda self, view: decide(self, Forgetful(view))  # type: ignore[method-assign]


def position_before_rows() -> None:
    """The position is committed in a batch of its own, a moment before the rows."""
    commit = RocksTaskStore.commit

    def commit_apart(self: RocksTaskStore, batch: Any, positions: Mapping[str, int], **options: Any) -> None:
        commit(self, self.batch(), positions, **options)
        if len(batch):
            time.sleep(0.01)
        commit(self, batch, positions, **options)

    RocksTaskStore.commit = commit_apart  # type: ignore[method-assign]


def reads_from_a_cache() -> None:
    """A profile that was read is answered from memory for 20 ms."""
    get_now = ProfileService.get_now
    kept: dict[bytes, tuple[float, Any]] = {}

    def get_cached(self: ProfileService, uid: bytes) -> Any:
        found = kept.get(uid)
        if found is None or found[0] < time.monotonic():
            found = kept[uid] = (time.monotonic() + 0.02, get_now(self, uid))
        return found[1]

    ProfileService.get_now = get_cached  # type: ignore[method-assign]


def deletions_not_applied() -> None:
    """The row of a deleted profile stays in the store."""
    delete = RocksBatch.delete

    def delete_others(self: RocksBatch, store: str, key: bytes) -> None:
        if store != PROFILE_STORE:
            delete(self, store, key)

    RocksBatch.delete = delete_others  # type: ignore[method-assign]


def decided_on_an_old_state() -> None:
    """A group is decided without what the groups before it wrote and what was decided before in the same group."""

    def get(self: GroupView, store: str, partition: int, key: bytes) -> bytes | None:
        return self._tasks[partition].getters[store](key)

    GroupView.get = get  # type: ignore[method-assign]


def slow_append() -> None:
    """FAULT: one append in ten takes long, as on a disk that stalls."""
    append = LocalWriter.append
    rng = random.Random(1)

    def stall(self: LocalWriter, group: Sequence[ProducerRecord], **options: Any) -> Any:
        if rng.random() < 0.1:
            time.sleep(_SLOW_APPEND_S)
        return append(self, group, **options)

    LocalWriter.append = stall  # type: ignore[method-assign]


def slow_apply() -> None:
    """FAULT: the stores are written some milliseconds late, as beside a busy process."""
    apply = StreamTask.apply

    def stall(self: StreamTask, batches: Sequence[RecordBatch]) -> int:
        time.sleep(0.005)
        return apply(self, batches)

    StreamTask.apply = stall  # type: ignore[method-assign]


BUGS: Mapping[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        acknowledge_before_apply,
        no_fence,
        index_beside_the_row,
        if_match_ignored,
        email_not_checked,
        claim_not_released,
        unknown_answered_as_not_written,
        requests_forgotten,
        position_before_rows,
        reads_from_a_cache,
        deletions_not_applied,
        decided_on_an_old_state,
        slow_append,
        slow_apply,
    )
} | CLUSTER_BUGS

if __name__ == "__main__":
    for bug in sys.argv[1].split(","):
        BUGS[bug]()
    sys.exit(main(["run"]))
