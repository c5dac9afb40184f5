"""What is computed: how often each word was said, altogether and by the minute; and what an observer keeps of that."""

import re

from streams.dsl import StreamsBuilder, tumbling
from streams.topology.subtopology import ProcessorTopology

LINES_TOPIC, OUTPUT_TOPIC = "text-lines-topic", "wordcount-output"
COUNTS, WINDOWED_COUNTS = "word-count", "windowed-word-count"
WINDOW_MS = 60_000
DAY_MS = 24 * 3600 * 1000

# As Java's \W, which the words of the original are divided by: letters that are not ASCII are no letters.
NO_WORD = re.compile(r"\W+", re.ASCII)


def word_count() -> ProcessorTopology:
    """Return the topology of those who count. The counts go to a topic, too, for observers.

    A minute takes late lines for a day: instances do not read in step, and one that comes back has catching up to do.
    """
    builder = StreamsBuilder("wordcount-iq-example")
    lines = builder.stream(LINES_TOPIC, key=str, value=str)
    words = lines.flat_map_values(words_of).group_by(lambda _, word: word, name="words")
    words.count(store=COUNTS).to_stream().to(OUTPUT_TOPIC)
    words.windowed_by(tumbling(WINDOW_MS, grace_ms=DAY_MS)).count(store=WINDOWED_COUNTS)
    return builder.build()


def observer() -> ProcessorTopology:
    """Return the topology of those who only answer: another application, each of whose instances has all counts."""
    builder = StreamsBuilder("wordcount-observer")
    builder.global_table(OUTPUT_TOPIC, key=str, value=int, store=COUNTS)
    return builder.build()


def words_of(line: str | None) -> list[str]:
    """Return the words of *line* in lower case. What stands before the first letter is no word, not even an empty one;
    a record without value has none."""
    return [word for word in NO_WORD.split((line or "").lower()) if word]
