"""The nodes of a processor topology: inert values that say what reads, computes and writes, and how they are connected.

Nothing here runs. What a node *does* is its operator: a function that, given the context of one task and the way to its
children, returns the function that processes one record. Operators are called once for each task, when it is made
(`streams.processing`); what they return is plain functions that call each other, with nothing looked up for a record.

A record travels as three arguments (key, value, timestamp in ms), an update of a table as four (key, new value, old
value, timestamp); headers and place of the record under way lie in `OperatorContext.record`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from streams.records import Headers, Record
from streams.serdes import Serde

#: Processes one record, or one update of a table; returns when everything below it has been done.
Process = Callable[..., None]

#: Gives the time of a record in Unix ms. Raises what it likes for a record that has none.
TimestampExtractor = Callable[[Record], int]

#: Chooses a partition: (topic, key, value, number of partitions).
Partitioner = Callable[[str, Any, Any, int], int]

#: Names the topic of a record: (key, value).
TopicChooser = Callable[[Any, Any], str]


class CurrentRecord(Protocol):
    """The record under way, and the times of the task. Operators set `headers` only around a call of their children."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    #: The greatest timestamp of any record of the task so far; -1 before the first.
    stream_time_ms: int


class Moment(Protocol):
    """A time that outlives a restart of the task, exactly as it was at the last commit. -1 before it is set."""

    value: int


class OperatorContext(Protocol):
    """What an operator may ask of the task for which it is made."""

    @property
    def node(self) -> str:
        """The name of the node."""
        ...

    @property
    def record(self) -> CurrentRecord: ...

    @property
    def children(self) -> Mapping[str, Process]:
        """The children by name, in their order: for a node that sends to chosen ones."""
        ...

    def store(self, name: str) -> Any:
        """Return a store that the node is connected to, or a global one. Raises TopologyError for any other."""
        ...

    def moment(self, name: str, *, of: str | None = None) -> Moment:
        """Return the time of that name among the node's own, or among those that nodes share under the name *of*."""
        ...

    def drop(self, reason: str) -> None:
        """Count a record that is not processed further: a late one, or one without a key that is needed."""
        ...

    def wall_clock_ms(self) -> int:
        """Return Unix time in ms; in a test what the test says."""
        ...

    def schedule(self, interval_ms: int, is_stream_time: bool, callback: Callable[[int], None]) -> Callable[[], None]:
        """Call *callback* every *interval_ms* with the time; return a function that ends it."""
        ...

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call *callback* when the task ends."""
        ...

    def on_rollback(self, callback: Callable[[], None]) -> None:
        """Call *callback* after stores went back to an earlier state: whoever keeps something derived from a store in
        memory makes it anew."""
        ...


#: Makes the function that processes records, given the task's context and the way to the children (all of them).
Operator = Callable[[OperatorContext, Process], Process]


@dataclass(frozen=True, slots=True)
class SourceNode:
    """Reads topics. `is_internal`: the topic is a repartition topic of this topology (its name has no application id).

    `timestamp` None: the record's own. `auto_offset_reset`: where to begin without a committed offset (Kafka's words).
    """

    name: str
    topics: tuple[str, ...]
    key: Serde[Any]
    value: Serde[Any]
    timestamp: TimestampExtractor | None = None
    is_internal: bool = False
    auto_offset_reset: str = "earliest"


@dataclass(frozen=True, slots=True)
class ProcessorNode:
    """Computes. `stores`: the names of the stores that it is connected to (global ones need no connection).
    `keeps_time`: its operator asks for a `moment`."""

    name: str
    parents: tuple[str, ...]
    operator: Operator
    stores: tuple[str, ...] = ()
    keeps_time: bool = False


@dataclass(frozen=True, slots=True)
class SinkNode:
    """Writes records to a topic, or to the topic that a function names."""

    name: str
    parents: tuple[str, ...]
    topic: str | TopicChooser
    key: Serde[Any]
    value: Serde[Any]
    partitioner: Partitioner | None = None
    is_internal: bool = False


Node = SourceNode | ProcessorNode | SinkNode


@dataclass(frozen=True, slots=True)
class InternalTopic:
    """A topic that belongs to the application: created by it, with these settings, and by nobody else.

    `partitions` None: as many as the topics that it must be co-partitioned with have, or that its records come from.
    """

    name: str
    config: Mapping[str, str] = field(default_factory=dict)
    partitions: int | None = None


@dataclass(frozen=True, slots=True)
class CopartitionGroup:
    """Sources whose topics must have the same number of partitions, and why (for the message when they do not)."""

    sources: Sequence[str]
    reason: str
