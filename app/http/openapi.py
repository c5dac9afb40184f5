"""The OpenAPI 3.1 document, generated: bodies from the marshmallow schemas that validate, errors from their table.

What is written by hand here is what no schema knows: which route takes which header and gives which problem. A test
compares the routes with those of the application, in both directions.
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from app.http.changes import CHANGES_PATH, MEDIA_EVENTS
from app.http.imports import IMPORT_PATH, MAX_LINES
from app.http.openapi_parts import RESPONSE_HEADERS, Document, parameters
from app.http.problems import JSON_TYPES, LINES_TYPES, MEDIA_PROBLEM, PATCH_TYPES, PROBLEMS
from app.http.profiles import MAX_LIMIT, MEDIA_JSON
from app.profiles.schema import READ_ONLY, ProfileContent, ProfileRepresentation

_UNAVAILABLE = ("restoring", "ownership-unsettled", "owner-unreachable", "draining", "overloaded")
_BODY = ("malformed-json", "payload-too-large", "unsupported-media-type", "validation-failed")
_WRITE = (*_UNAVAILABLE, "log-unavailable", "not-written", "outcome-unknown", "invalid-parameter")
_CHANGE = (*_WRITE, "profile-not-found", "version-mismatch", "precondition-required")
_READ = (*_UNAVAILABLE, "invalid-parameter", "bad-cursor")


def build() -> Document:
    """Return the document as plain JSON values."""
    spec = APISpec(
        title="Profiles",
        version=_version(),
        openapi_version="3.1.0",
        plugins=[MarshmallowPlugin()],
        info={"description": "A user-profile service with no database but Kafka."},
        tags=[{"name": "profiles"}, {"name": "operations"}],
    )
    _add_components(spec)
    document: Document = spec.to_dict()
    _accept_read_only(document["components"]["schemas"])
    document["paths"] = {
        "/api/profile": _path(**_collection()),
        "/api/profile/{uid}": _path(**_profile()),
        "/api/search": _path(**_search()),
        CHANGES_PATH: _path(**_changes()),
        IMPORT_PATH: _path(**_import()),
        **_operations(),
    }
    return document


def _accept_read_only(schemas: Document) -> None:
    """Say that requests may carry what only the service sets, so that GET, edit, PUT works; it is ignored."""
    for name in ("ProfileContent", "ProfilePatch"):
        for member in sorted(READ_ONLY):
            schemas[name]["properties"][member] = {"readOnly": True, "description": "Ignored in a request."}


def _version() -> str:
    try:
        return version("profiles")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"


def _add_components(spec: APISpec) -> None:
    components = spec.components
    components.schema("Profile", schema=ProfileRepresentation)
    components.schema("ProfileContent", schema=ProfileContent)
    components.schema("ProfilePatch", schema=ProfileContent(partial=True))
    components.schema(
        "ProfilePage",
        {
            "type": "object",
            "required": ["items", "next"],
            "properties": {
                "items": {"type": "array", "items": _schema("Profile"), "maxItems": MAX_LIMIT},
                "next": {"type": ["string", "null"], "description": "The cursor of the next page; null at the end."},
                "missing": {
                    "type": "array",
                    "items": {"type": "integer"},
                    "description": "With partial=true: the partitions that nobody could read.",
                },
            },
        },
    )
    components.schema(
        "SearchQuery",
        {
            "type": "object",
            "required": ["email"],
            "properties": {"email": {"type": "string"}},
            "additionalProperties": False,
        },
    )
    components.schema("ProfileLines", {"type": "string", "description": "JSON Lines: one profile in each."})
    components.schema("Problem", _problem_schema())
    for name, parameter in parameters().items():
        components.parameter(name, parameter["in"], parameter)
    for name, description in RESPONSE_HEADERS.items():
        components.header(name, {"description": description, "schema": {"type": "string"}})


def _problem_schema() -> Document:
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail", "instance", "request_id"],
        "properties": {
            "type": {"type": "string", "enum": ["about:blank", *(row.uri for row in PROBLEMS.values())]},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "instance": {"type": "string"},
            "request_id": {"type": "string"},
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["pointer", "code", "detail"],
                    "properties": {
                        "pointer": {"type": "string"},
                        "code": {"type": "string"},
                        "detail": {"type": "string"},
                    },
                },
            },
        },
        "additionalProperties": True,
    }


_READ_PARAMETERS = ("consistency", "explain", "IfMatch", "IfNoneMatch", "Prefer", "Position")


_READ_HEADERS = ("ETag", "Profile-Served-By", "Profile-Explain", "Via")


def _found(*headers: str) -> Document:
    return {
        "200": _response("The profile.", _content("Profile"), *_READ_HEADERS, *headers),
        "304": _response("The client has the current version.", None, *_READ_HEADERS, *headers),
    }


def _collection() -> Document:
    created = _response("Created.", _content("Profile"), "Location", "ETag", "Profile-Position", "Preference-Applied")
    keys = ("idempotency-key-reused", "idempotency-in-progress", "profile-gone")
    return {
        "get": _operation(
            "listProfiles",
            "List profiles",
            parameters=("limit", "cursor", "consistency", "partial", "Prefer", "Position"),
            responses={"200": _response("A page.", _content("ProfilePage"), "Link", "Profile-Served-By")},
            problems=_READ,
        ),
        "post": _operation(
            "createProfile",
            "Create a profile",
            parameters=("IdempotencyKey", "Prefer"),
            body=(JSON_TYPES, "ProfileContent"),
            responses={"201": created},
            problems=(*_WRITE, *_BODY, "email-taken", *keys),
        ),
    }


def _profile() -> Document:
    changed = {
        "200": _response("The profile as it is now.", _content("Profile"), "ETag", "Profile-Position"),
        "204": _response("The same, for return=minimal.", None, "ETag", "Profile-Position", "Preference-Applied"),
    }
    return {
        "get": _operation(
            "getProfile",
            "Read a profile",
            parameters=("uid", *_READ_PARAMETERS),
            responses=_found(),
            problems=(*_READ, "profile-not-found", "version-mismatch"),
        ),
        "put": _operation(
            "replaceProfile",
            "Replace a profile; never creates one",
            parameters=("uid", "IfMatch", "Prefer"),
            body=(JSON_TYPES, "ProfileContent"),
            responses=changed,
            problems=(*_CHANGE, *_BODY, "email-taken"),
        ),
        "patch": _operation(
            "patchProfile",
            "Change some members (JSON Merge Patch, RFC 7396)",
            parameters=("uid", "IfMatch", "Prefer"),
            body=(PATCH_TYPES, "ProfilePatch"),
            responses=changed,
            problems=(*_CHANGE, *_BODY, "email-taken"),
        ),
        "delete": _operation(
            "deleteProfile",
            "Delete a profile",
            parameters=("uid", "IfMatch"),
            responses={"204": _response("Deleted.", None, "Profile-Position")},
            problems=_CHANGE,
        ),
    }


def _search() -> Document:
    problems = (*_READ, "validation-failed", "profile-not-found", "version-mismatch")
    return {
        "get": _operation(
            "searchProfile",
            "Find the profile of an e-mail",
            parameters=("email", *_READ_PARAMETERS),
            responses=_found("Content-Location"),
            problems=problems,
        ),
        # OpenAPI 3.1 has no field for QUERY; 3.2 calls it `query`.
        "x-query": _operation(
            "queryProfile",
            "Find the profile of an e-mail that must not be in a URL (QUERY, RFC 10008)",
            parameters=_READ_PARAMETERS,
            body=(JSON_TYPES, "SearchQuery"),
            responses=_found("Content-Location"),
            problems=(*problems, *_BODY),
        ),
    }


def _import() -> Document:
    answers = (
        "One line for each line, in their order: `status`, and `uid` and `version`, or the members of the problem. "
        "What befalls one line alone is said there, as the problem that a single request would get."
    )
    of_a_line = ("malformed-json", "validation-failed", "email-taken", "profile-differs", "profile-gone")
    return {
        "post": _operation(
            "importProfiles",
            f"Create, or with a uid restore, a profile for each line; at most {MAX_LINES} lines. For operators",
            parameters=("source",),
            body=(LINES_TYPES, "ProfileLines"),
            responses={"200": _response(answers, {LINES_TYPES[0]: {}}, "Profile-Topic-Id")},
            problems=(*_WRITE, *of_a_line, "payload-too-large", "unsupported-media-type"),
            tag="operations",
        ),
    }


def _changes() -> Document:
    names = ("since", "feed", "changes", "timeout", "heartbeat", "include_docs", "partition", "LastEventId")
    answer = _response("The changes, or a stream of them.", {MEDIA_JSON: {}, MEDIA_EVENTS: {}})
    problems = (*_READ, "log-unavailable", "feed-expired", "too-many-listeners")
    return {
        "get": _operation(
            "changes", "Follow the changes", parameters=names, responses={"200": answer}, problems=problems
        )
    }


def _operations() -> Document:
    return {
        "/metadata": _get("metadata", "Which nodes there are, which were refused and why, and who has which partition"),
        "/metadata/stores/{store}": _get(
            "storeMetadata",
            "Which nodes have the partitions of a store",
            parameters=("store",),
            failures={"404": "No such store."},
        ),
        "/metadata/stores/{store}/key/{key}": _get(
            "keyMetadata",
            "Which nodes have the partition of a key",
            parameters=("store", "key"),
            failures={"404": "No such store.", "422": "The key is no e-mail."},
        ),
        "/stores/{store}/approximate-num-entries": _get(
            "approximateNumEntries",
            "About how many rows a store has",
            parameters=("store", "scope", "partial"),
            failures={
                "400": "scope or partial is not valid.",
                "404": "No such store.",
                "503": "Not all can be counted.",
            },
        ),
        "/livez": _get("livez", "Whether the process runs", failures={"503": "The process has failed."}),
        "/readyz": _get(
            "readyz",
            "Whether the node takes requests",
            parameters=("verbose",),
            failures={"503": "It restores or stops; the tasks say how far it is."},
        ),
        "/metrics": _get("metrics", "Metrics in Prometheus' text format", media_type="text/plain"),
        "/quarantine": _get(
            "quarantine",
            "Records that could not be processed",
            parameters=("records",),
            failures={"400": "limit is not valid.", "403": "The client is not on this machine."},
        ),
        "/api/openapi.json": _get("openapi", "This document"),
        "/docs": _get("docs", "This document, for reading", media_type="text/html"),
        "/problems/{slug}": _get(
            "problem",
            "What a problem means",
            media_type="text/html",
            parameters=("slug",),
            failures={"404": "No such problem."},
        ),
    }


def _get(
    operation_id: str,
    summary: str,
    *,
    media_type: str = MEDIA_JSON,
    parameters: Iterable[str] = (),
    failures: Mapping[str, str] | None = None,
) -> Document:
    responses = {"200": _response(f"{summary}.", {media_type: {}})}
    for status, description in (failures or {}).items():
        responses[status] = _response(description, {"application/json": {}, MEDIA_PROBLEM: {}})
    return _path(get=_operation(operation_id, summary, parameters=parameters, responses=responses, tag="operations"))


def _path(**operations: Document) -> Document:
    """Return a path item: `HEAD` answers whatever `GET` does, without a body."""
    get = operations.get("get")
    if get is not None:
        bare = {
            status: {name: value for name, value in response.items() if name != "content"}
            for status, response in get["responses"].items()
        }
        operations["head"] = {
            **get,
            "operationId": get["operationId"] + "Head",
            "summary": get["summary"] + ": headers only",
            "responses": bare,
        }
    return operations


def _operation(
    operation_id: str,
    summary: str,
    *,
    responses: Document,
    problems: Iterable[str] = (),
    parameters: Iterable[str] = (),
    body: tuple[Iterable[str], str] | None = None,
    tag: str = "profiles",
) -> Document:
    common = ("RequestTimeout", "RequestId") if tag == "profiles" else ()
    operation: Document = {
        "operationId": operation_id,
        "summary": summary,
        "tags": [tag],
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in (*parameters, *common)],
        "responses": {**_refused_at_the_edge(), **responses, **_problem_responses(problems)},
    }
    if body is not None:
        media_types, name = body
        operation["requestBody"] = {
            "required": True,
            "content": {media_type: {"schema": _schema(name)} for media_type in media_types},
        }
    return operation


def _refused_at_the_edge() -> Document:
    texts = {"414": "The request line is too long.", "431": "The header fields are too large."}
    return {status: _response(text, {MEDIA_PROBLEM: {}}) for status, text in texts.items()}


def _problem_responses(slugs: Iterable[str]) -> Document:
    by_status: dict[int, list[str]] = {}
    for slug in dict.fromkeys(slugs):
        by_status.setdefault(PROBLEMS[slug].status, []).append(slug)
    responses = {}
    for status, names in sorted(by_status.items()):
        rows = [PROBLEMS[name] for name in names]
        description = " ".join(f"`{row.slug}`: {row.title}." for row in rows)
        headers = ["Retry-After"] if any(row.is_retriable for row in rows) else []
        responses[str(status)] = _response(description, {MEDIA_PROBLEM: {"schema": _schema("Problem")}}, *headers)
    return responses


def _response(description: str, content: Document | None, *headers: str) -> Document:
    response: Document = {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in (*headers, "X-Request-Id")},
    }
    if content is not None:
        response["content"] = content
    return response


def _content(name: str) -> Document:
    return {MEDIA_JSON: {"schema": _schema(name)}}


def _schema(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}
