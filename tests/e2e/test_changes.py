"""The change feed of a real node, on each log: long polls and streams over its end and its return, slow clients,
limits, and the command that follows. What a cluster adds is in `tests/cluster/test_changes.py`."""

import contextlib
import http.client
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.conftest import NewService, kafka_environment
from tests.support.broker import Cluster
from tests.support.eventsource import EventSource, StreamParser
from tests.support.service import ROOT, Service

WAIT_S = 30.0


def create(service: Service, number: int) -> str:
    body = json.dumps({"username": f"u{number}", "email": f"u{number}@mail.com"}).encode()
    made = service.request("POST", "/api/profile", body)
    assert made.status == 201, made
    return str(json.loads(made.body)["uid"])


def change(service: Service, uid: str, name: str) -> None:
    body = json.dumps({"username": name}).encode()
    assert service.request("PATCH", f"/api/profile/{uid}", body).status == 200


def changes(service: Service, query: str = "") -> dict[str, Any]:
    answer = service.request("GET", f"/api/changes{query}", timeout_s=70)
    assert answer.status == 200, answer
    document: dict[str, Any] = json.loads(answer.body)
    return document


def metric(service: Service, name: str) -> float:
    text = service.request("GET", "/metrics").body.decode()
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


class Raw:
    """A stream on a socket of its own, read as it comes: what `curl -N` sees."""

    def __init__(self, service: Service, target: str, *, receive_bytes: int | None = None) -> None:
        self.sock = socket.socket()
        if receive_bytes is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(service.address)
        self.sock.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        self.raw = b""

    def read_until(self, part: bytes) -> bytes:
        while part not in self.raw:
            data = self.sock.recv(65_536)
            assert data, self.raw[-500:]
            self.raw += data
        return self.raw

    def read_to_end(self) -> bytes:
        with contextlib.suppress(ConnectionResetError):
            while data := self.sock.recv(1024 * 1024):
                self.raw += data
        return self.raw

    def body(self) -> bytes:
        """Return what is whole of the chunks."""
        rest = self.raw.partition(b"\r\n\r\n")[2]
        parts = []
        while (found := re.match(rb"([0-9a-f]+)\r\n", rest)) and len(rest) >= found.end() + int(found[1], 16) + 2:
            size = int(found[1], 16)
            parts.append(rest[found.end() : found.end() + size])
            rest = rest[found.end() + size + 2 :]
        return b"".join(parts)

    def close(self) -> None:
        self.sock.close()


def test_whoever_follows_by_long_poll_ends_with_what_is_there(
    new_service: NewService, log_environment: Mapping[str, str]
) -> None:
    """Creates, changes and deletes on one side, long polls on the other, over a kill -9 of the node in between."""
    service = new_service(**log_environment).start()
    states: dict[str, dict[str, Any]] = {}
    seen: dict[str, int] = {}
    done = threading.Event()

    def poll() -> None:
        since = "0"
        while True:
            is_last = done.is_set()
            try:
                query = f"?feed=longpoll&include_docs=true&timeout=500&since={since}"
                answer = service.request("GET", f"/api/changes{query}", timeout_s=20)
            except OSError:
                time.sleep(0.05)
                continue
            if answer.status != 200:
                assert answer.status == 503, answer
                time.sleep(0.05)
                continue
            document = json.loads(answer.body)
            for one in document["results"]:
                assert one["version"] >= seen.get(one["uid"], 0), "backwards"
                seen[one["uid"]] = one["version"]
                states[one["uid"]] = one
            since = document["last_seq"]
            if is_last and not document["results"]:
                return

    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(poll)
        uids = [create(service, number) for number in range(12)]
        for number, uid in enumerate(uids[:8]):
            change(service, uid, f"changed{number}")
        service.kill()
        service.start()
        for uid in uids[4:10]:
            change(service, uid, "after")
        for uid in uids[:3]:
            assert service.request("DELETE", f"/api/profile/{uid}").status == 204
        done.set()
        polling.result(WAIT_S)
    assert {uid for uid, one in states.items() if one.get("deleted")} == set(uids[:3])
    for uid in uids[3:]:
        assert states[uid]["doc"] == json.loads(service.request("GET", f"/api/profile/{uid}").body)


def test_a_stream_ends_with_its_place_when_the_node_stops(
    new_service: NewService, log_environment: Mapping[str, str]
) -> None:
    """SIGTERM: each stream and long poll is ended whole and at once, nothing is cut off, and the place that was told
    last is good at the next start."""
    service = new_service(**log_environment).start()
    uid = create(service, 1)
    streams = [Raw(service, "/api/changes?feed=eventsource") for _ in range(3)]
    for stream in streams:
        stream.read_until(uid.encode())
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(changes, service, "?feed=longpoll&since=now&timeout=60000")
        wait_for(lambda: metric(service, "feed_listeners") == 4, "four listeners")
        assert service.stop() == 0
        place = polling.result(5)["last_seq"]
    assert "requests cut off" not in service.log()
    for stream in streams:
        raw = stream.read_to_end()
        assert raw.endswith(b"0\r\n\r\n"), raw[-200:]
        parser = StreamParser()
        parser.feed(stream.body())
        assert stream.body().endswith(f"id: {parser.last_event_id}\n\n".encode())
    service.start()
    change(service, uid, "new")
    for since in (place, parser.last_event_id):
        results = changes(service, f"?since={since}")["results"]
        assert [(one["uid"], one["version"]) for one in results] == [(uid, 2)]


def test_an_idle_stream_says_that_it_lives(new_service: NewService) -> None:
    """A comment for each heartbeat, and nothing else."""
    service = new_service().start()
    stream = Raw(service, "/api/changes?feed=eventsource&since=now&heartbeat=1000")
    stream.read_until(b": ping\n\n")
    begun = time.monotonic()
    wait_for(lambda: stream.read_until(b": ping") and stream.sock.recv(1000), "another")
    assert time.monotonic() - begun < 10
    assert re.fullmatch(rb"retry: 3000\nid: [\w-]+\n\n(: ping\n\n)*", stream.body())
    stream.close()


@pytest.mark.slow
def test_a_listener_that_does_not_read_is_cut_off_and_can_go_on(new_service: NewService) -> None:
    """It gets what fits into the buffers of the system, then is waited for, then ended; the node's memory does not grow
    with what it left, and from the last whole event on it gets all that it missed."""
    service = new_service().start()
    with ThreadPoolExecutor(16) as pool:
        uids = list(pool.map(lambda number: create(service, number), range(300)))
    lazy = Raw(service, "/api/changes?feed=eventsource&include_docs=true", receive_bytes=4096)
    wait_for(lambda: metric(service, "feed_listeners") == 1, "it listens")
    before = metric(service, "process_resident_memory_bytes")
    is_over = threading.Event()

    def busy(own: list[str]) -> None:
        connection = http.client.HTTPConnection(*service.address, timeout=WAIT_S)
        number = 0
        while not is_over.is_set():
            number += 1
            body = json.dumps({"username": f"n{number}-" + "\u4e16" * 50}).encode()
            target, headers = f"/api/profile/{own[number % len(own)]}", {"Content-Type": "application/json"}
            connection.request("PATCH", target, body, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
        connection.close()

    with ThreadPoolExecutor(6) as pool:
        writing = [pool.submit(busy, uids[start::6]) for start in range(6)]
        try:
            wait_for(lambda: metric(service, "feed_slow_listeners_total"), "it is cut off", 90)
        finally:
            is_over.set()
        for one in writing:
            one.result()
    assert metric(service, "feed_listeners") == 0
    assert metric(service, "process_resident_memory_bytes") - before < 60e6
    lazy.read_to_end()
    assert not lazy.raw.endswith(b"0\r\n\r\n"), "it ended as if it were whole"
    parser = StreamParser()
    states = {one["uid"]: one["version"] for event in parser.feed(lazy.body()) for one in [json.loads(event.data)]}
    since, pending = parser.last_event_id, 1
    while pending:
        document = changes(service, f"?limit=1000&since={since}")
        states |= {one["uid"]: one["version"] for one in document["results"]}
        since, pending = document["last_seq"], document["pending"]
    for uid in uids[::17]:
        assert states[uid] == json.loads(service.request("GET", f"/api/profile/{uid}").body)["version"]


def test_listeners_take_no_connection_from_requests(new_service: NewService) -> None:
    """As many as there may be, and all other clients are served as before; one more is told to come later, and one
    that goes makes room."""
    service = new_service(PROFILES_MAX_LISTENERS="24", PROFILES_MAX_CONNECTIONS="16").start()
    streams = []
    for _ in range(24):
        streams.append(Raw(service, "/api/changes?feed=eventsource&since=now"))
        streams[-1].read_until(b"id: ")
    for number in range(32):
        create(service, number)
    refused = service.request("GET", "/api/changes?feed=longpoll&since=now")
    assert (refused.status, json.loads(refused.body)["type"]) == (503, "/problems/too-many-listeners")
    assert "retry-after" in refused.headers
    streams.pop().close()
    wait_for(lambda: metric(service, "feed_listeners") == 23, "its place is free")
    Raw(service, "/api/changes?feed=eventsource&since=now").read_until(b"id: ")
    for stream in streams:
        stream.close()


def test_a_listener_that_goes_is_noticed_at_once(new_service: NewService) -> None:
    """Not at the next heartbeat, when something is written to a connection that is no more: streams and long polls that
    are closed in any way, also by closing only the client's half, as a process that ends does."""
    service = new_service().start()
    for target in ("/api/changes?feed=eventsource&since=now", "/api/changes?feed=longpoll&since=now&timeout=60000"):
        ways: list[Callable[[socket.socket], None]] = [
            socket.socket.close,
            lambda sock: sock.shutdown(socket.SHUT_WR),
            lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)) or sock.close(),
        ]
        for leave in ways:
            stream = Raw(service, target)
            wait_for(lambda: metric(service, "feed_listeners") == 1, "it listens")
            if "eventsource" in target:
                stream.read_until(b"\nid: ")
            leave(stream.sock)
            wait_for(lambda: metric(service, "feed_listeners") == 0, "its place is free", 15)
            stream.close()


class Follow:
    """`python -m app follow` as a process, its lines read as they come."""

    def __init__(self, service: Service, *arguments: str) -> None:
        url = f"http://127.0.0.1:{service.port}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app", "follow", "--json", "--url", url, *arguments],
            cwd=ROOT,
            env=service.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.results: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.results.append(json.loads(line))

    def has(self, uid: str, version: int) -> bool:
        return any((one["uid"], one["version"]) == (uid, version) for one in list(self.results))

    def interrupt(self) -> str:
        """Send Ctrl-C; return the place that it names."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(WAIT_S) == 0
        assert self.process.stderr is not None
        found = re.search(r"--since (\S+)\s*$", self.process.stderr.read())
        assert found
        return found[1]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def new_follow() -> Iterator[Callable[..., Follow]]:
    made: list[Follow] = []

    def make(*arguments: Any) -> Follow:
        made.append(Follow(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_the_command_follows_over_a_restart_and_names_its_place(
    new_service: NewService, new_follow: Callable[..., Follow]
) -> None:
    """kill -9 of the node, its return, Ctrl-C: nothing is missed, and the next command goes on where this one ended."""
    service = new_service().start()
    uid = create(service, 1)
    first = new_follow(service, "--since", "0", "--docs", "--url", "http://127.0.0.1:9")
    wait_for(lambda: first.has(uid, 1), "the first state")
    service.kill()
    service.start()
    change(service, uid, "again")
    wait_for(lambda: first.has(uid, 2), "the state after the restart")
    assert first.results[-1]["doc"]["username"] == "again"
    place = first.interrupt()
    change(service, uid, "meanwhile")
    second = new_follow(service, "--since", place)
    wait_for(lambda: second.has(uid, 3), "what happened meanwhile")
    assert [one["version"] for one in second.results] == [3]
    assert second.interrupt() != place


def test_the_command_says_what_is_wrong_with_a_place(new_service: NewService) -> None:
    """A forged place cannot get better: exit code 2, and a sentence."""
    service = new_service().start()
    done = service.command("follow", "--since", "nonsense", timeout_s=30)
    assert done.returncode == 2
    assert "answered 400" in done.stderr


@pytest.mark.slow
@pytest.mark.kafka
def test_a_stream_outlives_a_broker_that_is_away(new_service: NewService, own_cluster: Callable[..., Cluster]) -> None:
    """Frozen brokers: reading says 503, the stream goes on with comments, and tells what happens afterwards."""
    brokers = own_cluster(brokers=1)
    service = new_service(**kafka_environment(brokers.bootstrap_servers)).start()
    uid = create(service, 1)
    events: list[str] = []
    source = EventSource(lambda: [service.address], "/api/changes?feed=eventsource&heartbeat=1000", silence_s=20)

    def listen() -> None:
        events.extend(event.data for event in source.events() if event is not None)

    listening = threading.Thread(target=listen)
    listening.start()
    try:
        wait_for(lambda: any(uid in data for data in events), "the first state")
        brokers.freeze()
        comments = source.comments
        answer = service.request("GET", "/api/changes", timeout_s=20)
        assert (answer.status, json.loads(answer.body)["type"]) == (503, "/problems/log-unavailable")
        wait_for(lambda: source.comments > comments + 2, "comments meanwhile")
        brokers.thaw()
        wait_for(lambda: service.status_of("/readyz") == 200, "the node is back", 60)
        wait_for(lambda: service.request("PATCH", f"/api/profile/{uid}", b'{"username":"v"}').status == 200, "written")
        wait_for(lambda: any('"version":2' in data for data in events), "the state after that", 60)
        assert len(source.connections) == 1
    finally:
        source.is_closed = True
        listening.join(30)
