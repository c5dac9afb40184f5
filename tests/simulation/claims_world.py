"""The world in which the model of claims runs: partitions whose owners change, a fenced log, a bad network, one thread.

It knows nothing of e-mails. A node's tasks are generators that yield what they wait for: an `Append` (decided at once on
the node's own state, landing later if the fence lets it), a `Call` to the owner of a partition, or what became of an
append (`Resolved`). All that happens is drawn from one seeded source, one step at a time.
"""

import random
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

Key = tuple[int, str]  # partition, name
Steps = Generator[Any, Any, Any]
LOST, REFUSED, UNKNOWN = "lost", "refused", "unknown"


def part_of(key: Key) -> int:
    """Return the partition of a uid, an e-mail or a request key."""
    return key[0]


class View:
    """The state a command is decided on: the node's own, which a zombie takes for the truth."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    def get(self, key: Key) -> Any:
        """Return what is under *key*; a command behind an append of the same key waits until that has ended."""
        if key in self._node.locked:
            raise Busy
        return self._node.peek(key)

    def peek(self, key: Key) -> Any:
        """As `get`, but it does not wait: the answer may be older than an append under way."""
        return self._node.peek(key)


class Busy(Exception):
    """An append of the same key is under way."""


class Append:
    """Decide on the state of *partitions* and write what comes of it, all or nothing, under their fences."""

    def __init__(self, partitions: set[int], decide: Callable[[View], tuple[dict[Key, Any], Any]], **_: bool) -> None:
        self.partitions = partitions
        self.decide = decide
        self.tenures: dict[int, int] = {}
        self.writes: dict[Key, Any] = {}
        self.result: Any = None
        self.is_resolved = False
        self.has_landed = False
        self.waiter: Task | None = None
        self.node: Node | None = None


class Call(NamedTuple):
    """Have the owner of *partition* carry out *operation*."""

    partition: int
    operation: str
    arguments: tuple[Any, ...]


class Resolved(NamedTuple):
    """Wait until it is known what became of an append."""

    append: Append


class Task:
    """A generator on its way: `value` is what it is resumed with, or `wish` what it waits for."""

    __slots__ = ("incarnation", "is_over", "node", "on_end", "steps", "value", "wish")

    def __init__(self, node: "Node", steps: Steps, on_end: Callable[[Any], None]) -> None:
        self.node = node
        self.incarnation = node.incarnation
        self.steps = steps
        self.on_end = on_end
        self.value: Any = None
        self.wish: Any = None
        self.is_over = False


class Message(NamedTuple):
    """A call on its way to *node*, or with *answer* its answer on the way back to *task*."""

    node: "Node | None"
    call: Call | None
    task: Task | None
    answer: Any = None


class Node:
    """One process: what it believes to own, its state, and what it keeps in memory."""

    def __init__(self) -> None:
        self.incarnation = 0
        self.tenures: dict[int, int] = {}
        self.state: dict[int, dict[Key, Any]] = {}
        self.locked: set[Key] = set()
        self.marks: dict[tuple[Key, Key], int] = {}

    def owns(self, partition: int) -> bool:
        """Say what it believes; a zombie is wrong."""
        return partition in self.tenures

    def tenure(self, partition: int) -> int:
        """Return the number of its present tenure, -1 without one."""
        return self.tenures.get(partition, -1)

    def peek(self, key: Key) -> Any:
        return self.state.get(part_of(key), {}).get(key)

    def mark(self, uid: Key, email: Key) -> None:
        self.marks[uid, email] = self.marks.get((uid, email), 0) + 1

    def unmark(self, uid: Key, email: Key) -> None:
        left = self.marks.pop((uid, email)) - 1
        if left:
            self.marks[uid, email] = left


class World:
    """Nodes, partitions, log and network of one history."""

    def __init__(self, seed: int, *, nodes: int, partitions: int, on_landed: Callable[[Append], None]) -> None:
        self.random = random.Random(seed)
        self.nodes = [Node() for _ in range(nodes)]
        self.log: list[list[tuple[Key, Any]]] = [[] for _ in range(partitions)]
        self.owner: list[Node] = []
        self.tenure = [0] * partitions
        self.flight: list[Append] = []
        self.messages: list[Message] = []
        self.tasks: list[Task] = []
        self.operations: Any = None
        self.is_calm = False
        self._on_landed = on_landed
        for partition in range(partitions):
            node = self.nodes[partition % nodes]
            self.owner.append(node)
            self._take(partition, node)

    def _take(self, partition: int, node: Node) -> None:
        """*node* reads the partition to the barrier and owns it."""
        self.owner[partition] = node
        self.tenure[partition] += 1
        node.tenures[partition] = self.tenure[partition]
        state: dict[Key, Any] = {}
        for key, value in self.log[partition]:
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        node.state[partition] = state

    def spawn(self, node: Node, steps: Steps, on_end: Callable[[Any], None] = lambda _: None) -> None:
        """Begin a task on *node*; *on_end* gets its result, unless the node dies before."""
        task = Task(node, steps, on_end)
        self.tasks.append(task)
        self._resume(task, None)

    def step(self) -> bool:
        """Let one thing happen; False when nothing can."""
        draw = self.random
        choices = len(self.tasks) + len(self.messages) + len(self.flight)
        if not choices:
            return False
        number = draw.randrange(choices)
        if number < len(self.tasks):
            self._advance(self.tasks[number])
        elif number < len(self.tasks) + len(self.messages):
            self._deliver(number - len(self.tasks))
        else:
            self._land(self.flight[number - len(self.tasks) - len(self.messages)])
        return True

    def _advance(self, task: Task) -> None:
        """Let a waiting task go on, if it can; now and then its deadline passes."""
        wish = task.wish
        if isinstance(wish, Call):
            is_awaited = any(message.task is task for message in self.messages) or any(
                other.on_end.__self__ is task for other in self.tasks if isinstance(other.on_end, _Answer)
            )
            if not is_awaited or (not self.is_calm and self.random.random() < 0.05):
                self._resume(task, LOST)
        elif isinstance(wish, Resolved):
            if wish.append.is_resolved:
                self._resume(task, None)
        elif wish.waiter is None:
            self._begin(task, wish)
        elif not self.is_calm and self.random.random() < 0.1:
            wish.waiter = None
            self._resume(task, UNKNOWN)

    def _begin(self, task: Task, append: Append) -> None:
        node = task.node
        if not all(map(node.owns, append.partitions)):
            append.is_resolved = True
            self._resume(task, REFUSED)
            return
        try:
            writes, result = append.decide(View(node))
        except Busy:
            return
        if not writes:
            append.is_resolved = True
            self._resume(task, result)
            return
        append.node, append.waiter, append.writes, append.result = node, task, writes, result
        append.tenures = {part: node.tenure(part) for part in append.partitions | {part_of(key) for key in writes}}
        node.locked.update(writes)
        self.flight.append(append)

    def _land(self, append: Append) -> None:
        """The append reaches the log; a fence that was passed meanwhile refuses it."""
        self.flight.remove(append)
        node = append.node
        assert node is not None
        is_good = all(self.tenure[part] == tenure for part, tenure in append.tenures.items())
        if is_good:
            for key, value in append.writes.items():
                self.log[part_of(key)].append((key, value))
                if part_of(key) in node.state:
                    node.state[part_of(key)][key] = value
        append.is_resolved, append.has_landed = True, is_good
        node.locked.difference_update(append.writes)
        if is_good:
            self._on_landed(append)
        if append.waiter is not None:
            self._resume(append.waiter, append.result if is_good else REFUSED)

    def _resume(self, task: Task, value: Any) -> None:
        if task.is_over or task.incarnation != task.node.incarnation:
            return
        try:
            task.wish = task.steps.send(value)
        except StopIteration as end:
            task.is_over = True
            self.tasks.remove(task)
            task.on_end(end.value)
            return
        if isinstance(task.wish, Call):
            self._send(task, task.wish)

    def _send(self, task: Task, call: Call) -> None:
        draw = self.random
        is_stale = not self.is_calm and draw.random() < 0.1
        node = draw.choice(self.nodes) if is_stale else self.owner[call.partition]
        message = Message(node, call, task)
        if self.is_calm or draw.random() >= 0.05:
            self.messages.append(message)
        if not self.is_calm and draw.random() < 0.15:
            self.messages.append(message._replace(task=None))  # a copy, whose answer nobody waits for

    def _deliver(self, number: int) -> None:
        message = self.messages[number]
        last = self.messages.pop()
        if number < len(self.messages):
            self.messages[number] = last
        task, call, node = message.task, message.call, message.node
        if call is None:
            assert task is not None
            self._resume(task, message.answer)
        elif node is not None:
            if not node.owns(call.partition):
                if task is not None:
                    self.messages.append(Message(None, None, task, REFUSED))
                return
            steps = getattr(self.operations, call.operation)(node, *call.arguments)
            self.spawn(node, steps, _Answer(self, task, call).send)

    # What happens to nodes.

    def fence(self, partition: int, node: Node, *, is_handed_over: bool) -> None:
        """*node* becomes the owner: what is under way lands before the fence, or never. An owner that hands over knows
        it; any other goes on with what it believes."""
        for append in [one for one in self.flight if partition in one.tenures]:
            if self.random.random() < 0.5:
                self._land(append)
        before = self.owner[partition]
        self.tenure[partition] += 1
        for append in [one for one in self.flight if partition in one.tenures]:
            self._land(append)
        if is_handed_over and before is not node:
            self.forget(before, partition)
        self._take(partition, node)

    def forget(self, node: Node, partition: int) -> None:
        """*node* learns that it owns *partition* no more."""
        node.tenures.pop(partition, None)
        node.state.pop(partition, None)

    def kill(self, node: Node) -> None:
        """The process ends, and begins again with nothing in memory; appends that were sent live on."""
        node.incarnation += 1
        for task in [task for task in self.tasks if task.node is node]:
            task.is_over = True
            self.tasks.remove(task)
        node.tenures, node.state, node.locked, node.marks = {}, {}, set(), {}
        for partition, owner in enumerate(self.owner):
            if owner is node:
                self.fence(partition, self.random.choice(self.nodes), is_handed_over=True)

    def compact(self, partition: int) -> None:
        """Keep the last record of each key; tombstones go."""
        last = dict(self.log[partition])
        self.log[partition] = [(key, value) for key, value in last.items() if value is not None]

    def calm(self) -> None:
        """From now on nothing is lost and every node learns what it owns; what is on its way still arrives."""
        self.is_calm = True
        for node in self.nodes:
            for partition in [one for one in node.tenures if self.owner[one] is not node]:
                self.forget(node, partition)


class _Answer:
    """Sends the result of a call back to who waits for it."""

    def __init__(self, world: World, task: Task | None, call: Call) -> None:
        self._world = world
        self._task = task

    def send(self, result: Any) -> None:
        world, task = self._world, self._task
        if task is not None and (world.is_calm or world.random.random() >= 0.05):
            world.messages.append(Message(None, None, task, result))
