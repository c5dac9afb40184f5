"""What docs/events.md promises of a record, as a check; and the page itself, taken apart.

Nothing here imports the product: the promises come from the page and its schemas. Invariant: a header, a kind of event
or a member of a value that the page does not name is a fault, not an extension.
"""

import json
import re
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator, FormatChecker

from tests.support.dump import Raw
from tests.support.service import ROOT

PAGE = ROOT / "docs" / "events.md"
SCHEMAS = ROOT / "docs" / "schemas"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Kind(NamedTuple):
    """What the page says of one topic: its schema, its source, and its event types for values and for tombstones."""

    schema: str
    source: str
    states: frozenset[str]
    tombstones: frozenset[str]


PROFILES = Kind(
    "profile", "/api/profile", frozenset({"profile.created", "profile.updated"}), frozenset({"profile.deleted"})
)
EMAILS = Kind(
    "claim", "/api/profile/emails", frozenset({"profile.email.claimed"}), frozenset({"profile.email.released"})
)
REQUESTS = Kind(
    "request",
    "/api/profile/requests",
    frozenset({"profile.request.recorded"}),
    frozenset({"profile.ownership.proven"}),
)


def page() -> str:
    return PAGE.read_text()


def table(title: str) -> list[list[str]]:
    """Return the rows of the first table below the heading *title*, without its head; cells without backquotes."""
    section = page().partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    first = next(at for at, line in enumerate(section.splitlines()) if line.startswith("|"))
    rows = []
    for line in section.splitlines()[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return rows[2:]


def block(language: str, *, containing: str = "") -> str:
    """Return the one fenced block of *language* that contains that text."""
    found = [text for text in re.findall(rf"^```{language}\n(.*?)^```$", page(), re.M | re.S) if containing in text]
    assert len(found) == 1, f"{len(found)} blocks of {language} with {containing!r}"
    return found[0]


@cache
def schema(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text())
    return document


@cache
def _validator(name: str) -> Draft202012Validator:
    """The schema is open for readers; what is written has the members that it names, and no others."""
    return Draft202012Validator({**schema(name), "additionalProperties": False}, format_checker=FormatChecker())


def headers_of(record: Raw) -> dict[str, str]:
    """Return the headers as text, after checking names, order and the values that do not depend on the topic."""
    named = [row[0] for row in table("Headers")]
    names = [name for name, _ in record.headers]
    assert names in (named, named[:-1]), f"{names}, the page has {named}; only the last one may be absent"
    found = {name: value.decode() for name, value in record.headers}
    assert found["ce_specversion"] == "1.0"
    assert found["content-type"] == "application/json"
    assert found["profile-format"] == "1"
    assert _UUID.fullmatch(found["ce_id"]), found
    assert _INSTANT.fullmatch(found["ce_time"]), found
    assert datetime.fromisoformat(found["ce_time"]).tzinfo is not None
    assert re.fullmatch(r"0|[1-9]\d*", found["profile-version"]), found
    return found


def check(record: Raw, kind: Kind) -> str:
    """Check one record against the page; return its event type. Raises AssertionError or ValidationError."""
    headers = headers_of(record)
    assert record.key is not None
    assert headers["ce_source"] == kind.source
    if record.value is None:
        assert headers["ce_type"] in kind.tombstones, headers
    else:
        assert headers["ce_type"] in kind.states, headers
        document = json.loads(record.value)
        _validator(kind.schema).validate(document)
        compact = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        assert record.value == compact, "the value is compact JSON in UTF-8"
        if kind is not REQUESTS:
            assert str(document["version"]) == headers["profile-version"]
        assert document["uid"] == headers["ce_subject"]
        if kind is EMAILS:
            assert document["op"] == headers["ce_id"]
    if kind is PROFILES:
        assert uuid.UUID(record.key.decode()).version == 4
        assert record.key.decode() == headers["ce_subject"] == str(uuid.UUID(record.key.decode()))
    elif kind is EMAILS:
        assert b"@" in record.key
    else:
        assert len(record.key) == 32
    for name, value in record.headers:
        assert b"@" not in value, f"{name} may hold an e-mail"
    return headers["ce_type"]


def check_versions(records: Sequence[Raw]) -> None:
    """Check the second promise: of a uid, in the order of the log, versions grow one by one (nothing was compacted
    yet) from 1, in one partition, up to a tombstone that is the last. And the fourth: an event is there once."""
    of_uid: dict[bytes, list[tuple[int, bool]]] = defaultdict(list)
    partitions: dict[bytes, set[int]] = defaultdict(set)
    events: set[bytes] = set()
    for record in records:
        assert record.key is not None
        headers = dict(record.headers)
        of_uid[record.key].append((int(headers["profile-version"]), record.value is None))
        partitions[record.key].add(record.partition)
        assert headers["ce_id"] not in events
        events.add(headers["ce_id"])
    for uid, versions in of_uid.items():
        assert [version for version, _ in versions] == list(range(1, len(versions) + 1)), (uid, versions)
        assert not any(is_gone for _, is_gone in versions[:-1]), (uid, versions)
        assert len(partitions[uid]) == 1


def fold(records: Iterable[Raw]) -> dict[str, Mapping[str, Any]]:
    """Return the last state of every key that has one."""
    states: dict[str, Mapping[str, Any]] = {}
    for record in records:
        assert record.key is not None
        if record.value is None:
            states.pop(record.key.decode(), None)
        else:
            states[record.key.decode()] = json.loads(record.value)
    return states
