"""What an operator does to a node that does not run: verify its stores against the log, rebuild them, check topics.

Everything here blocks, works on stores that nobody else has open, and goes partition by partition, so that memory is
bounded by the largest partition (and 64-bit digests of all e-mails). Differences name uids and digests, never e-mails.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from app.profiles.rows import claim_of, email_key_of
from app.profiles.topics import PROFILE_STORE, SEARCH_STORE
from streams.clock import Clock, Deadline
from streams.errors import LogUnavailable, PoisonRecord, StoreDamaged, StoreMismatch
from streams.log.base import Log, LogReader, TopicInfo, TopicSpec
from streams.records import Record, TopicPartition
from streams.runtime.task import QUARANTINE_STORE
from streams.stores.base import StoreFactory, StoreIdentity, TaskStore
from streams.topology.graph import Table, Topology

#: Told (records done, records in all); called about once for each poll of the log.
Progress = Callable[[int, int], None]

_SCAN_ROWS = 2000
_STALL_S = 30.0  # a log that yields nothing for so long is taken for unreachable
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what the log says. *key* is a uid or a digest; *kind* a stable word."""

    partition: int
    store: str
    kind: str
    key: str


@dataclass(slots=True)
class Report:
    """What `verify` found. Only the first *limit* differences are kept; `difference_count` counts all.

    `stale_claims`: claims that no profile holds, which the next claimant or the sweep removes: no fault.
    """

    limit: int = 20
    partitions: int = 0
    records: int = 0
    rows: int = 0
    profiles: int = 0
    poison: int = 0
    stale_claims: int = 0
    difference_count: int = 0
    differences: list[Difference] = field(default_factory=list)

    def add(self, partition: int, store: str, kind: str, key: str) -> None:
        """Count a difference, and keep it while there is room."""
        self.difference_count += 1
        if len(self.differences) < self.limit:
            self.differences.append(Difference(partition, store, kind, key))


class Verifier:
    """Compares stores with the fold of the log. One use, one thread."""

    def __init__(
        self,
        *,
        log: Log,
        stores: StoreFactory,
        topology: Topology,
        format_version: int,
        clock: Clock,
        progress: Progress,
    ) -> None:
        self._log = log
        self._stores = stores
        self._topology = topology
        self._format_version = format_version
        self._clock = clock
        self._progress = progress
        self._report = Report()
        self._now_ms = clock.time_ms()
        # Digests of (e-mail, uid) as profiles carry them and as claims claim them, and of e-mails alone.
        self._held: dict[int, tuple[int, str]] = {}
        self._claimed: set[int] = set()
        self._emails: set[int] = set()

    def run(self, infos: Mapping[str, TopicInfo]) -> Report:
        """Verify every partition of the topics *infos*. Raises LogUnavailable, StoreLocked or OSError."""
        report = self._report
        partitions = next(iter(infos.values())).partitions if infos else 0
        identity = identity_of(self._topology, infos, self._format_version)
        present = set(self._stores.tasks())
        places = [TopicPartition(topic, p) for p in range(partitions) for topic in self._topology.topics]
        ends = self._log.end_offsets(places, Deadline.after(_STALL_S, self._clock))
        total, done = sum(ends.values()), 0
        self._progress(0, total)
        for partition in range(partitions):
            report.partitions += 1
            if partition in present:
                self._verify_partition(partition, identity, ends, done, total)
            elif any(ends[TopicPartition(topic, partition)] for topic in self._topology.topics):
                report.add(partition, "", "store-missing", "")
            done += sum(ends[TopicPartition(topic, partition)] for topic in self._topology.topics)
            self._progress(done, total)
        self._compare_claims()
        return report

    def _verify_partition(
        self, partition: int, identity: StoreIdentity, ends: Mapping[TopicPartition, int], done: int, total: int
    ) -> None:
        try:
            store = self._stores.open(partition, (*self._topology.stores, QUARANTINE_STORE), identity)
        except (StoreDamaged, StoreMismatch) as error:
            self._report.add(partition, "", type(error).__name__, str(error))
            return
        try:
            for topic in self._topology.topics:
                place = TopicPartition(topic, partition)
                position = store.positions.get(topic, 0)
                if position > ends[place]:
                    self._report.add(partition, topic, "beyond-the-log", f"{position} > {ends[place]}")
                    continue
                rows, later = self._fold(place, position, ends[place], done, total)
                self._compare(partition, store, self._topology.table_of(topic), rows, later)
                done += ends[place]
        except StoreDamaged as error:
            self._report.add(partition, "", "StoreDamaged", str(error))
        finally:
            store.close()

    def _fold(
        self, place: TopicPartition, position: int, end: int, done: int, total: int
    ) -> tuple[dict[bytes, bytes], set[bytes]]:
        """Return the digest of each row after *position*, and the keys that change between there and *end*: the log
        may have forgotten what they were before."""
        table = self._topology.table_of(place.topic)
        materialise = table.materialise
        rows: dict[bytes, bytes] = {}
        later: set[bytes] = set()
        for next_offset, records in self._read(place, end):
            for record in records:
                self._report.records += 1
                try:
                    key, row = materialise(record)
                except PoisonRecord:
                    self._report.poison += 1
                    continue
                if record.offset >= position:
                    later.add(key)
                elif row is None or self._is_expired(table, row):
                    rows.pop(key, None)
                else:
                    rows[key] = _digest(row)
            self._progress(done + min(next_offset, end), total)
        return rows, later

    def _read(self, place: TopicPartition, end: int) -> Iterator[tuple[int, Sequence[Record]]]:
        reader: LogReader = self._log.open_reader()
        try:
            reader.assign({place: 0})
            position = 0
            deadline = Deadline.after(_STALL_S, self._clock)
            while position < end:
                for batch in reader.poll(_POLL_S):
                    position = batch.next_offset
                    deadline = Deadline.after(_STALL_S, self._clock)
                    yield position, batch.records
                if deadline.has_passed(self._clock):
                    raise LogUnavailable(f"{place.topic}-{place.partition} yields nothing beyond offset {position}")
        finally:
            reader.close()

    def _compare(
        self, partition: int, store: TaskStore, table: Table, expected: dict[bytes, bytes], later: set[bytes]
    ) -> None:
        name = table.store
        for key, row in _rows(store, name):
            self._report.rows += 1
            if self._is_expired(table, row):
                continue
            self._note(partition, name, key, row)
            digest = expected.pop(key, None)
            if key in later or digest == _digest(row):
                continue
            if digest is not None:
                self._report.add(partition, name, "row-differs", _label(name, key, row))
            else:
                self._report.add(partition, name, "row-not-in-log", _label(name, key, row))
        for key in expected:
            if key not in later:
                self._report.add(partition, name, "row-missing", _label(name, key, None))

    def _is_expired(self, table: Table, row: bytes) -> bool:
        """Say whether log and store may each have forgotten *row* already."""
        return table.expires_at_ms is not None and table.expires_at_ms(row) <= self._now_ms

    def _note(self, partition: int, name: str, key: bytes, row: bytes) -> None:
        """Remember who carries and who claims which e-mail, for the comparison of all partitions."""
        if name == PROFILE_STORE:
            self._report.profiles += 1
            email = email_key_of(row)
            if (digest := _short(email)) in self._emails:
                self._report.add(partition, name, "email-not-unique", key.decode())
            self._emails.add(digest)
            self._held[_short(email + b"\0" + key)] = partition, key.decode()
        elif name == SEARCH_STORE:
            self._claimed.add(_short(key + b"\0" + claim_of(row).uid))

    def _compare_claims(self) -> None:
        for digest, (partition, uid) in self._held.items():
            if digest not in self._claimed:
                self._report.add(partition, PROFILE_STORE, "email-not-claimed", uid)
        self._report.stale_claims = len(self._claimed - self._held.keys())


def rebuild(stores: StoreFactory, tasks: Sequence[int] | None) -> list[int]:
    """Delete the stores of *tasks* (None: of all) and return which these were; the next start restores them."""
    present = stores.tasks()
    chosen = present if tasks is None else [task for task in present if task in set(tasks)]
    for task in chosen:
        stores.wipe(task)
    return chosen


def topic_faults(specs: Sequence[TopicSpec], infos: Mapping[str, TopicInfo]) -> list[str]:
    """Return how existing topics differ from what they must be, as sentences; empty when all is well."""
    faults = []
    for spec in specs:
        info = infos.get(spec.name)
        if info is None:
            faults.append(f"{spec.name} does not exist")
            continue
        if spec.partitions is not None and info.partitions != spec.partitions:
            faults.append(f"{spec.name} has {info.partitions} partitions, not {spec.partitions}")
        for name, wanted in spec.config.items():
            found = info.config.get(name)
            if found is not None and found != wanted:
                faults.append(f"{spec.name} has {name}={found}, not {wanted}")
    if len({info.partitions for info in infos.values()}) > 1:
        faults.append("the topics have different numbers of partitions")
    return faults


def identity_of(topology: Topology, infos: Mapping[str, TopicInfo], format_version: int) -> StoreIdentity:
    """Return what the stores must have been made from."""
    return StoreIdentity(
        topic_ids={topic: infos[topic].topic_id for topic in topology.topics},
        partitions=next(iter(infos.values())).partitions,
        format_version=format_version,
    )


def _rows(store: TaskStore, name: str) -> Iterator[tuple[bytes, bytes]]:
    start = b""
    while chunk := store.scan(name, start=start, limit=_SCAN_ROWS):
        yield from chunk
        start = chunk[-1][0] + b"\0"


def _label(store: str, key: bytes, row: bytes | None) -> str:
    """Return a name for the row that is no e-mail: the uid, or a digest of the key."""
    if store == PROFILE_STORE:
        return key.decode("ascii", "replace")
    if store == SEARCH_STORE and row is not None:
        return "claim of " + claim_of(row).uid.decode("ascii", "replace")
    return "digest " + _digest(key).hex()


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def _short(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest())
