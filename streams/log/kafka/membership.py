"""This node's member of the consumer group that divides the partitions, and the lease that it proves.

A thread of its own drives a `KafkaConsumer` that subscribes to the first topic and never fetches. Invariants: an
`Ownership` is taken only when a join has completed, from generation, member and partitions that belong together; a new
generation is always reported, also when no partition moved, because the old snapshot cannot commit any more; the lease
never outlives the moment at which the coordinator could give a partition to somebody else.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient
from kafka.protocol.consumer import HeartbeatRequest, SyncGroupRequest
from kafka.structs import MemberState

from streams.clock import Backoff, Clock, Deadline
from streams.cluster import ClusterView, Member, Placement
from streams.log.base import Ownership, OwnershipListener
from streams.log.kafka.assignor import GroupAssignor
from streams.log.kafka.clients import open_client
from streams.log.kafka.settings import KafkaSettings, member_config
from streams.log.kafka.topics import Topics

logger = logging.getLogger(__name__)

#: Taken off the lease: what a clock of ours may lag behind the coordinator's, and the time to send an answer.
LEASE_MARGIN_S = 0.5
#: How late a member at rest learns that it has to join again, after its heartbeat.
_POLL_INTERVAL_S = 0.05
#: While joining: how late it learns that it has to stop. It sees the end of the join at once.
_JOIN_POLL_MS = 500
_MEMBER_FILE = "kafka-member"


class KafkaMembership:
    """A `Membership` on Kafka's classic group protocol."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        topics: Topics,
        *,
        member: Member,
        clock: Clock,
        state_dir: Path | None,
    ) -> None:
        """*topic* is the one subscribed to. *state_dir* belongs to this node alone: what is written there names the
        member of its last incarnation, which is dead for certain when the next one starts."""
        self._settings = settings
        self._member = member
        self._topic = topic
        self._topics = topics
        self._clock = clock
        self._member_file = state_dir / _MEMBER_FILE if state_dir is not None else None
        self._lease = _Lease(settings, clock)
        self._listener: OwnershipListener | None = None
        self._reported: Ownership | None = None
        self._consumer: KafkaConsumer | None = None
        self._live_nodes: Collection[str] = ()
        self._assignor = GroupAssignor(member, topic, generation=self._generation)
        self._must_rejoin = threading.Event()
        self._must_stop = threading.Event()
        self._deadline: Deadline | None = None
        self._thread: threading.Thread | None = None
        self._backoff = Backoff(initial_s=0.1, maximum_s=2.0)
        self._is_known_broken = False

    def start(self, listener: OwnershipListener) -> None:
        self._listener = listener
        self._thread = threading.Thread(target=self._run, name="kafka-membership", daemon=True)
        self._thread.start()

    @property
    def lease_until(self) -> float:
        return self._lease.until

    @property
    def ownership(self) -> Ownership | None:
        """The last snapshot that was reported and is not known to be obsolete. Any thread."""
        return self._reported

    @property
    def live_nodes(self) -> Collection[str]:
        """The ids of all nodes that were in the group at the last join. Any thread."""
        return self._live_nodes

    def rebalance(self) -> None:
        self._must_rejoin.set()

    def leave(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._must_stop.set()
        if self._thread is not None:
            self._thread.join(deadline.remaining_s(self._clock) + 0.5)

    def _run(self) -> None:
        self._remove_last_incarnation()
        while not self._must_stop.is_set():
            try:
                if self._consumer is None:
                    self._join()
                assert self._consumer is not None
                if not self._poll(self._consumer):
                    continue
                self._is_known_broken = False
                self._backoff.reset()
                self._must_stop.wait(_POLL_INTERVAL_S)
            except Exception as error:  # noqa: BLE001  # Whatever it is: nothing is owned, and a new member joins.
                if not self._is_known_broken:
                    logger.warning("kafka_membership_restarts", extra={"reason": f"{type(error).__name__}: {error}"})
                self._is_known_broken = True
                self._close(Deadline.after(1.0, self._clock))
                self._must_stop.wait(self._backoff.next_s())
        self._close(self._deadline or Deadline.after(1.0, self._clock))

    def _poll(self, consumer: KafkaConsumer) -> bool:
        """Go on with a join, or see whether one is needed; report one that has completed. Return whether the member is
        at rest now.

        Not `KafkaConsumer.poll`, which goes on waiting for records after a join. While joining there must be no pause:
        kafka-python forgets a join that completes while nobody waits for it, and begins another one, so that the whole
        group forms one more generation.
        """
        coordinator = consumer._coordinator
        if self._must_rejoin.is_set() and consumer.group_metadata().state == MemberState.STABLE:
            self._must_rejoin.clear()
            self._assignor.insist()
            coordinator.request_rejoin()
        coordinator.poll(timeout_ms=_JOIN_POLL_MS if coordinator.need_rejoin() else 0)
        _resume_join(consumer)
        self._report(consumer)
        return consumer.group_metadata().state == MemberState.STABLE and not coordinator.need_rejoin()

    def _join(self) -> None:
        self._lease.end()
        config = {**member_config(self._settings), "partition_assignment_strategy": (self._assignor,)}
        self._consumer = consumer = open_client(KafkaConsumer, config, self._lease.network)
        coordinator = consumer._coordinator
        coordinator._perform_assignment = partial(self._assignor.lead, coordinator._perform_assignment)
        coordinator.reset_generation = partial(self._fall_out, consumer, coordinator.reset_generation)
        consumer.subscribe([self._topic], listener=_Rebalances(self, consumer))
        # A request for metadata before the join: kafka-python may have none of a topic that was subscribed to while
        # another request was under way. A leader that knows no partitions assigns none, and then joins once more.
        while self._topic not in consumer.topics() and not self._must_stop.wait(_POLL_INTERVAL_S):
            pass

    def _report(self, consumer: KafkaConsumer) -> None:
        """Tell the listener about the join that has completed, if one has. Only `poll`, on this thread, completes
        joins and changes the assignment; the heartbeat may reset the generation meanwhile, never set another."""
        now = consumer.group_metadata()
        if now.state != MemberState.STABLE or now.generation_id < 0 or not now.member_id:
            return
        reported = self._reported
        if reported is not None and (reported.generation, reported.member_id) == (now.generation_id, now.member_id):
            return
        partitions = frozenset(partition.partition for partition in consumer.assignment())
        self._reported = ownership = Ownership(now.generation_id, now.member_id, partitions)
        self._remember(now.member_id)
        logger.info("partitions_owned", extra={"generation": ownership.generation, "partitions": sorted(partitions)})
        assert self._listener is not None
        self._listener.on_view(self._view(ownership))
        self._listener.on_assigned(ownership)

    def _view(self, ownership: Ownership) -> ClusterView:
        """Return the map that came with *ownership*."""
        info, view = self._member.info, self._assignor.view
        if view.epoch != ownership.generation:  # A leader that is none of ours sent no map.
            places = range(max(ownership.partitions, default=-1) + 1)
            owned = [Placement(info.node_id if number in ownership.partitions else None) for number in places]
            return ClusterView(ownership.generation, {info.node_id: info}, owned)
        self._live_nodes = frozenset(view.nodes)
        reason = view.refusal_of(info)
        if reason is not None:
            logger.error("kafka_member_refused", extra={"reason": reason})
        return view

    def _generation(self) -> int:
        consumer = self._consumer
        return consumer.group_metadata().generation_id if consumer is not None else -1

    def revoke(self, partitions: frozenset[int]) -> None:
        """Pass on that *partitions* must be given up; others get them after this has returned."""
        assert self._listener is not None
        self._listener.on_revoked(partitions)

    def _fall_out(self, consumer: KafkaConsumer, reset: Callable[..., None], *arguments: Any, **options: Any) -> None:
        """Call *reset*, by which kafka-python forgets its place in the group, and pass on what is lost by it, at once:
        kafka-python itself says nothing when that happens in the middle of a join. It joins anew then, and the lease
        of what it gets back would go on as if nobody could have owned that in between."""
        reset(*arguments, **options)
        is_leaving = self._consumer is not consumer  # It has revoked everything then.
        if not is_leaving:
            self.lose(_numbers(consumer.assignment()))

    def lose(self, partitions: frozenset[int]) -> None:
        """Pass on that the group went on without this member; once, however often it is said."""
        self._lease.end()
        self._assignor.forget()
        reported, self._reported = self._reported, None
        if reported is not None:
            assert self._listener is not None
            self._listener.on_lost(partitions)

    def _close(self, deadline: Deadline) -> None:
        """Leave the group: revokes (or loses) what is owned first."""
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        try:
            consumer.close(autocommit=False, timeout_ms=max(100, round(deadline.remaining_s(self._clock) * 1000)))
            self._forget()
        except Exception as error:  # noqa: BLE001  # The session then ends by itself.
            logger.warning("kafka_group_not_left", extra={"reason": f"{type(error).__name__}: {error}"})
        finally:
            self._lease.end()
            self._reported = None
            self._assignor.forget()

    def _remove_last_incarnation(self) -> None:
        """Take the member of this node's last incarnation out of the group: it was killed, or it would have left.
        Else its partitions would wait for the end of its session. In a copy of a state directory the file names the
        member of the node that was copied, which may be alive, and answers reads until its lease ends."""
        if self._member_file is None:
            return
        with contextlib.suppress(OSError, KafkaError):
            place, _, member_id = self._member_file.read_text().partition("\n")
            if member_id and place == _place_of(self._member_file.parent):
                self._topics.remove_member(self._settings.application_id, member_id)
                self._forget()

    def _remember(self, member_id: str) -> None:
        if self._member_file is None:
            return
        try:
            self._member_file.parent.mkdir(parents=True, exist_ok=True)
            partial = self._member_file.with_suffix(".partial")
            partial.write_text(f"{_place_of(self._member_file.parent)}\n{member_id}")
            partial.replace(self._member_file)  # Not synced: when it is lost, the session timeout does its work.
        except OSError as error:
            logger.warning("kafka_member_not_noted", extra={"reason": os.strerror(error.errno or 0)})

    def _forget(self) -> None:
        if self._member_file is not None:
            with contextlib.suppress(OSError):
                self._member_file.unlink(missing_ok=True)


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python ships no types
    """Called by kafka-python on the consumer's network thread, while the membership's thread waits inside `poll`.

    A blocking call of the consumer would raise here, and heartbeats wait meanwhile: so `on_revoked` must be shorter
    than the session.
    """

    def __init__(self, membership: KafkaMembership, consumer: KafkaConsumer) -> None:
        self._membership = membership
        self._consumer = consumer

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Keep the consumer from fetching and from looking up positions. It is *not* yet the moment to report: with
        cooperative rebalancing this is not called at all when nothing was added."""
        self._consumer.pause(*assigned)
        for partition in assigned:
            self._consumer.seek(partition, 0)

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self._membership.revoke(_numbers(revoked))

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        """Without this, kafka-python would call `on_partitions_revoked`, which waits for the writer."""
        self._membership.lose(_numbers(lost))


class _Lease:
    """Until when nobody else can own what this member owns.

    It is counted from the send time of the last request that proves two things at once: the coordinator held this
    member for one of the current generation (so its session began anew then, at the earliest), and no rebalance was
    going on (so one that started later lasts until its time-out, at the earliest). Heartbeats prove both: they are
    answered with an error while the group prepares a rebalance (KIP-62); the request that completes a join does too.
    Offset commits do not: a plain one is accepted while a rebalance is being prepared, and one inside a transaction
    does not prolong the session.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self._clock = clock
        shortest_ms = min(settings.session_timeout_ms, settings.rebalance_timeout_ms)
        self._length_s = shortest_ms / 1000 - LEASE_MARGIN_S
        self.until = 0.0

    def end(self) -> None:
        """This node is not a member, or not any more."""
        self.until = 0.0

    def network(self, **configs: Any) -> KafkaNetClient:
        """Return the connections of the member's consumer (`kafka_client`), through which its requests are seen:
        kafka-python does not tell when an acknowledged heartbeat was sent."""
        network = KafkaNetClient(**configs)
        manager = network._manager
        send = manager.send

        def observed(request: Any, *arguments: Any, **options: Any) -> Any:
            if not isinstance(request, HeartbeatRequest | SyncGroupRequest):
                return send(request, *arguments, **options)
            sent_at = self._clock.monotonic()
            future = send(request, *arguments, **options)
            future.add_callback(self._on_answer, sent_at)
            return future

        manager.send = observed
        return network

    def _on_answer(self, sent_at: float, response: Any) -> None:
        if response.error_code == 0:
            self.until = max(self.until, sent_at + self._length_s)
        elif response.error_code in _NOT_A_MEMBER:
            self.end()


#: ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID. A rebalance in progress only lets the lease run on.
_NOT_A_MEMBER = frozenset({22, 25, 82})


def _resume_join(consumer: KafkaConsumer) -> None:
    """Make the next `poll` wait for a join that was under way when the last one ran out of time.

    kafka-python forgets such a join when it was begun for changed metadata: it then heartbeats no more, and never
    finds out that the group went on without it.
    """
    if consumer.group_metadata().state == MemberState.REBALANCING:
        consumer._coordinator.request_rejoin()


def _place_of(directory: Path) -> str:
    """Return what tells *directory* from a copy of it, here or on another machine."""
    return f"{os.uname().nodename} {directory.stat().st_ino}"


def _numbers(partitions: Collection[TopicPartition]) -> frozenset[int]:
    return frozenset(partition.partition for partition in partitions)
