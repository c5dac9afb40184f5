"""What an operator does to a node that does not run: verify its stores against the log, rebuild them, check topics.

Everything here blocks, works on stores that nobody else has open, and goes partition by partition, so that memory is
bounded by the largest partition (and 64-bit digests of all e-mails). Differences name uids and digests, never e-mails.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

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

    `held`: how many of the `partitions` have stores on this node, which are those that were compared. `stale_claims`:
    claims that no profile holds, which the next claimant or the sweep removes: no fault.
    """

    limit: int = 20
    partitions: int = 0
    held: int = 0
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


class _Carrier(NamedTuple):
    """A profile in the log, with the digest of the e-mail that it carries."""

    email: int
    partition: int
    uid: str


@dataclass(slots=True)
class _Fold:
    """What a partition of a topic comes to. `rows`: the digest of each row at the store's position; `later`: keys that
    change between there and the end, of which the log may have forgotten what they were before. `links`: by key, the
    digest of the e-mail of each profile, or of the uid of each claim, at the end."""

    rows: dict[bytes, bytes] = field(default_factory=dict)
    later: set[bytes] = field(default_factory=set)
    links: dict[bytes, int] = field(default_factory=dict)


class Verifier:
    """Compares the stores that this node has with the fold of the log, and in that the e-mails of all profiles with the
    claims. One use, one thread. *holds_all*: a node that is alone must have every store; a member of a cluster has
    some, and the log is written by others meanwhile."""

    def __init__(
        self,
        *,
        log: Log,
        stores: StoreFactory,
        topology: Topology,
        format_version: int,
        clock: Clock,
        progress: Progress,
        holds_all: bool,
    ) -> None:
        self._log = log
        self._stores = stores
        self._topology = topology
        self._format_version = format_version
        self._clock = clock
        self._progress = progress
        self._holds_all = holds_all
        self._report = Report()
        self._now_ms = clock.time_ms()
        self._ends: dict[TopicPartition, int] = {}
        self._total = self._done = 0
        self._carriers: list[_Carrier] = []
        self._claims: dict[int, int] = {}  # digest of the e-mail to digest of the uid

    def run(self, infos: Mapping[str, TopicInfo]) -> Report:
        """Verify the topics *infos*. Raises LogUnavailable, StoreLocked or OSError."""
        report = self._report
        report.partitions = next(iter(infos.values())).partitions if infos else 0
        identity = identity_of(self._topology, infos, self._format_version)
        present = set(self._stores.tasks())
        places = [TopicPartition(topic, p) for p in range(report.partitions) for topic in self._topology.topics]
        self._ends = self._log.end_offsets(places, Deadline.after(_STALL_S, self._clock))
        self._total = sum(self._ends[one] for one in places if one.partition in present or self._is_linked(one.topic))
        self._progress(0, self._total)
        for partition in range(report.partitions):
            store = None
            if partition in present:
                report.held += 1
                store = self._open(partition, identity)
            elif self._holds_all and any(self._ends[one] for one in places if one.partition == partition):
                report.add(partition, "", "store-missing", "")
            try:
                self._verify_partition(partition, store)
            finally:
                if store is not None:
                    store.close()
        self._compare_claims([one for one in places if self._is_linked(one.topic)])
        return report

    def _open(self, partition: int, identity: StoreIdentity) -> TaskStore | None:
        try:
            return self._stores.open(partition, (*self._topology.stores, QUARANTINE_STORE), identity)
        except (StoreDamaged, StoreMismatch) as error:
            self._report.add(partition, "", type(error).__name__, str(error))
            return None

    def _verify_partition(self, partition: int, store: TaskStore | None) -> None:
        """Fold what is needed of *partition*, and compare it with *store* as far as that can be read."""
        for topic in self._topology.topics:
            place = TopicPartition(topic, partition)
            if store is None and not self._is_linked(topic):
                continue
            position = store.positions.get(topic, 0) if store is not None else None
            fold = self._fold(place, position)
            self._note(place, fold)
            if store is None or position is None:
                continue
            if position > self._ends[place]:
                self._report.add(partition, topic, "beyond-the-log", f"{position} > {self._ends[place]}")
                continue
            try:
                self._compare(partition, store, self._topology.table_of(topic), fold)
            except StoreDamaged as error:
                self._report.add(partition, "", "StoreDamaged", str(error))
                store = None

    def _is_linked(self, topic: str) -> bool:
        """Say whether rows of *topic* belong to rows of other partitions."""
        return self._topology.table_of(topic).store in (PROFILE_STORE, SEARCH_STORE)

    def _fold(self, place: TopicPartition, position: int | None) -> _Fold:
        """Fold *place*; the rows are those at *position*, None: those are not asked for."""
        table = self._topology.table_of(place.topic)
        fold = _Fold()
        for next_offset, records in self._read(place, 0, self._ends[place]):
            for record in records:
                self._report.records += 1
                try:
                    key, row = table.materialise(record)
                except PoisonRecord:
                    self._report.poison += 1
                    continue
                if row is None:
                    fold.links.pop(key, None)
                elif (link := _link_of(table, row)) is not None:
                    fold.links[key] = link
                if position is None:
                    continue
                if record.offset >= position:
                    fold.later.add(key)
                elif row is None or self._is_expired(table, row):
                    fold.rows.pop(key, None)
                else:
                    fold.rows[key] = _digest(row)
            self._progress(self._done + min(next_offset, self._ends[place]), self._total)
        self._done += self._ends[place]
        self._progress(self._done, self._total)
        return fold

    def _read(self, place: TopicPartition, start: int, end: int) -> Iterator[tuple[int, Sequence[Record]]]:
        reader: LogReader = self._log.open_reader()
        try:
            reader.assign({place: start})
            position = start
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

    def _compare(self, partition: int, store: TaskStore, table: Table, fold: _Fold) -> None:
        name, expected, later = table.store, fold.rows, fold.later
        for key, row in _rows(store, name):
            self._report.rows += 1
            self._report.profiles += name == PROFILE_STORE
            if self._is_expired(table, row):
                continue
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

    def _note(self, place: TopicPartition, fold: _Fold) -> None:
        """Remember who carries and who claims which e-mail, for the comparison of all partitions."""
        if self._topology.table_of(place.topic).store == PROFILE_STORE:
            self._carriers += [_Carrier(email, place.partition, uid.decode()) for uid, email in fold.links.items()]
        else:
            self._claims.update((_short(email), uid) for email, uid in fold.links.items())

    def _compare_claims(self, places: Sequence[TopicPartition]) -> None:
        """Compare profiles and claims, both of *places*. What others have changed since these were read is left out:
        one partition was read before it, and one after."""
        found: list[tuple[str, _Carrier, set[int]]] = []
        uid_by_email: dict[int, int] = {}
        unmatched = set(self._claims)
        for carrier in self._carriers:
            uid = _short(carrier.uid.encode())
            if carrier.email in uid_by_email:
                found.append(("email-not-unique", carrier, {uid, uid_by_email[carrier.email]}))
            uid_by_email[carrier.email] = uid
            if self._claims.get(carrier.email) == uid:
                unmatched.discard(carrier.email)
            else:
                found.append(("email-not-claimed", carrier, {uid, carrier.email}))
        self._report.stale_claims = len(unmatched)
        changed = self._changed(places) if found else set()
        for kind, carrier, keys in found:
            if not keys & changed:
                self._report.add(carrier.partition, PROFILE_STORE, kind, carrier.uid)

    def _changed(self, places: Sequence[TopicPartition]) -> set[int]:
        """Return the digests of the keys of *places* that have been written since these were read."""
        ends = self._log.end_offsets(places, Deadline.after(_STALL_S, self._clock))
        return {
            _short(record.key)
            for place in places
            for _, records in self._read(place, self._ends[place], ends[place])
            for record in records
            if record.key is not None
        }


def _link_of(table: Table, row: bytes) -> int | None:
    """Return the digest of what ties *row* to a row of another store, None where nothing does."""
    if table.store == PROFILE_STORE:
        return _short(email_key_of(row))
    return _short(claim_of(row).uid) if table.store == SEARCH_STORE else None


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
