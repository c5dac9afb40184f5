"""Word count's routes on the embedded log: counts, windows, instances, and the producer."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.word_count.facts import FACTS
from examples.word_count.service import OBSERVED_TOPICS, TOPICS, mount, mount_observer
from examples.word_count.topology import COUNTS, OUTPUT_TOPIC, observer, word_count, words_of
from streams.application.producing import Input
from streams.serdes import LONG, STRING
from tests.examples.running import Running, running

MINUTE = 1_517_518_200_000
HERE = {"host": "127.0.0.1", "port": 9080, "storeNames": ["windowed-word-count", "word-count"]}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An instance that was told lines of three minutes of 2018; nothing later, or it would forget these windows."""
    with running(word_count(), tmp_path_factory.mktemp("words"), TOPICS, mount) as server:
        for minute, text in ((0, "hello streams\nHello all"), (1, "hello"), (3, "zero")):
            target = f"/lines?timestamp={MINUTE + minute * 60_000}"
            assert server.ask("POST", target, text.encode()).status == 200
        server.becomes("/state/keyvalue/word-count/hello", {"key": "hello", "value": 3})
        server.becomes("/state/keyvalue/word-count/zero", {"key": "zero", "value": 1})
        server.becomes("/state/keyvalue/word-count/all", {"key": "all", "value": 1})
        yield server


def entries(**counts: int) -> list[dict[str, object]]:
    return [{"key": word, "value": count} for word, count in counts.items()]


def test_counts_are_listed_in_order_over_all_partitions(words: Running) -> None:
    """All, and those between two words; a word named like a route is a word."""
    wanted = entries(all=1, hello=3, streams=1, zero=1)
    assert words.get("/state/keyvalues/word-count/all") == (200, wanted)
    assert words.get("/state/keyvalues/word-count/range/hello/streams") == (200, wanted[1:3])
    assert words.get("/state/keyvalues/word-count/range/a/all") == (200, wanted[:1])
    assert words.get("/state/keyvalues/word-count/range/x/b") == (200, [])


def test_windows_are_minutes_of_the_time_at_which_it_was_said(words: Running) -> None:
    """Both bounds are included, and none are none."""
    path = "/state/windowed/windowed-word-count/hello"
    both = [{"key": f"hello@{MINUTE}", "value": 2}, {"key": f"hello@{MINUTE + 60_000}", "value": 1}]
    assert words.get(f"{path}/{MINUTE}/{MINUTE + 60_000}") == (200, both)
    assert words.get(f"{path}/{MINUTE + 1}/{MINUTE + 60_000}") == (200, both[1:])
    assert words.get(f"{path}/0/{MINUTE - 1}") == (200, [])
    assert words.get(f"{path}/0/{'9' * 25}") == (200, both)


def test_a_lone_instance_has_everything(words: Running) -> None:
    """And it says so, for a word that nobody said as for one that somebody did."""
    assert words.get("/state/instances") == (200, [HERE])
    assert words.get("/state/instances/word-count") == (200, [HERE])
    for word in ("hello", "never"):
        found = words.get(f"/state/instance/word-count/{word}")
        assert found == (200, {**HERE, "storeNames": ["word-count"]})


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/state/keyvalue/word-count/never", 404),
        ("GET", "/state/keyvalue/nothing/hello", 404),
        ("GET", "/state/keyvalues/nothing/all", 404),
        ("GET", "/state/instances/nothing", 404),
        ("GET", "/state/instance/nothing/hello", 404),
        ("GET", "/state/keyvalue/windowed-word-count/hello", 400),
        ("GET", "/state/windowed/word-count/hello/0/1", 400),
        ("GET", "/state/windowed/windowed-word-count/hello/now/1", 400),
        ("GET", "/state/windowed/windowed-word-count/hello/0/-1", 400),
        ("GET", "/state/keyvalue/word-count/%ff", 400),
        ("GET", "/state/keyvalue/word-count/hello?scope=x", 400),
        ("GET", "/state", 404),
        ("POST", "/state/instances", 405),
        ("GET", "/chuck-says", 405),
        ("POST", "/lines?timestamp=-1", 400),
        ("POST", "/lines?timestamp=now", 400),
    ],
)
def test_errors_are_problems_with_the_right_status(words: Running, method: str, target: str, status: int) -> None:
    """Where the original answered 500, or forwarded without end."""
    reply = words.ask(method, target)
    assert (reply.status, json.loads(reply.body)["status"]) == (status, status)
    assert dict(reply.headers)[b"content-type"] == b"application/problem+json"


def test_what_chuck_says_is_counted(tmp_path: Path) -> None:
    """A fact of its own, or the one in the body; it is told with its time, and sent as JSON."""
    with running(word_count(), tmp_path, TOPICS, mount) as server:
        said = json.loads(server.ask("POST", "/chuck-says").body)
        assert said["fact"] in FACTS
        assert said["timestamp"] > MINUTE
        given = json.loads(server.ask("POST", "/chuck-says", b'Quite "unheard" of\n').body)
        assert given["fact"] == 'Quite "unheard" of'
        wanted = Counter(word for one in (said, given) for word in words_of(json.dumps({"fact": one["fact"]})))
        for word, count in wanted.items():
            server.becomes(f"/state/keyvalue/word-count/{word}", {"key": word, "value": count})
        assert server.get("/state/keyvalues/word-count/all") == (200, entries(**dict(sorted(wanted.items()))))


def test_an_observer_answers_from_its_own_copy(tmp_path: Path) -> None:
    """It knows itself as the instance that has every word, and takes no input."""

    def with_counts(app: object, application: object, queries: object) -> None:
        mount_observer(app, application, queries)
        records = [Input(word, count) for word, count in (("hello", 2), ("hello", 3), ("zero", 1))]
        application.producer.send(OUTPUT_TOPIC, records, key=STRING, value=LONG)

    with running(observer(), tmp_path, OBSERVED_TOPICS, with_counts) as server:
        server.becomes("/state/keyvalues/word-count/all", entries(hello=3, zero=1))
        assert server.get("/state/keyvalue/word-count/hello") == (200, {"key": "hello", "value": 3})
        assert server.get("/state/keyvalue/word-count/never")[0] == 404
        me = {"host": "127.0.0.1", "port": 9080, "storeNames": [COUNTS]}
        assert server.get("/state/instances") == (200, [me])
        assert server.get("/state/instance/word-count/hello") == (200, me)
        assert server.get("/state/windowed/windowed-word-count/hello/0/1")[0] == 404
        assert server.ask("POST", "/chuck-says").status == 404
