"""What a group of commands keeps account of."""

from streams.records import ProducerRecord
from streams.runtime.group import Group, GroupView
from streams.runtime.table import Pending
from streams.topology.graph import Topology
from tests.streams.runtime.rig import Put


class Nobody:
    """Awaits no outcome."""

    def deliver(self, outcomes: object) -> None:
        """Forget them."""


def test_a_group_is_as_large_as_what_its_records_hold() -> None:
    """Many small records share one append, and headers count: a group ends by bytes, not by number."""
    pending = Pending(Put(b"k", b"v"), 0.0, Nobody(), None)
    sizes = []
    for headers in ((), (("h", b"x" * 2_000),)):
        group = Group(GroupView({}, Topology("t"), ()))
        group.add(pending, [ProducerRecord("t", 0, b"key", b"v" * 50, headers)] * 1_000, None)
        sizes.append(group.size_bytes)
    assert 53_000 < sizes[0] < 200_000
    assert sizes[1] - sizes[0] >= 2_000 * 1_000
