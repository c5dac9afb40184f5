"""What the index of the profiles looks like, and the names around it. Pure: bodies of requests, no request.

    profiles                          alias for searchers, with a filter: profiles only
    profiles-000001                   the index that holds them
    profiles-000001-write-3f9a1c7e    alias under which the replicator writes to just that index
    profiles-rebuild                  alias of the index that a rebuild is filling, while there is one

Beside the profiles (each exactly as the service serves it) an index holds documents of ours, which have a member
`replication` and which the filter hides: the position in each partition, a tombstone for each deleted profile, a marker
for each change that the server refused. Writing under an alias with `require_alias` means that a write which comes late
can neither make an index that was removed once more, nor get into the one that took its place: also not if that has the
same name, since every index has a write alias that was never used before.
"""

import re
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from app.replication.ports import Position

FORMAT = 1
KIND = "replication.kind"
TOMBSTONE, REFUSED, POSITION = "tombstone", "refused", "position"

#: What an index may be called, on all servers, with room for what is added.
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,199}")
_GENERATION = re.compile(r"-([0-9]{6})")

#: What searchers see through the alias.
PROFILES_ONLY: Mapping[str, Any] = {"bool": {"must_not": {"exists": {"field": KIND}}}}
#: The alias for searchers. Of one alias there can be one write index: so a second index can never be added to it by
#: somebody who does not know of the first (nobody writes through it).
SEARCHED: Mapping[str, Any] = {"filter": PROFILES_ONLY, "is_write_index": True}
#: Everything that stands for a uid, which is all but the positions.
ALL_BUT_POSITIONS: Mapping[str, Any] = {"bool": {"must_not": {"term": {KIND: POSITION}}}}
REFUSED_ONLY: Mapping[str, Any] = {"term": {KIND: REFUSED}}


def is_index_name(text: str) -> bool:
    """Whether *text* can be the name of the alias."""
    return _NAME.fullmatch(text) is not None


def concrete_name(alias: str, generation: int) -> str:
    """Return the name of the index of that generation, from 1."""
    return f"{alias}-{generation:06}"


def generation_of(alias: str, index: str) -> int:
    """Return the generation of *index*; 0 if it is none of *alias*."""
    match = _GENERATION.fullmatch(index.removeprefix(alias))
    return int(match[1]) if index.startswith(alias) and match else 0


def new_write_alias(index: str) -> str:
    """Return a name under which *index* is to be written to, and that no other index ever had."""
    return f"{index}-write-{secrets.token_hex(4)}"


def rebuild_alias(alias: str) -> str:
    """Return the name of the index that a rebuild is filling."""
    return f"{alias}-rebuild"


def position_id(partition: int) -> str:
    """Return the id of the document that holds the position; no profile has it, since theirs are UUIDs."""
    return f"position-{partition}"


def position_document(partition: int, position: Position) -> dict[str, Any]:
    """Return the document that holds *position*."""
    return {
        "replication": {
            "kind": POSITION,
            "partition": partition,
            "order": position.order,
            "token": position.token,
            "as_of_ms": position.as_of_ms,
        }
    }


def position_of(document: Mapping[str, Any]) -> Position:
    """Return the position in a document made by `position_document`."""
    found = document["replication"]
    return Position(int(found["order"]), str(found["token"]), int(found["as_of_ms"]))


class Meta(NamedTuple):
    """What an index of ours says of itself, in its mapping. `source`: the identity of the log that it was filled from.
    `write_alias`: see above."""

    format: int
    source: str
    write_alias: str

    @classmethod
    def of(cls, mappings: Mapping[str, Any]) -> "Meta | None":
        """Return what the *mappings* of an index say; None if it is not ours."""
        found = mappings.get("_meta", {}).get("profiles")
        if not isinstance(found, dict):
            return None
        return cls(int(found.get("format", 0)), str(found.get("source")), str(found.get("write_alias")))


def index_body(
    meta: Meta, aliases: Mapping[str, Any], *, replicas: int | None, is_searched: bool = True
) -> dict[str, Any]:
    """Return the body that creates an index, with *aliases* and the one to write to. *replicas* None: one as soon as
    there is a second node for it. *is_searched* False, while it is filled: it is not refreshed, which is work for
    nobody.
    """
    copies = {"auto_expand_replicas": "0-1"} if replicas is None else {"number_of_replicas": replicas}
    return {
        "settings": {
            "index": {
                **copies,
                "refresh_interval": None if is_searched else "-1",
                "analysis": {"normalizer": {"lower_case": {"type": "custom", "filter": ["lowercase"]}}},
            }
        },
        "mappings": {
            "dynamic": False,  # a member that a later release adds is kept, and refuses no document
            "_meta": {"profiles": meta._asdict()},
            "properties": {
                "uid": {"type": "keyword"},
                "username": {"type": "text", "fields": {"keyword": {"type": "keyword"}}},
                # As given; `.lower`: in any case; `.words`: bob, smith, mail, com; `.text`: bob.smith2, mail.com.
                # Only analysers of the servers' core: everything else is a module that may be missing.
                "email": {
                    "type": "keyword",
                    "fields": {
                        "lower": {"type": "keyword", "normalizer": "lower_case"},
                        "words": {"type": "text", "analyzer": "simple"},
                        "text": {"type": "text", "analyzer": "standard"},
                    },
                },
                "version": {"type": "long"},
                "created_at": {"type": "date"},
                "updated_at": {"type": "date"},
                "replication": {"properties": {"kind": {"type": "keyword"}}},
            },
        },
        "aliases": {**aliases, meta.write_alias: {}},
    }
