"""Stand-ins for log, table and node: a dictionary that applies the topology's own functions to what is decided.

That is what the real overlay and the real tasks do, so what holds here holds for every state that the log can reach.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from app.profiles.email import EmailPolicy
from app.profiles.ports import ProfileSettings
from app.profiles.rows import ClaimRow, claim_of, claim_row, email_key_of, version_of
from app.profiles.service import ProfileService
from app.profiles.topics import PROFILE_STORE, SEARCH_STORE, TopicNames
from app.profiles.topology import build
from streams.clock import Deadline
from streams.errors import LeaseExpired
from streams.partitioner import partition_for
from streams.records import ProducerRecord, TopicPartition
from streams.runtime.commands import Command, Decided, Decision, Outcome

NAMES = TopicNames.prefixed("")
TOPIC_IDS = {NAMES.profiles: "id-1", NAMES.emails: "id-2", NAMES.requests: "id-3"}
SECRET = b"sixteen bytes or more of secret"


class ManualClock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def monotonic(self) -> float:
        return self.now_ms / 1000

    def time_ms(self) -> int:
        return self.now_ms


class State:
    """Rows by store, partition and key, and the records that made them."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.rows: dict[tuple[str, int], dict[bytes, bytes]] = {}
        self.ends: dict[TopicPartition, int] = {}
        self.log: list[ProducerRecord] = []
        self.groups: list[Sequence[ProducerRecord]] = []
        self._topology = build(NAMES)

    def store(self, store: str, partition: int) -> dict[bytes, bytes]:
        return self.rows.setdefault((store, partition), {})

    def apply(self, records: Sequence[ProducerRecord]) -> dict[TopicPartition, int]:
        """Append and materialise; return the offsets after the records."""
        written: dict[TopicPartition, int] = {}
        for record in records:
            table = self._topology.table_of(record.topic)
            key, row = table.materialise(record)
            assert record.partition == partition_for(key, self.partitions)
            rows = self.store(table.store, record.partition)
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row
            place = TopicPartition(record.topic, record.partition)
            written[place] = self.ends[place] = self.ends.get(place, 0) + 1
        self.log += records
        if records:
            self.groups.append(records)
        return written

    def profile(self, uid: str) -> bytes | None:
        key = uid.encode()
        return self.store(PROFILE_STORE, partition_for(key, self.partitions)).get(key)

    def claim(self, email_key: bytes) -> ClaimRow | None:
        row = self.store(SEARCH_STORE, partition_for(email_key, self.partitions)).get(email_key)
        return None if row is None else claim_of(row)

    def put_claim(self, email_key: bytes, uid: str, version: int = 1) -> None:
        """Leave a claim behind, as a lost release would."""
        rows = self.store(SEARCH_STORE, partition_for(email_key, self.partitions))
        rows[email_key] = claim_row(uid.encode(), version, b"lost")

    def drop_claim(self, email_key: bytes) -> None:
        self.store(SEARCH_STORE, partition_for(email_key, self.partitions)).pop(email_key)

    def live(self) -> dict[str, tuple[int, bytes]]:
        """Return version and e-mail key of every profile."""
        return {
            uid.decode(): (version_of(row), email_key_of(row))
            for (store, _), rows in self.rows.items()
            if store == PROFILE_STORE
            for uid, row in rows.items()
        }


class PartialView:
    """The view of one command: it fails the test when the command looks beyond its partitions."""

    def __init__(self, state: State, partitions: Sequence[int]) -> None:
        self._state = state
        self._partitions = partitions

    def get(self, store: str, partition: int, key: bytes) -> bytes | None:
        assert partition in self._partitions
        return self._state.store(store, partition).get(key)


def decide(state: State, command: Command) -> Decision:
    """Decide *command* on *state* and apply what it writes."""
    decision = command.decide(PartialView(state, command.partitions))
    assert {record.partition for record in decision.records} <= set(command.partitions)
    state.apply(decision.records)
    return decision


class FakeTable:
    """Decides at once. `script`: outcomes to give instead, first come first served. `before`: called once before the
    next command, to let another write first."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.script: list[Outcome] = []
        self.commands: list[Command] = []
        self.before: Callable[[], None] | None = None

    async def execute(self, command: Command, deadline: Deadline) -> Outcome:
        self.commands.append(command)
        if self.script:
            return self.script.pop(0)
        interfere, self.before = self.before, None
        if interfere is not None:
            interfere()
        decision = command.decide(PartialView(self._state, command.partitions))
        return Decided(decision.result, self._state.apply(decision.records))


class FakeReader:
    """Reads one store of one task."""

    def __init__(self, node: "FakeNode", store: str, partition: int) -> None:
        self._node = node
        self._rows = node.state.store(store, partition)
        self._partition = partition
        self.get = self._rows.get

    @property
    def positions(self) -> Mapping[str, int]:
        ends = self._node.state.ends
        return {topic: ends.get(TopicPartition(topic, self._partition), 0) for topic in NAMES}

    def scan(self, *, start: bytes, stop: bytes | None, limit: int | None) -> list[tuple[bytes, bytes]]:
        return [(key, self._rows[key]) for key in sorted(self._rows) if key >= start][:limit]

    def approximate_count(self) -> int:
        return len(self._rows)

    def check_settled(self, key: bytes) -> None:
        if key in self._node.unsettled:
            raise LeaseExpired("under way", partition=self._partition)

    def check_lease(self) -> None:
        if self._node.lapsed_ms:
            raise LeaseExpired("expired", partition=self._partition)

    def staleness_ms(self) -> int:
        return self._node.lapsed_ms

    def explain(self, error: Exception) -> Exception:
        return error

    def report_damage(self, error: BaseException) -> None:
        self._node.damaged.append(self._partition)


class FakeNode:
    """A node that owns all partitions. `lapsed_ms`: since when its lease is over. `unsettled`: keys of which a write
    may be in the log and is not applied."""

    def __init__(self, state: State) -> None:
        self.node_id = "node-1"
        self.state = state
        self.partitions = state.partitions
        self.is_observer = False
        self.topic_ids = TOPIC_IDS
        self.sequence = 0
        self.lapsed_ms = 0
        self.unsettled: set[bytes] = set()
        self.damaged: list[int] = []
        self.barriers: list[list[int]] = []
        self.waits: list[Mapping[TopicPartition, int]] = []

    def reader(self, store: str, partition: int) -> FakeReader:
        return FakeReader(self, store, partition)

    def replica(self, store: str, partition: int) -> FakeReader:
        return FakeReader(self, store, partition)

    def role_of(self, partition: int) -> str:
        return "owner"

    async def barrier(self, partitions: Iterable[int], deadline: Deadline) -> None:
        self.barriers.append(list(partitions))

    async def wait_applied(self, targets: Mapping[TopicPartition, int], deadline: Deadline) -> None:
        self.waits.append(targets)


class World:
    """A service over fakes."""

    def __init__(
        self, *, partitions: int = 4, is_if_match_required: bool = False, random: "CountingRandom | None" = None
    ) -> None:
        self.clock = ManualClock()
        self.state = State(partitions)
        self.node = FakeNode(self.state)
        self.table = FakeTable(self.state)
        self.service = ProfileService(
            node=self.node,
            table=self.table,
            topics=NAMES,
            clock=self.clock,
            random=random or CountingRandom(),
            settings=ProfileSettings(
                token_secret=SECRET,
                email_policy=EmailPolicy.PUBLIC,
                is_if_match_required=is_if_match_required,
            ),
        )

    @property
    def deadline(self) -> Deadline:
        return Deadline.after(10.0, self.clock)


class CountingRandom:
    """Bytes that repeat in every run and never within one."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return (self._count * 0x9E3779B97F4A7C15F39CC0605CEDC835 & (1 << 128) - 1).to_bytes(16)[:size]
