"""Fills a log with profiles in bulk: the records that the service would have written, through the log's own writer.

No service may run on the state directory meanwhile: the log has one writer. The uids and e-mails of an evenly spread
sample are left in a file for the load generator.
"""

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from app.bootstrap import lock_state_dir, open_log, topics_of, topology_of
from app.config import AppConfig
from app.profiles import model
from app.profiles.claims import Domain
from app.profiles.commands import creation_records
from app.profiles.email import normalise
from app.profiles.events import Event, Records
from app.profiles.topics import TopicNames
from app.profiles.uids import draw_uid, random_id
from streams.clock import Clock, Deadline, SystemClock
from streams.cluster import ClusterView, LoneMember
from streams.log.base import Log, Ownership
from streams.records import ProducerRecord

_GROUP_PROFILES = 1000
_MAX_GROUP_BYTES = 700_000  # below Kafka's limit on one request, which is 1 MiB
_RECORD_BYTES = 800  # a little more than profile and claim with their headers take together
_TIMEOUT_S = 60.0
_SAMPLE = 50_000


def settings_of(state_dir: Path, bootstrap_servers: str = "") -> dict[str, str]:
    """Return the environment of a service on *state_dir*, on the embedded log unless *bootstrap_servers* are given."""
    settings = {"PROFILES_STATE_DIR": str(state_dir)}
    return {**settings, "PROFILES_BOOTSTRAP_SERVERS": bootstrap_servers} if bootstrap_servers else settings


def fill(settings: Mapping[str, str], sample: Path, *, first: int, count: int) -> None:
    """Append the profiles numbered *first* to *first + count - 1*, and write the *sample* of them."""
    clock = SystemClock()
    config = AppConfig.from_env(settings)
    lock = lock_state_dir(config)
    try:
        log = open_log(config, node_id="preload", clock=clock)
        try:
            _fill(log, config, sample, range(first, first + count), clock)
        finally:
            log.close()
    finally:
        lock.release()


class _Owner:
    """Waits for the membership to own the partitions."""

    def __init__(self) -> None:
        self._is_owned = threading.Event()
        self._ownership: Ownership | None = None

    def on_assigned(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._is_owned.set()

    def on_revoked(self, partitions: frozenset[int]) -> None:
        """Nothing is in flight when a preload leaves."""

    def on_view(self, view: ClusterView) -> None: ...

    def on_lost(self, partitions: frozenset[int]) -> None:
        """The next append fails, and the preload with it."""

    def wait(self) -> Ownership:
        if not self._is_owned.wait(_TIMEOUT_S) or self._ownership is None:
            raise TimeoutError("the group did not assign the partitions")
        return self._ownership


def append_all(log: Log, config: AppConfig, groups: Iterator[Sequence[ProducerRecord]], clock: Clock) -> None:
    """Append every group under one ownership. The topics must exist."""
    topics = topology_of(config).topics
    membership = log.open_membership(topics, LoneMember.named("n1"))
    writer = log.open_writer(topics, membership)
    owner = _Owner()
    membership.start(owner)
    try:
        ownership = owner.wait()
        ends = writer.fence(ownership, Deadline.after(_TIMEOUT_S, clock)).result()
        positions = {place.partition: end for place, end in ends.items() if place.topic == topics[0]}
        for group in groups:
            written = {record.partition for record in group}
            writer.append(
                group,
                ownership=ownership,
                positions={partition: positions[partition] for partition in written},
                deadline=Deadline.after(_TIMEOUT_S, clock),
            ).result()
    finally:
        membership.leave(Deadline.after(_TIMEOUT_S, clock))
        writer.close(Deadline.after(_TIMEOUT_S, clock))


def _fill(log: Log, config: AppConfig, sample: Path, numbers: range, clock: Clock) -> None:
    infos = log.ensure_topics(topics_of(config), Deadline.after(_TIMEOUT_S, clock))
    names = TopicNames.prefixed(config.topic_prefix)
    domain = Domain(Records(names), infos[names.profiles].partitions)
    # Any identifier will do, as long as no two are the same: a seed costs less than the system's randomness.
    draw = random.Random(numbers.start + 1).randbytes
    every = max(1, len(numbers) // _SAMPLE)
    with sample.open("w") as file:

        def profiles() -> Iterator[Sequence[ProducerRecord]]:
            group: list[ProducerRecord] = []
            limit = min(2 * _GROUP_PROFILES, 2 * (_MAX_GROUP_BYTES // _RECORD_BYTES))
            now = model.timestamp(clock.time_ms())
            for number in numbers:
                address = normalise(f"person-{number}@example.com")
                uid = draw_uid(draw, partition=domain.partition_of(address.key), partitions=domain.partitions)
                profile = model.created(uid, model.NewProfile(f"Person {number}", address), now)
                group += creation_records(domain, Event.of(random_id(draw), now, None), profile)
                if number % every == 0:
                    file.write(f"{uid}\t{address.display}\n")
                if len(group) >= limit:
                    yield group
                    group = []
            if group:
                yield group

        append_all(log, config, profiles(), clock)
