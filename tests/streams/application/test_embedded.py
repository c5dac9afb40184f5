"""Applications on the embedded log: what a topology computes is there, once, whatever ends the process."""

from collections import Counter
from pathlib import Path

from examples.word_count.topology import COUNTS, LINES_TOPIC, OUTPUT_TOPIC, WINDOWED_COUNTS, word_count
from streams.application.producing import Input
from tests.streams.application.rig import embedded, records_of, rows, stores, wait_until_processed

TOPICS = {LINES_TOPIC: 3, OUTPUT_TOPIC: 2}
LINES = [f"to be or not to be {n % 50}" for n in range(1_000)]
WORDS = Counter(word for line in LINES for word in line.split())


def test_words_are_counted_and_a_restart_goes_on(tmp_path: Path) -> None:
    """Two sub-topologies and the topic between them: counts, windows and outputs are right after each start."""
    for start in (1, 2):
        with embedded(word_count(), tmp_path, TOPICS) as application:
            application.wait_ready(30)
            application.producer.send(LINES_TOPIC, [Input(None, line, 60_000 * start) for line in LINES])
            wait_until_processed(application)
            assert rows(application, COUNTS) == {word: n * start for word, n in WORDS.items()}
            windows = [store.fetch("be", 0, 600_000) for store in stores(application, WINDOWED_COUNTS)]
            found = {window: n for each in windows for window, n in each}
            assert found == {60_000 * n: WORDS["be"] for n in range(1, start + 1)}
            output = [record for record in records_of(application, OUTPUT_TOPIC) if record.key == b"be"]
            assert [int.from_bytes(record.value or b"", "big") for record in output] == list(
                range(1, WORDS["be"] * start + 1)
            )
