"""What this node tells the group about itself, taken from its configuration and its tasks."""

import uuid
from collections.abc import Mapping

from streams.cluster import NodeInfo
from streams.config import RuntimeConfig
from streams.runtime.task import StreamTask


class NodeMember:
    """A `streams.cluster.Member`. Any thread."""

    def __init__(self, config: RuntimeConfig) -> None:
        self.info = NodeInfo(config.node_id, uuid.uuid4().hex, config.address, config.rack, config.role)
        self.num_standby_replicas = config.num_standby_replicas
        self.settings = config.shared_settings
        #: Set once, by the stream thread, before the member joins.
        self.tasks: Mapping[int, StreamTask] = {}

    def positions(self) -> Mapping[int, int]:
        """See `Member.positions`."""
        return {number: sum(task.positions.values()) for number, task in list(self.tasks.items())}
