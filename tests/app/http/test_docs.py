"""The OpenAPI document is valid, is what the application does, and can be read without the internet."""

import json
import re
from html import unescape
from typing import Any

import pytest
from openapi_spec_validator import validate

from app.http import openapi
from app.http.problems import PROBLEMS
from app.profiles.schema import READ_ONLY
from tests.app.http.fakes import UNKNOWN_UID, Edge

HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "QUERY")
PROFILE = {
    "uid": UNKNOWN_UID, "username": "bob", "email": "bob1@mail.com", "version": 1,
    "created_at": "2026-11-21T07:00:00.000Z", "updated_at": "2026-11-21T07:00:00.000Z",
}  # fmt: skip


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """Return the document as it is served."""
    served: dict[str, Any] = Edge().request("GET", "/api/openapi.json").json
    return served


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    """By the validator of the OpenAPI 3.1 schema, and with every operation named once."""
    validate(document)
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))


def test_the_document_and_the_application_have_the_same_routes(document: dict[str, Any]) -> None:
    """Each documented method is served, each other one is 405, and no route is left out."""
    edge = Edge()
    for path, item in document["paths"].items():
        documented = {name.removeprefix("x-").upper() for name in item}
        target = path.replace("{uid}", UNKNOWN_UID).replace("{slug}", "restoring")
        allowed = set(edge.request("OPTIONS", target)["Allow"].split(", ")) - {"OPTIONS"}
        assert allowed == documented
        for method in HTTP_METHODS:
            is_405 = edge.request(method, target).status == 405
            assert is_405 is (method not in documented), (method, path)
    assert {route for _, route, _ in edge.metrics.requests} == set(document["paths"])
    assert set(document["paths"]) == set(edge.templates)


def test_every_problem_is_documented_where_it_can_occur(document: dict[str, Any]) -> None:
    """Each row of the table is in the answers of some operation, under its own status."""
    for slug, kind in PROBLEMS.items():
        assert any(
            f"`{slug}`" in operation["responses"].get(str(kind.status), {}).get("description", "")
            for item in document["paths"].values()
            for operation in item.values()
        ), slug
    assert set(document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]) == {
        "about:blank",
        *(kind.uri for kind in PROBLEMS.values()),
    }


def test_the_bodies_are_those_of_the_schemas(document: dict[str, Any]) -> None:
    """What a client may set and what it gets come from marshmallow; what it may not set is read-only."""
    schemas = document["components"]["schemas"]
    content = schemas["ProfileContent"]
    assert set(content["required"]) == {"username", "email"}
    assert content["properties"]["username"]["maxLength"] == 64
    assert {name for name, schema in content["properties"].items() if schema.get("readOnly")} == READ_ONLY
    assert "required" not in schemas["ProfilePatch"]
    assert set(schemas["Profile"]["properties"]) == set(PROFILE)


def test_every_reference_is_resolved(document: dict[str, Any]) -> None:
    """No dangling $ref, whatever the validator thinks of extensions."""
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))):
        found: Any = document
        for name in reference.split("/"):
            found = found[name]
        assert found


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """No script, no foreign address, and every operation and problem on it."""
    page = Edge().request("GET", "/docs")
    text = unescape(page.body.decode())
    assert page["Content-Type"] == "text/html; charset=utf-8"
    assert "<script" not in text
    assert not re.search(r"(src|href)=['\"]?(https?:)?//", text)
    for path, item in openapi.build()["paths"].items():
        assert path in text
        assert all(operation["summary"] in text for name, operation in item.items() if name != "head")
    assert all(f"href='/problems/{slug}'" in text for slug in PROBLEMS)
