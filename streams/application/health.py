"""How an application stands: values for operators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streams.runtime.health import NodeHealth
from streams.runtime.processing import FailedTask


@dataclass(frozen=True, slots=True)
class ApplicationHealth:
    """How an application stands, at one moment. `is_live`: it was started, and nothing that it cannot do without has
    ended. `is_ready`: every task that is owned here can process, and global tables are complete. `failed`: tasks that
    a record has stopped; the others go on. `unread`: why the input of sub-topologies cannot be read (a topic that is
    gone, a log that is damaged), empty while it can; it is tried again each second. `nodes`: by name, one for each
    sub-topology and global topic. `error`: why the application gave up as a whole, empty as long as it has not."""

    is_live: bool
    is_ready: bool
    failed: Sequence[FailedTask]
    unread: Sequence[str]
    nodes: Mapping[str, NodeHealth]
    error: str
