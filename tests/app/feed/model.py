"""A log as a list, and a follower who keeps what he is told: what the tests of the feed compare."""

import json
import uuid
from collections.abc import Iterable, Sequence
from random import Random

from app.feed.events import Answer, Event, Result
from app.feed.position import Position, Seqs
from app.profiles.tokens import Tokens
from streams.records import Headers

PARTITIONS = 3
#: What the follower knows of a uid: its version and its body.
State = tuple[int | None, bytes | None]


def make_seqs(partitions: int = PARTITIONS) -> Seqs:
    """Return the seqs of a topic."""
    signer = Tokens(secret=b"0123456789abcdef", topic_ids={"profiles": "1"})
    return Seqs(signer=signer, topic="profiles", topic_id="1", partitions=partitions)


def uid_of(random: Random) -> str:
    """Return one of a few uids."""
    return str(uuid.UUID(int=random.randrange(6), version=4))


def profile(uid: str, version: int, username: str = "u") -> bytes:
    """Return a profile as the service writes it."""
    members = {"uid": uid, "username": username, "email": f"{uid[:8]}@mail.com", "version": version}
    times = {"created_at": "2026-01-01T00:00:00.000Z", "updated_at": "2026-01-01T00:00:00.000Z"}
    return json.dumps(members | times, separators=(",", ":")).encode()


def version_header(version: int) -> Headers:
    """Return the header by which a tombstone tells its version."""
    return (("profile-version", b"%d" % version),)


def fold(events: Iterable[Event]) -> dict[bytes, State]:
    """Return the last state of each uid that is there."""
    states: dict[bytes, State] = {}
    for event in events:
        states[event.uid] = event.version, event.body
    return {uid: state for uid, state in states.items() if state[1] is not None}


class Follower:
    """Keeps the last state of each uid, and sees to the promises: order, no repetition backwards."""

    def __init__(self, position: Position) -> None:
        self.position = position
        self.states: dict[bytes, State] = {}
        self.results: list[Result] = []
        self._seen: dict[bytes, int] = {}

    def take(self, answer: Answer) -> None:
        """Take in all of *answer*."""
        uids = [result.event.uid for result in answer.results]
        assert len(set(uids)) == len(uids), "of each uid only the last state"
        for result in answer.results:
            self.take_result(result)
        self.position = answer.position

    def take_result(self, result: Result) -> None:
        """Take in one result: the position is then that of its seq."""
        event = result.event
        assert event.offset >= self._seen.get(event.uid, -1), "an earlier state came after a later one"
        self._seen[event.uid] = event.offset
        self.results.append(result)
        self.states[event.uid] = event.version, event.body

    @property
    def live(self) -> dict[bytes, State]:
        """The profiles that are there."""
        return {uid: state for uid, state in self.states.items() if state[1] is not None}


class LogModel:
    """Events of several partitions, in the order in which they came."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.events: list[Event] = []
        self.ends = [0] * PARTITIONS
        self._versions: dict[bytes, int] = {}

    def write(self) -> Event:
        """Append a change, or a gap and a change."""
        uid = uid_of(self.random).encode()
        partition = uid[-1] % PARTITIONS
        if self.random.random() < 0.3:
            self.ends[partition] += 1  # a marker, or a record that is not ours
        version = self._versions[uid] = self._versions.get(uid, 0) + 1
        body = None if self.random.random() < 0.3 else profile(uid.decode(), version)
        event = Event(partition, self.ends[partition], uid, version, body)
        self.ends[partition] += 1
        self.events.append(event)
        return event

    def position(self, partition: int | None = None) -> Position:
        """Return the end."""
        if partition is not None:
            return Position((self.ends[partition],), partition, 1, is_whole=True)
        return Position(tuple(self.ends), None, 1, is_whole=True)

    def behind(self, position: Position) -> Sequence[Event]:
        """Return what lies behind *position*."""
        scope = dict(position.items())
        return [event for event in self.events if event.partition in scope and event.offset >= scope[event.partition]]
