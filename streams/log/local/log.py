"""The embedded log as a whole: its directory and lock, topics, and what it hands out."""

import errno
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from streams.clock import Clock, Deadline
from streams.cluster import Member
from streams.errors import LogDamaged, LogError, LogLocked, LogUnavailable, StoreLocked, TopicMismatch
from streams.lockfile import DirectoryLock
from streams.log.base import COMPACT, Membership, TopicInfo, TopicSpec
from streams.log.local.appender import Appender, end_on_disk
from streams.log.local.cleaner import Cleaner, Work, policy_of
from streams.log.local.commits import Commits
from streams.log.local.database import META, Batch, Database
from streams.log.local.format import FORMAT_VERSION, Codec, Topic, parse_cleaning, parse_topic, topic_row
from streams.log.local.partition import Partition
from streams.log.local.reader import LocalReader
from streams.log.local.writer import LocalMembership, LocalProducer, LocalWriter
from streams.records import TopicPartition

_FORMAT_KEY = b"format"
_TOPIC_KEY = b"topic/"
_MAXIMUM_BYTES = 1_048_588  # Kafka's default of max.message.bytes


class LocalLog:
    """A Log in one directory of one process: no broker, nothing but a disk. `docs/embedded-log.md` describes it.

    What `append` reported is on disk (fdatasync), so it survives a power failure. Any thread may call.
    """

    def __init__(self, directory: Path, *, clock: Clock, note: str = "") -> None:
        """Open or create the log in *directory*, which is made readable for its owner alone.

        *note*: what a second process is told about this one, beside its pid. Raises LogLocked, LogDamaged,
        LogUnavailable when the system refuses.
        """
        self._clock = clock
        self._codec = Codec()
        self._lock = threading.RLock()
        self._published = threading.Condition()
        self._topics: dict[str, Topic] = {}
        self._partitions: dict[TopicPartition, Partition] = {}
        self._readers: set[LocalReader] = set()
        self._maximum_bytes: dict[str, int] = {}
        self._compacted: set[str] = set()
        self._unneeded: dict[TopicPartition, int] = {}  # the offset before which nobody needs anything
        self._is_closed = False
        with ExitStack() as undo:
            try:
                _make_private(directory)
                self._directory_lock = DirectoryLock(directory, note)
                self._directory_lock.acquire()
                undo.callback(self._directory_lock.release)
                _make_private(directory / "db")
            except StoreLocked as error:
                raise LogLocked(f"the embedded log {error}") from None
            except OSError as error:
                raise LogUnavailable(f"{directory}: {error.strerror}") from error
            self._database = Database(directory / "db", clock)
            undo.callback(self._database.close)
            self._commits = Commits(directory)
            undo.callback(self._commits.close)
            self._commits.load(self._database)
            self._appender = Appender(
                self._database, self._commits, self._codec, self._partitions, self._published, clock
            )
            self._check_format()
            for _key, row in self._database.rows(META, _TOPIC_KEY, _TOPIC_KEY + b"\xff", 1_000_000):
                self._add(parse_topic(row))
            self._cleaner = Cleaner(self._database, self._appender, self._to_clean, clock)
            self._cleaner.start()
            undo.pop_all()

    def ensure_topics(self, specs: Sequence[TopicSpec], deadline: Deadline) -> dict[str, TopicInfo]:
        """Create what is missing and check what is there; settings of an existing topic become those of its spec.

        Raises TopicMismatch on another partition count than demanded, or when a spec is compacted and the topic is not.
        """
        with self._lock:
            for spec in specs:
                found = self._topics.get(spec.name)
                if found is not None:
                    _check(found, spec)
                if found is None or found.config != dict(spec.config):
                    self._save(
                        _made(spec, found, 1 + max((topic.number for topic in self._topics.values()), default=0))
                    )
            return self.describe_topics([spec.name for spec in specs], deadline)

    def describe_topics(
        self,
        names: Sequence[str],
        deadline: Deadline,
    ) -> dict[str, TopicInfo]:
        """Return those of *names* that exist."""
        found = [self._topics[name] for name in names if name in self._topics]
        return {topic.name: TopicInfo(topic.name, topic.topic_id, topic.partitions, topic.config) for topic in found}

    def end_offsets(
        self,
        partitions: Sequence[TopicPartition],
        deadline: Deadline,
        *,
        is_partial: bool = False,
    ) -> dict[TopicPartition, int]:
        """Return the offset after the last durable record of each partition, from memory."""
        return self._ends(partitions)

    def delete_before(self, offsets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        """Have the cleaner remove what lies before *offsets*."""
        with self._lock:
            self._unneeded.update(offsets)

    def open_reader(self) -> LocalReader:
        """Return a new reader without an assignment. While it is open, what it has not read is kept a while longer."""
        reader = LocalReader(
            self._database,
            self._codec,
            self._partitions.__getitem__,
            self._published,
            self._readers.discard,
            self._clock,
        )
        self._readers.add(reader)
        return reader

    def open_writer(self, topics: Sequence[str], membership: Membership) -> LocalWriter:
        """Return a writer; it takes over from an earlier one with its first `fence`."""
        return LocalWriter(
            topics,
            membership,
            self._appender,
            self._ends,
            self._maximum_bytes,
            self._compacted,
            self._partitions.__contains__,
            self._clock,
        )

    def open_producer(self) -> LocalProducer:
        """Return who appends what no fence protects."""
        return LocalProducer(self._appender, self._maximum_bytes, self._compacted, self._partitions.__contains__)

    def open_membership(self, topics: Sequence[str], member: Member) -> LocalMembership:
        """Return the membership of the only node."""
        return LocalMembership(self._topics[topics[0]].partitions, member)

    def gauges(self) -> Mapping[str, float]:
        """Return sizes and counts. Reads the directory, so it takes about 0.1 ms."""
        return {
            "log_size_bytes": self._database.size_bytes(),
            "log_is_writable": float(self._appender.fault is None),
            **self._cleaner.gauges(),
        }

    def clean(self) -> None:
        """Remove all that may be removed now, and give its space back. Blocks; the log does it by itself as well.

        Raises LogError.
        """
        self._cleaner.clean(is_forced=True)

    def close(self) -> None:
        """Stop the cleaner, close the files, give up the lock. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._cleaner.stop()
        self._database.close()
        self._commits.close()
        self._directory_lock.release()

    def _ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        try:
            return {at: self._partitions[at].end for at in partitions}
        except KeyError as error:
            raise LogError(f"there is no partition {error}") from error

    def _to_clean(self) -> list[Work]:
        readers = tuple(self._readers)
        with self._lock:
            policies = {name: policy_of(topic.config) for name, topic in self._topics.items()}
            partitions = tuple(self._partitions.values())
        return [
            Work(
                partition,
                policies[partition.at.topic],
                min((reader.positions.get(partition.at, partition.end) for reader in readers), default=partition.end),
                self._unneeded.get(partition.at, 0),
            )
            for partition in partitions
        ]

    def _check_format(self) -> None:
        found = self._database.get(META, _FORMAT_KEY)
        if found is None:
            batch = Batch()
            batch.put(META, _FORMAT_KEY, b"%d" % FORMAT_VERSION)
            self._appender.commit(batch)
        elif found != b"%d" % FORMAT_VERSION:
            raise LogDamaged(
                f"the log has format {found!r}, this release reads {FORMAT_VERSION}: run the release of then"
            )

    def _save(self, topic: Topic) -> None:
        batch = Batch()
        batch.put(META, _TOPIC_KEY + topic.name.encode(), topic_row(topic))
        self._appender.commit(batch)
        self._add(topic)

    def _add(self, topic: Topic) -> None:
        """Make *topic* known. An existing one keeps its partitions, with what is known of them."""
        for number in range(topic.partitions):
            at = TopicPartition(topic.name, number)
            if at not in self._partitions:
                partition = Partition(at, topic.number)
                partition.end = end_on_disk(self._database, partition)
                partition.start = parse_cleaning(self._database.get(META, partition.prefix)).start
                self._partitions[at] = partition
        self._maximum_bytes[topic.name] = int(topic.config.get("max.message.bytes", _MAXIMUM_BYTES))
        if _is_compacted(topic.config):
            self._compacted.add(topic.name)
        self._topics[topic.name] = topic


def _check(found: Topic, spec: TopicSpec) -> None:
    """Raise TopicMismatch unless *found* can serve as *spec*."""
    if spec.partitions is not None and spec.partitions != found.partitions:
        raise TopicMismatch(f"topic {found.name} has {found.partitions} partitions, not {spec.partitions}")
    if _is_compacted(spec.config) and not _is_compacted(found.config):
        policy = found.config.get("cleanup.policy", "delete")
        raise TopicMismatch(f"topic {found.name} would lose data: its cleanup.policy is {policy}, not {COMPACT}")


def _is_compacted(config: Mapping[str, str]) -> bool:
    return COMPACT in config.get("cleanup.policy", "").split(",")


def _made(spec: TopicSpec, found: Topic | None, number: int) -> Topic:
    """Return the row of a new topic, or *found* with the settings of *spec*."""
    if found is not None:
        return found._replace(config=dict(spec.config))
    partitions = spec.default_partitions if spec.partitions is None else spec.partitions
    return Topic(spec.name, number, str(uuid4()), partitions, dict(spec.config))


def _make_private(directory: Path) -> None:
    """Make the directory, for its owner alone: the records are personal data, and are read back as the truth."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "the directory belongs to another user", str(directory))
    if found.st_mode & 0o077:
        directory.chmod(0o700)
