"""Word count: what it computes, tried without a log."""

from examples.word_count.topology import (
    COUNTS,
    DAY_MS,
    OUTPUT_TOPIC,
    WINDOW_MS,
    WINDOWED_COUNTS,
    observer,
    word_count,
    words_of,
)
from streams.testing import TopologyTestDriver

FACT = '{"fact":"Chuck Norris can divide by zero."}'


def test_words_are_divided_as_the_original_divides_them() -> None:
    """By what Java's \\W matches, in lower case; the empty text in front of a JSON fact is not counted as a word."""
    assert words_of(FACT) == ["fact", "chuck", "norris", "can", "divide", "by", "zero"]
    assert words_of("Été naïve") == ["t", "na", "ve"]
    assert words_of("...") == words_of("") == words_of(None) == []


def test_an_observer_has_all_counts_and_windows_are_minutes() -> None:
    """What the instances write, an application of another id has whole on every node."""
    with (
        TopologyTestDriver(word_count(), partitions=4) as driver,
        TopologyTestDriver(observer(), partitions=4) as watching,
    ):
        driver.pipe_input("text-lines-topic", None, FACT, 60_000)
        driver.pipe_input("text-lines-topic", None, None, 60_001)
        driver.pipe_input("text-lines-topic", None, "Zero by zero", 120_001)
        driver.restore()
        for record in driver.read_bytes(OUTPUT_TOPIC):
            watching.pipe_bytes(OUTPUT_TOPIC, record.key, record.value, record.timestamp_ms)
        counted = {word: count for p in range(4) for word, count in driver.store(COUNTS, p).all()}
        assert counted == {"by": 2, "can": 1, "chuck": 1, "divide": 1, "fact": 1, "norris": 1, "zero": 3}
        assert dict(watching.store(COUNTS).all()) == counted
        stores = [driver.store(WINDOWED_COUNTS, p) for p in range(4)]
        windows = [window for store in stores for window in store.fetch("zero", 0, 200_000)]
        assert windows == [(60_000, 1), (120_000, 2)]


def test_a_minute_takes_late_lines_for_a_day() -> None:
    """What was said of it counts, in whatever order lines arrive; later it is closed, and forgotten."""
    with TopologyTestDriver(word_count()) as driver:
        driver.pipe_input("text-lines-topic", None, "zero", DAY_MS + WINDOW_MS - 1)
        driver.pipe_input("text-lines-topic", None, "zero", 0)
        assert list(driver.store(WINDOWED_COUNTS).fetch("zero", 0, DAY_MS)) == [(0, 1), (DAY_MS, 1)]
        driver.pipe_input("text-lines-topic", None, "zero", DAY_MS + WINDOW_MS)
        driver.pipe_input("text-lines-topic", None, "zero", 0)
        assert driver.dropped == {"late": 1}
        assert driver.store(COUNTS).get("zero") == 4
