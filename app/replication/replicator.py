"""The loop between a source and a sink: read, write, retry, keep the position, follow what changes hands.

It knows neither Kafka nor Elasticsearch. Invariants: a batch is written whole before the next one is begun, and a
position only after its batch; what can pass is waited for with back-off, for ever; what only an operator can mend ends
the run with an error that says what to do.
"""

import logging
import math
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from app.replication.ports import (
    Batch,
    Position,
    Rebuildable,
    Share,
    Sink,
    SinkMoved,
    SinkUnavailable,
    Source,
    SourceExpired,
    SourceInfo,
    SourceUnavailable,
    Written,
)
from app.replication.progress import Progress
from app.replication.sharing import Everything
from streams.clock import Backoff, Clock

logger = logging.getLogger(__name__)

T = TypeVar("T")

_POLL_S = 0.5
#: Positions are written so often while there is something to write: a restart repeats about that much.
FLUSH_INTERVAL_S = 1.0
_LONGEST_WAIT_S = 15.0
#: A rebuild goes on until it is only so far behind.
_SHORT_PASS_S = 2.0
#: How many reasons of refused changes are logged one by one in a run.
_LOGGED_REFUSALS = 20


class Stopped(Exception):  # Not an error: the caller asked for it.
    """The replicator was told to stop while it waited for something."""


class Replicator:
    """One run. `run` belongs to one thread; `stop` may be called by any, also from a signal's handler."""

    def __init__(
        self,
        *,
        source: Source,
        sink: Sink,
        share: Callable[[SourceInfo], Share],
        clock: Clock,
        progress: Progress | None = None,
        is_from_beginning: bool = False,
        backoff: Backoff | None = None,
    ) -> None:
        """*share* tells which partitions to copy, once the source is known. *is_from_beginning*: read everything again
        instead of going on from the sink's positions. *backoff*: between attempts."""
        self.progress = progress or Progress()
        self._source = source
        self._sink = sink
        self._open_share = share
        self._clock = clock
        self._is_from_beginning = is_from_beginning
        self._begun: set[int] = set()  # partitions whose beginning was asked for, once
        self._info: SourceInfo | None = None
        self._ensure: Callable[[SourceInfo], None] = sink.ensure
        self._must_stop = threading.Event()
        self._backoff = backoff or Backoff(initial_s=0.1, maximum_s=_LONGEST_WAIT_S)
        self._partitions: frozenset[int] | None = None  # None: the sink must be asked for its positions
        self._flushed_at = 0.0
        self._is_dirty = False

    def run(self, *, is_once: bool = False) -> bool:
        """Copy until `stop`; with *is_once* until everything is in the sink that the log held when it was called.
        Return whether it ended by itself.

        When it returns, all that was read is in the sink, with its position, or a restart will read it again.
        Raises SourceExpired, SinkUnusable, or a StreamsError of the log.
        """
        return self._run(self._sink.ensure, self._open_share, is_once=is_once)

    def rebuild(self, sink: Rebuildable) -> bool:
        """Fill *sink*, which is the sink, anew, and let its readers switch over. Return whether that was done, and not
        stopped; then another rebuild goes on where this one was."""
        took_s, is_anew = math.inf, False
        while took_s > _SHORT_PASS_S:
            begun_at = self._clock.monotonic()
            try:
                if not self._run(sink.begin_rebuild, Everything.of, is_once=True):
                    return False
            except SourceExpired as error:
                if is_anew:
                    raise
                # What an earlier rebuild has begun is too old to go on from.
                logger.info("rebuild_begins_anew", extra={"reason": str(error)})
                self._insist(sink.abandon_rebuild)
                self._partitions, is_anew = None, True
                continue
            # So much is missing now: once more, unless that is little.
            took_s = self._clock.monotonic() - begun_at if self.progress.lag_records else 0.0
        try:
            self._insist(sink.finish_rebuild)
        except Stopped:
            return False
        self._partitions = None
        return True

    def _run(
        self, ensure: Callable[[SourceInfo], None], open_share: Callable[[SourceInfo], Share], *, is_once: bool
    ) -> bool:
        share: Share | None = None
        self._ensure = ensure
        try:
            self._info = self._insist(self._source.describe)
            share = open_share(self._info)
            since: float | None = None
            while not self._must_stop.is_set():
                if share.partitions != self._partitions:
                    self._take(share.partitions)
                    since = self._clock.monotonic() if since is None else since
                    continue
                since = self._clock.monotonic() if since is None else since
                self._step()
                if is_once and self._is_caught_up(since):
                    break
            is_whole = not self._must_stop.is_set()
            self._flush_at_end()
        except Stopped:
            # What is in flight cannot be finished; the position says so.
            logger.info("replication_stopped", extra={"reason": self.progress.waits_for})
            return False
        finally:
            if share is not None:
                share.close()
        return is_whole

    def stop(self) -> None:
        """Finish the batch in flight, write the positions, and return from `run`."""
        self._must_stop.set()
        self._source.wakeup()

    def _step(self) -> None:
        """Copy what comes next."""
        batch = self._source.poll(_POLL_S)
        try:
            if batch is not None:
                self._write(batch)
            if self._clock.monotonic() - self._flushed_at >= FLUSH_INTERVAL_S:
                self._flush()
        except SinkMoved as error:
            logger.info("sink_moved", extra={"reason": str(error)})
            self._partitions = None
        lags = {number: self._source.lag(number) for number in self._partitions or ()}
        self.progress.lag = {number: lag for number, lag in lags.items() if lag is not None}

    def _is_caught_up(self, since: float) -> bool:
        """Whether all is in the sink that the log held at *since*."""
        return self._partitions is not None and all(
            self._source.caught_up_at(number) >= since for number in self._partitions
        )

    def _take(self, partitions: frozenset[int]) -> None:
        """Copy *partitions* from now on, each from where the sink is."""
        assert self._info is not None
        if self._is_dirty and self._partitions is not None:
            self._flush_at_end()  # Who gets what is given up here reads less again.
        try:
            self._insist(partial(self._ensure, self._info))
            found = self._insist(partial(self._sink.positions, partitions))
            self._begin(partitions - found.keys())
        except SinkMoved as error:  # Again: the next round asks again.
            logger.info("sink_moved", extra={"reason": str(error)})
            self._pause()
            return
        for number, position in found.items():
            self._check_age(number, position)
        begun = partitions - self._begun if self._is_from_beginning else frozenset()
        self._begun |= begun
        self._source.assign({number: None if number in begun else found.get(number) for number in partitions})
        self._partitions = partitions
        self._is_dirty = False
        self.progress.partitions = partitions
        logger.info("replicating", extra={"partitions": sorted(partitions)})

    def _begin(self, partitions: frozenset[int]) -> None:
        """Note in the sink that *partitions* were begun now, before anything of them is in it: if this run ends before
        its first positions, the next one knows how old what it left is. Raises SinkMoved."""
        if partitions:
            start = Position(0, "0", self._clock.time_ms())
            self._insist(partial(self._sink.write, Batch((), dict.fromkeys(partitions, start))))
            self._insist(self._sink.flush)

    def _write(self, batch: Batch) -> None:
        """Write *batch*, for as long as it takes. Raises SinkMoved."""
        for number, position in batch.positions.items():
            self._check_age(number, position)
        for skipped in batch.skipped:
            self.progress.skipped += 1
            logger.warning("record_skipped", extra={"place": skipped.place, "reason": skipped.reason})
        changes, begun_at = len(batch.changes), self._clock.monotonic()
        while True:
            try:
                written = self._sink.write(batch)
                break
            except SinkUnavailable as error:
                self._note(error.done)
                batch = batch if error.rest is None else error.rest
                self._wait_for(error)
        self._note(written)
        self._recovered()
        if changes:
            self.progress.note_batch(changes, self._clock.monotonic() - begun_at)
        self._is_dirty = True

    def _note(self, written: Written) -> None:
        for refused in written.refused[: max(0, _LOGGED_REFUSALS - self.progress.refused)]:
            logger.warning("change_refused", extra=refused._asdict())
        self.progress.note_written(written)

    def _flush(self) -> None:
        if self._is_dirty:
            self._insist(self._sink.flush)
            self._is_dirty = False
        self._flushed_at = self._clock.monotonic()

    def _flush_at_end(self) -> None:
        try:
            self._flush()
        except SinkMoved as error:  # Whoever goes on reads again what was not kept.
            logger.info("sink_moved", extra={"reason": str(error)})

    def _check_age(self, number: int, position: Position) -> None:
        """Refuse to go on from where deletes may be missing."""
        assert self._info is not None
        horizon_ms = self._info.horizon_ms
        if horizon_ms is None:
            return
        age_ms = self._clock.time_ms() - position.as_of_ms
        if age_ms > horizon_ms:
            raise SourceExpired(
                f"the sink was last complete in partition {number} {age_ms / 3_600_000:.1f} hours ago, and deletes "
                f"older than {horizon_ms / 3_600_000:.1f} hours may be gone from the log; rebuild it (--rebuild)"
            )

    def _insist(self, action: Callable[[], T]) -> T:
        """Return what *action* returns, trying until it is there. Raises what cannot pass, and Stopped."""
        while True:
            try:
                result = action()
            except (SinkUnavailable, SourceUnavailable) as error:
                self._wait_for(error)
            else:
                self._recovered()
                return result

    def _wait_for(self, error: SinkUnavailable | SourceUnavailable) -> None:
        self.progress.retries += 1
        if self.progress.waits_for is None:
            logger.warning("replication_waits", extra={"reason": str(error)})
        self.progress.waits_for = str(error)
        self._pause()

    def _pause(self) -> None:
        if self._must_stop.wait(self._backoff.next_s()):
            raise Stopped

    def _recovered(self) -> None:
        if self.progress.waits_for is not None:
            logger.info("replication_goes_on")
        self.progress.waits_for = None
        self._backoff.reset()
