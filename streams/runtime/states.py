"""The life of a task on this node, as a table of legal transitions. Nothing else decides what a task may do.

    CREATED ----> STANDBY ----> RESTORING ----> ACTIVE
                   ^  ^             |             |
                   |  '-------------'             |
                   '------------------------------'        any ----> CLOSED

A task reads the log from the moment it is created, whatever its state: following is not owning. It is a STANDBY as long
as this node does not own its partition: an observer's, one that the group wants here as a copy, one that is warmed up,
or one that was revoked or lost and stays warm for a while. It becomes ACTIVE when this node owns its partition *and*
its positions have reached the barrier of a fence made under that ownership. Only an ACTIVE task answers plain reads and
takes commands. A damaged store puts the task back to CREATED, with empty stores.

The way of one partition through a hand-over, in the states of the task and of the write section (`section.py`):

    word                      task        section
    assigned                  RESTORING   CLOSED or OPEN (for other partitions); the event is taken in the next turn
    fencing                   RESTORING   FENCING; a partition that was kept stays ACTIVE: its reads go on
    reading to the barrier    RESTORING   OPEN, or SETTLING while a group of unknown outcome waits for its partitions
    active                    ACTIVE      OPEN, and the partition is ready
    draining                  STANDBY     as it was, while the append in flight ends; the group waits for that
    revoked                   STANDBY     CLOSED, or OPEN for other partitions
"""

from enum import Enum


class TaskState(Enum):
    """See the module's picture. The values are what health reports and metrics show."""

    CREATED = "created"
    STANDBY = "standby"
    RESTORING = "restoring"
    ACTIVE = "active"
    CLOSED = "closed"


class SectionState(Enum):
    """See the picture in `section.py`."""

    CLOSED = "closed"
    FENCING = "fencing"
    SETTLING = "settling"
    OPEN = "open"


_LEGAL: dict[TaskState, frozenset[TaskState]] = {
    TaskState.CREATED: frozenset({TaskState.STANDBY, TaskState.CLOSED}),
    TaskState.STANDBY: frozenset({TaskState.STANDBY, TaskState.RESTORING, TaskState.CREATED, TaskState.CLOSED}),
    TaskState.RESTORING: frozenset(
        {TaskState.RESTORING, TaskState.ACTIVE, TaskState.STANDBY, TaskState.CREATED, TaskState.CLOSED}
    ),
    TaskState.ACTIVE: frozenset({TaskState.STANDBY, TaskState.CREATED, TaskState.CLOSED}),
    TaskState.CLOSED: frozenset(),
}


def transition(current: TaskState, target: TaskState) -> TaskState:
    """Return *target*, or fail the assertion: an illegal transition is a bug, and going on would serve wrong state."""
    assert target in _LEGAL[current], f"illegal task transition {current.value} -> {target.value}"
    return target
