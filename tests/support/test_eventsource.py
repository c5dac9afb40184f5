"""The client that judges the event stream is itself judged by the examples of the specification (HTML, 9.2.6)."""

import pytest

from tests.support.eventsource import ServerEvent, StreamParser


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_lines_end_in_three_ways_and_arrive_in_any_pieces(size: int, end: str) -> None:
    """An event of several data lines, a comment, an id without data, and one that never ends."""
    lines = [
        "\ufeffretry: 10",
        "data: first",
        "data:second",
        "data",
        ": c",
        "id: 7",
        "event: add",
        "",
        "id: 8",
        "",
        "data: x",
    ]
    raw = end.join([*lines, ""]).encode()
    parser = StreamParser()
    events = [event for at in range(0, len(raw), size) for event in parser.feed(raw[at : at + size])]
    assert events == [ServerEvent("add", "first\nsecond\n", "7")]
    assert (parser.last_event_id, parser.retry_ms, parser.comments) == ("8", 10, 1)


def test_an_id_with_a_null_or_a_retry_that_is_no_number_is_ignored() -> None:
    """And an id stays until another comes."""
    parser = StreamParser("1")
    assert parser.feed(b"id: a\0b\nretry: 1x\ndata: y\n\ndata:z\n\n") == [
        ServerEvent("message", "y", "1"),
        ServerEvent("message", "z", "1"),
    ]
    assert parser.retry_ms is None
