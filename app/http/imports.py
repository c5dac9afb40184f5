"""`/api/import`: many profiles in one request, one for each line, and one line of answer for each.

A line is a create, or with a uid a restore; it is decided by its owner like any other write, and no line knows of the
others. Lines of one partition travel together. Invariant: a line is answered as the single request would be, and may be
sent again whatever was answered: an e-mail has one profile, and a uid one state.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from falcon.asgi import Request, Response

from app.cluster.router import Answered, Misdirected
from app.http.context import CALLER, deadline, parameter
from app.http.errors import to_problem
from app.http.forward import Dispatch
from app.http.headers import is_uid
from app.http.media import parse_json, read_body
from app.http.ports import Service
from app.http.problems import LINES_TYPES, Problem
from app.profiles.requests import TRACEPARENT
from app.profiles.results import Rejection, ValidationFailed
from app.profiles.schema import uid_error
from streams.clock import Clock, Deadline
from streams.errors import StreamsError, Unavailable

IMPORT_PATH = "/api/import"
MAX_IMPORT_BYTES = 1024 * 1024
MAX_LINES = 1000
#: Requests of clients whose bodies may be in memory at once; the next one is answered 503.
MAX_OPEN = 16
#: Lines that are begun between two looks at other requests: some milliseconds.
_LINES_AT_A_TIME = 32
#: In every answer: the id of the topic that is written, which an export has, too.
TOPIC_ID_HEADER = "Profile-Topic-Id"


class Line:
    """One line: what it is to become, and its answer once there is one."""

    __slots__ = ("answer", "document", "key", "text", "uid")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.document: Any = None
        #: Of a profile to be restored; empty for one to be created.
        self.uid = ""
        #: Whose partition's owner decides; None where nobody has to, or this node has everything.
        self.key: bytes | None = None
        self.answer = b""


class Imports:
    """Create and restore by lines."""

    def __init__(self, service: Service, clock: Clock, dispatch: Dispatch) -> None:
        self._service = service
        self._clock = clock
        self._dispatch = dispatch
        self._open = 0

    async def on_post(self, req: Request, resp: Response) -> None:
        due, source = deadline(req), parameter(req, "source")
        if CALLER in req.scope:
            await self._answer(req, resp, source, due)
            return
        if self._open >= MAX_OPEN:
            # What was not read cannot be skipped safely, so the connection ends here.
            headers = {"Retry-After": "1", "Connection": "close"}
            raise Problem("overloaded", "too many imports are under way already; nothing was begun", headers=headers)
        self._open += 1
        try:
            await self._answer(req, resp, source, due)
        finally:
            self._open -= 1

    async def _answer(self, req: Request, resp: Response, source: str | None, due: Deadline) -> None:
        body = await read_body(
            req, media_types=LINES_TYPES, seconds=due.remaining_s(self._clock), max_bytes=MAX_IMPORT_BYTES
        )
        lines = [Line(text) for text in body.split(b"\n") if text and not text.isspace()]
        if len(lines) > MAX_LINES:
            raise Problem("invalid-parameter", f"an import has at most {MAX_LINES} lines", parameter="lines")
        topic_id = self._service.topic_id()
        TRACEPARENT.set(None)
        for number, line in enumerate(lines, start=1):
            self._read(line)
            if number % _LINES_AT_A_TIME == 0:
                await asyncio.sleep(0)
        groups: dict[int | None, list[Line]] = {}
        for line in lines:
            partition = None if line.key is None else self._dispatch.partition_of(line.key)
            groups.setdefault(partition, []).append(line)
        is_forwarded = CALLER in req.scope
        await asyncio.gather(*(self._send(req, group, source, due, is_forwarded) for group in groups.values()))
        resp.content_type = LINES_TYPES[0]
        resp.set_header(TOPIC_ID_HEADER, topic_id)
        resp.set_header("Cache-Control", "no-store")
        resp.data = b"".join([line.answer for line in lines])

    def _read(self, line: Line) -> None:
        """Read what *line* asks for, or answer why it cannot be read. Its length has a limit: that of all lines."""
        try:
            document = line.document = parse_json(line.text)
            if not isinstance(document, dict) or "uid" not in document:
                line.key = None if self._dispatch.is_alone else self._service.create_key(document, None)
            elif type(uid := document["uid"]) is str and is_uid(uid) is not None:
                line.uid, line.key = uid, uid.encode()
            else:
                line.answer = _problem(ValidationFailed([uid_error()]))
        except (Problem, Rejection) as error:
            line.answer = _problem(error)

    async def _send(
        self, req: Request, lines: Sequence[Line], source: str | None, due: Deadline, is_forwarded: bool
    ) -> None:
        """Have *lines*, which are of one partition, answered by its owner."""
        open_lines = [line for line in lines if not line.answer]
        if not open_lines:
            return
        text = b"\n".join([line.text for line in open_lines])
        try:
            await self._dispatch.write_lines(
                req, open_lines[0].key, due, lambda: self._carry_out(open_lines, source, due), text
            )
        except Answered as answered:
            _take_over(open_lines, answered)
        except Misdirected:
            raise  # a peer gets our map, and has nothing to take apart
        except (Rejection, StreamsError) as error:
            if is_forwarded:
                raise
            for line in open_lines:
                line.answer = _problem(error)

    async def _carry_out(self, lines: Sequence[Line], source: str | None, due: Deadline) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number, line in enumerate(lines, start=1):
                tasks.create_task(self._carry_out_one(line, source, due))
                if number % _LINES_AT_A_TIME == 0:
                    await asyncio.sleep(0)

    async def _carry_out_one(self, line: Line, source: str | None, due: Deadline) -> None:
        try:
            if line.uid:
                written = await self._service.restore(line.uid, line.document, source=source, deadline=due)
            else:
                written = await self._service.create(line.document, idempotency_key=None, deadline=due)
        except (Rejection, StreamsError) as error:
            line.answer = _problem(error)
            return
        profile = written.profile
        assert profile is not None
        status = 201 if written.is_created else 200
        line.answer = b'{"status":%d,"uid":"%b","version":%d}\n' % (status, profile.uid.encode(), profile.version)


def _take_over(lines: Sequence[Line], answered: Answered) -> None:
    """Make the answers of another node ours."""
    reply = answered.reply
    answers = reply.body.splitlines(keepends=True)
    if reply.status != 200:
        answers = [_problem_line(reply.status, orjson.loads(reply.body))] * len(lines)
    elif len(answers) != len(lines):
        answers = [_problem(Unavailable("a peer answered other lines"))] * len(lines)
    for line, answer in zip(lines, answers, strict=True):
        line.answer = answer


def _problem(error: Exception) -> bytes:
    problem = to_problem(error)
    kind = problem.type
    return _problem_line(kind.status, {"type": kind.uri, "detail": problem.detail, **problem.members})


def _problem_line(status: int, members: dict[str, Any]) -> bytes:
    return orjson.dumps({**members, "status": status}, option=orjson.OPT_APPEND_NEWLINE)
