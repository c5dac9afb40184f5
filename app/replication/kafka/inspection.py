"""What a copy holds, for `--verify`: reads its topic, writes nothing.

Invariant: of each partition everything is read that was committed when the reading of it began.
"""

from collections.abc import Collection, Iterator
from contextlib import closing

from app.replication.kafka.target import TargetCluster
from app.replication.ports import Held
from streams.clock import Clock, Deadline
from streams.errors import LogError
from streams.log.base import LogReader
from streams.partitioner import partition_for
from streams.records import Record, TopicPartition, header

_POLL_S = 0.5
#: A partition that brings nothing for so long is given up.
_SILENCE_S = 60.0


def scan(target: TargetCluster, topic: str, partitions: int, clock: Clock) -> Iterator[Held]:
    """Yield the last record of each uid, partition by partition. Raises LogError.

    A partition is read twice, first for the offsets of its last records: some hundred bytes for each uid of one
    partition are all that is in memory.
    """
    with closing(target.open_reader()) as reader:
        for number in range(partitions):
            place = TopicPartition(topic, number)
            last = {record.key: record.offset for record in _records(target, reader, place, clock)}
            for record in _records(target, reader, place, clock):
                if last.get(record.key) == record.offset:
                    yield _held(record)


def look_up(target: TargetCluster, topic: str, partitions: int, uids: Collection[str], clock: Clock) -> dict[str, Held]:
    """Return what is held of *uids*. It reads the partitions that they lie in. Raises LogError."""
    wanted = {uid.encode() for uid in uids}
    found: dict[str, Held] = {}
    with closing(target.open_reader()) as reader:
        for number in {partition_for(uid, partitions) for uid in wanted}:
            for record in _records(target, reader, TopicPartition(topic, number), clock):
                if record.key in wanted:
                    held = _held(record)
                    found[held.uid] = held
    return found


def _held(record: Record) -> Held:
    version = header(record.headers, "profile-version") or b""
    uid = (record.key or b"").decode("ascii", "replace")
    return Held(uid, int(version) if version.isdigit() else 0, record.value)


def _records(target: TargetCluster, reader: LogReader, place: TopicPartition, clock: Clock) -> Iterator[Record]:
    end = target.end(place, Deadline.after(_SILENCE_S, clock))
    reader.assign({place: 0})
    position = 0
    silent_until = Deadline.after(_SILENCE_S, clock)
    while position < end:
        for batch in reader.poll(_POLL_S):
            yield from batch.records
            position = batch.next_offset
            silent_until = Deadline.after(_SILENCE_S, clock)
        if silent_until.has_passed(clock):
            raise LogError(f"{place.topic}-{place.partition} brings nothing any more at offset {position}")
