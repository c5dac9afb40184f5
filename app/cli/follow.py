"""`python -m app follow`: prints the changes of profiles as they happen, over HTTP, whatever happens to the nodes.

It knows nothing but the event stream of `/api/changes`, and keeps nothing but the last place: after any interruption it
goes on there, at the next of the nodes that it was given.
"""

import argparse
import contextlib
import http.client
import json
import os
import signal
import ssl
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from types import FrameType
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from app.config import AppConfig
from streams.clock import Backoff
from streams.errors import StreamsError

_HEARTBEAT_MS = 10_000
_CONNECT_TIMEOUT_S = 5.0
#: Two heartbeats and a half: who says nothing for so long is dead, or cannot be reached.
_SILENCE_S = 25.0
#: What cannot get better by trying again.
_FINAL = (400, 401, 403, 404, 405, 410)


class FollowError(StreamsError):
    """The node refuses for good: the place is too old or not one of its own, or it is no node."""


class StreamEvent(NamedTuple):
    """An event of a stream (WHATWG HTML, 9.2.6). `data` is empty for one that only moves the place on."""

    id: str
    event: str
    data: str


def follow(config: AppConfig, options: argparse.Namespace) -> int:
    """Print changes until interrupted; then the place to go on from, on standard error. Exit code 0, or 2 when the
    nodes refuse for good."""
    _end_by(signal.SIGTERM)
    follower = Follower(options.url or [config.local_url], since=options.since, partition=options.partition)
    try:
        with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
            for event in follower.events(has_docs=options.docs):
                if event.data:
                    print(event.data if options.json else render(event), flush=True)
                follower.since = event.id  # only now: what was not printed must come again
    finally:
        print(f"to go on from here: --since {follower.since}", file=sys.stderr)
    _forget_stdout()
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `follow` takes."""
    parser.add_argument(
        "--url",
        metavar="URL",
        action="append",
        help="of the node to ask; may be repeated: when one is gone, the next is asked (default: the one of these "
        "settings)",
    )
    parser.add_argument(
        "--since",
        metavar="PLACE",
        default="now",
        help="0: all profiles first; now: only what happens from now on; or a seq to go on from (default: now)",
    )
    parser.add_argument("--partition", type=int, metavar="N", help="only this partition")
    parser.add_argument("--docs", action="store_true", help="print the profiles, too")


def render(event: StreamEvent) -> str:
    """Return the line for people: what happened, to which profile, its version, and the profile if it was sent."""
    result = json.loads(event.data)
    what = "deleted" if result.get("deleted") else "changed"
    version = "?" if result["version"] is None else result["version"]
    document = f" {json.dumps(result['doc'], ensure_ascii=False)}" if "doc" in result else ""
    return f"{what} {result['uid']} version {version}{document}"


class Follower:
    """Follows some nodes of one cluster, one at a time. `since` is the place, and is for the caller to move on."""

    def __init__(self, urls: Sequence[str], *, since: str, partition: int | None) -> None:
        self.since = since
        self._urls = list(urls)
        self._partition = partition
        self._pause = threading.Event()  # never set: a sleep

    def events(self, *, has_docs: bool) -> Iterator[StreamEvent]:
        """Yield events without end. Raises FollowError."""
        backoff = Backoff(initial_s=0.1, maximum_s=5.0)
        number, failures = 0, 0
        while True:
            url = self._urls[number % len(self._urls)]
            try:
                with contextlib.closing(self._open(url, has_docs=has_docs)) as lines:
                    for event in parse(lines):
                        backoff.reset()
                        failures = 0
                        yield event
                reason = "the node ended the stream"
            except FollowError:
                raise
            except (OSError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
            failures += 1
            number += 1
            if failures in (1, len(self._urls)):
                print(f"{url}: {reason}; trying again", file=sys.stderr)
            # The next node at once, and only then slowly.
            if failures >= len(self._urls):
                self._pause.wait(backoff.next_s())

    def _open(self, url: str, *, has_docs: bool) -> Generator[bytes, None, None]:
        """Yield the lines of a stream. Raises OSError or HTTPException when it breaks, FollowError."""
        place = urlsplit(url)
        query = {"feed": "eventsource", "heartbeat": str(_HEARTBEAT_MS)}
        if has_docs:
            query["include_docs"] = "true"
        if self._partition is not None:
            query["partition"] = str(self._partition)
        # A place can be longer than a server takes in a request line.
        headers = {"Accept": "text/event-stream", "Last-Event-ID": self.since}
        connection = _connection(place.scheme, place.hostname or "", place.port)
        try:
            connection.request("GET", f"{place.path.rstrip('/')}/api/changes?{urlencode(query)}", headers=headers)
            if connection.sock is not None:
                connection.sock.settimeout(_SILENCE_S)
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(url, response.status, response.read(65_536))
            while line := response.readline():
                yield line
        finally:
            connection.close()


def parse(lines: Iterable[bytes]) -> Iterator[StreamEvent]:
    """Yield the events of a stream whose lines end with a line feed, as those of the service do."""
    last_id, name = "", "message"
    data: list[str] = []
    has_moved = False
    for raw in lines:
        line = raw.decode().rstrip("\r\n")
        if not line:
            if data or has_moved:
                yield StreamEvent(last_id, name, "\n".join(data))
            name, data, has_moved = "message", [], False
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            last_id, has_moved = value, True
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)


def _connection(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=_CONNECT_TIMEOUT_S, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, port, timeout=_CONNECT_TIMEOUT_S)


def _refusal(url: str, status: int, body: bytes) -> Exception:
    try:
        problem = json.loads(body)
        reason = f"{problem['title']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        reason = "no reason was given"
    if status == 410:
        reason += "; what was copied must be emptied, then begin with --since 0"
    kind = FollowError if status in _FINAL else http.client.HTTPException
    return kind(f"{url} answered {status}: {reason}" if kind is FollowError else f"{status}: {reason}")


def _end_by(number: signal.Signals) -> None:
    """Make *number* end the command as Ctrl-C does, where signals can be handled at all."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(number, interrupt)


def _forget_stdout() -> None:
    """Whoever read our output may be gone: the interpreter would complain when it flushes at its end."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
