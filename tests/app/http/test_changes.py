"""`/api/changes` over HTTP: parameters, forms of the answer, refusals; the feed beneath is real, its log in memory."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from app.feed.feed import Feed
from app.http.problems import PROBLEMS
from app.profiles.tokens import Tokens
from streams.clock import Deadline, SystemClock
from streams.errors import Unavailable
from streams.log.base import TopicSpec
from streams.records import ProducerRecord
from streams.testing import MemoryLog
from tests.app.feed.model import profile, version_header
from tests.app.http import fakes
from tests.app.http.fakes import Answer, Edge
from tests.support.eventsource import StreamParser

PARTITIONS = 2
UIDS = [str(uuid.UUID(int=number, version=4)) for number in range(6)]


class Rig(Edge):
    """The API with a feed over a log in memory. Each request has an event loop of its own, and so a feed of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log = MemoryLog(clock=SystemClock())
        deadline = Deadline.after(5, SystemClock())
        spec = TopicSpec("profiles", {"cleanup.policy": "compact"}, PARTITIONS)
        self.topic_ids = {"profiles": self.log.ensure_topics([spec], deadline)["profiles"].topic_id}
        self.partitions = PARTITIONS
        self.max_listeners = 1
        self._patch = monkeypatch

    def put(self, number: int, version: int, *, is_deleted: bool = False, uid: str | None = None) -> None:
        key = (uid or UIDS[number]).encode()
        value = None if is_deleted else profile(key.decode(), version)
        self.log.put(ProducerRecord("profiles", number % PARTITIONS, key, value, version_header(version)))

    def ask(self, target: str, method: str = "GET", **headers: str) -> Answer:
        """Return the answer to one request."""
        tokens = Tokens(secret=b"0123456789abcdef", topic_ids=self.topic_ids)
        clock = SystemClock()
        feed = Feed(
            log=self.log,
            topic="profiles",
            node=self,
            signer=lambda: tokens,
            clock=clock,
            max_listeners=self.max_listeners,
        )
        self._patch.setattr(fakes, "silent_feed", lambda: feed)
        Edge.__init__(self)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            return self.request(method, "/api/changes" + target, given, is_patient=True)
        finally:
            asyncio.run(feed.stop())

    def exchange(
        self, method: str, target: str, headers: list[tuple[bytes, bytes]], chunks: list[bytes], **scope: Any
    ) -> Answer:
        """As that of Edge, with a client that stays: whoever waits for him to go waits in vain."""
        api = self.api

        async def patient(scope: Any, receive: Any, send: Any) -> None:
            async def stay() -> Any:
                event = await receive()
                if event["type"] == "http.disconnect":
                    await asyncio.Event().wait()
                return event

            async with asyncio.timeout(20):
                await api(scope, stay, send)

        self.api = patient  # type: ignore[assignment]
        del scope["is_patient"]
        try:
            return super().exchange(method, target, headers, chunks, **scope)
        finally:
            self.api = api


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    rig = Rig(monkeypatch)
    for number in range(4):
        rig.put(number, 1)
    rig.put(0, 2)
    rig.put(1, 2, is_deleted=True)
    yield rig
    rig.log.close()


def changes(answer: Answer) -> list[tuple[str, int, bool]]:
    assert answer.status == 200, answer.body
    return sorted((one["uid"], one["version"], one.get("deleted", False)) for one in answer.json["results"])


ALL = sorted([(UIDS[0], 2, False), (UIDS[1], 2, True), (UIDS[2], 1, False), (UIDS[3], 1, False)])


def test_one_answer_has_the_last_states(rig: Rig) -> None:
    """Without parameters: from the beginning, without profiles; not to be kept by anybody on the way."""
    answer = rig.ask("")
    assert changes(answer) == ALL
    assert (answer["Content-Type"], answer["Cache-Control"]) == ("application/json", "no-store")
    assert answer.json["pending"] == 0
    assert all(set(one) <= {"seq", "uid", "version", "deleted"} for one in answer.json["results"])
    assert rig.ask(f"?since={answer.json['last_seq']}").json["results"] == []


def test_documents_are_those_of_the_profiles(rig: Rig) -> None:
    """As GET gives them; a deletion has none."""
    for one in rig.ask("?include_docs=true").json["results"]:
        assert ("doc" in one) is not ("deleted" in one)
        if "doc" in one:
            assert one["doc"] == json.loads(profile(one["uid"], one["version"]))


def test_pages_of_any_size_go_through_everything(rig: Rig) -> None:
    """Each result's seq goes on behind that result, and last_seq behind all."""
    seen: list[tuple[str, int, bool]] = []
    since, pending = "0", 1
    while pending:
        answer = rig.ask(f"?since={since}&limit=1")
        seen += changes(answer)
        pending = answer.json["pending"]
        since = answer.json["results"][-1]["seq"] if answer.json["results"] and pending else answer.json["last_seq"]
    # In small answers an earlier state may be told, too.
    assert {uid: (version, deleted) for uid, version, deleted in seen if (uid, version, deleted) in ALL} == {
        uid: (version, deleted) for uid, version, deleted in ALL
    }


def test_one_partition_alone_tells_offsets(rig: Rig) -> None:
    """In log order: whoever copies partition by partition can say which of two changes is the newer."""
    rows = [rig.ask(f"?partition={number}").json["results"] for number in range(PARTITIONS)]
    assert sorted((one["uid"], one["version"], "deleted" in one) for part in rows for one in part) == ALL
    assert all([one["offset"] for one in part] == sorted(one["offset"] for one in part) for part in rows)
    seq = rig.ask("?partition=1").json["last_seq"]
    assert rig.ask(f"?partition=1&since={seq}").json["results"] == []
    for other in ("", "&partition=0"):
        assert rig.ask(f"?since={seq}{other}").slug == "bad-cursor"
    everything = rig.ask("").json["last_seq"]
    assert rig.ask(f"?partition=1&since={everything}").json["results"] == []


def test_a_long_poll_answers_at_once_or_in_time(rig: Rig) -> None:
    """With what there is; with nothing after its time, and then with a place to go on from."""
    first = rig.ask("?feed=longpoll&timeout=60000")
    assert changes(first) == ALL
    nothing = rig.ask(f"?feed=longpoll&timeout=50&since={first.json['last_seq']}")
    assert (nothing.status, nothing.json["results"]) == (200, [])
    rig.put(4, 1)
    assert changes(rig.ask(f"?feed=longpoll&since={nothing.json['last_seq']}")) == [(UIDS[4], 1, False)]


def test_a_stream_has_its_form(rig: Rig) -> None:
    """Place, events with ids, one line of JSON each, and with a limit an end; nobody on the way may collect it."""
    answer = rig.ask("?feed=eventsource&limit=4&include_docs=true")
    assert answer.status == 200
    assert (answer["Content-Type"], answer["Cache-Control"], answer["X-Accel-Buffering"]) == (
        "text/event-stream",
        "no-store",
        "no",
    )
    assert answer.body.startswith(b"retry: 3000\nid: ")
    parser = StreamParser()
    events = parser.feed(answer.body)
    told = [(event, json.loads(event.data)) for event in events]
    assert len(told) == len({one["uid"] for _, one in told}) == 4
    assert all(one["doc"]["version"] == one["version"] for _, one in told if "doc" in one)
    assert all(event.type == ("deleted" if "deleted" in one else "profile") for event, one in told)
    assert all(event.last_event_id == one["seq"] for event, one in told)
    # The limit may fall between two states of one profile: the later one lies behind.
    states = {one["uid"]: (one["uid"], one["version"], "deleted" in one) for _, one in told}
    states |= {one[0]: one for one in changes(rig.ask(f"?since={parser.last_event_id}"))}
    assert sorted(states.values()) == ALL


def test_the_id_of_the_last_event_goes_before_since(rig: Rig) -> None:
    """A browser that comes again asks for the same URL, and says in a header how far it is."""
    last = rig.ask("").json["last_seq"]
    assert rig.ask("?since=0", Last_Event_ID=last).json["results"] == []
    assert changes(rig.ask(f"?since={last}", Last_Event_ID="0")) == ALL
    refused = rig.ask("?since=0", Last_Event_ID="nonsense")
    assert (refused.slug, refused.json["parameter"]) == ("bad-cursor", "Last-Event-ID")


@pytest.mark.parametrize("feed", ["normal", "longpoll", "eventsource"])
def test_head_tells_the_form_and_waits_for_nothing(rig: Rig, feed: str) -> None:
    """Also where GET would not end, and where there is no room for another listener."""
    rig.max_listeners = 0
    answer = rig.ask(f"?feed={feed}&since=now", "HEAD")
    expected = "text/event-stream" if feed == "eventsource" else "application/json"
    assert (answer.status, answer["Content-Type"], answer["Cache-Control"]) == (200, expected, "no-store")
    assert ("Content-Length" in answer) is (feed != "eventsource")


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("feed=continuous", "feed"),
        ("feed=normal&feed=longpoll", "feed"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e3", "limit"),
        ("limit=\u0661", "limit"),
        ("timeout=60001", "timeout"),
        ("timeout=x", "timeout"),
        ("heartbeat=999", "heartbeat"),
        ("heartbeat=60001", "heartbeat"),
        ("include_docs=1", "include_docs"),
        ("partition=2", "partition"),
        ("partition=-1", "partition"),
        ("partition=99999", "partition"),
        ("since=0&since=now", "since"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_wrong_parameter_is_named(rig: Rig, method: str, query: str, parameter: str) -> None:
    """Nothing is guessed, and nothing begun."""
    answer = rig.ask("?" + query.replace("\u0661", "%D9%A1"), method)
    assert answer.status == 400
    if method == "GET":
        assert (answer.slug, answer.json["parameter"]) == ("invalid-parameter", parameter)


@pytest.mark.parametrize("since", ["x", "1", "AAAA", "null", "0%20", "%00", "a" * 3000])
def test_a_forged_place_is_refused(rig: Rig, since: str) -> None:
    """A client cannot make one up."""
    answer = rig.ask(f"?since={since}")
    assert (answer.status, answer.slug, answer.json["parameter"]) == (400, "bad-cursor", "since")


def test_a_place_of_a_topic_that_is_no_more_has_expired(rig: Rig) -> None:
    """And the problem says where to begin."""
    last = rig.ask("").json["last_seq"]
    rig.topic_ids = {"profiles": "another"}
    answer = rig.ask(f"?since={last}")
    assert (answer.status, answer.slug, answer.json["restart_from"]) == (410, "feed-expired", "0")
    assert set(PROBLEMS["feed-expired"].members) == {"restart_from"}


@pytest.mark.parametrize("feed", ["longpoll", "eventsource"])
def test_without_room_a_listener_is_sent_away(rig: Rig, feed: str) -> None:
    """503 with the time after which to come again; who only reads is no listener."""
    rig.max_listeners = 0
    answer = rig.ask(f"?feed={feed}&since=now")
    assert (answer.status, answer.slug, answer["Retry-After"]) == (503, "too-many-listeners", "1")
    assert changes(rig.ask("")) == ALL


def test_a_log_that_is_away_is_said_so(rig: Rig) -> None:
    """For every kind of feed, and with nothing of it begun."""
    rig.log.is_reachable = False
    for feed in ("normal", "longpoll"):
        answer = rig.ask(f"?feed={feed}")
        assert (answer.status, answer.slug, "Retry-After" in answer) == (503, "log-unavailable", True)
    assert rig.ask("?feed=eventsource&since=now").slug == "log-unavailable"


def test_before_the_log_was_reached_nobody_is_answered(edge: Edge) -> None:
    """The node does not know its topic yet; and what is wrong with a request is said all the same."""
    assert edge.request("GET", "/api/changes").status == 503
    assert edge.request("GET", "/api/changes?limit=0").status == 400
    with pytest.raises(Unavailable):
        fakes.silent_feed().seqs  # noqa: B018 - asking is what fails


def test_a_client_that_goes_frees_his_place(rig: Rig) -> None:
    """A long poll, and a stream: whoever waits for changes that nobody will read ends at once."""

    async def scenario() -> None:
        tokens = Tokens(secret=b"0123456789abcdef", topic_ids=rig.topic_ids)
        clock = SystemClock()
        feed = Feed(log=rig.log, topic="profiles", node=rig, signer=lambda: tokens, clock=clock, max_listeners=9)
        rig._patch.setattr(fakes, "silent_feed", lambda: feed)
        Edge.__init__(rig)
        for kind in ("longpoll", "eventsource"):
            gone = asyncio.Event()
            answering = asyncio.create_task(_exchange(rig, f"feed={kind}&since=now", gone))
            while not feed.listeners:
                await asyncio.sleep(0.01)
            gone.set()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(answering, 5)
            assert feed.listeners == 0
        await feed.stop()

    asyncio.run(scenario())


async def _exchange(rig: Rig, query: str, gone: asyncio.Event) -> None:
    """Ask, and stay until *gone*."""
    events: list[Any] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if events:
            return events.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_event: Any) -> None: ...

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/api/changes",
        "raw_path": b"/api/changes",
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "server": ("127.0.0.1", 8080),
        "client": ("127.0.0.1", 50000),
    }
    await rig.api(scope, receive, send)
