"""A small service that takes imports over real sockets, with failures that a test chooses: it keeps the e-mails unique,
answers as the real one does, and does or does not do what it then gives no answer to.
"""

import asyncio
import json
import uuid
from collections import deque
from typing import Any, Self

TOPIC_ID = "0123456789abcdef"


class Fault:
    """What becomes of one request. `acts`: whether its lines are carried out. `status` 0: the connection is cut, in the
    middle of the answer if `acts`. `of_lines`: the status is given to each line alone."""

    def __init__(self, status: int, *, acts: bool, of_lines: bool = False, retry_after: str | None = None) -> None:
        self.status = status
        self.acts = acts
        self.of_lines = of_lines
        self.retry_after = retry_after


class FakeService:
    """Serves on a port of its own while the block runs. `requests`: the lines of each import, as they came."""

    def __init__(self) -> None:
        self.profiles: dict[str, dict[str, Any]] = {}
        self.created = 0
        self.faults: deque[Fault] = deque()
        self.requests: list[list[dict[str, Any]]] = []
        self.sources: set[str] = set()
        self.topic_id = TOPIC_ID
        self.max_bytes = 1 << 20
        #: An e-mail at which the service breaks down.
        self.poison = ""
        self.at_once = 0
        self.most_at_once = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, target, _ = head[0].split(" ")
                fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(fields.get("content-length", "0")))
                await self._answer(writer, method, target, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
        finally:
            self._writers.discard(writer)

    async def _answer(self, writer: asyncio.StreamWriter, method: str, target: str, body: bytes) -> None:
        path, _, query = target.partition("?")
        if method == "GET":
            found = next((one for one in self.profiles.values() if path.endswith(one["uid"])), None)
            writer.write(_response(404, b"{}") if found is None else _response(200, json.dumps(found).encode()))
            return
        assert (method, path) == ("POST", "/api/import")
        if query:
            self.sources.add(query.removeprefix("source="))
        lines = [json.loads(line) if line.startswith(b'{"') else None for line in body.splitlines()]
        if lines:
            self.requests.append(lines)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.001)
        self.at_once -= 1
        fault = self.faults.popleft() if lines and self.faults else Fault(200, acts=True)
        if len(body) > self.max_bytes:
            fault = Fault(413, acts=False)
        if self.poison and any(line is not None and line.get("email") == self.poison for line in lines):
            fault = Fault(500, acts=False)
        answers = [self._write(line) for line in lines] if fault.acts else []
        if fault.of_lines:
            answers = [{"status": fault.status, "type": "/problems/outcome-unknown"}] * len(lines)
        text = b"".join(json.dumps(answer).encode() + b"\n" for answer in answers)
        if fault.status == 0:
            writer.write(_response(200, text)[:-10] if fault.acts else b"")
            await writer.drain()
            writer.close()
        elif fault.of_lines or fault.status == 200:
            writer.write(_response(200, text, topic_id=self.topic_id))
        else:
            writer.write(_response(fault.status, b'{"detail":"so it is"}', retry_after=fault.retry_after))

    def _write(self, line: dict[str, Any] | None) -> dict[str, Any]:
        if line is None:
            return {"status": 400, "type": "/problems/malformed-json", "detail": "the body is not JSON"}
        if "@" not in str(line.get("email")):
            errors = [{"pointer": "#/email", "code": "invalid_email", "detail": ""}]
            return {"status": 422, "type": "/problems/validation-failed", "detail": "faults: 1", "errors": errors}
        key = line["email"].lower()
        found = self.profiles.get(key)
        if found is not None and found["uid"] == line.get("uid"):
            return {"status": 200, "uid": found["uid"], "version": found["version"]}
        if found is not None:
            return {"status": 409, "type": "/problems/email-taken", "detail": "taken", "existing_uid": found["uid"]}
        profile = self.profiles[key] = {"uid": str(uuid.uuid4()), "version": 1, **line}
        self.created += 1
        return {"status": 201, "uid": profile["uid"], "version": profile["version"]}


def _response(status: int, body: bytes, *, topic_id: str | None = None, retry_after: str | None = None) -> bytes:
    head = f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n"
    head += f"Profile-Topic-Id: {topic_id}\r\n" if topic_id else ""
    head += f"Retry-After: {retry_after}\r\n" if retry_after else ""
    return f"{head}\r\n".encode() + body
