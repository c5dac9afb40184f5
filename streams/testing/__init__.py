"""For the tests of this package and of its users: the driver that runs a topology in memory, and fakes without a broker
and without a disk. Those are a log in memory whose failures can be chosen, a group of several members on it, and a
clock that stands still; the fakes pass the contract suites of the real things.
"""

from streams.testing.clock import FakeClock
from streams.testing.driver import DrivenRecord, TopologyTestDriver
from streams.testing.group import GroupMembership, MemoryGroup
from streams.testing.log import Fault, MemoryLog
from streams.testing.membership import MemoryMembership

__all__ = [
    "DrivenRecord",
    "FakeClock",
    "Fault",
    "GroupMembership",
    "MemoryGroup",
    "MemoryLog",
    "MemoryMembership",
    "TopologyTestDriver",
]
