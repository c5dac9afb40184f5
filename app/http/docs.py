"""Documents that the service serves about itself: the OpenAPI document, a page to read it, and a page for each problem.

The pages are whole in themselves (no script, nothing fetched from elsewhere) and are made once, from `openapi.build()`
and the table of problems; nothing is described here that is not described there.
"""

from functools import cached_property
from html import escape
from typing import Any

import orjson
from falcon.asgi import Request, Response

from app.http import openapi
from app.http.openapi_parts import Document
from app.http.problems import PROBLEMS, Problem, ProblemType
from app.http.profiles import MEDIA_JSON

_MEDIA_HTML = "text/html; charset=utf-8"
_CACHE = "public, max-age=300"
# The pages need nothing but their own style.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "code,pre{font-family:ui-monospace,monospace;font-size:.9em}h2{margin-top:2.5rem}"
    "summary{cursor:pointer;padding:.4rem 0}details{border-top:1px solid #ddd;padding:.2rem 0}"
    "b.method{display:inline-block;min-width:5rem}table{border-collapse:collapse;margin:.5rem 0}"
    "td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}pre{background:#f4f4f4;padding:1rem;"
    "overflow:auto}"
)


class Documents:
    """The OpenAPI document in both forms, made when somebody asks for it first: a start has better things to do."""

    @cached_property
    def as_json(self) -> bytes:
        """The document."""
        return orjson.dumps(openapi.build())

    @cached_property
    def as_html(self) -> bytes:
        """The page."""
        return _page("Profiles API", _render(openapi.build()))


class OpenApi:
    """The OpenAPI document."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def on_get(self, _req: Request, resp: Response) -> None:
        resp.content_type = MEDIA_JSON
        resp.set_header("Cache-Control", _CACHE)
        resp.data = self._documents.as_json

    on_head = on_get


class Docs:
    """The OpenAPI document as a page for people."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def on_get(self, _req: Request, resp: Response) -> None:
        _answer_html(resp, self._documents.as_html)

    on_head = on_get


class ProblemPage:
    """What a problem means and what to do: HTML, or JSON for who asks for it."""

    async def on_get(self, req: Request, resp: Response, slug: str) -> None:
        kind = PROBLEMS.get(slug)
        if kind is None:
            raise Problem(404, "there is no such problem")
        resp.set_header("Vary", "Accept")
        if req.client_prefers(("text/html", MEDIA_JSON)) == MEDIA_JSON:
            resp.content_type = MEDIA_JSON
            resp.set_header("Cache-Control", _CACHE)
            resp.data = orjson.dumps(_as_json(kind))
        else:
            _answer_html(resp, _page(kind.title, _render_problem(kind)))

    on_head = on_get


def _answer_html(resp: Response, body: bytes) -> None:
    resp.content_type = _MEDIA_HTML
    resp.set_header("Cache-Control", _CACHE)
    resp.set_header("Content-Security-Policy", _POLICY)
    resp.set_header("X-Content-Type-Options", "nosniff")
    resp.data = body


def _as_json(kind: ProblemType) -> dict[str, Any]:
    return {
        "type": kind.uri,
        "title": kind.title,
        "status": kind.status,
        "meaning": kind.meaning,
        "remedy": kind.remedy,
        "members": kind.members,
    }


def _render_problem(kind: ProblemType) -> str:
    members = ", ".join(f"<code>{escape(name)}</code>" for name in kind.members) or "none"
    return (
        f"<p>Status <b>{kind.status}</b>, type <code>{escape(kind.uri)}</code>.</p>"
        f"<h2>What it means</h2><p>{_text(kind.meaning)}</p><h2>What to do</h2><p>{_text(kind.remedy)}</p>"
        f"<p>Extra members: {members}.</p><p><a href='/docs'>The whole API</a></p>"
    )


def _render(document: Document) -> str:
    parts = [f"<p>{_text(document['info']['description'])} Version {escape(document['info']['version'])}. "]
    parts.append("<a href='/api/openapi.json'>OpenAPI document</a></p>")
    for path, item in document["paths"].items():
        parts.append(f"<h2><code>{escape(path)}</code></h2>")
        for method, operation in item.items():
            if method != "head":
                parts.append(_render_operation(method.removeprefix("x-").upper(), operation, document))
    parts.append("<h2>Schemas</h2>")
    for name, schema in document["components"]["schemas"].items():
        text = orjson.dumps(schema, option=orjson.OPT_INDENT_2).decode()
        parts.append(
            f"<details id='{escape(name)}'><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>"
        )
    parts.append("<h2>Problems</h2><ul>")
    parts += (
        f"<li><a href='{escape(row.uri)}'>{escape(row.slug)}</a> ({row.status}): {escape(row.title)}</li>"
        for row in PROBLEMS.values()
    )
    parts.append("</ul>")
    return "".join(parts)


def _render_operation(method: str, operation: dict[str, Any], document: Document) -> str:
    known = document["components"]["parameters"]
    rows = []
    for reference in operation["parameters"]:
        parameter = known[reference["$ref"].rpartition("/")[2]]
        rows.append((f"{parameter['name']} ({parameter['in']})", parameter.get("description", "")))
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        name = content["schema"]["$ref"].rpartition("/")[2]
        rows.append((f"body, {media_type}", name))
    rows += [(status, response["description"]) for status, response in operation["responses"].items()]
    cells = "".join(f"<tr><th>{escape(left)}</th><td>{_text(right)}</td></tr>" for left, right in rows)
    return (
        f"<details><summary><b class='method'>{method}</b> {escape(operation['summary'])}</summary>"
        f"<table>{cells}</table></details>"
    )


def _text(text: str) -> str:
    """Return *text* as HTML, with what stands in backticks as code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))


def _page(title: str, content: str) -> bytes:
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{content}</body></html>"
    ).encode()
