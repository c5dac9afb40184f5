"""The engine that runs a topology, without I/O: see `streams.processing.task`."""

from streams.processing.errors import QUARANTINE, SKIP, STOP, ErrorPolicy
from streams.processing.output import OutputRecord, StoreRow, TaskOutput
from streams.processing.stores import StoreView, committed_store
from streams.processing.task import SubTopologyTask
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
    "committed_store",
]
