"""Runs the engine of a sub-topology on a log: positions of the input, one run for each partition, the thread that feeds
them. See `streams.runtime.processing.run` for why each record counts once."""

from streams.runtime.processing.care import FailedTask, ProcessingBounds
from streams.runtime.processing.counters import ProcessingCounters
from streams.runtime.processing.feeding import Processing
from streams.runtime.processing.positions import positions_store, positions_topic, row_format, state_of

__all__ = [
    "FailedTask",
    "Processing",
    "ProcessingBounds",
    "ProcessingCounters",
    "positions_store",
    "positions_topic",
    "row_format",
    "state_of",
]
