"""Topologies whose output shows whether each record counted once, and what that output must be.

Each input (`key`, `id`) at a time is written out as it is, counted by key, counted by key and minute, and, after a
repartition, by what its id ends with. A record that is lost or counted twice leaves a number out, or has one twice.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from random import Random

from streams.dsl import Processor, StreamsBuilder, tumbling
from streams.dsl.api import KStream
from streams.operators.processors import ProcessorRecord
from streams.records import Record
from streams.topology.subtopology import ProcessorTopology

INPUT, SEEN, COUNTS, WINDOWS, ENDINGS = "input", "seen", "counts", "windows", "endings"
OUTPUTS = {SEEN: 3, COUNTS: 2, WINDOWS: 3, ENDINGS: 2}
PARTITIONS = 4
WINDOW_MS = 10_000
GRACE_MS = 3_600_000  # nothing comes too late
Input = tuple[bytes, bytes, int]


def counting(prefix: str) -> ProcessorTopology:
    """Return the topology; its topics begin with *prefix*."""
    builder = StreamsBuilder(f"{prefix}app")
    stream = builder.stream(prefix + INPUT, key=str, value=str)
    stream.to(prefix + SEEN)
    by_key = stream.group_by_key()
    by_key.count(store="counts").to_stream().to(prefix + COUNTS)
    windows = by_key.windowed_by(tumbling(WINDOW_MS, grace_ms=GRACE_MS)).count(
        store="windows", retention_ms=24 * 3600 * 1000
    )
    windows.to_stream().to(prefix + WINDOWS)
    by_ending = stream.group_by(lambda _, value: value[-2:], name="ending")
    by_ending.count(store="endings").to_stream().to(prefix + ENDINGS)
    return builder.build()


def inputs(number: int, seed: int, begin_ms: int) -> list[Input]:
    """Return so many inputs; times begin at *begin_ms*, and go forth and back. A broker deletes by such times what is
    too old, changelogs of windows included: they should not lie far in the past."""
    random = Random(seed)
    keys = max(10, number // 40)
    return [
        (b"k%d" % random.randrange(keys), b"id-%07d" % n, begin_ms + n * 5 + random.randrange(30_000))
        for n in range(number)
    ]


def check(given: Sequence[Input], found: Mapping[str, Sequence[Record]], prefix: str) -> None:
    """Assert that *found* (by topic) is what a single undisturbed run of `counting` writes: every record once, every
    count once and in its order."""
    check_outputs(given, found, prefix)
    _check_counts(found[prefix + ENDINGS], Counter(value[-2:] for _, value, _ in given))


def check_outputs(given: Sequence[Input], found: Mapping[str, Sequence[Record]], prefix: str) -> None:
    """Assert the same of the topics that need no repartition."""
    seen = Counter((record.key, record.value, record.timestamp_ms) for record in found[prefix + SEEN])
    assert seen == Counter(given)
    _check_counts(found[prefix + COUNTS], Counter(key for key, _, _ in given))
    windows = Counter(key + (at_ms - at_ms % WINDOW_MS).to_bytes(8, "big") for key, _, at_ms in given)
    _check_counts(found[prefix + WINDOWS], windows)


def _check_counts(records: Sequence[Record], wanted: Mapping[bytes, int]) -> None:
    counted: dict[bytes, list[int]] = defaultdict(list)
    for record in records:
        assert record.key is not None
        counted[record.key].append(int.from_bytes(record.value or b"", "big"))
    assert {key: len(numbers) for key, numbers in counted.items()} == wanted
    wrong = [key for key, numbers in counted.items() if numbers != list(range(1, wanted[key] + 1))]
    assert not wrong, (wrong[0], counted[wrong[0]])


class Remember(Processor[str, str, str, str]):
    """Counts each key in a store without a changelog."""

    def process(self, record: ProcessorRecord[str, str]) -> None:
        store = self.context.store("seen")
        store.put(record.key, (store.get(record.key) or 0) + 1)
        self.context.forward(record.key, str(store.get(record.key)))


def remembering(name: str) -> ProcessorTopology:
    """Return one that reads `<name>-in`, counts in a store `seen` without a changelog, and writes `<name>-out`."""
    builder = StreamsBuilder(name)
    builder.add_store("seen", key=str, value=int, is_logged=False)
    lines: KStream[str, str] = builder.stream(f"{name}-in", key=str, value=str)
    lines.process(Remember, stores=["seen"]).to(f"{name}-out")
    return builder.build()
