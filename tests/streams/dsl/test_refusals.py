"""What cannot work is refused while the topology is written, with a sentence that says what to do instead."""

from collections.abc import Callable
from typing import Any

import pytest

from streams.dsl import StreamsBuilder, hopping, join_windows, session, tumbling
from streams.errors import ConfigError, TopologyError


def _stream(builder: StreamsBuilder, topic: str = "in") -> Any:
    return builder.stream(topic, key=str, value=str)


def _table(builder: StreamsBuilder, topic: str = "table") -> Any:
    return builder.table(topic, key=str, value=str)


def _two_ways(builder: StreamsBuilder) -> None:
    builder.stream("in", key=str, value=str)
    builder.stream("in", key=str, value=int)


def _same_store(builder: StreamsBuilder) -> None:
    grouped = _stream(builder).group_by_key()
    grouped.count(store="counts")
    grouped.count(store="counts")


def _missing_store(builder: StreamsBuilder) -> None:
    _stream(builder).process(lambda: None, stores=["nowhere"])
    builder.build()


def _unused_store(builder: StreamsBuilder) -> None:
    builder.add_store("lonely", key=str)
    _stream(builder).to("out")
    builder.build()


REFUSED: dict[str, tuple[Callable[[StreamsBuilder], Any], str]] = {
    "nothing": (lambda b: b.build(), "reads nothing"),
    "no topic": (lambda b: b.stream(key=str, value=str), "needs a topic"),
    "bad topic": (lambda b: _stream(b, "a b"), "a-z A-Z"),
    "bad reset": (lambda b: b.stream("in", key=str, value=str, auto_offset_reset="now"), "earliest, latest"),
    "two ways": (_two_ways, "read it once"),
    "bad store name": (lambda b: _stream(b).group_by_key().count(store="a/b"), "a-z A-Z"),
    "same store": (_same_store, "two stores are named 'counts'"),
    "missing store": (_missing_store, "add_store"),
    "unused store": (_unused_store, "used by no processor"),
    "unknown kind": (lambda b: b.add_store("s", key=str, kind="set"), "key-value, window, session, membership"),
    "no retention": (lambda b: b.add_store("s", key=str, kind="window"), "retention_ms"),
    "no branch": (lambda b: _stream(b).split({}), "needs a branch"),
    "default twice": (lambda b: _stream(b).split({"a": lambda *_: True}, default="a"), "'a'"),
    "no windows": (lambda b: _stream(b).join(_stream(b, "other"), lambda x, y: x), "needs windows="),
    "windows with a table": (
        lambda b: _stream(b).join(_table(b), lambda x, y: x, windows=join_windows(1)),
        "has no windows",
    ),
    "key with a table": (lambda b: _stream(b).join(_table(b), lambda x, y: x, on=lambda k, v: v), "select_key"),
    "suppress what": (lambda b: _table(b).suppress(), "until_window_closes=True or time_limit_ms="),
    "suppress no window": (lambda b: _table(b).suppress(until_window_closes=True), "windowed_by"),
    "early final": (
        lambda b: (
            _stream(b).group_by_key().windowed_by(tumbling(5)).count().suppress(until_window_closes=True, max_records=5)
        ),
        "cannot go early",
    ),
    "session without merger": (
        lambda b: _stream(b).group_by_key().windowed_by(session(5)).aggregate(str, lambda k, v, a: a),
        "merger=",
    ),
    "short retention": (
        lambda b: _stream(b).group_by_key().windowed_by(tumbling(10, grace_ms=5)).count(retention_ms=14),
        "less than the 15 ms",
    ),
    "window of nothing": (lambda b: tumbling(0), "greater than 0"),
    "window in seconds": (lambda b: tumbling(1.5), "whole number"),  # type: ignore[arg-type]
    "negative grace": (lambda b: tumbling(5, grace_ms=-1), "0 or more"),
    "advance beyond size": (lambda b: hopping(5, advance_ms=6), "must not exceed"),
    "join window of nothing": (lambda b: join_windows(), "difference_ms, or before_ms and after_ms"),
    "join window backwards": (lambda b: join_windows(before_ms=-5, after_ms=4), "must not end"),
    "no partition": (lambda b: _stream(b).repartition(partitions=0), "needs a partition"),
    "same repartition": (
        lambda b: (_stream(b).repartition(name="a"), _stream(b).repartition(name="a")),
        "another name=",
    ),
    "filter of nothing": (lambda b: b.add_store("s", key=complex), "complex"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_with_advice(case: str) -> None:
    """Each entry of the table above raises, and the message has the words that help."""
    attempt, words = REFUSED[case]
    with pytest.raises(ConfigError, match=words):
        attempt(StreamsBuilder("refused"))


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 300, "..", "a/b"])
def test_a_name_that_no_topic_can_have_is_refused(name: str) -> None:
    """The application id is the beginning of topics' names."""
    with pytest.raises(TopologyError):
        StreamsBuilder(name)
