"""The ring: whoever is in it gets everything behind his place, and who has fallen out is told so."""

from random import Random

import pytest

from app.feed import ring as ring_module
from app.feed.events import Event
from app.feed.position import Position
from app.feed.ring import Ring
from tests.app.feed.model import PARTITIONS, Follower, LogModel, fold, make_seqs

SEQS = make_seqs()


class Listener(Follower):
    """Follows a ring, and reads the model's log where the ring has not what he needs."""

    def __init__(self, position: Position, log: LogModel, ring: Ring, limit: int) -> None:
        super().__init__(position)
        self._log = log
        self._ring = ring
        self._limit = limit
        self._number: int | None = None
        self.from_log = 0

    def read(self) -> None:
        """Take one answer."""
        if self._number is None:
            self._number = self._ring.join(self.position)
        read = None
        if self._number is not None:
            read = self._ring.read(self._number, self.position, limit=self._limit, limit_bytes=10**6)
        if read is None:
            self._number = None
            self.from_log += 1
            for event in list(self._log.behind(self.position)):
                slot = self.position.slot(event.partition)
                offsets = list(self.position.offsets)
                offsets[slot] = event.offset + 1
                self.position = self.position._replace(offsets=tuple(offsets))
                self.states[event.uid] = event.version, event.body
                self._seen[event.uid] = event.offset
        else:
            self._number, answer = read
            self.take(answer)


@pytest.mark.parametrize("seed", range(60))
def test_listeners_of_every_kind_end_with_the_fold(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some read often and some seldom, some small and some shared answers, some one partition alone; some fall out."""
    print(f"seed {seed}")
    random = Random(seed)
    monkeypatch.setattr(ring_module, "RING_BYTES", random.choice([2_000, 6_000, 10**6]))
    log = LogModel(random)
    for _ in range(random.randint(0, 20)):
        log.write()
    ring = Ring(SEQS, log.position())
    listeners: list[Listener] = []
    for _ in range(150):
        if random.random() < 0.08:
            partition = random.choice([None, None, 0, 1, 2])
            begin = log.position(partition)
            if random.random() < 0.5:
                begin = begin._replace(offsets=tuple(0 for _ in begin.offsets))
            listener = Listener(begin, log, ring, random.choice([1, 3, 1000]))
            # What lies before his place he knows.
            scope = dict(begin.items())
            for event in log.events:
                if event.partition in scope and event.offset < scope[event.partition]:
                    listener.states[event.uid] = event.version, event.body
            listeners.append(listener)
        if random.random() < 0.5:
            events: list[Event] = [log.write() for _ in range(random.randint(0, 4))]
            moment_s = ring.head.moment_s + random.randint(0, 2)
            ring.add(events, log.position()._replace(moment_s=moment_s))
        for listener in listeners:
            if random.random() < 0.3:
                listener.read()
    for listener in listeners:
        for _ in range(200):
            listener.read()
        scope = dict(listener.position.items())
        assert listener.live == fold(event for event in log.events if event.partition in scope)
        assert listener.position.offsets == tuple(ring.head.offsets[partition] for partition in scope)
        assert listener.position.moment_s == ring.head.moment_s


def test_who_stands_at_one_place_shares_one_answer() -> None:
    """However many listen: what an answer costs, it costs once; and an idle listener holds the ring's own place."""
    log = LogModel(Random(1))
    ring = Ring(SEQS, log.position())
    start = log.position()
    number = ring.join(start)
    assert number is not None
    ring.add([log.write(), log.write()], log.position())
    first = ring.read(number, start, limit=1000, limit_bytes=10**6)
    second = ring.read(number, start._replace(moment_s=0), limit=1000, limit_bytes=10**6)
    assert first is not None
    assert second is not None
    assert first[1] is second[1]
    assert first[1].position is ring.head
    nothing = ring.read(first[0], first[1].position, limit=1000, limit_bytes=10**6)
    assert nothing is not None
    assert nothing[1].position is ring.head


def test_who_is_some_pieces_behind_joins_there() -> None:
    """And reads no log: at the very piece behind his place, or at the one that his place lies in."""
    log = LogModel(Random(3))
    ring = Ring(SEQS, log.position())
    places = [log.position()]
    for _ in range(4):
        ring.add([log.write(), log.write()], log.position())
        places.append(log.position())
    assert [ring.join(place) for place in places] == [0, 1, 2, 3, 4]
    first, second = log.events[2], log.events[3]
    if first.partition != second.partition:
        offsets = list(places[1].offsets)
        offsets[first.partition] = first.offset + 1
        assert ring.join(places[1]._replace(offsets=tuple(offsets))) == 1
    assert ring.join(log.position()._replace(offsets=(0, 0, 0))) == (0 if places[0].offsets == (0, 0, 0) else None)


def test_a_place_beyond_the_tail_does_not_join() -> None:
    """It is of another node that is further, or of a log that has lost its end: only the log knows."""
    ring = Ring(SEQS, Position((5,) * PARTITIONS, None, 1, is_whole=True))
    assert ring.join(Position((5, 6, 5), None, 1, is_whole=True)) is None
    assert ring.join(Position((4, 5, 5), None, 1, is_whole=True)) is None
    assert ring.join(Position((6,), 0, 1, is_whole=True)) is None
    assert ring.join(Position((5,), 0, 1, is_whole=True)) == 0


def test_the_ring_keeps_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too old goes, and the bytes are counted right."""
    monkeypatch.setattr(ring_module, "RING_BYTES", 3_000)
    log = LogModel(Random(2))
    ring = Ring(SEQS, log.position())
    for _ in range(200):
        ring.add([log.write()], log.position())
        assert ring.size_bytes <= 3_000
    held = [event.size_bytes for event in log.events[-3:]]
    assert ring.size_bytes >= min(held) * 3
    assert ring.read(0, log.position(), limit=1, limit_bytes=1) is None
