"""What an answer is made of: the last state of each uid, in order, and places from which nothing is missed."""

import json
from random import Random

import pytest

from app.feed.events import Event, Run, answer_from, event_of, events_of
from app.feed.position import Position
from streams.records import Headers, Record
from tests.app.feed.model import PARTITIONS, Follower, LogModel, fold, make_seqs, profile, uid_of, version_header

SEQS = make_seqs()
UID = uid_of(Random(1))


def runs_of(events: list[Event], ends: list[int], random: Random) -> list[Run]:
    """Divide *events* into runs, each of some partitions, as they may be read."""
    runs, at = [], 0
    while at < len(events):
        step = random.randint(1, 5)
        part = events[at : at + step]
        runs.append(Run(part, {event.partition: event.offset + 1 for event in part}))
        at += step
    runs.append(Run((), dict(enumerate(ends))))
    return runs


@pytest.mark.parametrize("seed", range(60))
def test_a_follower_of_answers_of_any_size_ends_with_the_fold_of_the_log(seed: int) -> None:
    """Whatever is asked for at a time, from wherever, of all partitions or of one, and whichever result's seq is gone
    on from: the last states are right, and none came after a later one."""
    print(f"seed {seed}")
    random = Random(seed)
    log = LogModel(random)
    for _ in range(80):
        log.write()
    partition = random.choice([None, 0, 1, 2])
    scope = range(PARTITIONS) if partition is None else (partition,)
    follower = Follower(Position(tuple(0 for _ in scope), partition, 1, is_whole=False))
    for _ in range(1000):
        events = log.behind(follower.position)
        if not events:
            break
        answer = answer_from(
            follower.position,
            runs_of(list(events), log.ends, random),
            SEQS,
            limit=random.randint(1, 6),
            limit_bytes=random.choice([1, 10_000_000]),
        )
        assert SEQS.position(answer.seq, "since") == answer.position
        if random.random() < 0.5 and answer.results:  # the connection broke after some of them
            count = random.randint(1, len(answer.results))
            for result in answer.results[:count]:
                follower.take_result(result)
            follower.position = SEQS.position(answer.results[count - 1].seq, "since")
        else:
            follower.take(answer)
    assert follower.live == fold(event for event in log.events if event.partition in scope)


def test_the_limit_counts_results() -> None:
    """Twenty changes of one profile are one result, and the place lies behind all of them."""
    events = [Event(0, offset, b"a", offset, b"{}") for offset in range(20)]
    start = Position((0, 0, 0), None, 1, is_whole=False)
    answer = answer_from(start, [Run(events, {0: 20})], SEQS, limit=2, limit_bytes=10**9)
    assert [result.event.version for result in answer.results] == [19]
    assert answer.position.offsets == (20, 0, 0)
    answer = answer_from(start, [Run(events, {0: 20})], SEQS, limit=1, limit_bytes=10**9)
    assert [(result.event.version, answer.position.offsets) for result in answer.results] == [(0, (1, 0, 0))]


def record(value: bytes | None, *, key: bytes | None = UID.encode(), headers: Headers = ()) -> Record:
    return Record("profiles", 0, 7, 0, key, value, headers)


def test_what_is_no_profile_is_passed_over() -> None:
    """Poison of any kind makes no event and stops nothing."""
    poison = [
        record(b"{"),
        record(b"null"),
        record(b"\xff\x00"),
        record(profile(UID, 1), key=None),
        record(profile(UID, 1), key=b"not a uid"),
        record(profile(UID, 1), headers=(("profile-format", b"99"),)),
        record(b'{"uid":"%b"}' % UID.encode()),
    ]
    good = record(profile(UID, 1))
    assert [event_of(one) for one in poison] == [None] * len(poison)
    assert [event.version for event in events_of([*poison, good])] == [1]


def test_a_foreign_record_is_told_on_one_line() -> None:
    """A profile that somebody wrote with line breaks would break an event stream."""
    value = json.dumps(json.loads(profile(UID, 3)), indent=2).replace("\n", "\r\n").encode()
    event = event_of(record(value))
    assert event is not None
    assert event.body is not None
    assert b"\n" not in event.body
    assert b"\r" not in event.body
    assert json.loads(event.body) == json.loads(value)


@pytest.mark.parametrize(
    ("headers", "version"), [(version_header(4), 4), ((), None), ((("profile-version", b"x"),), None)]
)
def test_a_deletion_tells_its_version_if_it_has_one(headers: Headers, version: int | None) -> None:
    """Ours always have one."""
    assert event_of(record(None, headers=headers)) == Event(0, 7, UID.encode(), version, None)
