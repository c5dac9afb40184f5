"""The world in which the model of claims runs: partitions whose owners change, a fenced log, a bad network.

It knows nothing of e-mails. A node's tasks are generators that yield what they wait for: an `Append` (decided at once
on the node's own state, landing later if the fence lets it), a `Call` to the owner of a partition, or what became of
an append (`Resolved`). All that happens is drawn from one seeded source, one step at a time, in one thread.
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
    """The state a command is decided on: the node's own, which a zombie takes for the truth. The fence of what it then
    writes covers all that it has read: a generation is the node's, not one partition's."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self.partitions: set[int] = set()

    def get(self, key: Key) -> Any:
        """Return what is under *key*; a command behind an append of the same key waits until that has ended."""
        if key in self._node.locked:
            raise Busy
        return self.peek(key)

    def peek(self, key: Key) -> Any:
        """As `get`, but it does not wait: the answer may be older than an append under way."""
        self.partitions.add(part_of(key))
        return self._node.peek(key)


class Busy(Exception):
    """An append of the same key is under way."""


class Append:
    """Decide on the state of *partitions* and write what comes of it, all or nothing, under their fences."""

    def __init__(self, partitions: set[int], decide: Callable[[View], tuple[dict[Key, Any], Any]]) -> None:
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
    """A generator on its way. `wish`: what it waits for. `call`: what it was begun for by the task `caller`."""

    __slots__ = ("call", "caller", "incarnation", "is_awaiting", "is_over", "node", "on_end", "steps", "wish")

    def __init__(self, node: "Node", steps: Steps, on_end: Callable[[Any], None]) -> None:
        self.node = node
        self.incarnation = node.incarnation
        self.steps = steps
        self.on_end = on_end
        self.wish: Any = None
        self.is_awaiting = False  # the call that it waits for, or its answer, still exists somewhere
        self.is_over = False
        self.caller: Task | None = None
        self.call: Call | None = None


class Message(NamedTuple):
    """A call on its way to *node*, or its *answer* on the way back to *task*."""

    node: "Node | None"
    call: "Call"
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
        if left > 0:
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
        # Each history has a weather of its own: a bug may show only where one thing is frequent and another rare.
        self._lost, self._copied, self._misled = (self.random.choice([0.0, 0.1, 0.3]) for _ in range(3))
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
            if not task.is_awaiting or (not self.is_calm and self.random.random() < 0.05):
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
        view = View(node)
        try:
            writes, result = append.decide(view)
        except Busy:
            return
        if not writes:
            append.is_resolved = True
            self._resume(task, result)
            return
        append.node, append.waiter, append.writes, append.result = node, task, writes, result
        append.tenures = {part: node.tenure(part) for part in append.partitions | view.partitions}
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
        is_stale = not self.is_calm and draw.random() < self._misled
        node = draw.choice(self.nodes) if is_stale else self.owner[call.partition]
        task.is_awaiting = self.is_calm or draw.random() >= self._lost
        if task.is_awaiting:
            self.messages.append(Message(node, call, task))
        if not self.is_calm and draw.random() < self._copied:
            self.messages.append(Message(node, call, None))  # a copy, whose answer nobody waits for

    def _deliver(self, number: int) -> None:
        message = self.messages[number]
        if message.task is None and not self.is_calm and self.random.random() < 0.8:
            return  # copies come late
        last = self.messages.pop()
        if number < len(self.messages):
            self.messages[number] = last
        node, call, task, answer = message
        if node is None:
            if task is not None and task.wish is call:
                self._resume(task, answer)
        elif not node.owns(call.partition):
            self._reply(task, call, REFUSED)
        else:
            serving = Task(node, getattr(self.operations, call.operation)(node, *call.arguments), lambda _: None)
            serving.caller, serving.call = task, call
            serving.on_end = lambda result: self._reply(task, call, result)
            self.tasks.append(serving)
            self._resume(serving, None)

    def _reply(self, task: Task | None, call: Call, answer: Any) -> None:
        if task is None or task.wish is not call:
            return
        if self.is_calm or self.random.random() >= self._lost:
            self.messages.append(Message(None, call, task, answer))
        else:
            task.is_awaiting = False

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
            if task.caller is not None and task.caller.wish is task.call:
                task.caller.is_awaiting = False
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
