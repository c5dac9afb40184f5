"""One random history of the model of claims, from a seed, and what must be true of it: at every step and at the end."""

from collections.abc import Callable
from typing import Any

from tests.simulation.claims import AGAIN, GONE, TAKEN, Bug, Claim, Done, Protocol, Row
from tests.simulation.claims_world import REFUSED, UNKNOWN, Append, Key, Node, World, part_of

EMAILS: list[Key] = [(0, "a"), (1, "b"), (2, "c")]
_STORM_STEPS = 160
_CALM_STEPS = 4000


class History:
    """Nodes, clients and a judge. Raises AssertionError when the protocol broke a promise."""

    def __init__(self, seed: int, bugs: frozenset[Bug] = frozenset()) -> None:
        self.world = World(seed, nodes=3, partitions=3, on_landed=self.landed)
        self.random = self.world.random
        self.protocol = Protocol(self.fresh, lambda node, steps: self.world.spawn(node, steps), bugs)
        self.world.operations = self.protocol
        self.emails = EMAILS[: self.random.choice([2, 2, 3])]
        self.recent = self.random.choice([2, 3, 5])  # that many of the newest profiles are written to
        self.variety = self.random.choice([0.62, 1.0])  # little: nearly nothing but changes, of few profiles
        self.restoring = 0.15 if seed % 7 in (2, 3, 4) else 0.0  # the others stay what they were: rare bugs are known
        self.live: dict[Key, Row] = {}
        self.versions: dict[Key, dict[int, Row | None]] = {}
        self.events: set[int] = set()  # of the commands that are in the log
        self.refused: set[int] = set()
        self.restored: dict[int, int] = {}  # version by event
        self.known: list[Key] = []
        self.numbers = 0
        self.acknowledged = 0

    def run(self) -> None:
        for email in self.emails[:2]:
            self.create(email)
        asked, disturbed = self.random.choice([0.06, 0.12]), self.random.choice([0.02, 0.05, 0.1])
        for _ in range(_STORM_STEPS):
            number = self.random.random()
            if number < asked:
                self.begin()
            elif number < asked + disturbed:
                self.disturb()
            else:
                self.world.step()
        self.world.calm()
        self.come_to_rest()
        self.judge()

    def fresh(self) -> int:
        self.numbers += 1
        return self.numbers

    # What clients do.

    def begin(self) -> None:
        """A client sends one command."""
        draw = self.random
        email = draw.choice(self.emails)
        if self.restoring and draw.random() < self.restoring:
            # Nobody has an export of what is not written yet.
            written = [uid for uid in self.known if uid in self.versions or uid[1].startswith("r")][-self.recent :]
            is_known = bool(written) and draw.random() < 0.7
            uid = draw.choice(written) if is_known else (draw.randrange(3), f"r{self.fresh()}")
            self.restore(uid, email, draw.choice([1, 1, 2, 4]))
            return
        kind = draw.random() * self.variety
        if kind < 0.56 and self.known:
            self.change(draw.choice(self.known[-self.recent :]), email)
        elif kind < 0.64:
            self.at(part_of(email), lambda node: self.world.spawn(node, self.protocol.sweep(node, email)))
        elif kind < 0.8 and self.known:
            self.delete(draw.choice(self.known[-self.recent :]))
        elif kind < 0.9:
            self.create(email)
        else:
            self.create_once(email)

    def at(self, partition: int, begin: Callable[[Node], None]) -> None:
        """Begin at a node that believes to be the owner."""
        believers = [node for node in self.world.nodes if node.owns(partition)]
        if believers:
            begin(self.random.choice(believers))

    def create(self, email: Key, after: Callable[[Any], None] = lambda _: None) -> None:
        event = self.fresh()
        uid = (part_of(email), f"u{event}")
        self.known.append(uid)

        def ended(result: Any) -> None:
            self.answered(event, uid, email, result)
            after(result)

        self.at(part_of(uid), lambda node: self.world.spawn(node, self.protocol.create(node, event, uid, email), ended))

    def create_once(self, email: Key) -> None:
        key = (self.random.randrange(3), self.random.choice("kl"))
        event = self.fresh()
        uid = (part_of(key), f"u{event}")
        self.known.append(uid)

        def ended(result: Any) -> None:
            if not isinstance(result, Done):
                self.answered(event, uid, email, result)

        def begin(node: Node) -> None:
            self.world.spawn(node, self.protocol.create_once(node, event, key, uid, email), ended)

        self.at(part_of(key), begin)

    def restore(self, uid: Key, email: Key, version: int) -> None:
        """Out of an export: a profile that is here, was here, or comes from elsewhere."""
        event = self.fresh()
        self.restored[event] = version
        if uid not in self.known:
            self.known.append(uid)

        def begin(node: Node) -> None:
            self.world.spawn(
                node,
                self.protocol.restore(node, event, uid, email, version),
                lambda result: self.answered(event, uid, email, result),
            )

        self.at(part_of(uid), begin)

    def change(self, uid: Key, email: Key) -> None:
        event = self.fresh()
        self.send_change(event, uid, email, 2)

    def send_change(self, event: int, uid: Key, email: Key, attempts: int) -> None:
        """The node that the client chose sends a command again, with the same event, when it was refused."""

        def ended(result: Any) -> None:
            if result == REFUSED and attempts and not self.world.is_calm:
                self.send_change(event, uid, email, attempts - 1)
            else:
                self.answered(event, uid, email, result)

        def begin(node: Node) -> None:
            self.world.spawn(node, self.protocol.change(node, event, uid, email), ended)

        self.at(part_of(uid), begin)

    def delete(self, uid: Key) -> None:
        event = self.fresh()

        def ended(result: Any) -> None:
            if isinstance(result, Done):
                assert self.versions[uid].get(result.version, uid) is None, "an acknowledged delete is not in the log"
                self.acknowledged += 1

        self.at(part_of(uid), lambda node: self.world.spawn(node, self.protocol.delete(node, event, uid), ended))

    def answered(self, event: int, uid: Key, email: Key, result: Any) -> None:
        if isinstance(result, Done):
            row = self.versions.get(uid, {}).get(result.version)
            assert row is not None, "an acknowledged write is not in the log"
            assert row.email == email, "an acknowledged write says another e-mail"
            self.acknowledged += 1
        elif result != UNKNOWN:
            assert result in (TAKEN, GONE, AGAIN, REFUSED), result
            self.refused.add(event)

    # What goes wrong.

    def disturb(self) -> None:
        world, draw = self.world, self.random
        kind = draw.random()
        partition, node = draw.randrange(3), draw.choice(world.nodes)
        if kind < 0.15:
            world.kill(node)
        elif kind < 0.5:  # the owner is paused, or cut off: it goes on believing, whenever it goes on
            world.fence(partition, node, is_handed_over=False)
        elif kind < 0.75:
            world.fence(partition, node, is_handed_over=True)
        elif kind < 0.9:
            if world.owner[partition] is not node:
                world.forget(node, partition)
        else:
            world.compact(partition)

    # What must be true.

    def landed(self, append: Append) -> None:
        """After every step that writes: one e-mail, one profile; versions without a gap; conditions held."""
        for key, value in append.writes.items():
            if isinstance(value, Row):
                self.events.add(value.event)
                before = self.live.get(key)
                first = self.restored.get(value.event, 1)
                assert value.version == (first if before is None else before.version + 1), "a lost update"
                self.live[key] = value
                self.versions.setdefault(key, {})[value.version] = value
            elif value is None and key in self.live:
                row = self.live.pop(key)
                self.versions[key][row.version + 1] = None
        held = [row.email for row in self.live.values()]
        assert len(held) == len(set(held)), "two live profiles with one e-mail"
        for key, value in append.writes.items():
            if isinstance(value, Row):
                assert None not in self.versions[key].values(), "a uid is used again after its deletion"

    def come_to_rest(self) -> None:
        for _ in range(_CALM_STEPS):
            if not self.world.step():
                return
        raise AssertionError("it does not come to rest")

    def judge(self) -> None:
        fold = self.fold()
        for uid, row in self.live.items():
            claim = fold.get(row.email)
            assert isinstance(claim, Claim), "a live profile without a claim: no search finds it"
            assert claim.uid == uid, "the claim names another than the profile that carries the e-mail"
            assert fold[uid] == row, "a row is lost"
        assert not self.refused & self.events, "said to be not written, and is in the log"
        for node in self.world.nodes:
            assert not node.marks, "a mark is left behind"
        for email in self.emails:
            self.at(part_of(email), lambda node, email=email: self.world.spawn(node, self.protocol.sweep(node, email)))
        self.come_to_rest()
        free = [email for email in self.emails if email not in {row.email for row in self.live.values()}]
        for email in free:
            assert email not in self.fold(), "an e-mail outlives its profile"
            results: list[Any] = []
            self.create(email, results.append)
            self.come_to_rest()
            assert isinstance(results[0], Done), "an e-mail that nobody carries cannot be claimed"

    def fold(self) -> dict[Key, Any]:
        """Return what the whole log comes to."""
        state: dict[Key, Any] = {}
        for log in self.world.log:
            state.update(log)
        return {key: value for key, value in state.items() if value is not None}
