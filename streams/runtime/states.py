"""The life of a task on this node, as a table of legal transitions. Nothing else decides what a task may do.

    CREATED ----> RESTORING ----> ACTIVE
                    ^   |            |
                    |   v            v
                    '- SUSPENDED <---'        any ----> CLOSED

A task reads the log from the moment it is created, whatever its state: following is not owning. It becomes ACTIVE when
this node owns its partition *and* its positions have reached the barrier of a fence made under that ownership. Only an
ACTIVE task answers plain reads and takes commands. SUSPENDED is a task whose partition was revoked or lost: it goes on
following, so that it is warm when it comes back. A damaged store puts the task back to CREATED, with empty stores.
"""

from enum import Enum


class TaskState(Enum):
    """See the module's picture. The values are what health reports and metrics show."""

    CREATED = "created"
    RESTORING = "restoring"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    CLOSED = "closed"


_LEGAL: dict[TaskState, frozenset[TaskState]] = {
    TaskState.CREATED: frozenset({TaskState.RESTORING, TaskState.SUSPENDED, TaskState.CLOSED}),
    TaskState.RESTORING: frozenset(
        {TaskState.RESTORING, TaskState.ACTIVE, TaskState.SUSPENDED, TaskState.CREATED, TaskState.CLOSED}
    ),
    TaskState.ACTIVE: frozenset({TaskState.SUSPENDED, TaskState.CREATED, TaskState.CLOSED}),
    TaskState.SUSPENDED: frozenset({TaskState.RESTORING, TaskState.SUSPENDED, TaskState.CREATED, TaskState.CLOSED}),
    TaskState.CLOSED: frozenset(),
}


def transition(current: TaskState, target: TaskState) -> TaskState:
    """Return *target*, or fail the assertion: an illegal transition is a bug, and going on would serve wrong state."""
    assert target in _LEGAL[current], f"illegal task transition {current.value} -> {target.value}"
    return target
