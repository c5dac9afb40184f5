"""Who gets which partition: a pure function of what the members of the group say about themselves.

Nothing here does I/O or knows Kafka. Invariants: a partition that a live member still owns is given to nobody else in
the same generation (its owner sees its share shrink, gives it up, all join again, and then it is free); the result
does not depend on the order of the members; repeated on its own outcome it changes nothing.

Lag is judged from positions alone: the furthest position of any member counts as the end of the partition. A member
that is far behind gets a partition only after it has warmed up beside the old owner, unless there is no old owner:
then the furthest one gets it at once. How many partitions warm up at a time is not limited (Kafka Streams does, with
`max.warmup.replicas`): a newcomer warms up exactly its share, which it has to restore in any case through its one
reader, and a limit would only turn one rebalance into many.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from streams.cluster import ClusterView, NodeInfo, Placement, refusal_key

#: Who lags no further than this takes a partition over within a moment (Kafka Streams: `acceptable.recovery.lag`).
CAUGHT_UP_RECORDS = 10_000


@dataclass(frozen=True, slots=True)
class Joining:
    """One member, as of its request to join. `generation` is the one in which it was given `owned` and `followed`, -1
    if it was never given anything; `was_refused` says what the last view said of it."""

    member_id: str
    info: NodeInfo
    num_standby_replicas: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    positions: Mapping[int, int] = field(default_factory=dict)
    owned: Collection[int] = ()
    followed: Collection[int] = ()
    generation: int = -1
    was_refused: bool = False

    @property
    def seniority(self) -> tuple[int, str, str, str]:
        """Sorts members: those that took part in later generations first."""
        generation = -1 if self.was_refused else self.generation
        return -generation, self.info.node_id, self.info.incarnation, self.member_id


@dataclass(frozen=True, slots=True)
class Assignment:
    """The outcome. `owned` has an entry for each member, by member id; it agrees with the view."""

    view: ClusterView
    owned: Mapping[str, frozenset[int]]


def assign(
    members: Sequence[Joining], partitions: int, *, epoch: int, refused: Mapping[str, str] | None = None
) -> Assignment:
    """Divide the partitions 0 to *partitions* - 1 among *members*; *epoch* is the generation that they have formed.

    *refused* is added to the view: members that are none of *members*, because nobody can understand them. Never
    raises.
    """
    accepted, newly_refused = admit(members)
    claims = claims_of(members, partitions)
    by_member_id = {member.member_id: node_id for node_id, member in accepted.items()}
    nobody: list[str | None] = [None] * partitions
    plan = Plan(accepted, nobody, withheld=set(claims))
    for partition, member_id in claims.items():
        node_id = by_member_id.get(member_id) if member_id is not None else None
        if node_id is not None:
            plan.give(partition, node_id)
    if accepted:
        plan.take_over()
        plan.balance()
        plan.place_standbys()
    view = ClusterView(
        epoch=epoch,
        nodes={node_id: accepted[node_id].info for node_id in sorted(accepted)},
        placements=tuple(plan.placement(partition) for partition in range(partitions)),
        refused={**(refused or {}), **newly_refused},
    )
    owned: dict[str, set[int]] = {member.member_id: set() for member in members}
    for partition, place in enumerate(view.placements):
        if place.owner is not None:
            owned[accepted[place.owner].member_id].add(partition)
    return Assignment(view, {member_id: frozenset(own) for member_id, own in owned.items()})


def admit(members: Sequence[Joining]) -> tuple[dict[str, Joining], dict[str, str]]:
    """Return who takes part, by node id, and who is refused, by `refusal_key`, with the reason.

    Whoever took part before is right, and among newcomers the majority. A second member of the *same* process (its
    first one has not been noticed to be gone) is given nothing, but the process is not refused.
    """
    seniors = sorted(members, key=lambda member: member.seniority)
    alike: dict[tuple[tuple[str, str], ...], list[Joining]] = defaultdict(list)
    for member in seniors:
        alike[tuple(sorted(member.settings.items()))].append(member)
    established = max(alike.values(), key=lambda group: (-group[0].seniority[0], len(group)), default=[])
    accepted: dict[str, Joining] = {}
    refused: dict[str, str] = {}
    nodes_at: dict[str, str] = {}
    for member in seniors:
        info = member.info
        first = accepted.get(info.node_id)
        if member.settings != established[0].settings:
            refused[refusal_key(info)] = _difference(member.settings, established[0].settings)
        elif first is not None and first.info.incarnation != info.incarnation:
            refused[refusal_key(info)] = f"another live process has the node id {info.node_id}, at {first.info.address}"
        elif first is None and info.address in nodes_at:
            refused[refusal_key(info)] = f"node {nodes_at[info.address]} has the same address {info.address}"
        elif first is None:
            accepted[info.node_id] = member
            nodes_at[info.address] = info.node_id
    return accepted, refused


def claims_of(members: Sequence[Joining], partitions: int) -> dict[int, str | None]:
    """Return, for each partition that somebody owns, its owner's member id, or None when two claim it alike.

    Of several claims the one of the latest generation counts (KIP-792): the others missed that they lost it. A lone
    old claim counts too: its owner may have missed the last generation only, in which nobody else was given it. Those
    that are refused still own what they own until they have given it up.
    """
    latest: dict[int, int] = {}
    claims: dict[int, str | None] = {}
    for member in members:
        for partition in member.owned if member.generation >= 0 else ():
            if not 0 <= partition < partitions:
                continue
            known = latest.get(partition, -1)
            if member.generation > known:
                latest[partition] = member.generation
                claims[partition] = member.member_id
            elif member.generation == known:
                claims[partition] = None
    return claims


class Plan:
    """The division in the making: `owner` is who owns a partition in this generation, `target` who is to own it once
    that one is warm. Deterministic: every choice ends with the node id."""

    def __init__(self, members: Mapping[str, Joining], owner: list[str | None], *, withheld: set[int]) -> None:
        """*withheld* are the partitions that cannot be given to anybody now."""
        self._members = members
        self._names = sorted(members)
        self._partitions = len(owner)
        self._owner = owner
        self._withheld = withheld
        self._free: set[int] = set()
        self._target: dict[int, str] = {}
        self._load: Counter[str] = Counter(dict.fromkeys(self._names, 0))
        self._follows: Counter[str] = Counter()
        self._standbys: list[list[str]] = [[] for _ in owner]
        self._replacing: list[list[str]] = [[] for _ in owner]
        self._end = [0] * self._partitions
        for member in members.values():
            for partition, position in member.positions.items():
                if 0 <= partition < self._partitions:
                    self._end[partition] = max(self._end[partition], position)

    def give(self, partition: int, name: str) -> None:
        """Let *name* own *partition* in this generation."""
        self._owner[partition] = name
        self._withheld.discard(partition)
        self._load[name] += 1

    def take_over(self) -> None:
        """Give away what nobody owns: to the least loaded of those that hold its state, else of those for whom it is
        short enough to restore (one of them always exists: the furthest)."""
        self._free = {number for number, owner in enumerate(self._owner) if owner is None} - self._withheld
        able = {
            partition: [name for name in self._names if self._is_warm(name, partition)]
            or [name for name in self._names if self._lag(name, partition) <= CAUGHT_UP_RECORDS]
            for partition in self._free
        }
        for partition in sorted(able, key=lambda number: (len(able[number]), number)):
            names = able[partition]
            self.give(partition, min(names, key=lambda name: (self._load[name], self._lag(name, partition), name)))

    def balance(self) -> None:
        """Choose what has to move so that no member owns two partitions more than another: no more than needed; first
        what nobody has to give up (else what was given up for a member would not get there), then what can move
        without a warm-up. Who is warming up something already goes on with that."""
        share, rest = divmod(self._partitions, len(self._names))
        kept = Counter(owner for number, owner in enumerate(self._owner) if number not in self._free)
        ranked = sorted(self._names, key=lambda name: (-kept[name], -self._load[name], name))
        room = {name: share + (rank < rest) - self._load[name] for rank, name in enumerate(ranked)}
        moves = sorted(
            (not self._is_free_for(name, partition), self._distance(name, partition), partition, name)
            for partition, owner in enumerate(self._owner)
            if owner is not None and room[owner] < 0
            for name in self._names
            if room[name] > 0
        )
        for _, _, partition, name in moves:
            owner = self._owner[partition]
            if owner is None or owner == name or partition in self._target or room[name] <= 0 or room[owner] >= 0:
                continue
            if self._is_free_for(name, partition):
                self._owner[partition] = name
            else:
                self._target[partition] = name
            room[name] -= 1
            room[owner] += 1

    def place_standbys(self) -> None:
        """Choose the standbys of every partition: on other racks first, then where they are, then where they weigh
        least. A standby that is to be replaced stays until the new one is warm."""
        wanted = max(member.num_standby_replicas for member in self._members.values())
        wanted = min(wanted, len(self._names) - 1)
        if wanted <= 0:
            return
        limit = -(-wanted * self._partitions // len(self._names))
        followers = [self._followers(partition) for partition in range(self._partitions)]
        self._choose_standbys(wanted, limit, followers, is_staying=True)
        self._choose_standbys(wanted, limit, followers, is_staying=False)
        self._spread_standbys(limit)
        for partition, chosen in enumerate(self._standbys):
            cold = [name for name in chosen if not self._is_warm(name, partition)]
            free = self._free_for(partition)
            warm = [name for name in followers[partition] if name in free and self._is_warm(name, partition)]
            for old, new in zip(warm, cold, strict=False):
                chosen[chosen.index(new)] = old
                self._replacing[partition].append(new)
            chosen.sort(key=lambda name: (not self._is_warm(name, partition), self._lag(name, partition), name))

    def _choose_standbys(
        self, wanted: int, limit: int, followers: Sequence[Collection[str]], *, is_staying: bool
    ) -> None:
        """Fill up the standbys of each partition; *is_staying*: only with those that are it already."""
        for partition, chosen in enumerate(self._standbys):
            while len(chosen) < wanted:
                able = self._apart(partition, self._free_for(partition))
                if is_staying:
                    able = [name for name in able if name in followers[partition] and self._follows[name] < limit]
                if not able:
                    break
                best = min(able, key=lambda name: self._preference(name, partition, limit, followers[partition]))
                chosen.append(best)
                self._follows[best] += 1

    def _spread_standbys(self, limit: int) -> None:
        """Let members with less to follow take from those that follow more than *limit*: the choice above gives the
        last partitions to whoever is left, and nobody can be the standby of his own."""
        for partition, chosen in enumerate(self._standbys):
            for name in [name for name in chosen if self._follows[name] > limit]:
                others = [other for other in chosen if other != name]
                racks = self._racks_of(partition, others)
                is_apart = self._members[name].info.rack not in racks
                able = [
                    other
                    for other in self._free_for(partition)
                    if self._follows[other] < limit and (not is_apart or self._members[other].info.rack not in racks)
                ]
                if able and self._follows[name] > limit:
                    best = min(able, key=lambda other: self._preference(other, partition, limit, ()))
                    chosen[chosen.index(name)] = best
                    self._follows[name] -= 1
                    self._follows[best] += 1

    def placement(self, partition: int) -> Placement:
        """Return what the view says about *partition*."""
        owner, target = self._owner[partition], self._target.get(partition)
        standbys, replacing = self._standbys[partition], self._replacing[partition]
        if target is None:
            return Placement(owner, tuple(standbys), tuple(replacing))
        if self._lag(target, partition) > CAUGHT_UP_RECORDS:
            return Placement(owner, tuple(standbys), (target, *replacing))
        return Placement(None, (target, *standbys), tuple(replacing))

    def _lag(self, name: str, partition: int) -> int:
        return self._end[partition] - self._members[name].positions.get(partition, 0)

    def _is_warm(self, name: str, partition: int) -> bool:
        """Whether *name* holds the state and can go on with it at once."""
        return partition in self._members[name].positions and self._lag(name, partition) <= CAUGHT_UP_RECORDS

    def _is_free_for(self, name: str, partition: int) -> bool:
        """Whether *name* can have *partition* in this generation, and soon be up."""
        return partition in self._free and self._lag(name, partition) <= CAUGHT_UP_RECORDS

    def _distance(self, name: str, partition: int) -> tuple[int, int]:
        """How long *name* takes until it can own *partition*: sorts."""
        lag, holds = self._lag(name, partition), partition in self._members[name].positions
        if lag <= CAUGHT_UP_RECORDS:
            return (0, 0) if holds else (1, 0)
        return (2, lag) if holds else (3, 0)

    def _followers(self, partition: int) -> list[str]:
        """Return who follows *partition* until now, and its owner if that gives it up: they need no restore."""
        is_leaving = partition in self._target
        return [
            name
            for name in self._names
            if partition in self._members[name].followed or (is_leaving and name == self._owner[partition])
        ]

    def _free_for(self, partition: int) -> list[str]:
        """Return who could be one more standby of *partition*."""
        target = self._target.get(partition)
        taken = {target, *self._standbys[partition], *self._replacing[partition]}
        if target is None or self._lag(target, partition) > CAUGHT_UP_RECORDS:
            taken.add(self._owner[partition])
        return [name for name in self._names if name not in taken]

    def _apart(self, partition: int, names: list[str]) -> list[str]:
        """Return those of *names* that lie in racks where the partition is not yet; all if there are none."""
        racks = self._racks_of(partition, self._standbys[partition])
        return [name for name in names if self._members[name].info.rack not in racks] or names

    def _racks_of(self, partition: int, standbys: Sequence[str]) -> set[str]:
        nodes = [self._target.get(partition, self._owner[partition]), *standbys]
        return {self._members[name].info.rack for name in nodes if name is not None}

    def _preference(
        self, name: str, partition: int, limit: int, followers: Collection[str]
    ) -> tuple[bool, bool, bool, int, int, str]:
        is_full, is_cold = self._follows[name] >= limit, not self._is_warm(name, partition)
        return is_full, name not in followers, is_cold, self._follows[name], self._load[name], name


def _difference(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """Return what differs, as a sentence that anybody may read: a secret is named, and its digest is not shown."""
    names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    found = ", ".join(
        f"{name} is another"
        if name.endswith("_SECRET")
        else f"{name} is {ours.get(name)!r} here and {theirs.get(name)!r} there"
        for name in names
    )
    return f"its settings differ from the cluster's: {found}"
