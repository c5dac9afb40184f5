"""A task can die at any record and go on elsewhere from its changelogs, and nobody sees a difference.

Every recorded case of `tests/golden` is run twice: straight through, and with all tasks and stores thrown away and
made anew from the changelogs before each record. So for every operator the changelog is a complete description of its
state.
"""

from collections.abc import Callable
from typing import Any

import pytest

from streams.errors import ProcessingFailed, TopologyError
from streams.testing.driver import TopologyTestDriver
from streams.topology.subtopology import ProcessorTopology
from tests.golden.binding import SERDES, TopologyMaker, Unsupported
from tests.golden.format import AdvanceWallClock, Case, case_names, load_case

# Wall-clock punctuations are counted from when a task is made.
_COUNTED_ANEW = ("process_wall_clock", "process_buffer_wall_clock")


def _names() -> list[str]:
    return [name for name in case_names() if not name.startswith(_COUNTED_ANEW)]


@pytest.mark.parametrize("name", _names())
@pytest.mark.parametrize(
    "interrupt", [TopologyTestDriver.restore, TopologyTestDriver.restart], ids=["moved", "restarted"]
)
def test_a_task_that_begins_anew_goes_on_as_if_nothing_had_been(
    name: str, interrupt: Callable[[TopologyTestDriver], None]
) -> None:
    """Outputs with an interruption before each record equal those without."""
    case = load_case(name)
    try:
        topology = TopologyMaker(case).build()
    except (TopologyError, Unsupported):
        return  # tests.golden says which these are
    assert _outputs(case, topology, interrupt) == _outputs(case, topology, lambda _: None)


def _outputs(
    case: Case, topology: ProcessorTopology, interrupt: Callable[[TopologyTestDriver], None]
) -> list[dict[str, list[Any]] | str]:
    found: list[dict[str, list[Any]] | str] = []
    policies: dict[str, str] = {
        "on_deserialization_error": "skip" if case.config.on_bad_record == "skip" else "stop",
        "on_processing_error": "skip" if case.config.on_processing_error == "skip" else "stop",
    }
    types = {step["topic"]: step for step in case.topology if step.op in ("stream", "table", "global_table")}
    sinks = {sink.topic for each in topology.subtopologies for sink in each.sinks if isinstance(sink.topic, str)}
    driver = TopologyTestDriver(topology, **policies)
    for given in case.input:
        interrupt(driver)
        try:
            if isinstance(given, AdvanceWallClock):
                driver.advance_wall_clock(given.advance_wall_clock_ms)
            else:
                key = _bytes(types[given.topic]["key"], given.key, given.key_hex)
                value = _bytes(types[given.topic]["value"], given.value, given.value_hex)
                driver.pipe_bytes(given.topic, key, value, given.timestamp)
        except ProcessingFailed as error:
            found.append(error.stage)
            return found
        found.append({topic: driver.read_bytes(topic) for topic in sorted(sinks)})
    driver.close()
    return found


def _bytes(type_: str, value: Any, raw: str | None) -> bytes | None:
    if raw is not None:
        return bytes.fromhex(raw)
    return None if value is None else SERDES[type_].serialize(value)
