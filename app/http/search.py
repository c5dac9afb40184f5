"""`/api/search`: the one profile that carries an e-mail, by GET or by QUERY (RFC 10008), which keeps it out of URLs."""

from falcon.asgi import Request, Response

from app.http.context import deadline, parameter, read_options
from app.http.forward import Dispatch
from app.http.media import read_json
from app.http.ports import Service
from app.http.problems import JSON_TYPES, Problem
from app.http.profiles import PROFILES_PATH, answer_read
from app.profiles.requests import ReadOptions
from app.profiles.results import FieldError, Read, ValidationFailed
from streams.clock import Clock, Deadline

SEARCH_PATH = "/api/search"


class Search:
    """Find a profile by its e-mail."""

    def __init__(self, service: Service, clock: Clock, dispatch: Dispatch) -> None:
        self._service = service
        self._clock = clock
        self._dispatch = dispatch

    async def on_get(self, req: Request, resp: Response) -> None:
        options, due = read_options(req), deadline(req)
        email = parameter(req, "email")
        if not email:
            raise Problem("invalid-parameter", "email is missing", parameter="email")
        if " " in email and "+" in req.query_string:
            # No address has a blank, and in a query string a plus is one.
            raise _invalid("invalid_email", "in a URL, write + as %2B")
        _answer(req, resp, await self._find(req, email, options, due))

    on_head = on_get

    async def on_query(self, req: Request, resp: Response) -> None:
        options, due = read_options(req), deadline(req)
        document = await read_json(req, media_types=JSON_TYPES, seconds=due.remaining_s(self._clock))
        email = _email_of(document)
        _answer(req, resp, await self._find(req, email, options, due))

    async def _find(self, req: Request, email: str, options: ReadOptions, due: Deadline) -> Read:
        service = self._service
        return await self._dispatch.search(
            req,
            lambda: service.email_key(email),
            options,
            due,
            lambda *asked: service.search(email, *asked),
            lambda uid, *asked: service.get_claimed(uid, email, *asked),
        )

    async def on_options(self, _req: Request, resp: Response) -> None:
        resp.set_header("Allow", "GET, HEAD, OPTIONS, QUERY")
        resp.set_header("Accept-Query", ", ".join(JSON_TYPES))
        resp.data = b""


def _answer(req: Request, resp: Response, read: Read) -> None:
    answer_read(req, resp, read)
    resp.set_header("Content-Location", f"{PROFILES_PATH}/{read.profile.uid}")


def _email_of(document: object) -> str:
    if not isinstance(document, dict):
        raise _invalid("not_an_object", "The document must be a JSON object.", pointer="#")
    if document.keys() - {"email"}:
        raise _invalid("unknown_member", "Only `email` is known here.", pointer="#")
    if "email" not in document:
        raise _invalid("required", "This member is required.")
    email = document["email"]
    if not isinstance(email, str):
        raise _invalid("null" if email is None else "invalid_type", "This member must be a string.")
    return email


def _invalid(code: str, detail: str, *, pointer: str = "#/email") -> ValidationFailed:
    return ValidationFailed([FieldError(pointer, code, detail)])
