"""How far the input of a task is processed: the row that says so, its topic, and the table that it is a row of.

Each batch of input writes this row, in the one group in which its outputs and changes are. So who finds the row finds
everything that the batch did, and who does not find it finds nothing of it. Its id differs from batch to batch: an
engine that has not made the newest row knows that it is not the newest engine.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID
from zlib import crc32

from streams.errors import PoisonRecord, TopologyError
from streams.records import ProducerRecord, Record
from streams.runtime.commands import EVENT_ID
from streams.stores.base import TaskStore
from streams.topology.graph import Topology
from streams.topology.stores import StoreKind
from streams.topology.subtopology import SubTopology

KEY = b"input"

#: Goes up when an older release could not read the rows of stores.
_ROW_FORMAT = 1

#: The rows are looked for when the outcome of an append is not known, so they must not be compacted away meanwhile.
TOPIC_CONFIG: Mapping[str, str] = {
    "cleanup.policy": "compact",
    "min.compaction.lag.ms": "600000",
    "max.compaction.lag.ms": "86400000",
}


@dataclass(frozen=True, slots=True)
class InputPosition:
    """`offsets`: topic to the next offset to process. `stream_time_ms`: the greatest timestamp so far, -1 before any.
    `expired`: store to the key of rows before which all have outlived their retention, where that has changed.
    `segments_ms`: of these stores, what their keys count by."""

    batch_id: bytes
    offsets: Mapping[str, int]
    stream_time_ms: int
    expired: Mapping[str, bytes] = field(default_factory=dict)
    segments_ms: Mapping[str, int] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the row."""
        document = {
            "batch": self.batch_id.hex(),
            "offsets": dict(self.offsets),
            "stream_time_ms": self.stream_time_ms,
            "expired": {store: key.hex() for store, key in self.expired.items()},
            "segments_ms": dict(self.segments_ms),
        }
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, row: bytes) -> "InputPosition":
        """Read a row. Raises PoisonRecord for one that is none."""
        try:
            found = json.loads(row)
            return cls(
                bytes.fromhex(found["batch"]),
                {str(topic): int(offset) for topic, offset in found["offsets"].items()},
                int(found["stream_time_ms"]),
                {str(store): bytes.fromhex(key) for store, key in found["expired"].items()},
                {str(store): int(segment_ms) for store, segment_ms in found.get("segments_ms", {}).items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PoisonRecord("not-a-position", str(error)) from error

    def record(self, subtopology: SubTopology, partition: int) -> ProducerRecord:
        """Return the record that makes the row."""
        headers = ((EVENT_ID, str(UUID(bytes=self.batch_id)).encode()),)
        return ProducerRecord(positions_topic(subtopology), partition, KEY, self.encode(), headers)


def positions_topic(subtopology: SubTopology) -> str:
    """Return the topic of the positions of *subtopology*."""
    return f"{subtopology.application_id}-{subtopology.index}-positions"


def positions_store(subtopology: SubTopology) -> str:
    """Return the store of the positions of *subtopology*."""
    return f"{subtopology.index}-positions"


def state_of(subtopology: SubTopology) -> Topology:
    """Return what a task of *subtopology* keeps when it runs: its positions, which come first because every group has
    one, and its stores. Each of them must have a changelog of its own, or none."""
    topology = Topology(f"{subtopology.application_id}-{subtopology.index}")
    segments_ms = {name: spec.segment_ms for name, spec in subtopology.stores.items()}
    topology.table(
        topic=positions_topic(subtopology),
        store=positions_store(subtopology),
        materialise=_row,
        expiry=partial(_expiry, segments_ms),
    )
    for table in subtopology.state.tables:
        topology.table(topic=table.topic, store=table.store, materialise=table.materialise)
    for store in subtopology.state.local_stores:
        topology.keep(store)
    return topology


def row_format(subtopology: SubTopology) -> int:
    """Return a number for the form of the rows of *subtopology*. Those of windows and sessions lie by segments: with
    another retention they would be looked for elsewhere, so their store is made anew."""
    forgetful = (StoreKind.WINDOW, StoreKind.SESSION)
    segments = sorted((name, spec.segment_ms) for name, spec in subtopology.stores.items() if spec.kind in forgetful)
    return crc32(repr((_ROW_FORMAT, segments)).encode()) if segments else _ROW_FORMAT


def require_own(subtopology: SubTopology, offsets: Mapping[str, int], store: TaskStore) -> None:
    """Raise TopologyError when the position *offsets* is that of other input, or there is none and yet *store* has
    state: the topology has changed in such a way that this is another sub-topology now, which has the number of an
    earlier one. Going on, input that is in the stores already would be processed again."""
    advice = "give the changed topology another application_id, or undo the change"
    topics = {topic for source in subtopology.sources for topic in subtopology.topics_of(source)}
    if offsets and offsets.keys().isdisjoint(topics):
        raise TopologyError(
            f"sub-topology {subtopology.index} reads {', '.join(sorted(topics))} now, and its position is one of"
            f" {', '.join(sorted(offsets))}: {advice}"
        )
    if not offsets:
        filled = [name for name in subtopology.stores if store.scan(name, limit=1)]
        if filled:
            raise TopologyError(
                f"store {filled[0]} has rows, and sub-topology {subtopology.index} no position: {advice}"
            )


def _row(record: Record | ProducerRecord) -> tuple[bytes, bytes | None]:
    if record.key is None:
        raise PoisonRecord("no-key")
    if record.value is not None:
        InputPosition.decode(record.value)
    return record.key, record.value


def _expiry(segments_ms: Mapping[str, int], record: Record) -> Mapping[str, bytes]:
    """Return what *record* says of stores that are there, with keys of the form that they have: an earlier version of
    the topology may have had others, or another retention, by which the same key means another time."""
    try:
        found = None if record.value is None else InputPosition.decode(record.value)
    except PoisonRecord:
        return {}  # It has no row, either.
    expired = {} if found is None else found.expired
    told = {} if found is None else found.segments_ms
    return {store: key for store, key in expired.items() if store in told and told[store] == segments_ms.get(store)}
