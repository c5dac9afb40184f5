"""The inert description of what is computed: sources, processors, stores, sinks, and which of them form one task.

Nothing here reads a log or opens a store; `streams.runtime` does that. A topology is built once, then frozen by use.

A *table* (Kafka Streams: KTable with its source topic as changelog) is the commonest node: its rows are a pure function
of the last record of each key. Because it is pure, the runtime can also apply it to records that are not in the log yet
(the overlay of `streams.runtime.table`), so that a decision and the later materialisation can never disagree.

A topology that is written with `streams.dsl` is a `ProcessorTopology` (`streams.topology.subtopology`). It computes,
too; what each of its sub-topologies *keeps* is a `Topology` in the sense of this module, a table for each store
(decision 20).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from streams.errors import ConfigError
from streams.records import ProducerRecord, Record

#: Turns a record into (key, row), or (key, None) to remove the row. Raises PoisonRecord. Pure.
Materialise = Callable[[Record | ProducerRecord], tuple[bytes, bytes | None]]


#: Tells the Unix time in ms at which a row has outlived its use. Pure.
ExpiresAt = Callable[[bytes], int]

#: Tells which rows of other tables have outlived their use when a record says so: store to the key before which all
#: may be removed. Pure.
Expiry = Callable[[Record], Mapping[str, bytes]]


@dataclass(frozen=True, slots=True)
class Table:
    """A store that holds the fold of one compacted topic.

    *expires_at_ms*: for a topic whose records are also deleted by age. The log tells nobody when it deletes by age, so
    the runtime removes such rows by their own time; until then they may be read, and whoever reads them looks at it.
    *expiry*: for a topic whose records tell that rows of other tables have expired. They are removed wherever the
    record is applied, so every copy of the task loses them alike.
    """

    topic: str
    store: str
    materialise: Materialise
    expires_at_ms: ExpiresAt | None = None
    expiry: Expiry | None = None


class Topology:
    """Sources, stores and what connects them. All topics of one topology are co-partitioned: task *p* reads partition
    *p* of each, and its rows live in one database."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tables: dict[str, Table] = {}
        self._local: list[str] = []

    def table(
        self,
        *,
        topic: str,
        store: str,
        materialise: Materialise,
        expires_at_ms: ExpiresAt | None = None,
        expiry: Expiry | None = None,
    ) -> Table:
        """Add a store that is materialised from *topic*. The order of the calls is the order of the topics: the first
        topic is the one that carries the group's offset commits. Raises ConfigError for a name used twice."""
        if topic in self._tables or store in self.stores:
            raise ConfigError(f"topology {self.name}: topic {topic} or store {store} is used twice")
        table = Table(topic, store, materialise, expires_at_ms, expiry)
        self._tables[topic] = table
        return table

    def keep(self, store: str) -> None:
        """Add a store that no topic tells of: its rows come from whoever decides on this node, with the records of the
        first topic, and it begins empty wherever they are not known. Raises ConfigError for a name used twice."""
        if store in self.stores:
            raise ConfigError(f"topology {self.name}: store {store} is used twice")
        self._local.append(store)

    @property
    def topics(self) -> tuple[str, ...]:
        """The source topics, in the order in which they were added."""
        return tuple(self._tables)

    @property
    def stores(self) -> tuple[str, ...]:
        """The names of the stores, in the same order; those that no topic tells of come last."""
        return (*(table.store for table in self._tables.values()), *self._local)

    @property
    def local_stores(self) -> tuple[str, ...]:
        """The stores that no topic tells of."""
        return tuple(self._local)

    @property
    def tables(self) -> tuple[Table, ...]:
        """The tables, in the same order."""
        return tuple(self._tables.values())

    def table_of(self, topic: str) -> Table:
        """Return the table that *topic* feeds. Raises KeyError for a topic of nobody."""
        return self._tables[topic]

    def describe(self) -> str:
        """Return the topology as text, in the form of Kafka Streams' `Topology.describe`."""
        lines = [f"Topology: {self.name}", "  Sub-topology: 0"]
        for table in self._tables.values():
            lines.append(f"    Source: {table.topic} --> {table.store}")
            lines.append(f"      Table: {table.store} (store: {table.store}, changelog: {table.topic})")
        return "\n".join(lines)
