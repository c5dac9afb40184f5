"""A client of event streams that follows the WHATWG's rules for parsing and reconnecting (HTML, 9.2) to the letter, and
nothing but them: what a browser does, without a browser. Nothing here imports the product.

Invariants: what is not UTF-8 or not an event stream is an error of the test; every wait is bounded; an event that was
not ended by an empty line is never dispatched, as after a connection that broke.
"""

import codecs
import http.client
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

Address = tuple[str, int]


class ServerEvent(NamedTuple):
    """A dispatched event: a browser's MessageEvent."""

    type: str
    data: str
    last_event_id: str


class StreamParser:
    """Turns bytes into events, however they are divided. `feed` returns the events that are complete."""

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id  # the event source's: set when an event is dispatched, with data or without
        self.retry_ms: int | None = None
        self.comments = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._text = ""
        self._is_first = True
        self._id = last_event_id
        self._type = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Take in *data*."""
        self._text += self._decoder.decode(data)
        if self._is_first and self._text:
            self._is_first = False
            self._text = self._text.removeprefix("\ufeff")
        events: list[ServerEvent] = []
        while (line := self._line()) is not None:
            if line == "":
                events += self._dispatch()
            else:
                self._field(line)
        return events

    def _line(self) -> str | None:
        """Return the next line: they end with CRLF, LF or CR."""
        ends = [at for at in (self._text.find("\n"), self._text.find("\r")) if at >= 0]
        if not ends:
            return None
        end = min(ends)
        if self._text[end] == "\r" and end + 1 == len(self._text):
            return None  # a line feed may follow
        line = self._text[:end]
        width = 2 if self._text[end : end + 2] == "\r\n" else 1
        self._text = self._text[end + width :]
        return line

    def _field(self, line: str) -> None:
        name, colon, value = line.partition(":")
        if colon and not name:
            self.comments += 1
            return
        value = value.removeprefix(" ")
        if name == "event":
            self._type = value
        elif name == "data":
            self._data.append(value)
        elif name == "id":
            if "\0" not in value:
                self._id = value
        elif name == "retry":
            if value.isascii() and value.isdigit():
                self.retry_ms = int(value)
        else:
            raise AssertionError(f"the service sends no field {name!r}")

    def _dispatch(self) -> list[ServerEvent]:
        self.last_event_id = self._id
        data, kind = self._data, self._type or "message"
        self._data, self._type = [], ""
        return [ServerEvent(kind, "\n".join(data), self.last_event_id)] if data else []


class EventSource:
    """Follows a path on some nodes, one at a time, as a browser behind a load balancer does: it reconnects after the
    time that the server told, with the id of the last event, until it is closed or refused."""

    def __init__(
        self,
        addresses: Callable[[], list[Address]],
        target: str,
        *,
        last_event_id: str = "",
        retry_ms: int | None = None,
        silence_s: float = 10.0,
    ) -> None:
        """*addresses* returns those to try, the preferred one first. *retry_ms* overrides what the server tells.
        *silence_s*: without any byte for so long the connection is given up."""
        self._addresses = addresses
        self._target = target
        self._override_ms = retry_ms
        self._silence_s = silence_s
        self.last_event_id = last_event_id
        self.retry_ms = 3_000
        self.connections: list[Address] = []
        self.comments = 0
        self.is_closed = False
        self.was_refused: int | None = None

    def events(self) -> Iterator[ServerEvent | None]:
        """Yield events, and None now and then, so that the caller can look whether it is time to end."""
        attempt = 0
        while not self.is_closed:
            known = self._addresses()
            address = known[attempt % len(known)]
            attempt += 1
            try:
                for event in self._one(address):
                    yield event
                    attempt = 0 if event is not None else attempt
            except (OSError, http.client.HTTPException):
                yield None
            if self.was_refused is not None:
                return
            end = time.monotonic() + (self.retry_ms if self._override_ms is None else self._override_ms) / 1000
            while not self.is_closed and time.monotonic() < end:
                yield None
                time.sleep(0.01)

    def _one(self, address: Address) -> Iterator[ServerEvent | None]:
        connection = http.client.HTTPConnection(*address, timeout=self._silence_s)
        try:
            headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
            if self.last_event_id:
                headers["Last-Event-ID"] = self.last_event_id
            connection.request("GET", self._target, headers=headers)
            response = connection.getresponse()
            kind = response.getheader("Content-Type", "")
            if response.status != 200 or kind.split(";")[0].strip().lower() != "text/event-stream":
                response.read()
                # A browser fails the connection for good. 503 is the proxy's way to say: not this one.
                self.was_refused = None if response.status == 503 else response.status
                return
            self.connections.append(address)
            parser = StreamParser(self.last_event_id)
            while not self.is_closed and (data := response.read1(65_536)):
                events = parser.feed(data)
                self.retry_ms = self.retry_ms if parser.retry_ms is None else parser.retry_ms
                for event in events:
                    self.last_event_id = event.last_event_id
                    yield event
                self.last_event_id = parser.last_event_id
                self.comments += parser.comments
                parser.comments = 0
                yield None
        finally:
            connection.close()
