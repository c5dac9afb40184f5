"""One node on an embedded log for tests, and the program of a child that appends until it is killed."""

import sys
from collections.abc import Mapping
from pathlib import Path

from streams.clock import Clock, Deadline, SystemClock
from streams.cluster import ClusterView, LoneMember
from streams.log.base import Ownership, TopicSpec
from streams.log.local import LocalLog
from streams.records import ProducerRecord, Record, TopicPartition

COMPACTED = {"cleanup.policy": "compact", "min.compaction.lag.ms": "0"}


class LocalNode:
    """A log with one topic `t`, joined and fenced."""

    def __init__(
        self, directory: Path, *, clock: Clock | None = None, config: Mapping[str, str] = COMPACTED, partitions: int = 2
    ) -> None:
        self.clock = clock or SystemClock()
        self.partitions = partitions
        self.log = LocalLog(directory, clock=self.clock)
        self.log.ensure_topics([TopicSpec("t", config, partitions)], self.soon())
        self.membership = self.log.open_membership(["t"], LoneMember.named("n1"))
        self.membership.start(self)
        self.writer = self.log.open_writer(["t"], self.membership)
        self.fence()

    def on_assigned(self, ownership: Ownership) -> None:
        self.ownership = ownership

    def on_revoked(self, partitions: frozenset[int]) -> None: ...

    def on_view(self, view: ClusterView) -> None: ...

    def on_lost(self, partitions: frozenset[int]) -> None: ...

    def soon(self) -> Deadline:
        return Deadline.after(60.0, self.clock)

    def fence(self) -> Mapping[TopicPartition, int]:
        return self.writer.fence(self.ownership, self.soon()).result(0)

    def append(self, *records: ProducerRecord) -> Mapping[TopicPartition, int]:
        future = self.writer.append(records, ownership=self.ownership, positions={}, deadline=self.soon())
        return future.result(0)

    def put(self, key: bytes | None, value: bytes | None, partition: int = 0) -> int:
        """Append one record; return the offset after it."""
        return self.append(ProducerRecord("t", partition, key, value))[TopicPartition("t", partition)]

    def end(self, partition: int = 0) -> int:
        at = TopicPartition("t", partition)
        return self.log.end_offsets([at], self.soon())[at]

    def read(self, partition: int = 0, position: int = 0) -> list[Record]:
        """Return what lies between *position* and the end, from disk."""
        reader = self.log.open_reader()
        at = TopicPartition("t", partition)
        reader.assign({at: position})
        records: list[Record] = []
        while reader.positions[at] < self.end(partition):
            for batch in reader.poll(5.0):
                records += batch.records
        reader.close()
        return records

    def fold(self, partition: int = 0) -> dict[bytes | None, bytes]:
        """Return the last value of each key that has one."""
        table: dict[bytes | None, bytes] = {}
        for record in self.read(partition):
            if record.value is None:
                table.pop(record.key, None)
            else:
                table[record.key] = record.value
        return table

    def close(self) -> None:
        self.log.close()


def group(number: int, partitions: int) -> list[ProducerRecord]:
    """Return group *number* of the child: in each partition as many records, of few keys, as the number says."""
    count = 1 + number % 7
    return [
        ProducerRecord("t", partition, b"%d" % (number * 8 + i), b"%d/%d" % (number, count), (("h", b"%d" % i),))
        for partition in range(partitions)
        for i in range(count)
    ]


def main(directory: str) -> None:
    """Append groups for ever; after each one that was acknowledged, say so on standard output."""
    node = LocalNode(Path(directory))
    number = node.end()
    while True:
        node.append(*group(number, node.partitions))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 1


if __name__ == "__main__":
    main(sys.argv[1])
