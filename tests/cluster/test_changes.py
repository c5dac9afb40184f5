"""The change feed over the death of the node that a listener is connected to: he goes on at another one, misses no last
state, and sees none before an earlier one. Of every kind: curl, long polls, a strict client, a real browser."""

import http.client
import json
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import Figures, NewNodes
from tests.cluster.run import seed_of_run
from tests.e2e.test_curl import needs_curl
from tests.support.browser import Browser, chromium
from tests.support.cluster import Nodes, wait_for
from tests.support.eventsource import Address, EventSource, StreamParser

pytestmark = pytest.mark.cluster

STREAM = "/api/changes?feed=eventsource&include_docs=true&heartbeat=2000&since=0"
WAIT_S = 60.0


class Listener:
    """What somebody was told, and where. The last state of each uid, and whether any came out of order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.states: dict[str, dict[str, Any]] = {}
        self.wrong: list[str] = []
        self.connections: list[Address] = []
        self.count = 0

    def take(self, result: dict[str, Any]) -> None:
        uid = result["uid"]
        earlier = self.states.get(uid)
        if earlier is not None and result["version"] < earlier["version"]:
            self.wrong.append(f"{uid}: {result['version']} after {earlier['version']}")
        self.states[uid] = result
        self.count += 1

    def knows(self, truth: dict[str, Any]) -> bool:
        """Whether it has every last state."""
        return all(
            (one := self.states.get(uid)) is not None
            and (one.get("doc") == document)
            and ("deleted" in one) is (not document)
            for uid, document in truth.items()
        )


def listen_by_curl(listener: Listener, addresses: Callable[[], list[Address]], is_over: threading.Event) -> None:
    """`curl -N`, started again with the last id whenever it ends."""
    last_id, attempt = "", 0
    while not is_over.is_set():
        known = addresses()
        address = known[attempt % len(known)]
        attempt += 1
        given = ["-H", f"Last-Event-ID: {last_id}"] if last_id else []
        url = f"http://{address[0]}:{address[1]}{STREAM}"
        process = subprocess.Popen(["curl", "-sN", "--fail", "--max-time", "120", *given, url], stdout=subprocess.PIPE)
        watch = threading.Thread(target=lambda one=process: (is_over.wait(), one.kill()), daemon=True)
        watch.start()
        assert process.stdout is not None
        parser = StreamParser(last_id)
        while data := process.stdout.read1(65_536):  # type: ignore[attr-defined]
            if not listener.connections or listener.connections[-1] != address:
                listener.connections.append(address)
            attempt = 0
            for event in parser.feed(data):
                listener.take(json.loads(event.data))
        last_id = parser.last_event_id
        process.wait()
        is_over.wait(0.1)


def listen_by_polls(listener: Listener, addresses: Callable[[], list[Address]], is_over: threading.Event) -> None:
    """Long polls, each on a connection of its own."""
    since, attempt = "0", 0
    while not is_over.is_set():
        known = addresses()
        address = known[attempt % len(known)]
        connection = http.client.HTTPConnection(*address, timeout=15)
        try:
            connection.request("GET", f"/api/changes?feed=longpoll&include_docs=true&timeout=3000&since={since}")
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status in (200, 503), (answer.status, body)
            if answer.status == 200:
                document = json.loads(body)
                for result in document["results"]:
                    listener.take(result)
                since, attempt = document["last_seq"], 0
                if not listener.connections or listener.connections[-1] != address:
                    listener.connections.append(address)
                continue
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        attempt += 1
        is_over.wait(0.1)


def listen_strictly(listener: Listener, addresses: Callable[[], list[Address]], is_over: threading.Event) -> None:
    """The client that keeps to the specification."""
    source = EventSource(addresses, STREAM, retry_ms=200, silence_s=8)
    for event in source.events():
        if event is not None:
            listener.take(json.loads(event.data))
        listener.connections = source.connections
        source.is_closed = source.is_closed or is_over.is_set()
    assert source.was_refused is None


class Writer:
    """Creates, changes and deletes profiles through chosen nodes until it is told to stop."""

    def __init__(self, addresses: Callable[[], list[Address]], seed: int) -> None:
        self.uids: list[str] = []
        self.written = 0
        self._addresses = addresses
        self._random = random.Random(seed)

    def run(self, is_over: threading.Event) -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            draw = self._random.random()
            if draw < 0.3 or len(self.uids) < 5:
                made = self._send("POST", "/api/profile", {"username": "u", "email": f"u{number}@mail.com"})
                if made is not None and made[0] == 201:
                    self.uids.append(json.loads(made[1])["uid"])
                continue
            target = f"/api/profile/{self._random.choice(self.uids)}"
            if draw < 0.9:
                self._send("PATCH", target, {"username": f"n{number}"})
            else:
                self._send("DELETE", target, None)

    def truth(self) -> dict[str, Any]:
        """Return what GET says of each profile, None where it is deleted. Waits until every node answers."""
        found: dict[str, Any] = {}
        for uid in self.uids:

            def ask(target: str = f"/api/profile/{uid}") -> tuple[int, bytes] | None:
                answer = self._send("GET", target, None)
                return answer if answer is not None and answer[0] in (200, 404) else None

            status, body = wait_for(ask, timeout_s=WAIT_S, what="an answer to GET")
            found[uid] = json.loads(body) if status == 200 else None
        return found

    def _send(self, method: str, target: str, document: object) -> tuple[int, bytes] | None:
        connection = http.client.HTTPConnection(*self._random.choice(self._addresses()), timeout=12)
        try:
            body = None if document is None else json.dumps(document).encode()
            connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            self.written += answer.status < 300 and method != "GET"
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


@contextmanager
def threads(*calls: Callable[[], None]) -> Iterator[None]:
    """Run *calls* beside the block, whose end they must notice; their errors are those of the test."""
    errors: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for one in running:
        one.start()
    try:
        yield
    finally:
        for one in running:
            one.join(WAIT_S)
    assert not errors, errors


def browse(listener: Listener, browser: Browser) -> None:
    """Take what the page has told since."""
    for seen in browser.seen[listener.count :]:
        listener.count += 1
        if "data" in seen:
            result = json.loads(seen["data"])
            assert seen["id"] == result["seq"]
            listener.take(result)
            listener.count -= 1
    listener.connections = browser.connections


@needs_curl
@pytest.mark.timeout(300)
@pytest.mark.parametrize("has_browser", [False, True], ids=["clients", "browser"])
def test_listeners_over_the_death_of_their_node(
    new_nodes: NewNodes, figures: Figures, tmp_path: Path, has_browser: bool
) -> None:
    """All listen at one node, which is killed while others write; in the end each knows every last state."""
    if has_browser and chromium() is None:
        pytest.skip("no Chromium is installed: the strict client of the other run stands for a browser")
    seed = seed_of_run()
    print(f"CHAOS_SEED={seed}", flush=True)
    nodes: Nodes = new_nodes().start("a", "b", "c", observers=("o",))
    victim = random.Random(seed).choice(nodes.members)
    # After it an observer: it owns nothing, and serves the feed all the same.
    preferred = [nodes[name].address for name in sorted(nodes.services, key=lambda name: (name != victim, name != "o"))]
    is_over, is_written = threading.Event(), threading.Event()
    writer = Writer(lambda: preferred[1:], seed)
    listeners = [Listener(name) for name in ("curl", "polls", "strict")]
    ways = (listen_by_curl, listen_by_polls, listen_strictly)
    calls = [
        (lambda way=way, one=one: way(one, lambda: preferred, is_over))
        for way, one in zip(ways, listeners, strict=True)
    ]
    with ExitStack() as stack:
        browser = None
        if has_browser:
            listeners = [Listener("browser")]
            calls = []
            browser = stack.enter_context(Browser(tmp_path / "browser", lambda: preferred, STREAM))
        stack.enter_context(threads(*calls))
        stack.callback(is_over.set)
        with threads(lambda: writer.run(is_written)):
            try:
                wait_for(
                    lambda: _have_heard(listeners, browser, 20), timeout_s=WAIT_S, what="all hear of the first changes"
                )
                killed = time.monotonic()
                nodes.kill(victim)
                before = writer.written
                wait_for(lambda: writer.written > before + 60, timeout_s=WAIT_S, what="writes after the kill")
            finally:
                is_written.set()
        truth = writer.truth()
        assert any(truth.values())
        assert not all(truth.values())

        def all_know() -> bool:
            _have_heard(listeners, browser, 0)
            return all(one.knows(truth) for one in listeners)

        wait_for(all_know, timeout_s=WAIT_S, what=f"all know the last states: {[one.name for one in listeners]}")
        seconds = time.monotonic() - killed
    for one in listeners:
        assert not one.wrong, (one.name, one.wrong)
        assert one.connections[0] == preferred[0], one.name
        assert set(one.connections) - {preferred[0]}, f"{one.name} never went to another node"
    name = "browser" if has_browser else "curl, long polls, strict client"
    figures(
        f"change feed over a kill -9, {name}", profiles=len(truth), writes=writer.written, seconds=round(seconds, 1)
    )


def _have_heard(listeners: list[Listener], browser: Browser | None, count: int) -> bool:
    if browser is not None:
        browse(listeners[0], browser)
    return all(one.count >= count for one in listeners)
