"""A group of nodes in a model: joins, kills, zombies, missed answers and warm-ups, with the assignor under test inside.

The model does what the classic protocol with cooperative rebalancing does, and nothing more. After each generation it
asserts what must hold always; `settle` runs until nobody has anything to ask for, and asserts what must hold then.
"""

import random
from collections import Counter
from dataclasses import dataclass, field, replace

from streams.assignment import CAUGHT_UP_RECORDS, Assignment, Joining, assign
from streams.cluster import NOWHERE, ClusterView, NodeInfo

#: More generations than this for one change would be a rebalance storm.
MAX_GENERATIONS = 6


@dataclass
class Process:
    """One process, with what it believes."""

    info: NodeInfo
    member_id: str
    settings: dict[str, str]
    num_standby_replicas: int
    positions: dict[int, int] = field(default_factory=dict)
    owned: frozenset[int] = frozenset()
    view: ClusterView = NOWHERE
    generation: int = -1
    is_refused: bool = False
    must_rejoin: bool = True
    is_stale: bool = False  # it was thrown out, and does not know yet that its partitions are lost

    def joining(self) -> Joining:
        return Joining(
            member_id=self.member_id,
            info=self.info,
            num_standby_replicas=self.num_standby_replicas,
            settings=self.settings,
            positions=dict(self.positions),
            owned=self.owned,
            followed=self.view.followed_by(self.info.node_id),
            generation=self.generation,
            was_refused=self.is_refused,
        )


class Group:
    """The group, its log, and everything that can happen to them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.partitions = self.random.choice([1, 2, 3, 5, 8, 16, 24])
        self.num_standby_replicas = self.random.choice([0, 1, 1, 2])
        self.racks = self.random.choice([[""], ["r1", "r2"], ["r1", "r2", "r3"]])
        long = CAUGHT_UP_RECORDS * 100
        self.ends = [self.random.choice([0, 10, long, long, 2 * long]) for _ in range(self.partitions)]
        self.generation = 0
        self.count = 0
        self.members: list[Process] = []
        self.outside: list[Process] = []  # thrown out by the coordinator, and still running
        self.disks: dict[str, dict[int, int]] = {}
        self.rounds = 0

    def history(self, steps: int) -> None:
        """Run *steps* random events, each followed by some generations, and settle at the end."""
        self.start()
        events = [self.start, self.start, self.stop, self.expel, self.come_back, self.grow, self.catch_up]
        events += [self.duplicate, self.differ, self.restart]
        for _ in range(steps):
            self.random.choice(events)()
            for _ in range(self.random.choice([0, 0, 1, 2])):
                if any(member.must_rejoin for member in self.members):
                    self.form(misses=self.random.random() < 0.3)
            if self.random.random() < 0.4:
                self.settle()
        self.settle()

    def start(self, node_id: str | None = None, **changes: str) -> Process:
        self.count += 1
        name = node_id or f"n{self.random.randrange(100)}-{self.count}"
        info = NodeInfo(name, str(self.count), f"http://{name}:{self.count}", self.random.choice(self.racks))
        process = Process(
            replace(info, **changes),
            f"m{self.random.randrange(10**6)}",
            {"format": "1"},
            self.num_standby_replicas,
            positions=dict(self.disks.get(name, {})),
        )
        self.members.append(process)
        return process

    def stop(self, process: Process | None = None) -> None:
        """Leave or die: to the group it is the same, once the session is over."""
        if process is None:
            if len(self.members) < 2:
                return
            process = self.random.choice(self.members)
        self.members.remove(process)
        if not process.is_refused:
            self.disks[process.info.node_id] = process.positions
        self.disturb()

    def restart(self) -> None:
        """A node comes again as a new process, with what it has on disk."""
        gone = sorted(set(self.disks) - {process.info.node_id for process in (*self.members, *self.outside)})
        if gone:
            self.start(self.random.choice(gone))

    def expel(self) -> None:
        """A pause was longer than the session: the group goes on without the process, which does not know it."""
        if len(self.members) > 1:
            process = self.random.choice(self.members)
            self.members.remove(process)
            self.outside.append(process)
            self.disturb()

    def come_back(self) -> None:
        """It wakes up. Mostly it learns that all is lost; in the middle of a join it still claims what it had."""
        if self.outside:
            process = self.outside.pop(self.random.randrange(len(self.outside)))
            process.member_id = f"m{self.random.randrange(10**6)}"
            process.must_rejoin = True
            if self.random.random() < 0.7:
                process.owned = frozenset()
            process.is_stale = bool(process.owned)
            self.members.append(process)

    def duplicate(self) -> None:
        """A second process with a node id, or an address, that is in use."""
        if self.members:
            first = self.random.choice(self.members)
            if self.random.random() < 0.5:
                self.start(first.info.node_id)
            else:
                self.start(address=first.info.address)

    def differ(self) -> None:
        self.start().settings = {"format": "2"}

    def grow(self) -> None:
        """Records come in; owners apply them at once, followers somewhat later."""
        for partition in range(self.partitions):
            self.ends[partition] += self.random.choice([0, 1, CAUGHT_UP_RECORDS // 2, CAUGHT_UP_RECORDS * 5])
        self.apply(self.random.choice([0.0, 0.3, 1.0]))

    def catch_up(self) -> None:
        """All followers reach the end; those that warmed up ask for their share."""
        self.apply(1.0)
        for process in self.members:
            name = process.info.node_id
            if any(name in place.warming for place in process.view.placements):
                process.must_rejoin = True

    def apply(self, part: float) -> None:
        for process in self.members:
            if process.is_refused:
                continue
            for partition in process.owned:
                process.positions[partition] = self.ends[partition]
            for partition in process.view.followed_by(process.info.node_id):
                at = process.positions.get(partition, 0)
                process.positions[partition] = at + round((self.ends[partition] - at) * part)

    def disturb(self) -> None:
        for process in self.members:
            process.must_rejoin = True

    def form(self, *, misses: bool = False) -> ClusterView:
        """Form the next generation of all members. *misses*: one of them does not get its answer."""
        self.generation += 1
        self.rounds += 1
        joining = [process.joining() for process in self.members]
        division = assign(joining, self.partitions, epoch=self.generation)
        self.random.shuffle(joining)
        assert assign(joining, self.partitions, epoch=self.generation) == division, "the order of the members matters"
        self.check(division)
        missing = self.random.choice(self.members) if misses and self.members else None
        for process in list(self.members):
            if process is missing:
                process.must_rejoin = True
                continue
            given = division.owned[process.member_id]
            process.must_rejoin = bool(process.owned - given)
            process.owned, process.view, process.generation = given, division.view, self.generation
            process.is_stale = False
            if division.view.refusal_of(process.info) is not None:
                process.is_refused = True
        for process in [process for process in self.members if process.is_refused and not process.owned]:
            self.stop(process)
        believed = Counter(number for process in self.members if not process.is_stale for number in process.owned)
        assert all(count == 1 for count in believed.values()), f"two own one: {believed}"
        return division.view

    def check(self, division: Assignment) -> None:
        """What holds in every generation."""
        view = division.view
        accepted = {name: self.process(node) for name, node in view.nodes.items()}
        needed = min(self.num_standby_replicas, len(accepted) - 1)
        for partition, place in enumerate(view.placements):
            claimants = [process for process in self.members if partition in process.owned]
            named = [name for name in (place.owner, *place.followers) if name is not None]
            assert len(set(named)) == len(named), place
            assert set(named) <= set(accepted), place
            if place.owner is None:
                assert claimants or not accepted, f"{partition} is nobody's, and nobody will ask for it"
            else:
                owner = accepted[place.owner]
                others = [process for process in claimants if process is not owner]
                assert partition in owner.owned or not others, f"{partition} was given away under its owner"
                assert all(process.generation < owner.generation for process in others), "the later claim counts"
                if partition not in owner.owned:
                    assert self.is_near(owner, partition, accepted), "somebody else would be up much sooner"
            if accepted:
                assert len(place.followers) >= needed, place
                assert len(place.standbys) <= needed + (place.owner is None)
            latest = max(claimants, key=lambda process: process.generation, default=None)
            if latest is not None and latest.info in view.nodes.values() and place.owner is None and place.standbys:
                sole = [process for process in claimants if process.generation == latest.generation] == [latest]
                if sole and not latest.is_refused:
                    assert self.is_near(accepted[place.standbys[0]], partition, accepted), "moved before it is warm"
        for process in self.members:
            if process.info not in view.nodes.values():
                assert division.owned[process.member_id] == frozenset()
        assert not set(view.nodes) & {one for one in view.refused if "/" not in one}

    def is_near(self, process: Process, partition: int, accepted: dict[str, Process]) -> bool:
        end = max(one.positions.get(partition, 0) for one in accepted.values())
        return end - process.positions.get(partition, 0) <= CAUGHT_UP_RECORDS

    def process(self, node: NodeInfo) -> Process:
        return next(process for process in self.members if process.info == node)

    def settle(self) -> None:
        """Form generations until nobody asks for another and everything is warm; then all is as it is to be."""
        for _ in range(5):
            generations = 0
            while any(process.must_rejoin for process in self.members):
                self.form()
                generations += 1
                assert generations <= MAX_GENERATIONS, "a rebalance storm"
            self.catch_up()
            if not any(process.must_rejoin for process in self.members):
                break
        else:
            raise AssertionError("it never becomes warm")
        view = self.form()
        assert not any(process.must_rejoin for process in self.members), "it moves without a reason"
        assert replace(self.form(), epoch=view.epoch) == view, "repeated, it changes something"
        if not self.members:
            return
        loads = [len(process.owned) for process in self.members]
        assert sum(loads) == self.partitions
        assert max(loads) - min(loads) <= 1, loads
        needed = min(self.num_standby_replicas, len(self.members) - 1)
        for place in view.placements:
            assert (len(place.standbys), len(place.warming)) == (needed, 0), place
            racks = [view.nodes[name].rack for name in (place.owner, *place.standbys) if name is not None]
            possible = len({node.rack for node in view.nodes.values()})
            assert len(set(racks)) == min(possible, needed + 1), "another rack was free"
        if self.racks == [""] and needed:
            follows = [len(view.followed_by(process.info.node_id)) for process in self.members]
            assert max(follows) <= -(-needed * self.partitions // len(self.members)) + 1, follows
