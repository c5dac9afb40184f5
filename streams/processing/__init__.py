"""The engine that runs a topology, without I/O: see `streams.processing.task`."""

from streams.processing.errors import QUARANTINE, SKIP, STOP, ErrorPolicy
from streams.processing.output import OutputRecord, StoreRow, TaskOutput
from streams.processing.task import StoreView, SubTopologyTask
from streams.processing.view import TaskStoreView

__all__ = [
    "QUARANTINE",
    "SKIP",
    "STOP",
    "ErrorPolicy",
    "OutputRecord",
    "StoreRow",
    "StoreView",
    "SubTopologyTask",
    "TaskOutput",
    "TaskStoreView",
]
